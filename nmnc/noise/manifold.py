"""Orthonormal bases of the subspace spanned by a layer's activity."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nmnc.errors import UserError

#: Singular values below this fraction of the largest may be rounding error, which in a float32 Gram matrix
#: reaches 1e-4 to 2.5e-4 of the largest (40 to 1,024 images of rank 1 to 7, 500 to 20,000 units).
RELATIVE_TOLERANCE = 1e-3
#: Units per block of a float64 sum, which limits the size of torch's float64 copy.
BLOCK = 8192


def principal_basis(activity: Tensor, dimensions: int, overwrite: bool = False) -> Tensor:
    """Return an orthonormal basis of the leading principal components of centred activity.

    Uses the (images x images) Gram matrix, never (units x units). Components whose singular value is below 1e-3 of the
    largest are within rounding error and are dropped.

    Args:
        activity: float (images, units).
        dimensions: number of components.
        overwrite: whether to centre `activity` in place, which saves a copy.

    Returns:
        (units, d) in the dtype of `activity`, d <= dimensions; fewer if activity spans fewer.

    Raises:
        FloatingPointError: the activity is NaN, infinite or so large that its square is.
    """
    rows = centred(activity, overwrite)
    gram = (rows @ rows.T).double()
    if not gram.isfinite().all():
        raise FloatingPointError("activity is NaN or infinite")
    eigenvalues, vectors = torch.linalg.eigh(gram)
    eigenvalues, vectors = eigenvalues.flip(0)[:dimensions], vectors.flip(1)[:, :dimensions]
    is_significant = eigenvalues > eigenvalues[0].clamp_min(0) * RELATIVE_TOLERANCE**2
    components = rows.T @ vectors[:, is_significant].to(activity.dtype)
    # QR, because the float32 components are only approximately orthogonal.
    return torch.linalg.qr(components).Q


def mean_activity(activity: Tensor) -> Tensor:
    """Return the mean over images of activity, float (images, units), as float64 (units,).

    In float64 the mean of equal values is exact, so that centring makes constant units exactly zero.
    """
    return torch.cat([block.mean(0, dtype=torch.float64) for block in activity.split(BLOCK, 1)])


def centred(activity: Tensor, overwrite: bool = False) -> Tensor:
    """Return activity, float (images, units), minus its mean over images; `overwrite` centres in place."""
    mean = mean_activity(activity).to(activity.dtype)
    return activity.sub_(mean) if overwrite else activity - mean


def layer_basis(layer: str, activity: Tensor, dimensions: int) -> Tensor:
    """Return `principal_basis` of a layer's activity; UserError with the layer's name if it is not finite."""
    with naming_layer(layer):
        return principal_basis(activity, dimensions)


@contextmanager
def naming_layer(layer: str) -> Iterator[None]:
    """Context manager: turn activity that is not finite into a UserError with the layer's name."""
    try:
        yield
    except FloatingPointError as error:
        raise UserError(
            f"layer {layer}: {error}; lower training.learning_rate or set training.clip_norm, then run again"
        ) from None


def random_basis(units: int, dimensions: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return an orthonormal basis of a uniformly random subspace, float32 (units, dimensions)."""
    gaussian = torch.randn(units, dimensions, generator=generator, device=device)
    return torch.linalg.qr(gaussian).Q


def gram_matrix(rows: Tensor) -> Tensor:
    """Return the inner products of all pairs of rows, summed in float64 over blocks of columns.

    Args:
        rows: any float dtype (rows, units), not centred here.

    Returns:
        float64 (rows, rows), symmetric.

    Raises:
        FloatingPointError: a row is NaN, infinite or so large that its square is.
    """
    gram = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for block in rows.split(BLOCK, 1):
        wide = block.double()
        gram.addmm_(wide, wide.T)
    if not gram.isfinite().all():
        raise FloatingPointError("activity is NaN or infinite")
    return gram
