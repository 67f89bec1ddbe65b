"""Noise, the response to it, the feedback that learns from both, and the manifold that shapes it."""
