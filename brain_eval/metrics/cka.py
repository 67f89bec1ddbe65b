"""Linear centred kernel alignment (CKA) of two sets of features, through their products of stimuli.

Kornblith et al. 2019 (ICML), eq. 3. Its biased form grows with the number of neuroids even where
nothing is shared; the unbiased form uses the estimator of Song et al. 2012 (JMLR 13:1393, eq. 5) and is 0
on average there.

In many subsets of the stimuli at once, given as 0 and 1 per stimulus, every sum over the products that CKA needs is one
matrix product. Subsets, not counts with copies: a copy would add to the unbiased estimate what its formula leaves out.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brain_eval.codes import Code
from brain_eval.metrics.base import OF_ITS_SIZE, PAIRS, Matrix, SubsetMetric, Vector
from brain_eval.metrics.gram import centred_gram, checked_rows
from brain_eval.metrics.rdms import UndefinedSimilarity
from nmnc.errors import UserError

#: Sums of squares below this have lost digits.
SMALLEST = 1e-290
#: Of the size of the products: alignment below is a rounding error of none.
ROUNDING = 1e-13


def gram(features: ArrayLike, unbiased: bool = True) -> NDArray[np.float64]:
    """Return the centred products of stimuli whose cosine is CKA; computed once per layer or recording.

    Args:
        features: (n, p), n stimuli x p neuroids.
        unbiased: leave out the diagonal, which has the noise of each stimulus with itself, and adjust the centring
            (U-centring; Székely & Rizzo 2014, eq. 2.3).

    Returns:
        (n, n) float64, symmetric, rows of sum 0; scaled by a power of two, which leaves CKA as it is.

    Raises:
        UserError: NaN or infinity (names the row), squares that overflow or underflow, fewer than 3 (4) stimuli.
        UndefinedSimilarity: all stimuli have the same features.
    """
    values = checked_rows(features, 4 if unbiased else 3, "unbiased CKA" if unbiased else "CKA").values
    if not np.ptp(values, axis=0).any():
        raise UndefinedSimilarity("all stimuli have the same features, so CKA is undefined; leave out that layer")
    products = centred_gram(values)
    largest = float(np.diag(products).max())
    if largest < SMALLEST:
        raise UserError("the squares of the activity underflow; multiply all activity by the same number")
    # CKA multiplies products by products, the fourth power of the activity.
    np.ldexp(products, -int(np.frexp(largest)[1]), out=products)
    if not unbiased:
        return products
    n = len(products)
    size = np.linalg.norm(products)
    np.fill_diagonal(products, 0.0)
    sums = products.sum(axis=0)
    products -= sums / (n - 2)
    products -= (sums / (n - 2))[:, None]
    products += sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(products, 0.0)
    if np.linalg.norm(products) <= ROUNDING * n * size:
        raise UndefinedSimilarity(
            "unbiased CKA of features with itself is 0, so it is undefined; use more stimuli or the biased form"
        )
    return products


def alignment(gram_a: NDArray[np.float64], gram_b: NDArray[np.float64]) -> float:
    """Return the CKA of two results of `gram`: 1 for features that are equal, rotated or scaled as a whole.

    Raises:
        UserError: different numbers of stimuli.
    """
    if gram_a.shape != gram_b.shape:
        raise UserError(
            f"features of {len(gram_a)} and {len(gram_b)} stimuli cannot be compared; "
            "pass the same stimuli in the same order"
        )
    product = float(np.vdot(gram_a, gram_b))
    return product / float(np.linalg.norm(gram_a)) / float(np.linalg.norm(gram_b))


def linear_cka(features_a: ArrayLike, features_b: ArrayLike, unbiased: bool = True) -> float:
    """Return the CKA of two sets of features of the same n stimuli, (n, p) and (n, q) of any real dtype.

    Brain-Score's metric cka is the unbiased form, within [-1, 1]; its cka_biased is the other, within [0, 1]. Memory:
    one block of neuroids and two (n, n) matrices. Raises as `gram` and `alignment`.
    """
    return alignment(gram(features_a, unbiased), gram(features_b, unbiased))


@dataclass(frozen=True)
class GramSums:
    """A Gram matrix and its sums in every subset.

    Attributes:
        gram: (n, n) float64, symmetric; zero diagonal where unbiased.
        rows: (subsets, n) sums of the rows over each subset.
        norm: (subsets,) HSIC of the matrix with itself; NaN where it is a rounding error of 0.
    """

    gram: Matrix
    rows: Matrix
    norm: Vector


def gram_sums(gram: Matrix, subsets: Matrix, unbiased: bool) -> GramSums:
    """Prepare a Gram matrix (n, n) for `cka_in_subsets`; subsets are (subsets, n) float64 of 0 and 1."""
    matrix = gram.copy()
    if unbiased:
        np.fill_diagonal(matrix, 0.0)
    rows = subsets @ matrix
    norm = _hsic(matrix, rows, matrix, rows, subsets, unbiased)
    least = ROUNDING * float(np.vdot(gram, gram)) / np.maximum(subsets.sum(axis=1), 1) ** 2
    return GramSums(matrix, rows, np.where(norm > least, norm, np.nan))


def cka_in_subsets(a: GramSums, b: GramSums, subsets: Matrix, unbiased: bool) -> Vector:
    """Return CKA in every subset, (subsets,) float64 within [-1, 1]; NaN where there is nothing to align.

    Args:
        a, b: from `gram_sums` with the same subsets.
        subsets: (subsets, n) float64 of 0 and 1; the unbiased form needs at least 4 stimuli in each.
        unbiased: HSIC_1 of Song et al. 2012 (JMLR 13:1393, eq. 5), as Nguyen et al. 2021 use it for CKA.
    """
    both = _hsic(a.gram, a.rows, b.gram, b.rows, subsets, unbiased)
    return np.clip(both / np.sqrt(a.norm * b.norm), -1.0, 1.0)


def _hsic(a: Matrix, a_rows: Matrix, b: Matrix, b_rows: Matrix, subsets: Matrix, unbiased: bool) -> Vector:
    size = subsets.sum(axis=1)
    traces = np.einsum("ij,ij->i", subsets @ (a * b), subsets)
    a_all, b_all = (np.einsum("ij,ij->i", subsets, rows) for rows in (a_rows, b_rows))
    mixed = np.einsum("ij,ij,ij->i", subsets, a_rows, b_rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        if unbiased:
            total = traces + a_all * b_all / ((size - 1) * (size - 2)) - 2 * mixed / (size - 2)
            return np.where(size > 3, total / (size * (size - 3)), np.nan)
        return (traces - 2 * mixed / size + a_all * b_all / size**2) / size**2


RECORDS = tuple(
    SubsetMetric(
        name=f"cka-{bias}",
        label=f"linear CKA ({bias})",
        note="" if unbiased else OF_ITS_SIZE,
        compare=partial(linear_cka, unbiased=unbiased),
        transform=centred_gram,
        prepare=partial(gram_sums, unbiased=unbiased),
        in_subsets=partial(cka_in_subsets, unbiased=unbiased),
        method=PAIRS.then(Code(f"cka-{bias}", f"linear CKA, {bias} HSIC; draws are random halves of the stimuli")),
        biased=not unbiased,
    )
    for bias, unbiased in (("biased", False), ("unbiased", True))
)
