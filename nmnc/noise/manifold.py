"""The subspace that activity at a layer spans: its orthonormal basis."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nmnc.errors import UserError

#: Singular values below this part of the largest may be rounding: squared in a float32 Gram matrix, rounding
#: reaches 1e-4 to 2.5e-4 of the largest (40 to 1,024 images of rank 1 to 7, 500 to 20,000 units).
RELATIVE_TOLERANCE = 1e-3
#: Units of a block that is added up in float64: torch's copy of the activity is never wider.
BLOCK = 8192


def principal_basis(activity: Tensor, dimensions: int, overwrite: bool = False) -> Tensor:
    """Orthonormal basis of the leading principal components of centred activity.

    Goes through the (images x images) Gram matrix, never (units x units). Components whose singular
    value is below 1e-3 of the largest cannot be told from rounding there and are dropped.

    Args:
        activity: float (images, units).
        dimensions: components asked for.
        overwrite: whether `activity` may be centred where it lies; saves its own size in memory.

    Returns:
        (units, d) in the dtype of `activity`, d <= dimensions: fewer where activity spans fewer.

    Raises:
        FloatingPointError: the activity is NaN, infinite or so large that its square is.
    """
    rows = centred(activity, overwrite)
    gram = (rows @ rows.T).double()
    if not gram.isfinite().all():
        raise FloatingPointError("activity is NaN or infinite")
    eigenvalues, vectors = torch.linalg.eigh(gram)
    eigenvalues, vectors = eigenvalues.flip(0)[:dimensions], vectors.flip(1)[:, :dimensions]
    keep = eigenvalues > eigenvalues[0].clamp_min(0) * RELATIVE_TOLERANCE**2
    components = rows.T @ vectors[:, keep].to(activity.dtype)
    # The eigenvectors are orthogonal in float64, their float32 images only nearly so.
    return torch.linalg.qr(components).Q


def mean_activity(activity: Tensor) -> Tensor:
    """Mean over the images of activity, float (images, units); float64 (units,).

    In float64 the mean of equal values is exact: what does not vary is zero when centred, not rounding.
    """
    return torch.cat([block.mean(0, dtype=torch.float64) for block in activity.split(BLOCK, 1)])


def centred(activity: Tensor, overwrite: bool = False) -> Tensor:
    """Activity, float (images, units), without its mean over the images; in its own memory where it may be."""
    mean = mean_activity(activity).to(activity.dtype)
    return activity.sub_(mean) if overwrite else activity - mean


def layer_basis(layer: str, activity: Tensor, dimensions: int) -> Tensor:
    """`principal_basis` of a layer's activity; UserError with the layer's name when that is not finite."""
    with naming(layer):
        return principal_basis(activity, dimensions)


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Within: activity that is not finite is a UserError with the layer's name."""
    try:
        yield
    except FloatingPointError as error:
        raise UserError(
            f"layer {layer}: {error}; lower training.learning_rate or set training.clip_norm, then run again"
        ) from None


def random_basis(units: int, dimensions: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Orthonormal basis of a uniformly random subspace, float32 (units, dimensions)."""
    gaussian = torch.randn(units, dimensions, generator=generator, device=device)
    return torch.linalg.qr(gaussian).Q


def gram_matrix(rows: Tensor) -> Tensor:
    """Inner products of all pairs of rows, added up in float64 over blocks of columns.

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
