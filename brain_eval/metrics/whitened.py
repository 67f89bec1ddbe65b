"""Whitened comparison of RDMs: the errors of distances that share a stimulus are correlated, and are undone.

Diedrichsen et al. 2020 (Neurons, Behavior, Data analysis, and Theory 5:3): a^T V^-1 b, where V is the
covariance of the distances of n patterns with equal independent noise. V^-1 is never built, for
a^T V^-1 b is the scalar product of the double-centred matrices, up to a constant; and that needs
the pairs and the row sums alone. In a bootstrap draw, where pairs of a stimulus with its own copy are
missing, the centring is the least-squares fit of one effect per stimulus, which has a closed form too.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from brain_eval.codes import Code
from brain_eval.metrics.base import OF_ITS_SIZE, PAIRS, RdmMetric
from brain_eval.metrics.rdms import UndefinedSimilarity, Vector, square
from brain_eval.metrics.similarity import standardised, unit_size


def stimuli_of(pairs: Vector) -> int:
    """Return n, of n(n-1)/2 pairs."""
    return (1 + int(np.sqrt(1 + 8 * len(pairs)) + 0.5)) // 2


def row_sums(pairs: Vector) -> Vector:
    """Return the (n,) row sums of the RDM whose upper triangle is `pairs` (m,), without building it."""
    n = stimuli_of(pairs)
    sums, start = np.zeros(n), 0
    for index in range(n - 1):
        row = pairs[start : start + n - 1 - index]
        sums[index] += row.sum()
        sums[index + 1 :] += row
        start += len(row)
    return sums


def whitened_cosine(a: Vector, b: Vector) -> float:
    """Return the cosine of two RDMs' pairs (m,) after whitening; rsatoolbox's cosine_cov.

    Raises:
        UndefinedSimilarity: nothing is left of an RDM, e.g. all distances are 0.
    """
    n = stimuli_of(a)
    sums = row_sums(a), row_sums(b)

    def product(x: Vector, y: Vector, x_sums: Vector, y_sums: Vector) -> float:
        return float(2 * (x @ y) - 2 / n * (x_sums @ y_sums) + x_sums.sum() * y_sums.sum() / n**2)

    norms = product(a, a, sums[0], sums[0]), product(b, b, sums[1], sums[1])
    # What centring leaves of distances without structure is rounding: about 1e-16 of what went in.
    if not (norms[0] > 1e-13 * (a @ a) and norms[1] > 1e-13 * (b @ b)):
        raise UndefinedSimilarity("an RDM has no structure left after whitening; leave out that layer or recording")
    return float(np.clip(product(a, b, *sums) / np.sqrt(norms[0] * norms[1]), -1.0, 1.0))


def whitened_correlation(a: Vector, b: Vector) -> float:
    """Return the cosine after removing each RDM's mean over its pairs (m,) and whitening; rsatoolbox's corr_cov.

    Raises:
        UndefinedSimilarity: an RDM is constant.
    """
    if a.max() == a.min() or b.max() == b.min():
        raise UndefinedSimilarity("an RDM is constant, so it has no correlation; leave out that layer or recording")
    return whitened_cosine(a - a.mean(), b - b.mean())


class _Resampled:
    """One RDM under the stimulus counts of all draws: its mean, and its effects of single stimuli."""

    def __init__(self, pairs: Vector, weights: NDArray[np.float64], centred: bool) -> None:
        n = weights.shape[1]
        self.matrix = square(pairs, n)
        sizes = weights.sum(axis=1)
        totals = sizes**2 - np.einsum("ij,ij->i", weights, weights)
        self.sums = weights @ self.matrix
        self.mean = np.zeros(len(weights))
        if centred:
            self.mean = np.einsum("ij,ij->i", self.sums, weights) / totals
            self.sums -= self.mean[:, None] * (sizes[:, None] - weights)
        # (N + 2 - 2 w_k) u_k + sum_j w_j u_j = sum_j w_j x_kj: the fit of u_k + u_j to the pairs and of 2 u_k to
        # the zero diagonal, N the stimuli of the draw and w_k the copies of stimulus k.
        shares = 1.0 / (sizes[:, None] + 2 - 2 * weights)
        numerator = np.einsum("ij,ij,ij->i", weights, self.sums, shares)
        common = numerator / (1 + np.einsum("ij,ij->i", weights, shares))
        self.effects = (self.sums - common[:, None]) * shares


def whitened_draws(a: Vector, b: Vector, weights: NDArray[np.float64], centred: bool) -> Vector:
    """Return the whitened cosine (centred: correlation) in every bootstrap draw, without a loop.

    Equal to rsatoolbox's cosine_cov or corr_cov of the resampled RDMs in which distances between copies of one
    stimulus are missing (NaN). Arguments and result as similarity.cosine_draws.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = _Resampled(a, weights, centred), _Resampled(b, weights, centred)
        totals = weights.sum(axis=1) ** 2 - np.einsum("ij,ij->i", weights, weights)

        def product(x: _Resampled, y: _Resampled) -> Vector:
            raw = np.einsum("ij,ij->i", weights @ (x.matrix * y.matrix), weights)
            return raw - totals * x.mean * y.mean - 2 * np.einsum("ij,ij,ij->i", weights, x.effects, y.sums)

        norms = product(first, first), product(second, second)
        draws = product(first, second) / np.sqrt(norms[0] * norms[1])
    sizes = (a.var(), b.var()) if centred else (np.mean(a**2), np.mean(b**2))
    defined = (norms[0] > 1e-10 * totals * sizes[0]) & (norms[1] > 1e-10 * totals * sizes[1])
    return np.where(defined, np.clip(draws, -1.0, 1.0), np.nan)


WHITENED = PAIRS.then(Code("whitened", "pairs whitened in every draw"))
RECORDS = (
    RdmMetric(
        name="whitened-cosine",
        label="whitened cosine of RDMs",
        note=OF_ITS_SIZE,
        transform=unit_size,
        value=whitened_cosine,
        draws=partial(whitened_draws, centred=False),
        method=WHITENED,
        defined_if_constant=True,
        biased=True,
        spearman_brown=False,
    ),
    RdmMetric(
        name="whitened-correlation",
        label="whitened correlation of RDMs",
        transform=standardised,
        value=whitened_correlation,
        draws=partial(whitened_draws, centred=True),
        method=WHITENED,
    ),
)
