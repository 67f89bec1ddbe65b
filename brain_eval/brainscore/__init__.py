"""Bridges to Brain-Score: our networks as its models, its own PLS on its own data."""
