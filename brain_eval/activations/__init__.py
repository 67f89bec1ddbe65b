"""Record a model's activations as NetCDF: models, hooks, checks, preprocessing, reductions."""
