"""From a picture, a voice, a pose, a text to frames."""
