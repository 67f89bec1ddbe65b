"""Noise, and the change of the network's output caused by it.

The formulas are those of docs/method.md, after Kang, Richards & Sabatini (2026), arXiv 2601.02636.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from nmnc.networks import Network
from nmnc.networks.replay import Record, replaying


@dataclass(frozen=True)
class Perturbation:
    """Noise for one layer.

    Attributes:
        noise: xi, float32 (images, units).
        coordinates: the noise that the response is correlated with, float32 (images, k): xi itself (k = units), or
            z of xi = s U z (k = d).
        divisor: divisor of the correlation: the variance of xi along an axis for coordinates xi, and s for z, because
            the response contains one factor s of s^2. The noise is divisor * z in its basis.
    """

    noise: Tensor
    coordinates: Tensor
    divisor: float


def isotropic(z: Tensor, dimensions: int, scale: float) -> Perturbation:
    """Return noise of VNC: xi = s sqrt(d / n) z, the energy of NMNC's noise spread over all n units; z (images, n)."""
    variance = scale**2 * dimensions / z.shape[1]
    noise = z * variance**0.5
    return Perturbation(noise, noise, variance)


def within_subspace(z: Tensor, basis: Tensor, scale: float) -> Perturbation:
    """Return noise of NMNC: xi = s U z, for z (images, d) and an orthonormal basis U (units, d)."""
    return Perturbation(scale * (z @ basis.T), z, scale)


def shaped(z: Tensor, basis: Tensor, deviations: Tensor, divisor: float) -> Perturbation:
    """Return noise with one standard deviation per axis of a basis, and one along all other axes.

    Args:
        z: standard noise, float32 (images, units).
        basis: orthonormal U, float32 (units, d).
        deviations: float32 (d + 1), the last one outside the basis; equal values give `isotropic` noise.
        divisor: divisor of the correlation.
    """
    inside, outside = deviations[:-1], deviations[-1]
    noise = outside * z + ((z @ basis) * (inside - outside)) @ basis.T
    return Perturbation(noise, noise, divisor)


def copies(estimator: str, layers: int) -> int:
    """Return the rows sent through the network for each perturbed image (tangents count as rows)."""
    return 2 * layers if estimator == "antithetic" else layers + 1


@torch.no_grad()
def responses(
    network: Network,
    clean: list[Tensor],
    perturbations: list[Perturbation],
    record: Record,
    estimator: str,
    rounded: bool = False,
) -> list[Tensor]:
    """Return the change of the logits for a perturbation of each hidden stage, without one pass per stage.

    At every hidden stage the perturbed copies of its clean output join the batch, and all copies pass the next stage
    together. The antithetic form makes two passes with batches of equal shape, so that zero noise gives exactly zero.
    The one-sided form compares with an unperturbed copy in the same batch, where a matrix product may round two equal
    rows differently in the last bit (about 1e-8). Forward mode gives the exact derivative along the noise.

    Args:
        network: the network.
        clean: outputs of the hidden stages for a batch, float32 (batch, ...) each.
        perturbations: one per hidden stage, for the first M images of the batch.
        record: batch-norm statistics and dropout masks of the clean pass.
        estimator: antithetic, dy = (y(x + xi) - y(x - xi)) / 2; one_sided, dy = y(x + xi) - y(x); or forward_mode,
            dy = J xi.
        rounded: whether the clean pass was less precise than float32, so that a stage's output differs from the float32
            output of that stage for the same input.

    Returns:
        dy for every hidden stage, float32 (M, classes).
    """
    if not perturbations:
        return []
    with replaying(network, record, len(perturbations[0].noise)):
        if estimator == "forward_mode":
            return list(_tangents(network, clean, perturbations, together=False))
        if estimator == "antithetic":
            up, down = (_walk(network, clean, perturbations, sign) for sign in (1, -1))
            return [(plus - minus) / 2 for plus, minus in zip(up, down, strict=True)]
        *up, baseline = _one_sided(network, clean, perturbations, joins=_clean_until(clean, record, rounded))
        return [plus - baseline for plus in up]


@torch.no_grad()
def joint_response(network: Network, clean: list[Tensor], perturbations: list[Perturbation], record: Record) -> Tensor:
    """Return the derivative of the logits when all hidden stages are perturbed at once, float32 (M, classes).

    It is the sum of J_l xi_l, exact by forward mode. Arguments as in `responses`.
    """
    with replaying(network, record, len(perturbations[0].noise)):
        return _tangents(network, clean, perturbations, together=True)[0]


