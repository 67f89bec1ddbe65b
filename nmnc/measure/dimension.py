"""How many dimensions activity has: estimators of the manifold's dimension, with error bars over sampling density.

All of them see the activity through the inner products of its images only, so that estimates on many random parts of
the images cost one pass over the units.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nmnc.noise.manifold import centred, gram_matrix

#: Part of the images, those with the largest ratio of distances, that TwoNN's line is not fitted to (Facco et al.).
DISCARDED = 0.1
#: Shares of the variance that components are counted for.
SHARES = (0.90, 0.95, 0.99)
#: Parts of the images that `estimate` estimates on.
FRACTIONS = (1.0, 0.5, 0.25, 0.125)
#: Fewer images than this give no estimate.
FEWEST = 10
#: Squared distances below this part of the mean squared length are rounding: the two images are the same.
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
    """Dimension from each image's two nearest neighbours: TwoNN, in its form that fits a line.

    Facco, d'Errico, Rodriguez & Laio 2017, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
    information", Scientific Reports 7, 12140.
    mu, the distance to the second nearest image over that to the nearest, follows F(mu) = 1 - mu^-d, so -log(1 - F)
    against log mu is a line through the origin of slope d. F of the i-th smallest of N is i/N, as in the
    paper and in scikit-dimension.

    Args:
        gram: float64 (images, images), inner products of centred activity.
        discarded: part of the images with the largest mu left out of the fit.

    Returns:
        The dimension; NaN for fewer than 3 different images or where all nearest two are equally far.
        Of images that are the same one is kept.
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
    """(sum lambda)^2 / sum lambda^2 over the eigenvalues of the covariance, up to scale; NaN where all are 0."""
    return (eigenvalues.sum().square() / eigenvalues.square().sum()).item()


def components_for(eigenvalues: Tensor, share: float) -> float:
    """Fewest principal components with at least this share of the variance; NaN where there is none.

    Args:
        eigenvalues: float64, of the covariance up to scale, descending.
        share: of the variance, 0 to 1.
    """
    total = eigenvalues.sum()
    if not total > 0:
        return math.nan
    return min(int((eigenvalues.cumsum(0) < share * total).sum()) + 1, len(eigenvalues))


def dimensions(gram: Tensor) -> dict[str, float]:
    """Every estimator's value (keys: QUANTITIES) from inner products float64 (images, images), centred or not."""
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    eigenvalues = torch.linalg.eigvalsh(centred).flip(0).clamp_min(0)
    values = [two_nn(centred), participation_ratio(eigenvalues)]
    return dict(zip(QUANTITIES, [*values, *(components_for(eigenvalues, share) for share in SHARES)], strict=True))


def estimate(
    activity: Tensor, fractions: Sequence[float] = FRACTIONS, repeats: int = 10, *, generator: torch.Generator
) -> list[Estimate]:
    """Every estimator on random parts of the images, to show what the density of sampling does to it.

    Below all images the value is the mean over `repeats` random parts. The interval is value -+ 1.96 standard errors
    of one estimate on that many images. Parts drawn from the same images overlap, so their variance is divided by
    1 - fraction; at fraction 1 it is the variance over random halves as it stands (the delete-half jackknife; Shao &
    Wu 1989, "A general theory for jackknife variance estimation"). Nearest neighbours change with the part, so that
    TwoNN's interval comes out up to 1.3 times too wide (tests/nmnc/measure/test_dimension.py).

    Args:
        activity: float (images, units).
        fractions: of the images, above 0 to 1. Those that leave fewer than 10 images are passed over.
        repeats: random parts per fraction, 2 or more.
        generator: of random numbers, on the CPU.

    Raises:
        FloatingPointError: the activity is NaN or infinite.
    """
    gram = gram_matrix(centred(activity))
    images = len(gram)
    drawn: dict[int, dict[str, Tensor]] = {}

    def on_parts(size: int) -> dict[str, Tensor]:
        if size not in drawn:
            parts = [torch.randperm(images, generator=generator)[:size].to(gram.device) for _ in range(repeats)]
            values = [dimensions(gram[part][:, part]) for part in parts]
            drawn[size] = {name: torch.tensor([one[name] for one in values]).double() for name in QUANTITIES}
        return drawn[size]

    found = []
    for fraction in fractions:
        size = round(fraction * images)
        if size < FEWEST:
            continue
        whole = dimensions(gram) if size == images else None
        spread_size = images // 2 if whole else size
        for name, values in on_parts(spread_size).items():
            value = whole[name] if whole else values.mean().item()
            # Var over parts of m of N images is s^2 (1/m - 1/N); asked for is s^2 / size.
            error = values.std().item() * math.sqrt((1 / size) / (1 / spread_size - 1 / images))
            interval = value - NORMAL_95 * error, value + NORMAL_95 * error
            found.append(Estimate(name, fraction, size, value, *interval))
    return found


def _squared_distances(gram: Tensor) -> Tensor:
    lengths = gram.diagonal()
    return (lengths[:, None] + lengths - 2 * gram).clamp_min(0)
