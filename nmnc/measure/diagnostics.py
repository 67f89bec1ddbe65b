"""Alignment of a rule's signal with backprop's gradient, and the share of the gradient on the manifold.

Everything is measured on fixed held-out images, in evaluation mode. Formulas: docs/method.md.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nmnc.networks import Network
from nmnc.noise.feedback import relative_error
from nmnc.noise.manifold import layer_basis
from nmnc.rules.base import Rule, Untrained
from nmnc.settings import Noise

COLUMNS = (
    "epoch", "layer", "space", "cosine", "cosine_batch", "alpha_gradient", "alpha_jacobian", "variation",
    "variation_jacobian", "margin", "d", "n",
)  # fmt: skip


def output_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Return softmax(y) - onehot, the gradient of the cross-entropy with respect to the logits, per image.

    Args:
        logits: float (batch, classes).
        labels: int64 (batch,).

    Returns:
        (batch, classes), in the dtype of the logits.
    """
    return logits.softmax(1) - F.one_hot(labels, logits.shape[1]).to(logits.dtype)


def margin(alpha: float, noise: Noise, within: tuple[int, float], full: tuple[int, float]) -> float:
    """Return alpha minus the threshold above which NMNC beats VNC: alpha - (1 + error_d) / (1 + error_n).

    The errors are those of `nmnc.noise.feedback.relative_error`; by correlation, without variation between images, that
    is alpha - (K + d + 1) / (K + n + 1).

    Args:
        alpha: fraction of the gradient's energy in the subspace.
        noise: the section noise.
        within: d, and the variation v of J U between images.
        full: n, and the variation of J.
    """
    return alpha - (1 + relative_error(noise, *within)) / (1 + relative_error(noise, *full))


def diagnose(rule: Rule, noise: Noise, images: Tensor, labels: Tensor, activity_images: Tensor) -> list[dict[str, Any]]:
    """Return one row for activity space and one for weight space per hidden stage (`COLUMNS` without epoch).

    alpha_gradient is the median over images of |U U^T g|^2 / |g|^2 for backprop's gradient g; alpha_jacobian is
    |J U|^2 / |J|^2 over all images; variation and variation_jacobian are E|J_m - J|^2 / |J|^2 between images m for J U
    and for J itself, J the mean. U is the rule's basis if it has one, else the leading principal components of the
    activity for `activity_images`.

    Args:
        rule: the rule, with its network.
        noise: the section noise, for d and the margin.
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
    exact_gradients = [gradient.flatten(1) for gradient in gradients]
    is_trained = not isinstance(rule, Untrained)
    jacobians = _jacobians(logits, hidden, bases)
    with rule.measuring([output.detach() for output in hidden], {}):
        signals, estimated = _rule_gradients(rule, images, error)
    weight_cosines = [
        F.cosine_similarity(exact, estimate, 0).item()
        for exact, estimate in zip(_weight_gradients(network, images, exact_gradients), estimated, strict=True)
    ]
    network.train(training)

    rows: list[dict[str, Any]] = []
    for stage, (gradient, signal, basis) in enumerate(zip(exact_gradients, signals, bases, strict=True)):
        units, dimensions = basis.shape
        alpha = _fraction_within(gradient, basis).median().item()
        facts = jacobians[stage]
        shared = {"layer": network.stage_names[stage], "d": dimensions, "n": units}
        rows.append(
            shared
            | {
                "space": "activity",
                "cosine": F.cosine_similarity(gradient, signal, 1).mean().item() if is_trained else None,
                "cosine_batch": F.cosine_similarity(gradient.mean(0), signal.mean(0), 0).item() if is_trained else None,
                "alpha_gradient": alpha,
                "alpha_jacobian": facts.alpha,
                "variation": facts.within,
                "variation_jacobian": facts.full,
                "margin": margin(alpha, noise, (dimensions, facts.within), (units, facts.full)),
            }
        )
        rows.append(shared | {"space": "weight", "cosine": weight_cosines[stage] if is_trained else None})
    return rows


def _fraction_within(vectors: Tensor, basis: Tensor) -> Tensor:
    """Return |U U^T v|^2 / |v|^2 per row, 0 for rows of zeros."""
    squared = vectors.square().sum(1)
    return (vectors @ basis).square().sum(1) / squared.clamp_min(torch.finfo(vectors.dtype).tiny)


class JacobianFacts(NamedTuple):
    """Facts of one hidden stage: |J U|^2 / |J|^2, and the variation v between images of J U and of J."""

    alpha: float
    within: float
    full: float


def _jacobians(logits: Tensor, hidden: list[Tensor], bases: list[Tensor]) -> list[JacobianFacts]:
    """Return the facts of every hidden stage, by one backward pass per output; J is never stored whole."""
    # Sums over outputs of |J_m|^2 over images, and of |mean J|^2, for J U and for J.
    sums = [logits.new_zeros(4) for _ in hidden]
    for output in range(logits.shape[1]):
        rows = torch.autograd.grad(logits[:, output].sum(), hidden, retain_graph=True)
        for stage, (row, basis) in enumerate(zip(rows, bases, strict=True)):
            flat = row.flatten(1)
            inside = flat @ basis
            for space, part in enumerate((inside, flat)):
                sums[stage][2 * space] += part.square().sum()
                sums[stage][2 * space + 1] += part.mean(0).square().sum()
    images = len(logits)
    facts = []
    for inside, inside_mean, total, total_mean in (stage_sums.tolist() for stage_sums in sums):
        variations = _variation(inside, inside_mean, images), _variation(total, total_mean, images)
        facts.append(JacobianFacts(inside / max(total, 1e-30), *variations))
    return facts


def _variation(total: float, mean: float, images: int) -> float:
    """Return E|J_m - J|^2 / |J|^2 from the sum of |J_m|^2 and |mean J|^2; both unbiased, 0 for one image."""
    if images < 2:
        return 0.0
    variance = (total - images * mean) / (images - 1)
    # If the mean is small against its variation, the estimate of |J|^2 may be 0 or below; v is then large.
    return max(variance, 0.0) / max(mean - variance / images, mean / images, 1e-30)


def _rule_gradients(rule: Rule, images: Tensor, error: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the rule's signal (images, units) and its flat weight gradient per hidden stage."""
    if rule.local:
        signals = rule.signals(error)
        return signals, _weight_gradients(rule.network, images, signals)
    with rule.carrying():
        outputs = rule.network.outputs(images, connected=True)
    hidden = outputs[:-1]
    weights = [_weights(rule.network, stage) for stage in range(len(hidden))]
    targets = [*hidden, *(weight for stage in weights for weight in stage)]
    derivatives = iter(torch.autograd.grad(outputs[-1], targets, error))
    signals = [next(derivatives).flatten(1) for _ in hidden]
    return signals, [torch.cat([next(derivatives).flatten() for _ in stage]) for stage in weights]


def _weight_gradients(network: Network, images: Tensor, signals: list[Tensor]) -> list[Tensor]:
    """Return the flat weight gradient of every hidden stage for a signal (images, units) at its output."""
    outputs = network.outputs(images, connected=False)
    gradients = []
    for stage, signal in enumerate(signals):
        output = outputs[stage]
        parts = torch.autograd.grad(output, _weights(network, stage), signal.view_as(output))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    return gradients


def _weights(network: Network, stage: int) -> list[Tensor]:
    return [weight for weight in network.stages[stage].parameters() if weight.requires_grad]
