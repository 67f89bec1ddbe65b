"""The loop and a run's life: optimiser, watch, checkpoints, resume, one job, the search."""
