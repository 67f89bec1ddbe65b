"""Bootstrap, variance components, intervals, tests, choice of layers, comparisons of models."""
