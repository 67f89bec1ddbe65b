"""Centred kernel alignment in many subsets of the stimuli at once, by sums over Gram matrices.

CKA (Kornblith et al. 2019, ICML) is HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). Every sum that HSIC needs in
a subset, given as 0 and 1 per stimulus, is a matrix product over all subsets. Subsets, not counts with
copies: a copy would add to the unbiased estimate what its formula leaves out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brain_eval.inference.resampling import Matrix, Vector
from brain_eval.metrics.cka import ROUNDING


@dataclass(frozen=True)
class GramSums:
    """A Gram matrix and its sums in every subset.

    Attributes:
        gram: (n, n) float64, symmetric; zero diagonal where unbiased.
        rows: (subsets, n) sums of the rows over each subset.
        own: (subsets,) HSIC of the matrix with itself; NaN where it is a rounding error of 0.
    """

    gram: Matrix
    rows: Matrix
    own: Vector


def gram_sums(gram: Matrix, subsets: NDArray[np.float64], unbiased: bool) -> GramSums:
    """Prepare a Gram matrix (n, n) for `cka_in_subsets`; subsets are (subsets, n) float64 of 0 and 1."""
    matrix = gram.copy()
    if unbiased:
        np.fill_diagonal(matrix, 0.0)
    rows = subsets @ matrix
    own = _hsic(matrix, rows, matrix, rows, subsets, unbiased)
    least = ROUNDING * float(np.vdot(gram, gram)) / np.maximum(subsets.sum(axis=1), 1) ** 2
    return GramSums(matrix, rows, np.where(own > least, own, np.nan))


def cka_in_subsets(a: GramSums, b: GramSums, subsets: NDArray[np.float64], unbiased: bool) -> Vector:
    """Return CKA in every subset, (subsets,) float64 within [-1, 1]; NaN where there is nothing to align.

    Args:
        a, b: from `gram_sums` with the same subsets.
        subsets: (subsets, n) float64 of 0 and 1; the unbiased form needs at least 4 stimuli in each.
        unbiased: HSIC_1 of Song et al. 2012 (JMLR 13:1393, eq. 5), which Nguyen et al. 2021 use for CKA.
    """
    both = _hsic(a.gram, a.rows, b.gram, b.rows, subsets, unbiased)
    return np.clip(both / np.sqrt(a.own * b.own), -1.0, 1.0)


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
