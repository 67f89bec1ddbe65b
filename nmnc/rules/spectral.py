"""Noise whose shape interpolates between VNC and NMNC."""

from typing import Any

import torch
from torch import Tensor

from nmnc.noise.feedback import Feedback, FullFeedback
from nmnc.noise.perturbation import Perturbation, shaped
from nmnc.rules.manifold_noise import ManifoldNoiseCorrelation


class SpectralNoiseCorrelation(ManifoldNoiseCorrelation):
    """Noise with a variance along each axis proportional to the activity's variance to the power gamma.

    xi ~ N(0, Sigma), Sigma = c (U diag(lambda^gamma) U^T + rho^gamma (I - U U^T)): lambda are the activity's
    variances along the leading d principal components U, rho its mean variance along the others, and c makes the
    trace s^2 d, the energy of VNC and NMNC. Divided by s^2 d / n as in VNC, the estimate has the expectation
    J Sigma n / (s^2 d): gradients are biased towards the manifold, without a cut-off. gamma = 0 equals VNC draw by
    draw; a large gamma leaves only the axes of largest variance. The feedback B is full and does not change with U.

    Attributes:
        deviations: per hidden stage float32 (d + 1), the noise's standard deviation along each axis of U and, last,
            along any other.
    """

    def start(self, outputs: list[Tensor]) -> None:
        """Compute the first shapes."""
        self.deviations: list[Tensor] = []
        super().start(outputs)

    def make_feedback(self) -> list[Feedback]:
        """Return feedback of zeros for every hidden stage."""
        return [FullFeedback(self.classes, size, None, self.device) for size in self.sizes]

    def warnings(self) -> list[str]:
        """Return no warnings, because the full feedback does not change with the basis."""
        return []

    def most_axes(self, units: int) -> int:
        """See `NoiseCorrelation.most_axes`: all."""
        return units

    def perturb(self, stage: int, images: int) -> Perturbation:
        """Draw noise of the stage's shape."""
        variance = self.noise.scale**2 * self.noise.dimensions / self.sizes[stage]
        z = self.draws[stage].take(images, self.sizes[stage])
        return shaped(z, self.bases[stage], self.deviations[stage], variance)

    def principal_bases(self, batches: list[list[Tensor]]) -> list[Tensor]:
        """See `ManifoldNoiseCorrelation.principal_bases`; computes the shapes in these bases too."""
        bases = super().principal_bases(batches)
        self.deviations = [
            noise_deviations(self.latest_activity(outputs), basis, self.noise.gamma)
            * (self.noise.scale * self.noise.dimensions**0.5)
            for outputs, basis in zip(zip(*batches, strict=True), bases, strict=True)
        ]
        self._find_rates()
        return bases

    def _find_rates(self) -> None:
        """Compute eta of prediction error for the current shapes."""
        if self.noise.learning == "correlation":
            return
        self.rates = [
            self.noise.gain * largest_stable_rate(deviations.double().square(), units, self.noise.images) / 2
            for deviations, units in zip(self.deviations, self.sizes, strict=True)
        ]

    def rate(self, stage: int, perturbation: Perturbation) -> float:
        """See `NoiseCorrelation.rate`: gain times half the largest stable eta."""
        return self.rates[stage]

    def refresh(self, batches: list[list[Tensor]]) -> None:
        """Compute the shapes of new activity; the full feedback does not change."""
        self.bases = self.principal_bases(batches)

    def state_dict(self) -> dict[str, Any]:
        """Add the shapes."""
        return super().state_dict() | {"deviations": self.deviations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.deviations = [deviations.to(self.device) for deviations in state["deviations"]]
        self._find_rates()


def largest_stable_rate(variances: Tensor, units: int, images: int) -> float:
    """Return the largest eta at which the error of block LMS with shaped noise shrinks in the mean square.

    With mu_i the noise's variances over their mean: eta mu_max (1 + 1 / M) < 2 and
    sum_i eta mu_i / (M (2 - eta mu_i (1 + 1 / M))) < 1; for equal variances that is eta < 2 M / (M + n + 1).
    It is found by bisection, to a relative error of 1e-12.

    Args:
        variances: float64 (d + 1): along each axis of a basis and, last, along each of the n - d others.
        units: n.
        images: M, number of perturbed images per refresh.
    """
    counts = torch.ones_like(variances)
    counts[-1] = units - len(variances) + 1
    ratios = variances * (units / (variances * counts).sum())
    spread = 1 + 1 / images
    low, high = 0.0, 2 / (float(ratios[counts > 0].max()) * spread)
    for _ in range(100):
        middle = (low + high) / 2
        load = (counts * middle * ratios / (images * (2 - middle * ratios * spread))).sum()
        low, high = (middle, high) if load < 1 else (low, middle)
    return low


def noise_deviations(activity: Tensor, basis: Tensor, gamma: float) -> Tensor:
    """Return the standard deviations of noise of unit energy (trace 1) with variances ~ activity variance^gamma.

    Args:
        activity: float32 (images, units).
        basis: orthonormal (units, d), its leading principal components.
        gamma: exponent; 0 gives equal deviations along all axes.

    Returns:
        float32 (d + 1): along each axis of the basis and, last, along any axis outside.
    """
    units, dimensions = basis.shape
    outside_axes = units - dimensions
    centred = activity - activity.mean(0)
    along = (centred @ basis).double().square().sum(0)
    outside_variance = (centred.double().square().sum() - along.sum()).clamp_min(0) / max(outside_axes, 1)
    # Only ratios matter; relative to the largest variance, no power leaves the range of float64.
    powers = (torch.cat([along, outside_variance[None]]) / along.max()) ** gamma
    energy = powers[:-1].sum() + outside_axes * powers[-1]
    return (powers / energy).sqrt().to(activity.dtype)
