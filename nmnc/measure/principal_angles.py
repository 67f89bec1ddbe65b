"""Angles between subspaces."""

import torch
from torch import Tensor


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """Return the principal angles between the spans of two orthonormal bases (Bjorck & Golub 1973).

    Angles below 45 degrees are computed from their sine, the others from their cosine, because either alone loses half
    of the digits at one end (Knyazev & Argentati 2002).

    Args:
        first: float (units, a), orthonormal columns.
        second: float (units, b), orthonormal columns.

    Returns:
        float64 (min(a, b),), ascending, in degrees.
    """
    small, large = sorted((first.double(), second.double()), key=lambda basis: basis.shape[1])
    within = large.T @ small
    cosines = torch.linalg.svdvals(within).clamp_max(1)
    sines = torch.linalg.svdvals(small - large @ within).flip(0).clamp_max(1)
    return torch.where(cosines > 0.5**0.5, sines.arcsin(), cosines.arccos()).rad2deg()
