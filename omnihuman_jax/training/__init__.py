"""Training: stages, state, steps, checkpoints, and the one loop that runs them."""
