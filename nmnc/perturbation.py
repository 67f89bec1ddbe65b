"""Noise, and the change of the network's output that it causes.

The formulas are those of docs/method.md, after Kang, Richards & Sabatini (2026), arXiv 2601.02636.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nmnc.networks import Network
from nmnc.replay import Record, replaying


@dataclass(frozen=True)
class Perturbation:
    """Noise for one layer.

    Attributes:
        noise: xi, float32 (images, units).
        coordinates: what the estimate correlates with, float32 (images, k): xi itself (k = units), or z of
            xi = s U z (k = d).
        variance: divides the correlation: the variance of xi along an axis for coordinates xi, s for z
            (one factor s of s^2 is already in the coordinates).
    """

    noise: Tensor
    coordinates: Tensor
    variance: float


def isotropic(images: int, units: int, dimensions: int, scale: float, generator: torch.Generator) -> Perturbation:
    """Noise of VNC: xi ~ N(0, s^2 (d / n) I_n), the energy of NMNC's noise spread over all n units."""
    variance = scale**2 * dimensions / units
    noise = torch.randn(images, units, generator=generator, device=generator.device) * variance**0.5
    return Perturbation(noise, noise, variance)


def within_subspace(images: int, basis: Tensor, scale: float, generator: torch.Generator) -> Perturbation:
    """Noise of NMNC: xi = s U z, z ~ N(0, I_d), for an orthonormal basis U (units, d)."""
    coordinates = torch.randn(images, basis.shape[1], generator=generator, device=generator.device)
    return Perturbation(scale * (coordinates @ basis.T), coordinates, scale)


@torch.no_grad()
def responses(
    network: Network, clean: list[Tensor], perturbations: list[Perturbation], record: Record, antithetic: bool
) -> list[Tensor]:
    """Change of the logits for a perturbation of each hidden stage, all in one pass through the network.

    At every hidden stage the perturbed copies of that stage's clean output join the batch; all copies flow
    on together. One-sided noise is compared with an unperturbed copy that takes the same way, so that
    zero noise gives exactly zero.

    Args:
        network: the network.
        clean: outputs of the hidden stages for a batch, (batch, ...) each.
        perturbations: one per hidden stage, for the first M images of the batch.
        record: batch-norm statistics and dropout masks of the clean pass.
        antithetic: dy = (y(x + xi) - y(x - xi)) / 2, else dy = y(x + xi) - y(x).

    Returns:
        dy for every hidden stage, float32 (M, classes).
    """
    images = len(perturbations[0].noise)
    batch: list[Tensor] = []
    with replaying(network, record, images):
        for stage, (output, perturbation) in enumerate(zip(clean, perturbations, strict=True)):
            flowing = [network.stages[stage](torch.cat(batch))] if batch else []
            # One-sided, the unperturbed copy itself is perturbed: the clean pass's output may differ from it
            # in the last bit, as another batch size takes another path through the matrix product.
            base = flowing[0][:images] if flowing and not antithetic else output[:images]
            noise = perturbation.noise.view_as(base)
            second = [base - noise] if antithetic else [] if flowing else [base]
            batch = [*flowing, *second, base + noise]
        logits = network.suffix(torch.cat(batch), len(clean))
    logits = logits.view(-1, images, logits.shape[1])
    if antithetic:
        return [(up - down) / 2 for down, up in zip(logits[0::2], logits[1::2], strict=True)]
    return [up - logits[0] for up in logits[1:]]
