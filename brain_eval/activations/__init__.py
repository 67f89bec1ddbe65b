"""From a model to a NetCDF file of its activations: models, hooks, checks, preprocessing, reductions."""
