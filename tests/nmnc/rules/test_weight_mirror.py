"""A weight mirror's estimate is the layer's own weight, on average: for linear maps and for convolutions."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from nmnc.networks.backward import padding, response
from nmnc.rules.weight_mirror import mirror_estimate, samples_per_offset


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def estimate(layer: nn.Linear | nn.Conv2d, noise: Tensor, scale: float) -> Tensor:
    return mirror_estimate(layer, noise, response(layer, noise), scale)


def relative(found: Tensor, true: Tensor) -> float:
    return ((found - true).norm() / true.norm()).item()


@pytest.mark.parametrize("samples", [500, 20_000])
def test_a_mirror_of_a_linear_layer_converges_to_its_weight(samples: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(60, 30)
    found = estimate(layer, 0.05 * torch.randn(samples, 60, generator=generator(3)), 0.05)
    assert relative(found, layer.weight) == pytest.approx(math.sqrt(61 / samples), rel=0.1)


CONVOLUTIONS = {
    "plain": nn.Conv2d(4, 6, 3),
    "padded": nn.Conv2d(4, 6, 5, padding=2),
    "stride": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "groups": nn.Conv2d(4, 6, (3, 2), padding=(2, 1), groups=2),
    "dilation": nn.Conv2d(4, 6, 3, padding="same", dilation=3),
}


@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_mirror_of_a_convolution_is_unbiased_up_to_the_border(layer: nn.Conv2d) -> None:
    noise = generator(4)
    found = torch.stack(
        [estimate(layer, 0.1 * torch.randn(40, 4, 8, 7, generator=noise), 0.1) for _ in range(200)]
    ).double()
    deviation = (found.mean(0) - layer.weight.double()) / (found.std(0) / math.sqrt(200))
    # Means of unbiased estimates lie one standard error away; a count that is off by one moves some by tens.
    assert deviation.square().mean().sqrt().item() == pytest.approx(1, abs=0.25)
    assert deviation.abs().max() < 5


@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_samples_per_offset_are_those_of_a_correlation_of_ones(layer: nn.Conv2d) -> None:
    for side in (8, 7, 4):
        inside = torch.ones(1, layer.in_channels, side, 8)
        outside = torch.ones_like(layer(inside))
        sizes = [*layer.weight.shape]
        ones = conv2d_weight(inside, sizes, outside, layer.stride, padding(layer), layer.dilation, layer.groups)
        found = samples_per_offset(layer, inside.shape, outside.shape, torch.device("cpu"))
        torch.testing.assert_close(found.float().expand_as(ones), ones.clamp_min(1))


def test_an_offset_that_only_meets_padding_carries_nothing() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1)
    found = estimate(layer, 0.1 * torch.randn(20_000, 2, 1, 1, generator=generator(5)), 0.1)
    assert not found[..., 0, :].any()
    assert not found[..., :, 2].any()
    torch.testing.assert_close(found[..., 1, 1], layer.weight[..., 1, 1].detach(), rtol=0.1, atol=0.02)
