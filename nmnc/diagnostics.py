"""How well a rule's signal agrees with backprop's gradient, and how much of the gradient lies on the manifold.

All on fixed held-out images, in evaluation mode. Formulas: docs/method.md.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nmnc.config import Noise
from nmnc.manifold import layer_basis
from nmnc.networks import Network
from nmnc.rules import Rule, Untrained

COLUMNS = (
    "epoch", "layer", "space", "cosine", "cosine_batch", "alpha_gradient", "alpha_jacobian", "margin", "d", "n",
)  # fmt: skip


def output_error(logits: Tensor, labels: Tensor) -> Tensor:
    """softmax(y) - onehot, the gradient of the cross-entropy with respect to the logits, per image.

    Args:
        logits: float (batch, classes).
        labels: int64 (batch,).

    Returns:
        (batch, classes), in the dtype of the logits.
    """
    return logits.softmax(1) - F.one_hot(labels, logits.shape[1]).to(logits.dtype)


def margin(alpha: float, noise: Noise, dimensions: int, units: int) -> float:
    """By how much alpha exceeds what NMNC needs to beat VNC: alpha - (K + d + 1) / (K + n + 1).

    K = M (2 - eta) / eta is the effective number of samples of a running average over M images at rate eta.
    """
    samples = noise.images * (2 - noise.rate) / noise.rate
    return alpha - (samples + dimensions + 1) / (samples + units + 1)


def diagnose(rule: Rule, noise: Noise, images: Tensor, labels: Tensor, activity_images: Tensor) -> list[dict[str, Any]]:
    """One row for activity space and one for weight space per hidden stage (columns: `COLUMNS` less epoch).

    alpha_gradient is the median over images of |U U^T g|^2 / |g|^2 for backprop's gradient g; alpha_jacobian is
    |J U|^2 / |J|^2 over all images. U is the rule's own basis where it has one, else the leading principal
    components of the activity to `activity_images`.

    Args:
        rule: the rule, with its network.
        noise: settings behind d and the margin.
        images: held-out images, normalised, (images, channels, height, width).
        labels: int64 (images,).
        activity_images: training images for the bases of rules without one.

    Raises:
        UserError: a layer's activity is NaN or infinite.
    """
    network = rule.network
    training = network.training
    network.eval()
    with torch.no_grad():
        activity = network.outputs(activity_images, connected=True)[:-1] if not rule.bases else []
    bases = rule.bases or [
        layer_basis(name, output.flatten(1), noise.dimensions)
        for name, output in zip(network.stage_names, activity, strict=False)
    ]

    outputs = network.outputs(images, connected=True)
    hidden, logits = outputs[:-1], outputs[-1]
    error = output_error(logits, labels).detach()
    gradients = torch.autograd.grad(logits, hidden, error, retain_graph=True)
    true = [gradient.flatten(1) for gradient in gradients]
    signals = rule.signals(error) if rule.local else true
    learns = not isinstance(rule, Untrained)
    jacobians = _jacobian_alphas(logits, hidden, bases)
    weight_cosines = _weight_cosines(network, images, true, signals)
    network.train(training)

    rows: list[dict[str, Any]] = []
    for stage, (gradient, signal, basis) in enumerate(zip(true, signals, bases, strict=True)):
        units, dimensions = basis.shape
        alpha = _fraction_within(gradient, basis).median().item()
        shared = {"layer": network.stage_names[stage], "d": dimensions, "n": units}
        rows.append(
            shared
            | {
                "space": "activity",
                "cosine": F.cosine_similarity(gradient, signal, 1).mean().item() if learns else None,
                "cosine_batch": F.cosine_similarity(gradient.mean(0), signal.mean(0), 0).item() if learns else None,
                "alpha_gradient": alpha,
                "alpha_jacobian": jacobians[stage],
                "margin": margin(alpha, noise, dimensions, units),
            }
        )
        rows.append(shared | {"space": "weight", "cosine": weight_cosines[stage] if learns else None})
    return rows


def _fraction_within(vectors: Tensor, basis: Tensor) -> Tensor:
    """|U U^T v|^2 / |v|^2 per row; rows of zeros count as 0."""
    squared = vectors.square().sum(1)
    return (vectors @ basis).square().sum(1) / squared.clamp_min(torch.finfo(vectors.dtype).tiny)


def _jacobian_alphas(logits: Tensor, hidden: list[Tensor], bases: list[Tensor]) -> list[float]:
    """|J U|^2 / |J|^2 per hidden stage, J of every image; one backward pass per output, never all of J at once."""
    within = [logits.new_zeros(()) for _ in hidden]
    whole = [logits.new_zeros(()) for _ in hidden]
    for output in range(logits.shape[1]):
        rows = torch.autograd.grad(logits[:, output].sum(), hidden, retain_graph=True)
        for stage, (row, basis) in enumerate(zip(rows, bases, strict=True)):
            flat = row.flatten(1)
            within[stage] += (flat @ basis).square().sum()
            whole[stage] += flat.square().sum()
    return [(part / total.clamp_min(1e-30)).item() for part, total in zip(within, whole, strict=True)]


def _weight_cosines(network: Network, images: Tensor, true: list[Tensor], signals: list[Tensor]) -> list[float]:
    """Cosine between the stage's weight gradients under backprop's signal and under the rule's."""
    outputs = network.outputs(images, connected=False)
    cosines = []
    for stage, (gradient, signal) in enumerate(zip(true, signals, strict=True)):
        output = outputs[stage]
        weights = [weight for weight in network.stages[stage].parameters() if weight.requires_grad]
        pair = [
            torch.cat(
                [part.flatten() for part in torch.autograd.grad(output, weights, s.view_as(output), retain_graph=True)]
            )
            for s in (gradient, signal)
        ]
        cosines.append(F.cosine_similarity(pair[0], pair[1], 0).item())
    return cosines
