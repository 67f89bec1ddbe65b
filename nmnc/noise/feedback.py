"""What carries the output error back to a layer: the running estimate of the Jacobian dy/dx.

The full and the factored form hold the same thing: B (classes, units), or its coordinates C = B U in a basis U
(units, d). The per-image form keeps no average.
"""

from math import ceil, inf
from typing import Protocol

import torch
from torch import Tensor

from nmnc.noise.averaging import averaged_samples
from nmnc.noise.perturbation import Perturbation
from nmnc.settings import Noise


def effective_samples(noise: Noise) -> float:
    """K, samples behind one signal at stationarity: 1 without an average, infinite for noise.estimator infinite."""
    if noise.estimator == "infinite":
        return inf
    return 1.0 if noise.per_image else averaged_samples(noise.images, noise.rate)


def relative_error(noise: Noise, axes: int, variation: float) -> float:
    """Return the expected squared error of the feedback, relative to the mean Jacobian it estimates, at stationarity.

    By correlation (k + 1 + (k + 2) v) / K. By prediction error eta (k + 2) v / (M (2 - eta (1 + (k + 1) / M))), with
    orthogonal draws v g / (2 - g): without variation between images nothing is left of it (docs/method.md).

    Args:
        noise: settings.
        axes: k of the noise.
        variation: v = E|J_m - J|^2 / |J|^2 over images m, of what the noise sees of the Jacobian.
    """
    if noise.estimator == "infinite":
        return 0.0
    if noise.per_image:
        return axes + 1.0  # each image from its own Jacobian
    if noise.learning == "correlation":
        return (axes + 1 + (axes + 2) * variation) / effective_samples(noise)
    if noise.draws == "orthogonal":
        return variation * noise.gain / (2 - noise.gain)
    eta, images = prediction_rate(noise, axes), noise.images
    return eta * (axes + 2) * variation / (images * (2 - eta * (1 + (axes + 1) / images)))


def prediction_rate(noise: Noise, axes: int, positions: int = 1) -> float:
    """Return eta of prediction error (block LMS) for noise along k axes: g M / (M + k + 1), orthogonal g M / k.

    M: the perturbed images, times the positions at which each of them shows a convolution's kernel.

    On a linear network the squared error shrinks by 1 - 2 eta + eta^2 (1 + (k + 1) / M) a refresh: fastest at g = 1,
    stable below g = 2. Orthogonal draws take each axis's error away by g once in k / M refreshes.
    """
    if noise.draws == "orthogonal":  # where activity spans fewer axes than images, some are used twice in a refresh
        return noise.gain * noise.images / axes / ceil(noise.images / axes)
    samples = noise.images * positions
    return noise.gain * samples / (samples + axes + 1)


class Feedback(Protocol):
    """A running estimate of one layer's Jacobian.

    Attributes:
        matrix: float32, what outlives a step: (classes, units), (classes, d) or nothing, as the form stores it.
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

    def correct(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """B <- B + eta mean(r xi^T) / variance, r = dy - B xi: learn from what B did not predict (the delta rule)."""
        estimate = _estimate(response - perturbation.noise @ self.matrix.T, perturbation)
        self.matrix.add_(estimate if self.basis is None else estimate @ self.basis.T, alpha=rate)

    def learn(self, jacobian: Tensor, rate: float) -> None:
        """B <- (1 - eta) B + eta J for a known Jacobian (classes, units), or what of it lies in the basis."""
        self.matrix.lerp_(jacobian if self.basis is None else (jacobian @ self.basis) @ self.basis.T, rate)

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

    def correct(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """C <- C + eta mean(r z^T) / s, r = dy - s C z; see `FullFeedback.correct`."""
        predicted = perturbation.divisor * (perturbation.coordinates @ self.matrix.T)
        self.matrix.add_(_estimate(response - predicted, perturbation), alpha=rate)

    def learn(self, jacobian: Tensor, rate: float) -> None:
        """C <- (1 - eta) C + eta J U for a known Jacobian (classes, units)."""
        self.matrix.lerp_(jacobian @ self.basis, rate)

    def signal(self, error: Tensor) -> Tensor:
        """See `Feedback.signal`; (e C) U^T."""
        return (error @ self.matrix) @ self.basis.T

    def rebase(self, basis: Tensor) -> None:
        """C' = C U^T U'."""
        self.matrix = self.matrix @ (self.basis.T @ basis)
        self.basis = basis


class PerImageFeedback:
    """No average: every image's signal comes from its own noise, (e_i . dy_i) xi_i / variance.

    Its expectation over the noise is the image's own gradient J_i^T e_i (U U^T J_i^T e_i for noise within a subspace),
    where an average over images carries every error back through the mean Jacobian. One sample each: cosines are small.
    """

    def __init__(self, basis: Tensor | None, device: torch.device) -> None:
        """Noise within `basis` (units, d), or with None isotropic noise."""
        self.matrix = torch.zeros(0, device=device)
        self.basis = basis

    def update(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """Keep this step's response and noise."""
        self.response, self.perturbation = response, perturbation

    def signal(self, error: Tensor) -> Tensor:
        """See `Feedback.signal`; for the images of the last `update`."""
        changes = (error * self.response).sum(1, keepdim=True) / self.perturbation.divisor
        along = changes * self.perturbation.coordinates
        return along if self.basis is None else along @ self.basis.T

    def rebase(self, basis: Tensor) -> None:
        """See `Feedback.rebase`; there is nothing to drop."""
        self.basis = basis
