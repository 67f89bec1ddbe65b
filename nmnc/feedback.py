"""What carries the output error back to a layer: the running estimate of the Jacobian dy/dx.

Both forms hold the same thing: B (classes, units), or its coordinates C = B U in a basis U (units, d).
"""

from typing import Protocol

import torch
from torch import Tensor

from nmnc.perturbation import Perturbation


class Feedback(Protocol):
    """A running estimate of one layer's Jacobian.

    Attributes:
        matrix: float32 (classes, units) or (classes, d), whichever the form stores.
    """

    matrix: Tensor

    def update(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """B <- (1 - eta) B + eta mean(dy xi^T) / variance, for dy (M, classes) and xi (M, units)."""

    def signal(self, error: Tensor) -> Tensor:
        """e B: (batch, classes) -> (batch, units), the estimated gradient with respect to the layer."""

    def rebase(self, basis: Tensor) -> None:
        """Move to a new orthonormal basis (units, d); what lies outside it is dropped."""


def _estimate(response: Tensor, perturbation: Perturbation) -> Tensor:
    """Mean over images of dy (classes) times the noise's coordinates (k), over its variance."""
    return response.T @ perturbation.coordinates / (len(response) * perturbation.divisor)


class FullFeedback:
    """B as a matrix, float32 (classes, units), zero at the start.

    With a basis, the noise's coordinates z are lifted to units, and the matrix is projected on every
    new basis, so that it stays equal to the factored form.
    """

    def __init__(self, classes: int, units: int, basis: Tensor | None, device: torch.device) -> None:
        self.matrix = torch.zeros(classes, units, device=device)
        self.basis = basis

    def update(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """See `Feedback.update`."""
        estimate = _estimate(response, perturbation)
        self.matrix.lerp_(estimate if self.basis is None else estimate @ self.basis.T, rate)

    def signal(self, error: Tensor) -> Tensor:
        """See `Feedback.signal`."""
        return error @ self.matrix

    def rebase(self, basis: Tensor) -> None:
        """B <- B U' U'^T."""
        self.matrix = (self.matrix @ basis) @ basis.T
        self.basis = basis


class FactoredFeedback:
    """C = B U, float32 (classes, d): no product or matrix has classes x units elements."""

    def __init__(self, classes: int, basis: Tensor) -> None:
        self.matrix = torch.zeros(classes, basis.shape[1], device=basis.device)
        self.basis = basis

    def update(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """See `Feedback.update`; the estimate is mean(dy z^T) / s."""
        self.matrix.lerp_(_estimate(response, perturbation), rate)

    def signal(self, error: Tensor) -> Tensor:
        """See `Feedback.signal`; (e C) U^T."""
        return (error @ self.matrix) @ self.basis.T

    def rebase(self, basis: Tensor) -> None:
        """C' = C U^T U'."""
        self.matrix = self.matrix @ (self.basis.T @ basis)
        self.basis = basis
