"""Feedback, which passes the output error back to a layer: a running estimate of the Jacobian dy/dx.

The full and the factored form store the same estimate: B (classes, units), or its coordinates C = B U in a basis U
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
    """Return K, the effective sample size of a signal at stationarity; 1 without an average, inf for the exact one."""
    if noise.estimator == "infinite":
        return inf
    return 1.0 if noise.per_image else averaged_samples(noise.images, noise.rate)


def relative_error(noise: Noise, axes: int, variation: float) -> float:
    """Return the expected squared error of the feedback, relative to the mean Jacobian it estimates, at stationarity.

    By correlation (k + 1 + (k + 2) v) / K. By prediction error eta (k + 2) v / (M (2 - eta (1 + (k + 1) / M))), with
    orthogonal draws v g / (2 - g), which is zero without variation between images (docs/method.md).

    Args:
        noise: the section noise.
        axes: k, number of axes of the noise.
        variation: v = E|J_m - J|^2 / |J|^2 over images m, for the Jacobian along the noise's axes.
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

    M is the number of perturbed images times the number of positions of a convolution's kernel.

    On a linear network the squared error shrinks by 1 - 2 eta + eta^2 (1 + (k + 1) / M) a refresh: fastest at g = 1,
    stable below g = 2. Orthogonal draws reduce each axis's error by g once in k / M refreshes.
    """
    if noise.draws == "orthogonal":  # with fewer axes than images, some axes are used twice per refresh
        return noise.gain * noise.images / axes / ceil(noise.images / axes)
    samples = noise.images * positions
    return noise.gain * samples / (samples + axes + 1)


class Feedback(Protocol):
    """A running estimate of one layer's Jacobian.

    Attributes:
        matrix: float32, the state kept between steps: (classes, units), (classes, d) or empty, depending on the form.
    """

    matrix: Tensor

    def update(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """B <- (1 - eta) B + eta mean(dy xi^T) / variance, for dy (M, classes) and xi (M, units)."""

    def signal(self, error: Tensor) -> Tensor:
        """e B: (batch, classes) -> (batch, units), the estimated gradient with respect to the layer."""

    def rebase(self, basis: Tensor) -> None:
        """Move to a new orthonormal basis (units, d), dropping the part outside it."""


def _estimate(response: Tensor, perturbation: Perturbation) -> Tensor:
    """Return the mean over images of dy^T z, (classes, k), divided by the noise's variance."""
    return response.T @ perturbation.coordinates / (len(response) * perturbation.divisor)


class FullFeedback:
    """B as a matrix, float32 (classes, units), initially zero.

    With a basis, estimates are mapped from coordinates to units, and the matrix is projected on every new basis, so
    that it equals the factored form.
    """

    def __init__(self, classes: int, units: int, basis: Tensor | None, device: torch.device) -> None:
        self.matrix = torch.zeros(classes, units, device=device)
        self.basis = basis

    def update(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """See `Feedback.update`."""
        estimate = _estimate(response, perturbation)
        self.matrix.lerp_(estimate if self.basis is None else estimate @ self.basis.T, rate)

    def correct(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """B <- B + eta mean(r xi^T) / variance, r = dy - B xi: learn from the prediction error (delta rule)."""
        estimate = _estimate(response - perturbation.noise @ self.matrix.T, perturbation)
        self.matrix.add_(estimate if self.basis is None else estimate @ self.basis.T, alpha=rate)

    def learn(self, jacobian: Tensor, rate: float) -> None:
        """B <- (1 - eta) B + eta J for a known Jacobian (classes, units), projected on the basis if there is one."""
        self.matrix.lerp_(jacobian if self.basis is None else (jacobian @ self.basis) @ self.basis.T, rate)

    def signal(self, error: Tensor) -> Tensor:
        """See `Feedback.signal`."""
        return error @ self.matrix

    def rebase(self, basis: Tensor) -> None:
        """B <- B U' U'^T."""
        self.matrix = (self.matrix @ basis) @ basis.T
        self.basis = basis


class FactoredFeedback:
    """C = B U, float32 (classes, d); no array has classes x units elements."""

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
    """Feedback without an average: each image's signal comes from its own noise, (e_i . dy_i) xi_i / variance.

    Its expectation over the noise is the image's gradient J_i^T e_i (U U^T J_i^T e_i for noise within a subspace),
    whereas an average passes every error back through the mean Jacobian. With one sample each, cosines are small.
    """

    def __init__(self, basis: Tensor | None, device: torch.device) -> None:
        """Prepare for noise within `basis` (units, d), or for isotropic noise with None."""
        self.matrix = torch.zeros(0, device=device)
        self.basis = basis

    def update(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """Store this step's response and noise."""
        self.response, self.perturbation = response, perturbation

    def signal(self, error: Tensor) -> Tensor:
        """See `Feedback.signal`; for the images of the last `update`."""
        changes = (error * self.response).sum(1, keepdim=True) / self.perturbation.divisor
        along = changes * self.perturbation.coordinates
        return along if self.basis is None else along @ self.basis.T

    def rebase(self, basis: Tensor) -> None:
        """See `Feedback.rebase`; there is no average to project."""
        self.basis = basis
