"""How many samples a running average amounts to."""

from math import inf


def averaged_samples(images: float, rate: float, refreshes: float = inf) -> float:
    """Return K, the samples behind a running average that starts at zero: (sum of weights)^2 / sum of squared weights.

    Args:
        images: M, new samples a refresh.
        rate: eta, the weight of the newest estimate.
        refreshes: how many there were; after many K is M (2 - eta) / eta.
    """
    start = (1.0 - rate) ** refreshes
    return images * (2 - rate) / rate * (1.0 - start) / (1.0 + start)
