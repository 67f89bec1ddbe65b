"""The training loop, the optimiser, checkpoints and resuming, one training job, and the search over settings."""
