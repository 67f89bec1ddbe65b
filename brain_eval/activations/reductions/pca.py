"""Exact principal components of few images and many units, or the reverse, without the matrix in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from brain_eval.metrics.gram import accumulate
from nmnc.errors import UserError

#: Singular values below this part of the largest are dropped: the products of the Gram matrix square them.
SMALLEST = 1e-4
#: Of the float64 block of features that is centred and multiplied at a time: it stays in the cache.
BLOCK_BYTES = 2**23


class Features(Protocol):
    """Real numbers (images, units) that can be read by blocks: an array, or a layer of a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(images, units)."""
        ...

    def __getitem__(self, block: tuple[slice, slice], /) -> Any:
        """The block of these images and units."""
        ...


@dataclass(frozen=True)
class Components:
    """Principal components of centred features.

    Attributes:
        singular_values: (components,) float64, descending, of the centred features.
        variance: sum of all squared singular values, kept or not.
        dropped: how many of the components asked for were below SMALLEST of the largest.
    """

    singular_values: NDArray[np.float64]
    variance: float
    dropped: int
    _features: Features
    _vectors: NDArray[np.float64]
    _mean: NDArray[np.float64] | None

    def scores(self, images: slice = slice(None)) -> NDArray[np.float64]:
        """Return the scores of these images on the components, (images, components) float64."""
        if self._mean is None:  # the vectors are left singular vectors, one row an image
            return self._vectors[images] * self.singular_values
        block = np.array(self._features[images, slice(None)], dtype=np.float64)
        return (block - self._mean) @ self._vectors

    def explained(self) -> float:
        """Return the fraction of variance that the components explain; 1 where there is no variance."""
        return float((self.singular_values**2).sum() / self.variance) if self.variance else 1.0


def principal_components(features: Features, k: int, block_bytes: int = BLOCK_BYTES) -> Components:
    """Return the first k principal components, by the smaller one of Gram and covariance matrix in float64.

    With n images and p units, n <= p, the eigenvectors of the Gram matrix X X^T of the centred features are their left
    singular vectors and its eigenvalues the squared singular values: n^2 p operations where a full singular value
    decomposition takes several times as many. With n > p the covariance X^T X gives the right singular vectors. The
    features are read by blocks, once or twice. The largest entry of each singular vector is positive.

    Args:
        features: (n, p) finite numbers, n >= 1, p >= 1.
        k: maximum number of components; at most min(n, p), and none below SMALLEST of the largest singular value.
            If all images are the same, the result is one component of zeros.
        block_bytes: of the block of features in memory.

    Raises:
        UserError: NaN or infinity (names the row), or squares that overflow.
    """
    n, p = features.shape
    size = min(n, p)
    step = max(1, block_bytes // (8 * size))
    with np.errstate(over="ignore", invalid="ignore"):  # reported below
        mean = None if n <= p else _mean(features, step)
        products = _gram(features, step) if mean is None else _covariance(features, step, mean)
    variance = float(np.trace(products))
    if not np.isfinite(variance):
        raise UserError(_what_is_not_finite(features, step))
    values, vectors = _largest(products, min(k, size))
    singular = np.sqrt(np.clip(values, 0, None))
    kept = max(1, int((singular > SMALLEST * singular[0]).sum())) if variance > 0 else 1
    if variance <= 0:
        singular = np.zeros_like(singular)
    vectors = vectors[:, :kept] * np.where(vectors.max(0) >= -vectors.min(0), 1.0, -1.0)[:kept]
    return Components(singular[:kept], max(variance, 0.0), len(singular) - kept, features, vectors, mean)


def bytes_needed(n: int, p: int, k: int) -> tuple[int, int]:
    """Return upper bounds in bytes on the memory to compute k components of (n, p) features, and to keep them."""
    size = min(n, p)
    kept = 8 * size * (min(k, size) + 1)
    return 8 * size * (size + min(k, size) + 30) + 3 * BLOCK_BYTES + kept, kept


def _gram(features: Features, step: int) -> NDArray[np.float64]:
    """X X^T of the centred features, upper triangle, (n, n) in Fortran's order."""
    n, p = features.shape
    products = np.empty((n, n), order="F")
    for units in _steps(p, step):
        block = np.array(features[:, units], dtype=np.float64, order="C")
        block -= block.mean(0)
        products = accumulate(products, block, first=units.start == 0)
    return products


def _mean(features: Features, step: int) -> NDArray[np.float64]:
    n, p = features.shape
    total = np.zeros(p)
    for images in _steps(n, step):
        total += np.asarray(features[images, :], dtype=np.float64).sum(0)
    return total / n


def _covariance(features: Features, step: int, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """X^T X of the centred features, upper triangle, (p, p) in Fortran's order."""
    from scipy.linalg.blas import dsyrk

    n, p = features.shape
    products = np.zeros((p, p), order="F")
    for images in _steps(n, step):
        block = np.array(features[images, :], dtype=np.float64, order="C")
        block -= mean
        products = dsyrk(1.0, block.T, beta=1.0, c=products, trans=0, overwrite_c=1)
    return products


def _what_is_not_finite(features: Features, step: int) -> str:
    """Return why the products are not finite, with the row: a single NaN spreads to all products."""
    for images in _steps(features.shape[0], step):
        for units in _steps(features.shape[1], step):
            finite = np.isfinite(np.asarray(features[images, units])).all(axis=1)
            if not finite.all():
                row = images.start + int(np.argmin(finite))
                return f"features contain NaN or infinity in row {row}; fix or remove that stimulus"
    return "the squares of the features overflow; scale all of them to values near 1"


def _largest(products: NDArray[np.float64], k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The k largest eigenvalues, descending, and their eigenvectors as columns; `products` is overwritten."""
    from scipy.linalg import eigh

    size = len(products)
    chosen = None if k == size else (size - k, size - 1)
    values, vectors = eigh(products, lower=False, subset_by_index=chosen, overwrite_a=True, check_finite=False)
    return values[::-1], vectors[:, ::-1]


def _steps(total: int, step: int) -> Iterator[slice]:
    for number in range(ceil(total / step)):
        yield slice(number * step, min((number + 1) * step, total))
