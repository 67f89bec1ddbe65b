"""Representational dissimilarity matrices (RDMs): how unlike the activity of every pair of stimuli is.

Kriegeskorte, Mur & Bandettini 2008 (Front Syst Neurosci 2:4). Distances that use the noise of single
repetitions are in brain_eval.metrics.mahalanobis.
"""

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from brain_eval.metrics.base import RdmKind, Vector
from brain_eval.metrics.gram import ROWS, RowError, centred_gram, checked_rows, mirrored, row_products
from nmnc.errors import UserError

#: Distances below this, relative to the patterns' size, are rounding errors of an exact zero; duplicates
#: must tie when pairs are ranked.
ROUNDING = 1e-12
#: Squared distances below this, relative to the squares they are the difference of, lose more than five digits.
CANCELLED = 1e-5
#: Values of the pairs that are subtracted at a time.
PAIRED = 2**22
#: ROUNDING for a product in float32: equal rows of up to 100,000 neuroids came out 4.2e-6 apart at most.
ROUNDING_FLOAT32 = 1e-5


class UndefinedSimilarity(UserError):
    """The numbers are valid but have no correlation: a constant activity pattern or a constant RDM."""


class UndefinedRow(RowError, UndefinedSimilarity):
    """The activity pattern of one row has no correlation, or no angle, with any other."""


def correlation_rdm(features: ArrayLike, dtype: DTypeLike = np.float64) -> NDArray[np.floating]:
    """Return 1 - Pearson correlation between rows, (n, n) within [0, 2]; equal rows are exactly 0 apart.

    Args:
        features: (n, p), n stimuli x p neuroids, any real dtype.
        dtype: of the product and of the result: float64; or float32, twice as fast, whose distances are within 1e-5
            of float64's (4.2e-6 seen, up to 100,000 neuroids) and set to 0 below 1e-5.

    Raises:
        UserError: fewer than 3 rows, NaN or infinity, or a sum that overflows (names the row).
        UndefinedRow: a row is constant (names the row).
    """
    values, lowest, highest, means = checked_rows(features)
    _refuse(highest == lowest, "constant", "correlations")
    if not np.isfinite(means).all():
        row = int(np.argmin(np.isfinite(means)))
        raise RowError("the sum of the activity overflows", row, advice="divide all activity by the same number")
    scales = _power_of_two(np.maximum(highest, -lowest))
    return _angles(row_products(values, scales, means * scales, dtype))


def cosine_rdm(features: ArrayLike) -> NDArray[np.float64]:
    """Return 1 - cosine between the rows of `features` (n, p), any real dtype: (n, n) float64 within [0, 2].

    Raises:
        UserError: fewer than 3 rows, NaN or infinity (names the row).
        UndefinedRow: a row is all zero (names the row).
    """
    values, lowest, highest, _ = checked_rows(features)
    largest = np.maximum(highest, -lowest)
    _refuse(largest == 0, "zero everywhere", "angles")
    return _angles(row_products(values, _power_of_two(largest), np.zeros((len(values), 1))))


def euclidean_rdm(features: ArrayLike) -> NDArray[np.float64]:
    """Return squared Euclidean distances between rows divided by the number of neuroids, as rsatoolbox does.

    Args:
        features: (n, p), n stimuli x p neuroids, any real dtype; arithmetic is float64.

    Returns:
        (n, n) float64, not negative, in squared units of the activity; equal rows are exactly 0 apart.

    Raises:
        UserError: fewer than 3 rows, NaN or infinity (names the row).
    """
    values = checked_rows(features).values
    # Centring changes no distance, but keeps products from cancelling where all stimuli share a large offset.
    products = centred_gram(values)
    rdm = squared_distances(products, values.shape[1])
    diagonal = np.diag(products) / values.shape[1]
    # Where both stimuli are far from the mean but near each other the products cancel all the same: equal ones, or
    # all others beside one that is unlike them. These pairs are subtracted one from the other.
    for row in range(len(rdm) - 1):
        near = row + 1 + np.flatnonzero(rdm[row, row + 1 :] < CANCELLED * (diagonal[row] + diagonal[row + 1 :]))
        for some in np.array_split(near, 1 + near.size * values.shape[1] // PAIRED):
            apart = values[some].astype(np.float64) - values[row]
            rdm[row, some] = rdm[some, row] = np.einsum("ij,ij->i", apart, apart) / values.shape[1]
    np.fill_diagonal(rdm, 0.0)
    return rdm


RECORDS = (
    RdmKind("correlation", correlation_rdm, correlation_rdm, spearman_brown=True),
    RdmKind("cosine", cosine_rdm, cosine_rdm, spearman_brown=True),
    RdmKind("euclidean", euclidean_rdm, euclidean_rdm),
)


def squared_distances(products: NDArray[np.float64], p: int) -> NDArray[np.float64]:
    """Return (K_ii + K_jj - K_ij - K_ji) / p of products K (n, n) of p neuroids, in float64, not clipped at 0."""
    diagonal = np.diag(products)
    return (diagonal[:, None] + diagonal[None, :] - products - products.T) / p


def _refuse(rows: NDArray[np.bool_], how: str, what: str) -> None:
    if rows.any():
        raise UndefinedRow(f"activity is {how}", int(np.argmax(rows)), f", so its {what} are undefined")


def _power_of_two(largest: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return scales that bring the rows near 1: exact, and no square under- or overflows."""
    exponents = np.frexp(largest.astype(np.float64))[1]
    # Scales are of the features' own type.
    most = 1000 if largest.dtype == np.float64 else 126
    return np.ldexp(1.0, -np.clip(exponents, -most, most))


def _angles(lower: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turn products of rows (n, n), of which the lower triangle is valid, into 1 - cosine, in place."""
    inverse = 1.0 / np.sqrt(np.diag(lower))
    smallest = ROUNDING if lower.dtype == np.float64 else ROUNDING_FLOAT32
    for start in range(0, len(lower), ROWS):
        rows = slice(start, min(start + ROWS, len(lower)))
        lower[rows, rows] = np.tril(lower[rows, rows])
        tile = lower[rows, : rows.stop]
        tile *= inverse[: rows.stop]
        tile *= inverse[rows, None]
        np.subtract(1.0, tile, out=tile)
        np.minimum(tile, 2.0, out=tile)
        np.copyto(tile, 0.0, where=tile < smallest)
    rdm = mirrored(lower)
    np.fill_diagonal(rdm, 0.0)
    return rdm


def upper_triangle(rdm: ArrayLike) -> Vector:
    """Return the n(n-1)/2 pairs above the diagonal of an (n, n) RDM, row by row (scipy's order)."""
    matrix = np.asarray(rdm)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"an RDM must be square, got shape {matrix.shape}; pass the full matrix")
    # Row by row instead of through a mask: of 20,000 stimuli the mask alone would take 400 MB.
    rows = [row[index + 1 :] for index, row in enumerate(matrix)]
    return np.concatenate(rows or [matrix.ravel()], dtype=np.float64, casting="unsafe")


def square(pairs: Vector, n: int) -> NDArray[np.float64]:
    """Return the (n, n) symmetric matrix with zero diagonal whose upper triangle is `pairs`."""
    matrix = np.zeros((n, n))
    matrix[~np.tri(n, dtype=bool)] = pairs
    matrix += matrix.T
    return matrix
