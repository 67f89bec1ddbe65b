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
        divisor: divides the correlation: the variance of xi along an axis for coordinates xi, s for z
            (of s^2, one factor s is in the response).
    """

    noise: Tensor
    coordinates: Tensor
    divisor: float


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
    """Change of the logits for a perturbation of each hidden stage, without one pass per stage.

    At every hidden stage the perturbed copies of that stage's clean output join the batch; all copies flow
    on together. The antithetic form walks twice in batches of equal shape, so that zero noise gives exactly
    zero; the one-sided form compares with an unperturbed copy that flows in the same batch, where a matrix
    product may round two equal rows differently in the last bit (about 1e-8 seen).

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
    with replaying(network, record, images):
        if antithetic:
            up, down = (_walk(network, clean, perturbations, sign) for sign in (1, -1))
            return [(plus - minus) / 2 for plus, minus in zip(up, down, strict=True)]
        baseline, *up = _walk(network, clean, perturbations, sign=None)
        return [plus - baseline for plus in up]


def _walk(network: Network, clean: list[Tensor], perturbations: list[Perturbation], sign: int | None) -> list[Tensor]:
    """Logits (M, classes) for every hidden stage's copies perturbed by sign * noise.

    With sign None the unperturbed copies' logits come first, and each stage perturbs those very copies: the
    clean pass's output may differ from them in the last bit, having taken another path through the product.
    """
    images = len(perturbations[0].noise)
    batch: list[Tensor] = []
    for stage, (output, perturbation) in enumerate(zip(clean, perturbations, strict=True)):
        flowing = [network.stages[stage](torch.cat(batch))] if batch else []
        base = flowing[0][:images] if flowing and sign is None else output[:images]
        noise = perturbation.noise.view_as(base)
        unperturbed = [base] if sign is None and not flowing else []
        batch = [*flowing, *unperturbed, base - noise if sign == -1 else base + noise]
    return list(network.suffix(torch.cat(batch), len(clean)).split(images))