def mean_jacobians(network: Network, clean: list[Tensor], images: int, record: Record) -> list[Tensor]:
    """Return the Jacobian of the logits at every hidden stage's output, averaged over the first `images` of a batch.

    It is the limit of the correlation of noise with the response for infinitely many, infinitesimal perturbations of
    each image. Takes one backward pass per output.

    Args:
        network: the network.
        clean: outputs of the hidden stages for the batch, (batch, ...) each.
        images: M.
        record: batch-norm statistics and dropout masks of the clean pass.

    Returns:
        float32 (classes, units) per hidden stage.
    """
    with torch.enable_grad(), replaying(network, record, images):
        hidden = [clean[0][:images].detach().requires_grad_()]
        for stage in network.stages[1:-1]:
            hidden.append(stage(hidden[-1]))
        logits = network.suffix(hidden[-1], len(hidden))
        rows = [
            [part.flatten(1).mean(0) for part in torch.autograd.grad(output.sum(), hidden, retain_graph=True)]
            for output in logits.T
        ]
    return [torch.stack(of_stage) for of_stage in zip(*rows, strict=True)]


def _walk(network: Network, clean: list[Tensor], perturbations: list[Perturbation], sign: int) -> list[Tensor]:
    """Return the logits (M, classes) for each hidden stage's copies, perturbed by sign * noise."""
    images = len(perturbations[0].noise)
    batch: list[Tensor] = []
    for stage, (output, perturbation) in enumerate(zip(clean, perturbations, strict=True)):
        flowing = [network.stages[stage](torch.cat(batch))] if batch else []
        batch = [*flowing, _perturbed(output[:images], perturbation, sign)]
    return list(network.suffix(torch.cat(batch), len(clean)).split(images))


def _clean_until(clean: list[Tensor], record: Record, rounded: bool) -> int:
    """Return the hidden stage at which the one-sided form's unperturbed copy leaves the clean pass.

    Up to there the clean pass's outputs are used: every row is computed by the same kernels, usually to the same bits
    (not for the smallest odd sizes, nor if MKL chooses its kernel by batch size). Batch norm computes differently when
    replayed, and with a rounded clean pass the difference would be mostly rounding error.
    """
    return 0 if rounded or any(isinstance(module, _BatchNorm) for module in record) else len(clean) - 1


def _one_sided(network: Network, clean: list[Tensor], perturbations: list[Perturbation], joins: int) -> list[Tensor]:
    """Return the logits (M, classes) for each hidden stage's perturbed copies, and last for the unperturbed copies.

    Once the unperturbed copy is in the batch, later stages perturb that copy.
    """
    images = len(perturbations[0].noise)
    base, batch = clean[0][:images], torch.empty(0)
    for stage, (output, perturbation) in enumerate(zip(clean, perturbations, strict=True)):
        parts = [network.stages[stage](batch)] if stage else []
        if stage > joins:
            flowing, base = parts[0][:-images], parts[0][-images:]
            parts = [flowing]
        else:
            base = output[:images]
        parts.append(_perturbed(base, perturbation, 1))
        batch = torch.cat([*parts, base] if stage >= joins else parts)
    return list(network.suffix(batch, len(clean)).split(images))


def _perturbed(base: Tensor, perturbation: Perturbation, sign: int) -> Tensor:
    noise = perturbation.noise.view_as(base)
    return base - noise if sign == -1 else base + noise


def _tangents(network: Network, clean: list[Tensor], perturbations: list[Perturbation], together: bool) -> Tensor:
    """Return the derivatives of the logits, (hidden stages, M, classes); (1, M, classes) if `together`.

    The clean rows pass every stage once for any number of directions.
    """
    images = len(perturbations[0].noise)
    flowing: Tensor | None = None
    for stage, (output, perturbation) in enumerate(zip(clean, perturbations, strict=True)):
        noise = perturbation.noise.view_as(output[:images])[None]
        if flowing is None:
            flowing = noise
            continue
        carried = _along(network.stages[stage], clean[stage - 1][:images], flowing)
        flowing = carried + noise if together else torch.cat([carried, noise])
    assert flowing is not None  # every network has a hidden stage
    return _along(network.stages[-1], clean[-1][:images], flowing)


def _along(stage: torch.nn.Module, x: Tensor, directions: Tensor) -> Tensor:
    """Return the derivatives of a stage at x (M, ...) along directions (k, M, ...)."""

    def derivative(direction: Tensor) -> Tensor:
        return torch.func.jvp(stage, (x,), (direction,))[1]

    with warnings.catch_warnings():
        # torch compiles its own formulas with its deprecated TorchScript compiler on first use.
        warnings.filterwarnings("ignore", ".*torch.jit.script.*")
        return torch.func.vmap(derivative)(directions)
