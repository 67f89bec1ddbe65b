"""Bridges to Brain-Score: our networks as its models, and its PLS on its data."""
