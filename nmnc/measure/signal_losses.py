"""Loss of alignment with backprop's gradient due to averaging the Jacobian and to projection on a subspace.

NMNC's signal differs from the gradient e J of each image in three ways: J is averaged over images, projected on the
manifold, and estimated from few noisy samples. This module computes the first two exactly, alone and together; the
remaining difference from the rule's cosine (alignment.csv) is due to estimation.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nmnc.measure.diagnostics import output_error
from nmnc.measure.dimension import NORMAL_95
from nmnc.networks import Network

#: Images per pass of `mean_jacobian`.
BATCH = 250


def mean_jacobian(network: Network, stage: int, images: Tensor) -> Tensor:
    """Return the Jacobian dy/dx of a stage's output x, averaged over images, which the feedback B estimates.

    Args:
        network: in evaluation mode.
        stage: number of a hidden stage, from 0.
        images: normalised (images, channels, height, width).

    Returns:
        float32 (classes, units).
    """
    total: Tensor | float = 0.0
    for part in images.split(BATCH):
        output, logits = _from_stage(network, stage, part)
        rows = [
            torch.autograd.grad(logits[:, number].sum(), output, retain_graph=True)[0].flatten(1).sum(0)
            for number in range(logits.shape[1])
        ]
        total = total + torch.stack(rows)
    assert isinstance(total, Tensor)  # there is at least one image
    return total / len(images)


def signal_losses(
    network: Network, stage: int, images: Tensor, labels: Tensor, mean: Tensor, subspaces: dict[str, Tensor]
) -> Iterator[dict[str, Any]]:
    """Yield the cosine with backprop's gradient of exact signals after averaging, projection, or both.

    Args:
        network: in evaluation mode.
        stage: number of a hidden stage, from 0.
        images: held-out images, normalised, (images, channels, height, width).
        labels: int64 (images,).
        mean: float32 (classes, units) from `mean_jacobian`, over other images.
        subspaces: name -> orthonormal float32 (units, d).

    Yields:
        quantity (cosine_activity: mean over images with -+ 1.96 standard errors as low and high; cosine_weight: of the
        stage's weight gradient), signal (gradient or mean_jacobian), subspace (empty: none), d, value.
    """
    output, logits = _from_stage(network, stage, images)
    error = output_error(logits.detach(), labels)
    (gradient,) = torch.autograd.grad(logits, output, error)
    exact, signals = gradient.flatten(1), {"gradient": gradient.flatten(1), "mean_jacobian": error @ mean}
    of_weights = _weight_gradient(network, stage, images, exact)
    for name, signal in signals.items():
        parts = {"": signal} if name != "gradient" else {}  # the whole gradient has cosine 1 with itself
        parts |= {subspace: (signal @ basis) @ basis.T for subspace, basis in subspaces.items()}
        for subspace, part in parts.items():
            row = {"signal": name, "subspace": subspace, "d": subspaces[subspace].shape[1] if subspace else None}
            cosines = F.cosine_similarity(exact, part, 1).double()
            value, reach = cosines.mean().item(), NORMAL_95 * cosines.std().item() / len(cosines) ** 0.5
            yield row | {"quantity": "cosine_activity", "value": value, "low": value - reach, "high": value + reach}
            gradient_of_part = _weight_gradient(network, stage, images, part)
            yield row | {
                "quantity": "cosine_weight",
                "value": F.cosine_similarity(of_weights, gradient_of_part, 0).item(),
            }


def _from_stage(network: Network, stage: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return a stage's output, as a leaf of the graph, and the logits computed from it."""
    with torch.no_grad():
        output = network.prefix(images, stage)
    output.requires_grad_()
    return output, network.suffix(output, stage + 1)


def _weight_gradient(network: Network, stage: int, images: Tensor, signal: Tensor) -> Tensor:
    """Return the flat gradient of a stage's weights for a signal (images, units) at its output."""
    with torch.no_grad():
        before = network.prefix(images, stage - 1) if stage else images
    output = network.stages[stage](before)
    weights = [weight for weight in network.stages[stage].parameters() if weight.requires_grad]
    return torch.cat([part.flatten() for part in torch.autograd.grad(output, weights, signal.view_as(output))])
