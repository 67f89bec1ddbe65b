"""Effective sample size of a running average."""

from math import inf


def averaged_samples(images: float, rate: float, refreshes: float = inf) -> float:
    """Return K, the effective sample size of a running average from zero: (sum of weights)^2 / sum of squared weights.

    Args:
        images: M, new samples per refresh.
        rate: eta, the weight of the newest estimate.
        refreshes: number of refreshes; after many, K is M (2 - eta) / eta.
    """
    start = (1.0 - rate) ** refreshes
    return images * (2 - rate) / rate * (1.0 - start) / (1.0 + start)
