"""Representational dissimilarity matrices (RDMs) and how two of them are compared.

Kriegeskorte, Mur & Bandettini 2008: the RDM of a layer holds 1 - Pearson correlation between the
activity of every pair of stimuli; two RDMs are compared over their pairs (upper triangles).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brain_eval.errors import UserError

Vector = NDArray[np.float64]

#: Distances below this are rounding errors of an exact zero; duplicates must tie when pairs are ranked.
ROUNDING = 1e-12
#: Neuroids converted to float64 at a time, so that a wide float32 layer is never copied whole.
BLOCK = 16384


class UndefinedSimilarity(UserError):
    """The numbers are valid but have no correlation: a constant activity pattern or a constant RDM.

    `row` is the row of the constant pattern, or None where a whole RDM is constant.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


def _checked_features(features: ArrayLike) -> NDArray[np.floating]:
    values = np.asarray(features)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 2 or values.shape[0] < 3 or values.shape[1] < 1:
        raise UserError(
            f"an RDM needs features of at least 3 stimuli x 1 neuroid, got shape {values.shape}; "
            "use more stimuli or another layer"
        )
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise UserError(f"features hold NaN or infinity in row {row}; mend or leave out that stimulus")
    constant = values.max(axis=1) == values.min(axis=1)
    if constant.any():
        row = int(np.argmax(constant))
        raise UndefinedSimilarity(
            f"activity is constant in row {row}, so its correlations are undefined; "
            "leave out that stimulus or this layer",
            row,
        )
    return values


def correlation_rdm(features: ArrayLike) -> NDArray[np.float64]:
    """Return 1 - Pearson correlation between the rows of `features`, by products of centred rows.

    Args:
        features: (n, p), n stimuli x p neuroids, any real dtype; arithmetic is float64.

    Returns:
        (n, n) float64, symmetric, zero diagonal, within [0, 2]. Equal rows are exactly 0 apart.

    Raises:
        UserError: fewer than 3 rows, NaN or infinity (names the row).
        UndefinedSimilarity: a row is constant (names the row).
    """
    values = _checked_features(features)
    # Scaling by a power of two is exact: neither tiny nor huge activity under- or overflows a square.
    largest = np.maximum(values.max(axis=1, keepdims=True), -values.min(axis=1, keepdims=True))
    exponents = np.frexp(largest.astype(np.float64))[1]
    scales = np.ldexp(1.0, -np.clip(exponents, -1000, 1000))
    means = values.mean(axis=1, dtype=np.float64, keepdims=True) * scales
    products = np.zeros((len(values), len(values)))
    for start in range(0, values.shape[1], BLOCK):
        block = values[:, start : start + BLOCK] * scales
        block -= means
        products += block @ block.T
    inverse = 1.0 / np.sqrt(np.diag(products))
    products *= np.outer(inverse, inverse)
    rdm = np.subtract(1.0, products, out=products)
    rdm[rdm < ROUNDING] = 0.0
    np.minimum(rdm, 2.0, out=rdm)
    np.fill_diagonal(rdm, 0.0)
    return rdm


def upper_triangle(rdm: ArrayLike) -> Vector:
    """Return the n(n-1)/2 pairs above the diagonal of an (n, n) RDM, row by row (scipy's order)."""
    matrix = np.asarray(rdm, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"an RDM must be square, got shape {matrix.shape}; pass the full matrix")
    return matrix[~np.tri(len(matrix), dtype=bool)]


def square(pairs: Vector, n: int) -> NDArray[np.float64]:
    """Return the (n, n) symmetric matrix with zero diagonal whose upper triangle is `pairs`."""
    matrix = np.zeros((n, n))
    matrix[~np.tri(n, dtype=bool)] = pairs
    matrix += matrix.T
    return matrix


def ranks(pairs: Vector) -> Vector:
    """Return ranks from 1 on, ties at their average rank, float64: scipy.stats.rankdata in half its time.

    Ranking is most of the time of a split-half ceiling, 200 RDMs of 204,480 pairs.
    """
    order = np.argsort(pairs)
    ordered = pairs[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    result = np.empty(len(pairs))
    if len(starts) == len(pairs):
        result[order] = np.arange(1.0, len(pairs) + 1.0)
    else:
        ends = np.append(starts[1:], len(pairs))
        result[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return result


def _one(a: Vector, b: Vector) -> float:
    return 1.0


def _rho_a_factor(a: Vector, b: Vector) -> float:
    # 12 cov / (m^2 - 1) = Spearman's rho times the ranks' spread with ties over that without ties.
    return float(12.0 * np.std(a) * np.std(b) / (float(len(a)) ** 2 - 1.0))


@dataclass(frozen=True)
class Metric:
    """A comparison of two RDMs: the Pearson correlation of transformed pairs times a constant.

    Attributes:
        transform: pairs (m,) -> pairs (m,), e.g. ranks; done once on the full sample.
        factor: two transformed vectors -> the constant (1 for Spearman).
        words: how the pairs are treated, for interval_method.
    """

    transform: Callable[[Vector], Vector]
    factor: Callable[[Vector, Vector], float]
    words: str


#: Every metric by name. Spearman 1904; rho-a: Schütt et al. 2023 (eLife 12:e82566), the expected
#: Spearman correlation when ties are broken at random, so that tied predictions gain nothing.
METRICS: dict[str, Metric] = {
    "spearman": Metric(ranks, _one, "pairs ranked once"),
    "rho-a": Metric(ranks, _rho_a_factor, "pairs ranked once"),
}


def find_metric(name: str) -> Metric:
    """Return the metric called `name`; UserError lists the known ones."""
    if name not in METRICS:
        raise UserError(f"unknown metric '{name}'; choose from {', '.join(METRICS)}")
    return METRICS[name]


def correlate(a: Vector, b: Vector, metric: Metric) -> float:
    """Return the metric's value for two vectors (m,) that are already transformed.

    Raises:
        UndefinedSimilarity: one of them is constant.
    """
    a_centred, b_centred = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a_centred @ a_centred) * (b_centred @ b_centred)))
    if not norm > 0.0:
        raise UndefinedSimilarity(
            "an RDM is constant, so its correlation is undefined; leave out that layer or recording"
        )
    pearson = float(np.clip(a_centred @ b_centred / norm, -1.0, 1.0))
    return pearson * metric.factor(a, b)


def compare(rdm_a: ArrayLike, rdm_b: ArrayLike, metric: str = "spearman") -> float:
    """Compare two (n, n) RDMs of the same stimuli in the same order over their pairs.

    Args:
        rdm_a, rdm_b: (n, n) dissimilarities; only the upper triangles are read.
        metric: a name in METRICS.

    Returns:
        The similarity; 1 for RDMs of the same rank order (for rho-a: without ties).

    Raises:
        UserError: unknown metric, different sizes, NaN, fewer than 3 stimuli.
        UndefinedSimilarity: all pairs of one RDM are tied.
    """
    chosen = find_metric(metric)
    a, b = upper_triangle(rdm_a), upper_triangle(rdm_b)
    if len(a) != len(b):
        raise UserError(
            f"RDMs of {np.shape(rdm_a)[0]} and {np.shape(rdm_b)[0]} stimuli cannot be compared; "
            "pass the same stimuli in the same order"
        )
    if len(a) < 3:
        raise UserError(f"comparing RDMs needs at least 3 stimuli, got {np.shape(rdm_a)[0]}; use more")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError("an RDM holds NaN or infinity; leave those stimuli out of both")
    return correlate(chosen.transform(a), chosen.transform(b), chosen)
