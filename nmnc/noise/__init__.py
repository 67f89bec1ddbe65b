"""Noise, the network's response, the feedback learned from both, and the manifold that shapes the noise."""
