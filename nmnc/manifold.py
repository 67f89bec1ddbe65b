"""The subspace that activity at a layer spans: its orthonormal basis."""

import torch
from torch import Tensor

#: Singular values below this part of the largest are lost in the Gram matrix's square (float32 input).
RELATIVE_TOLERANCE = 1e-4


def principal_basis(activity: Tensor, dimensions: int) -> Tensor:
    """Orthonormal basis of the leading principal components of centred activity.

    Goes through the (images x images) Gram matrix, never (units x units). Components whose singular
    value is below 1e-4 of the largest cannot be told from rounding there and are dropped.

    Args:
        activity: float (images, units).
        dimensions: components asked for.

    Returns:
        (units, d) in the dtype of `activity`, d <= dimensions: fewer where activity spans fewer.
    """
    centred = activity - activity.mean(0)
    gram = (centred @ centred.T).double()
    eigenvalues, vectors = torch.linalg.eigh(gram)
    eigenvalues, vectors = eigenvalues.flip(0)[:dimensions], vectors.flip(1)[:, :dimensions]
    keep = eigenvalues > eigenvalues[0].clamp_min(0) * RELATIVE_TOLERANCE**2
    components = centred.T @ vectors[:, keep].to(activity.dtype)
    # The eigenvectors are orthogonal in float64, their float32 images only nearly so.
    return torch.linalg.qr(components).Q


def random_basis(units: int, dimensions: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Orthonormal basis of a uniformly random subspace, float32 (units, dimensions)."""
    gaussian = torch.randn(units, dimensions, generator=generator, device=device)
    return torch.linalg.qr(gaussian).Q
