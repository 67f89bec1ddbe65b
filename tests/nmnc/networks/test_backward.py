"""Another way back: exact where the other weights are the layer's own, and nothing else of the network changed."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.networks.backward import carriers, check_layer, first_layer, padding, replacing_backward, response, through
from nmnc.networks.convnet import convnet
from nmnc.networks.mlp import mlp

pytestmark = pytest.mark.numeric

SHAPE, CLASSES, BATCH = (3, 8, 8), 5, 12


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution where the map shrinks."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.first_norm(self.first(x)), inplace=True)
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


def residual() -> Network:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return Network([("stem", stem), ("one", Residual(4, 4, 1)), ("two", Residual(4, 8, 2)), ("logits", head)])


def unusual() -> Network:
    """Strides, dilation, groups, padding in words, and an in-place ReLU straight after a convolution."""
    return Network(
        [
            ("a", nn.Sequential(nn.Conv2d(3, 6, 3, padding="same", dilation=2), nn.ReLU(inplace=True))),
            ("b", nn.Sequential(nn.Conv2d(6, 4, (3, 2), (2, 1), padding=(0, 1), groups=2), nn.ReLU(inplace=True))),
            ("c", nn.Sequential(nn.Conv2d(4, 4, 2, padding="valid"), nn.Tanh())),
            ("logits", nn.Sequential(nn.Flatten(), nn.Linear(4 * 2 * 8, CLASSES))),
        ]
    )  # fmt: skip


def tokens() -> Network:
    """Linear maps of every row of the image, three-dimensional inputs."""
    rows = nn.Sequential(nn.Flatten(2), nn.Linear(64, 7), nn.ReLU(inplace=True))
    return Network(
        [("rows", rows), ("mix", nn.Linear(7, 6)), ("logits", nn.Sequential(nn.Flatten(), nn.Linear(18, 5)))]
    )


NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": lambda: mlp(SHAPE, CLASSES, hidden=[20, 10], activation="tanh"),
    "convnet": lambda: convnet(SHAPE, CLASSES, channels=[4, 6], hidden=[10]),
    "batch norm": lambda: convnet(SHAPE, CLASSES, channels=[4, 6], hidden=[10], batch_norm=True),
    "residual": residual,
    "unusual": unusual,
    "tokens": tokens,
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    return NETWORKS[request.param]().train()


def images() -> Tensor:
    return torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))


def error() -> Tensor:
    return torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(2))


def gradients(network: Network) -> list[Tensor]:
    """Of all hidden outputs, then of all weights, for a fixed output error."""
    outputs = network.outputs(images(), connected=True)
    return list(torch.autograd.grad(outputs[-1], [*outputs[:-1], *network.parameters()], error()))


def own_ways(network: Network) -> dict[nn.Module, partial[Tensor]]:
    return {layer: partial(through, layer, layer.weight.detach()) for layer in carriers(network.stages)}


def test_own_weights_on_the_way_back_are_backprop(network: Network) -> None:
    plain = network(images())
    exact = gradients(network)
    with replacing_backward(own_ways(network)):
        assert torch.equal(network(images()), plain)
        found = gradients(network)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_other_weights_replace_the_way_back_and_nothing_else(network: Network) -> None:
    layers = carriers(network.stages)
    torch.manual_seed(3)
    for layer in layers:
        other = torch.randn_like(layer.weight)
        twin = copy.deepcopy(layer)
        twin.weight.data = other
        with replacing_backward({layer: partial(through, layer, other)}) as shapes:
            network.outputs(images(), connected=True)
        x = torch.randn(shapes[layer], requires_grad=True)
        with replacing_backward({layer: partial(through, layer, other)}):
            y = layer(x)
        direction = torch.randn_like(y)
        own = [weight for weight in (layer.weight, layer.bias) if weight is not None]
        found = torch.autograd.grad(y, [x, *own], direction)
        (other_way,) = torch.autograd.grad(twin(x), x, direction)
        exact = torch.autograd.grad(layer(x), own, direction)
        for ours, theirs in zip(found, [other_way, *exact], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_silent_way_back_stops_the_error_at_the_layer(network: Network) -> None:
    silent = {layer: lambda gradient, shape: gradient.new_zeros(shape) for layer in carriers(network.stages)}
    with replacing_backward(silent):
        found = gradients(network)
    hidden = len(network.stages) - 1
    assert all(not signal.any() for signal in found[:hidden])
    names = [name for name, _ in network.named_parameters()]
    alive = {name for name, gradient in zip(names, found[hidden:], strict=True) if gradient.any()}
    assert alive >= {name for name in names if name.startswith(f"stages.{hidden}.")}
    assert not any(name.startswith("stages.0.") for name in alive)


def test_afterwards_the_network_is_as_before_even_after_a_failure(network: Network) -> None:
    before = gradients(network)
    with pytest.raises(RuntimeError, match=r"shapes cannot|channels"), replacing_backward(own_ways(network)):
        network(images()[:, :2, :5])
    assert not any("forward" in vars(module) for module in network.modules())
    assert all(map(torch.equal, before, gradients(network)))


def test_shapes_are_those_of_inputs_that_have_an_error_to_carry() -> None:
    network = residual()
    with replacing_backward({layer: partial(through, layer, layer.weight) for layer in network.modules()
                    if isinstance(layer, nn.Conv2d | nn.Linear)}) as shapes:  # fmt: skip
        network.outputs(images(), connected=True)
    assert network.stages[0][0] not in shapes  # it sees the images
    assert shapes[network.stages[2].second] == (BATCH, 8, 4, 4)
    assert shapes[network.stages[3][2]] == (BATCH, 8)
    assert len(shapes) == 6


def test_a_frozen_layer_still_carries_the_error() -> None:
    torch.manual_seed(0)
    network = mlp(SHAPE, CLASSES, hidden=[20, 10])
    frozen = network.stages[1][1]
    frozen.requires_grad_(False)
    wanted = network.stages[0][1].weight
    with replacing_backward({frozen: partial(through, frozen, 2 * frozen.weight)}):
        (twice,) = torch.autograd.grad(network(images()), wanted, error())
    (once,) = torch.autograd.grad(network(images()), wanted, error())
    torch.testing.assert_close(twice, 2 * once)


def test_a_half_precision_error_passes_through_float32_weights() -> None:
    torch.manual_seed(0)
    network = convnet(SHAPE, CLASSES, channels=[4, 6], hidden=[10])
    exact = gradients(network)
    with replacing_backward(own_ways(network)), torch.autocast("cpu", torch.bfloat16):
        outputs = network.outputs(images(), connected=True)
    assert outputs[-1].dtype == torch.bfloat16
    found = torch.autograd.grad(outputs[-1], [*outputs[:-1], *network.parameters()], error().bfloat16())
    for ours, theirs in zip(found, exact, strict=True):
        assert torch.cosine_similarity(ours.float().flatten(), theirs.flatten(), dim=0) > 0.99


def test_response_is_the_output_less_the_bias(network: Network) -> None:
    with replacing_backward(own_ways(network)) as shapes:
        network.outputs(images(), connected=True)
    assert len(shapes) >= 2
    for layer, shape in shapes.items():
        x = torch.randn(shape)
        found = response(layer, x)
        assert not found.requires_grad
        torch.testing.assert_close(found, layer(x) - layer(torch.zeros(shape)), rtol=1e-4, atol=1e-5)


# Which layers


def test_all_layers_but_the_images_carry_an_error() -> None:
    network = residual()
    one, two = network.stages[1], network.stages[2]
    expected = [one.first, one.second, two.first, two.second, two.shortcut, network.stages[3][2]]
    assert carriers(network.stages) == expected
    # A residual block at the start: its second convolution must be there, whatever comes first in the list.
    assert one.second in carriers(nn.ModuleList([one]))


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (nn.Linear(4, 3), ""),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), "1"),
        (nn.Sequential(nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 1)), nn.ReLU()), "0.1"),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), None),
        (nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 3)), "2"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)), None),
        (nn.Sequential(Residual(3, 3, 1)), None),
        (nn.Sequential(nn.Flatten()), None),
        (type("Twice", (nn.Sequential,), {"forward": lambda self, x: self[0](x) + x})(nn.Linear(4, 4)), None),
    ],
)
def test_the_first_layer_takes_all_the_stage_is_given(stage: nn.Module, expected: str | None) -> None:
    assert first_layer(stage) is (None if expected is None else stage.get_submodule(expected))


class Scaled(nn.Linear):
    """A layer that is no longer x W^T + b."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.ConvTranspose2d(3, 3, 2), "ConvTranspose2d cannot pass an error back .*; use Linear and Conv2d"),
        (nn.Embedding(4, 3), "Embedding cannot pass an error back through other weights"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), "padding_mode 'circular', .* set it to zeros"),
        (nn.Conv2d(3, 3, 4, padding="same"), "pads its two sides unequally, .* choose an odd kernel"),
        (Scaled(4, 3), "Scaled overrides forward, .* use Linear"),
    ],
)
def test_layers_that_cannot_carry_an_error_are_refused(layer: nn.Module, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        carriers(nn.ModuleList([nn.Linear(4, 4), nn.Sequential(layer)]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, (5, 3), padding="same", dilation=(1, 2)),
        nn.Conv2d(2, 3, (2, 3), padding="valid", stride=2),
        nn.Conv2d(2, 3, (4, 3), padding=(3, 0), stride=(3, 1)),
        nn.Conv2d(2, 3, 4, padding="same", dilation=2),
    ],
)
def test_padding_in_numbers_is_padding_in_words(layer: nn.Conv2d) -> None:
    check_layer(layer)
    x = torch.randn(2, 2, 11, 10)
    by_number = F.conv2d(x, layer.weight, layer.bias, layer.stride, padding(layer), layer.dilation)
    torch.testing.assert_close(by_number, layer(x))
