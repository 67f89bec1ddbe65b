"""Bootstrap over stimuli of a comparison of two RDMs, without a loop over the draws.

With counts w per stimulus, each weighted sum over the pairs i != j of two RDMs A and B is the quadratic
form w^T (A * B) w with a zero diagonal, so that all draws are one matrix product.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brain_eval.metrics.rdms import square

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

#: Of a standardised matrix (full-sample variance 1): a draw with less variance has no correlation.
NO_VARIANCE = 1e-10
#: Blocks of the triangular product; 4 to 12 were equally fast at n = 1,200. Up to about 300 stimuli one whole
#: product is faster: three times at n = 92.
BLOCKS, SMALL = 4, 300


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a random generator that depends on the seed and on the names, and on nothing else."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed % 2**64, *np.frombuffer(digest, dtype="<u4").tolist()])


def stimulus_strata(memberships: Sequence[NDArray[np.intp]], stimulus_ids: Sequence[str]) -> list[NDArray[np.intp]]:
    """Group the stimuli by the set of recordings that contain them.

    Args:
        memberships: per recording (n_i,) positions in the stimulus set.
        stimulus_ids: one unique string per stimulus of the set.

    Returns:
        Disjoint position arrays, each sorted by stimulus id, the groups by their first id: a permutation of the
        stimulus set changes nothing. Stimuli in no recording are in no group.
    """
    contains = np.zeros((len(stimulus_ids), len(memberships)), dtype=bool)
    for column, positions in enumerate(memberships):
        contains[positions, column] = True
    groups: dict[bytes, list[int]] = {}
    for position in sorted(range(len(stimulus_ids)), key=lambda index: stimulus_ids[index]):
        if contains[position].any():
            groups.setdefault(contains[position].tobytes(), []).append(position)
    return [np.array(positions, dtype=np.intp) for positions in groups.values()]


def bootstrap_counts(
    strata: Sequence[NDArray[np.intp]], n: int, draws: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Resample n stimuli with replacement within each stratum (disjoint position arrays).

    Returns (draws, n) int32: how often each stimulus is in each draw; a stratum's counts add up to its size.
    """
    counts = np.zeros((draws, n), dtype=np.int32)
    for positions in strata:
        size = len(positions)
        picks = rng.integers(size, size=(draws, size))
        picks += np.arange(draws)[:, None] * size
        counts[:, positions] = np.bincount(picks.ravel(), minlength=draws * size).reshape(draws, size)
    return counts


def random_halves(
    strata: Sequence[NDArray[np.intp]], n: int, draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw a random half of the stimuli of each stratum, without replacement, for scores that allow no copies.

    Returns (draws, n) float64: 1 where a stimulus is in the draw, else 0; an odd stimulus falls to either half.
    """
    halves = np.zeros((draws, n))
    for positions in strata:
        size = len(positions)
        order = np.argsort(np.argsort(rng.random((draws, size)), axis=1), axis=1)
        halves[:, positions] = order < (size + rng.integers(2, size=(draws, 1))) // 2
    return halves


def split_halves(
    strata: Sequence[NDArray[np.intp]], n: int, splits: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return (2 * splits, n) float64: a random half of the stimuli (1), then the other half, split after split."""
    drawn = np.zeros(n)
    drawn[np.concatenate([np.zeros(0, np.intp), *strata])] = 1.0
    first = random_halves(strata, n, splits, rng)
    return np.stack([first, drawn - first], axis=1).reshape(2 * splits, n)


def leaving_each_out(units: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return (k, n) float64 counts of the jackknife: row u is 0 for the stimuli of the u-th unit, else 1.

    Args: units (n,), the unit of each stimulus; k different ones, in ascending order.
    """
    return (np.unique(units)[:, None] != units[None, :]).astype(np.float64)


def quadratic_forms(matrix: Matrix, weights: Matrix) -> Vector:
    """Return w^T M w for every row w of `weights`, (draws,) float64, M (n, n) symmetric.

    One matrix product; of many stimuli over the lower triangle by blocks, 5/8 of the arithmetic of the whole.
    """
    edges = np.linspace(0, len(matrix), (BLOCKS if len(matrix) > SMALL else 1) + 1).astype(int)
    total = np.zeros(len(weights))
    for start, stop in itertools.pairwise(edges):
        products = weights[:, start:stop] @ matrix[start:stop, :stop]
        products[:, :start] *= 2.0
        total += np.einsum("ij,ij->i", products, weights[:, :stop])
    return total


@dataclass(frozen=True)
class Moments:
    """A standardised RDM with its mean and variance over the pairs of every draw.

    Attributes:
        matrix: (n, n) float64, symmetric, zero diagonal, pairs of mean 0 and variance 1.
        mean, variance: (draws,) float64.
        squares: (n,) float64, each stimulus' sum of squared pairs.
    """

    matrix: Matrix
    mean: Vector
    variance: Vector
    squares: Vector


def pair_totals(weights: Matrix) -> Vector:
    """Return the number of pairs of two different stimuli in each draw, (draws,): sum over i != j of w_i w_j.

    Copies of one stimulus make no pair. The count runs over ordered pairs, as the quadratic forms do.
    """
    return weights.sum(axis=1) ** 2 - np.einsum("ij,ij->i", weights, weights)


def weighted_moments(pairs: Vector, weights: Matrix) -> Moments:
    """Standardise the pairs (m,) of an RDM, or their ranks, and take their mean and variance in every draw.

    Args: pairs, an upper triangle row by row, not all equal; weights (draws, n) float64 stimulus counts.
    """
    standard = square((pairs - pairs.mean()) / pairs.std(), weights.shape[1])
    squared = standard**2
    totals = pair_totals(weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = quadratic_forms(standard, weights) / totals
        variance = quadratic_forms(squared, weights) / totals - mean**2
    return Moments(standard, mean, variance, squared.sum(axis=1))


def weighted_correlations(a: Moments, b: Moments, weights: Matrix, products: Matrix | None = None) -> Vector:
    """Return the Pearson correlation of two RDMs over the pairs of every draw, (draws,) float64 within [-1, 1].

    Each pair i != j weighs w_i w_j, which equals Pearson over the pairs of the resampled stimuli without pairs of a
    stimulus and its own copy. NaN where a draw has no pairs or no variance.

    Args:
        a, b: moments under the same weights.
        weights: (draws, n) float64 stimulus counts.
        products: a.matrix * b.matrix, if known already.
    """
    products = a.matrix * b.matrix if products is None else products
    with np.errstate(divide="ignore", invalid="ignore"):
        means = quadratic_forms(products, weights) / pair_totals(weights)
        correlations = (means - a.mean * b.mean) / np.sqrt(a.variance * b.variance)
    defined = (a.variance > NO_VARIANCE) & (b.variance > NO_VARIANCE)
    return np.where(defined, np.clip(correlations, -1.0, 1.0), np.nan)
