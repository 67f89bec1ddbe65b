"""Estimators of the dimension of activity, with confidence intervals, at several sampling densities.

They use only the inner products of the images' activity, so that estimates on many random parts of the images cost one
pass over the units.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nmnc.noise.manifold import centred, gram_matrix

#: Fraction of the images, those with the largest ratio of distances, left out of TwoNN's fit (Facco et al.).
DISCARDED = 0.1
#: Shares of the variance that components are counted for.
SHARES = (0.90, 0.95, 0.99)
#: Fractions of the images that `estimate` uses.
FRACTIONS = (1.0, 0.5, 0.25, 0.125)
#: Smallest number of images for an estimate.
FEWEST = 10
#: Squared distances below this fraction of the mean squared length are rounding: the two images are the same.
SAME = 1e-12
NORMAL_95 = 1.959963984540054
QUANTITIES = ("two_nn", "participation_ratio", *(f"components_{round(100 * share)}" for share in SHARES))


class Estimate(NamedTuple):
    """One estimator's value at one sampling density, with a 95 % interval."""

    quantity: str
    fraction: float
    images: int
    value: float
    low: float
    high: float


def two_nn(gram: Tensor, discarded: float = DISCARDED) -> float:
    """Return the dimension from each image's two nearest neighbours: TwoNN, by a linear fit.

    Facco, d'Errico, Rodriguez & Laio 2017, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
    information", Scientific Reports 7, 12140.
    mu, the distance to the second nearest image over that to the nearest, follows F(mu) = 1 - mu^-d, so -log(1 - F)
    against log mu is a line through the origin of slope d. F of the i-th smallest of N is i/N, as in the
    paper and in scikit-dimension.

    Args:
        gram: float64 (images, images), inner products of centred activity.
        discarded: fraction of the images, with the largest mu, left out of the fit.

    Returns:
        The dimension; NaN for fewer than 3 different images, or if both nearest neighbours are always
        equally far. Of identical images only one is used.
    """
    squared = _squared_distances(gram)
    repeated = (squared <= SAME * gram.diagonal().mean()).tril(-1).any(1)
    squared = squared[~repeated][:, ~repeated].fill_diagonal_(math.inf)
    if len(squared) < 3:
        return math.nan
    nearest = squared.topk(2, largest=False).values
    ratios = ((nearest[:, 1] / nearest[:, 0]).log() / 2).sort().values[: int(len(squared) * (1 - discarded))]
    below = torch.arange(1, len(ratios) + 1, dtype=torch.float64, device=gram.device) / len(squared)
    slope = (-(1 - below).log() @ ratios) / ratios.square().sum()
    return slope.item() if slope.isfinite() else math.nan


def participation_ratio(eigenvalues: Tensor) -> float:
    """Return (sum lambda)^2 / sum lambda^2 over the covariance's eigenvalues, of any scale; NaN if all are 0."""
    return (eigenvalues.sum().square() / eigenvalues.square().sum()).item()


def components_for(eigenvalues: Tensor, share: float) -> float:
    """Return the smallest number of principal components with at least this share of the variance.

    Args:
        eigenvalues: float64, of the covariance up to scale, descending.
        share: share of the variance, 0 to 1.

    Returns:
        The number; NaN without variance.
    """
    total = eigenvalues.sum()
    if not total > 0:
        return math.nan
    return min(int((eigenvalues.cumsum(0) < share * total).sum()) + 1, len(eigenvalues))


def dimensions(gram: Tensor) -> dict[str, float]:
    """Return every estimator's value (keys: QUANTITIES) from inner products, float64 (images, images)."""
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    eigenvalues = torch.linalg.eigvalsh(centred).flip(0).clamp_min(0)
    values = [two_nn(centred), participation_ratio(eigenvalues)]
    return dict(zip(QUANTITIES, [*values, *(components_for(eigenvalues, share) for share in SHARES)], strict=True))


def estimate(
    activity: Tensor, fractions: Sequence[float] = FRACTIONS, repeats: int = 10, *, generator: torch.Generator
) -> list[Estimate]:
    """Apply every estimator to random parts of the images, to show the effect of sampling density.

    Below all images the value is the mean over `repeats` random parts. The interval is value -+ 1.96 standard errors
    of one estimate on that many images. Parts drawn from the same images overlap, so their variance is divided by
    1 - fraction; at fraction 1 it is the variance over random halves (the delete-half jackknife; Shao &
    Wu 1989, "A general theory for jackknife variance estimation"). Nearest neighbours change with the part, so that
    TwoNN's interval is up to 1.3 times too wide (tests/nmnc/measure/test_dimension.py).

    Args:
        activity: float (images, units).
        fractions: fractions of the images, above 0 to 1. Those with fewer than 10 images are skipped.
        repeats: random parts per fraction, 2 or more.
        generator: random generator on the CPU.

    Raises:
        FloatingPointError: the activity is NaN or infinite.
    """
    gram = gram_matrix(centred(activity))
    images = len(gram)
    cache: dict[int, dict[str, Tensor]] = {}

    def on_parts(size: int) -> dict[str, Tensor]:
        if size not in cache:
            parts = [torch.randperm(images, generator=generator)[:size].to(gram.device) for _ in range(repeats)]
            values = [dimensions(gram[part][:, part]) for part in parts]
            cache[size] = {
                name: torch.tensor([part_values[name] for part_values in values]).double() for name in QUANTITIES
            }
        return cache[size]

    estimates = []
    for fraction in fractions:
        size = round(fraction * images)
        if size < FEWEST:
            continue
        all_images = dimensions(gram) if size == images else None
        spread_size = images // 2 if all_images else size
        for name, values in on_parts(spread_size).items():
            value = all_images[name] if all_images else values.mean().item()
            # The variance over parts of m of N images is s^2 (1/m - 1/N); the standard error needs s^2 / size.
            error = values.std().item() * math.sqrt((1 / size) / (1 / spread_size - 1 / images))
            interval = value - NORMAL_95 * error, value + NORMAL_95 * error
            estimates.append(Estimate(name, fraction, size, value, *interval))
    return estimates


def _squared_distances(gram: Tensor) -> Tensor:
    lengths = gram.diagonal()
    return (lengths[:, None] + lengths - 2 * gram).clamp_min(0)
