"""Linear centred kernel alignment (CKA) of two sets of features, through their products of stimuli.

Kornblith et al. 2019 (ICML), eq. 3. Its biased form grows with the number of neuroids even where
nothing is shared; the unbiased form uses the estimator of Song et al. 2012 (JMLR 13:1393, eq. 5) and is 0
on average there.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brain_eval.metrics.gram import centred_gram, checked_features
from brain_eval.metrics.rdms import UndefinedSimilarity
from nmnc.errors import UserError

#: Sums of squares below this have lost digits.
SMALLEST = 1e-290
#: Of the size of the products: alignment below is a rounding error of none.
ROUNDING = 1e-13


def gram(features: ArrayLike, unbiased: bool = True) -> NDArray[np.float64]:
    """Return the centred products of stimuli whose cosine is CKA; made once per layer or recording.

    Args:
        features: (n, p), n stimuli x p neuroids.
        unbiased: with the diagonal, which holds the noise of each stimulus with itself, left out and the
            centring adjusted for it (U-centring; Székely & Rizzo 2014, eq. 2.3).

    Returns:
        (n, n) float64, symmetric, rows and columns of sum 0; scaled by a power of two, which CKA does not see.

    Raises:
        UserError: NaN or infinity (names the row), squares that overflow or underflow, fewer than 3 stimuli, or 4 for
            the unbiased form.
        UndefinedSimilarity: all stimuli have the same features.
    """
    values = checked_features(features, 4 if unbiased else 3, "unbiased CKA" if unbiased else "CKA")
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
    """Return the CKA of two results of `gram` for the same stimuli: 1 for equal features, rotated or scaled as a whole.

    Raises:
        UserError: of different numbers of stimuli.
    """
    if gram_a.shape != gram_b.shape:
        raise UserError(
            f"features of {len(gram_a)} and {len(gram_b)} stimuli cannot be compared; "
            "pass the same stimuli in the same order"
        )
    product = float(np.vdot(gram_a, gram_b))
    return product / float(np.linalg.norm(gram_a)) / float(np.linalg.norm(gram_b))


def linear_cka(features_a: ArrayLike, features_b: ArrayLike, unbiased: bool = True) -> float:
    """Compare two sets of features of the same n stimuli in the same order, (n, p) and (n, q).

    Args:
        features_a, features_b: any real dtype; arithmetic is float64. Memory: one block of neuroids and
            two (n, n) matrices beyond the features.
        unbiased: see `gram`. Brain-Score's metric cka is the unbiased form, its cka_biased the other.

    Returns:
        CKA within [0, 1]; unbiased within [-1, 1].

    Raises:
        UserError, UndefinedSimilarity: as `gram` and `alignment`.
    """
    return alignment(gram(features_a, unbiased), gram(features_b, unbiased))
