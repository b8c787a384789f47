"""From raw video to Batch. Knows no network: encoders are passed in."""
