"""Share of a layer's gradients and of its Jacobian in given subspaces."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nmnc.measure.diagnostics import output_error
from nmnc.measure.dimension import NORMAL_95
from nmnc.networks import Network
from nmnc.noise.incremental_pca import IncrementalPCA

#: Right singular vectors kept from output to output. With 64, the span of the leading nine is within 0.2 degrees of
#: the exact one for a trained convnet 32/64/128 on CIFAR-10, and within 1.0 for an untrained one (128 images).
CARRIED = 64


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


class Projections(NamedTuple):
    """Squared lengths of each image's vectors, float32: along each axis of a basis, and in total."""

    along: Tensor  # (images, axes)
    total: Tensor  # (images,)


class RowSpace(NamedTuple):
    """Result of `row_space`; lists have one entry per basis."""

    gradient: list[Projections]
    jacobian: list[Projections]
    right: Tensor  # float32 (units, k), orthonormal


def row_space(network: Network, stage: int, images: Tensor, labels: Tensor, bases: list[Tensor]) -> RowSpace:
    """Project backprop's gradient and the rows of the Jacobian dy/dx of one stage's output x on subspaces.

    The Jacobian is exact, by one backward pass through the later stages per output; its rows are never all in memory.

    Args:
        network: in evaluation mode.
        stage: number of a hidden stage, from 0.
        images: normalised (images, channels, height, width).
        labels: int64 (images,).
        bases: orthonormal float32 (units, axes) each.

    Returns:
        Projections per image, those of the Jacobian summed over outputs, and the leading right singular vectors of its
        rows stacked over images. Their number is one less than the outputs, because output errors sum to 0.
    """
    with torch.no_grad():
        output = network.prefix(images, stage)
    output.requires_grad_()
    logits = network.suffix(output, stage + 1)
    error = output_error(logits.detach(), labels)
    # Shares do not depend on scale, and squared errors of a well-trained network would underflow float32.
    error = error / error.norm(dim=1, keepdim=True).clamp_min(torch.finfo(error.dtype).tiny)
    (derivative,) = torch.autograd.grad(logits, output, error, retain_graph=True)
    gradient = [_projections(derivative.flatten(1), basis) for basis in bases]
    jacobian = [
        Projections(torch.zeros_like(projections.along), torch.zeros_like(projections.total))
        for projections in gradient
    ]
    leading = IncrementalPCA(max(CARRIED, 2 * logits.shape[1]), centred=False)
    for number in range(logits.shape[1]):
        (derivative,) = torch.autograd.grad(logits[:, number].sum(), output, retain_graph=True)
        rows = derivative.flatten(1)
        leading.update(rows)
        for sums, basis in zip(jacobian, bases, strict=True):
            new = _projections(rows, basis)
            sums.along.add_(new.along)
            sums.total.add_(new.total)
    return RowSpace(gradient, jacobian, leading.basis(logits.shape[1] - 1))


def median_share(projections: Projections, d: int) -> Interval:
    """Return alpha_gradient: the median over images of the share in the first d axes, with an exact interval.

    The interval's ends are the order statistics n/2 -+ 1.96 sqrt(n)/2 of n images.
    """
    within = projections.along[:, :d].double().sum(1)
    shares = (within / projections.total.double().clamp_min(1e-300)).sort().values
    half, reach = len(shares) / 2, NORMAL_95 * math.sqrt(len(shares)) / 2
    low, high = math.floor(half - reach), math.ceil(half + reach)
    return Interval(shares.median().item(), shares[max(low - 1, 0)].item(), shares[min(high, len(shares) - 1)].item())


def total_share(projections: Projections, d: int) -> Interval:
    """Return alpha_jacobian: the share in the first d axes summed over images, -+ 1.96 standard errors of the ratio."""
    within, totals = projections.along[:, :d].double().sum(1), projections.total.double()
    total_sum = totals.sum().clamp_min(1e-300)
    share = within.sum() / total_sum
    variance = (within - share * totals).square().sum() / total_sum.square() * len(totals) / (len(totals) - 1)
    reach = NORMAL_95 * variance.sqrt().item()
    return Interval(share.item(), share.item() - reach, share.item() + reach)


def over_draws(values: Tensor) -> Interval:
    """Return the mean of values (draws,) over random subspaces, -+ 1.96 standard deviations of single draws."""
    mean, reach = values.double().mean().item(), NORMAL_95 * values.double().std().item()
    return Interval(mean, mean - reach, mean + reach)


def _projections(rows: Tensor, basis: Tensor) -> Projections:
    return Projections((rows @ basis).square(), rows.square().sum(1))
