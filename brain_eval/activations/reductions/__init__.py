"""Fewer values a layer: spatial mean, principal components, random projection."""
