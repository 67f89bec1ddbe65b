"""Measures of networks and rules: alignment, alpha, dimension, principal angles, losses of signals."""
