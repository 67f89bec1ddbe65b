"""Products of stimuli (Gram matrices), the basis of RDMs, CKA and encoding models.

One symmetric BLAS product (syrk) of the n stimuli, accumulated over blocks of neuroids: beyond the features, memory has
one block and the (n, n) result, however wide the layer.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.linalg import blas

from nmnc.errors import UserError

#: Bytes of the block of neuroids that is centred and multiplied at a time.
BLOCK_BYTES = 2**25
#: Rows of a block that are prepared at a time: few enough to stay in the processor's cache from one step to the next.
ROWS = 128
#: Bytes of the float64 copy of the rows that are read at a time.
TILE_BYTES = 2**20


class RowError(UserError):
    """A mistake in one row of activity. Attributes: `row` its number, `what` is wrong, `then` what follows from that.

    A caller that knows the stimuli names the stimulus instead of the row, see `of`.
    """

    def __init__(self, what: str, row: int, then: str = "", advice: str = "leave out that stimulus") -> None:
        super().__init__(f"{what} in row {row}{then}; {advice}")
        self.what, self.row, self.then = what, row, then

    def of(self, stimulus_ids: Sequence[str]) -> str:
        """What is wrong, with the stimulus_id and without advice."""
        return f"{self.what} for stimulus_id '{stimulus_ids[self.row]}'{self.then}"


class Rows(NamedTuple):
    """Features (n, p), float32 or float64, with what is known of each row: (n, 1), the mean in float64."""

    values: NDArray[np.floating]
    lowest: NDArray[np.floating]
    highest: NDArray[np.floating]
    means: NDArray[np.float64]


def checked_rows(features: ArrayLike, least: int = 3, what: str = "an RDM") -> Rows:
    """Return the features as float32 or float64, never a copy of such, with the range and mean of each row.

    Args:
        features: (n, p), n stimuli x p neuroids, any real dtype.
        least: fewest stimuli.
        what: what is computed, for the error message.

    Raises:
        UserError: not two-dimensional, too few stimuli, NaN or infinity (names the row).
    """
    values = np.asarray(features)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 2 or values.shape[0] < least or values.shape[1] < 1:
        raise UserError(
            f"{what} needs features of at least {least} stimuli x 1 neuroid, got shape {values.shape}; "
            "use more stimuli or another layer"
        )
    step = max(1, TILE_BYTES // (8 * values.shape[1]))
    tiles = (values[start : start + step] for start in range(0, len(values), step))
    # NaN and infinity are told below, by row; the sum of finite values may overflow, which only users of means mind.
    with np.errstate(invalid="ignore", over="ignore"):
        found = [
            (tile.min(axis=1), tile.max(axis=1), tile.astype(np.float64, copy=False).mean(axis=1)) for tile in tiles
        ]
    lowest, highest, means = (np.concatenate(parts)[:, None] for parts in zip(*found, strict=True))
    # Both pass NaN on and show an infinity, without a mask as large as the features.
    finite = np.isfinite(lowest[:, 0]) & np.isfinite(highest[:, 0])
    if not finite.all():
        raise RowError("features contain NaN or infinity", int(np.argmin(finite)))
    return Rows(values, lowest, highest, means)


def column_blocks(n: int, p: int, itemsize: int) -> Iterator[slice]:
    """Yield slices of the p neuroids so that a block of n stimuli fills at most BLOCK_BYTES (at least one neuroid)."""
    width = max(1, BLOCK_BYTES // (n * itemsize))
    for start in range(0, p, width):
        yield slice(start, min(start + width, p))


def row_products(
    values: NDArray[np.floating], scales: NDArray[np.float64], means: NDArray[np.float64], dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Return the products of the rows `values * scales - means`, (n, n); only the lower triangle is valid.

    Args:
        values: (n, p) float32 or float64.
        scales, means: (n, 1) float64.
        dtype: of the product, float64 or float32; float64 rows are scaled and centred in float64 either way.
    """
    n, p = values.shape
    kind = np.dtype(dtype)
    products = np.empty((n, n), dtype=kind, order="F")
    for columns in column_blocks(n, p, kind.itemsize):
        block = np.empty((n, columns.stop - columns.start), dtype=kind)
        for start in range(0, n, ROWS):
            rows = slice(start, start + ROWS)
            # In place where nothing has to be converted.
            tile = block[rows] if values.dtype == kind else np.empty(block[rows].shape)
            np.multiply(values[rows, columns], scales[rows].astype(tile.dtype), out=tile)
            tile -= means[rows].astype(tile.dtype)
            if values.dtype != kind:
                block[rows] = tile
        products = accumulate(products, block, first=columns.start == 0)
    if values.dtype == kind == np.float32:
        _correct_means(products.T, means, p)
    return products.T


def _correct_means(products: NDArray[Any], means: NDArray[np.float64], p: int) -> None:
    """Subtract in place what rows keep of a large mean that float32 cannot hold: p times the product of the rests."""
    rests = (means - means.astype(np.float32)).astype(np.float32)
    squares = p * rests[:, 0] ** 2
    if (squares > 1e-7 * np.diag(products)).any():
        for start in range(0, len(products), ROWS):
            rows = slice(start, min(start + ROWS, len(products)))
            with np.errstate(invalid="ignore", over="ignore"):  # what is not valid may be anything
                products[rows, : rows.stop] -= p * rests[rows] * rests[: rows.stop].T


def centred_gram(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return X X^T of features (n, p) after each neuroid's mean is removed, (n, n) float64, symmetric; p may be large.

    Raises:
        UserError: the squares of a row overflow (names the row).
    """
    n, p = values.shape
    products = np.empty((n, n), order="F")
    for columns in column_blocks(n, p, 8):
        block = values[:, columns].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            block -= block.mean(axis=0)
        products = accumulate(products, block, first=columns.start == 0)
    finite = np.isfinite(np.diag(products))
    if not finite.all():
        row = int(np.argmin(finite))
        raise RowError("the squares of the activity overflow", row, advice="divide all activity by the same number")
    return mirrored(products.T)


def accumulate(products: NDArray[Any], block: NDArray[Any], first: bool) -> NDArray[Any]:
    """Add block @ block.T to the upper triangle of the Fortran-ordered `products`, or `first` write it, in place."""
    syrk = blas.dsyrk if products.dtype == np.float64 else blas.ssyrk
    return syrk(1.0, block.T, beta=0.0 if first else 1.0, c=products, trans=1, overwrite_c=1)


def mirrored(lower: NDArray[Any]) -> NDArray[Any]:
    """Copy the lower triangle of an (n, n) matrix to the upper one, in place, and return it."""
    for start in range(0, len(lower), ROWS):
        stop = min(start + ROWS, len(lower))
        lower[:start, start:stop] = lower[start:stop, :start].T
        corner = np.tril(lower[start:stop, start:stop])
        lower[start:stop, start:stop] = corner + np.tril(corner, -1).T
    return lower
