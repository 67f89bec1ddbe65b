"""Networks as lists of stages: the stages make up the whole, and a user's own network is held to the same."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from examples.cifar_resnet import resnet20
from nmnc.errors import UserError
from nmnc.networks import NETWORKS, Network, build_network, layer_sizes, size_of

SHAPE = (3, 8, 8)
SMALLEST = {"alexnet": (3, 63, 63)}
EVERY_KIND = [
    ("convnet", {"channels": [4, 6], "hidden": [7]}),
    ("convnet", {"channels": [4, 6], "hidden": [7], "batch_norm": True, "dropout": 0.5, "kernel": 5}),
    ("convnet", {"channels": [4, 6], "hidden": [7], "batch_norm": True, "pooling": "start"}),
    ("convnet", {"channels": [4] * 8, "hidden": [7], "batch_norm": True, "pool_every": 3}),
    ("mlp", {"hidden": [9, 7]}),
    ("mlp", {"hidden": [9], "activation": "tanh"}),
    ("resnet", {"blocks": 2, "channels": [4, 6, 6]}),
    ("resnet", {"blocks": 2, "channels": [4, 8], "stages": "groups"}),
    ("alexnet", {"hidden": [9]}),
    ("alexnet", {"hidden": [9, 7], "batch_norm": True, "dropout": 0.0}),
]
every_kind = pytest.mark.parametrize(("kind", "arguments"), EVERY_KIND)


def build(kind: str, arguments: dict[str, Any], seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_network(kind, SMALLEST.get(kind, SHAPE), 5, arguments)


def images(kind: str = "convnet", count: int = 4) -> torch.Tensor:
    return torch.randn(count, *SMALLEST.get(kind, SHAPE), generator=torch.Generator().manual_seed(1))


def test_every_network_of_the_registry_is_tested_and_has_defaults() -> None:
    assert {kind for kind, _ in EVERY_KIND} == set(NETWORKS)
    for kind in NETWORKS:
        assert build(kind, {})(images(kind)).shape == (4, 5)


@every_kind
def test_prefix_and_suffix_meet_at_every_stage(kind: str, arguments: dict[str, Any]) -> None:
    network, x = build(kind, arguments).eval(), images(kind)
    outputs = network.outputs(x, connected=True)
    assert len(outputs) == len(network.stage_names) == len(set(network.stage_names))
    for stage, output in enumerate(outputs):
        assert torch.equal(network.prefix(x, stage), output)
        assert torch.equal(network.suffix(output, stage + 1), network(x))
    assert network.stage_names[-1] == "logits"
    assert outputs[-1].shape == (4, 5)


@every_kind
def test_detached_stages_give_the_same_values_and_no_gradient(kind: str, arguments: dict[str, Any]) -> None:
    network, x = build(kind, arguments).eval(), images(kind)
    connected, detached = network.outputs(x, connected=True), network.outputs(x, connected=False)
    for one, other in zip(connected, detached, strict=True):
        assert torch.equal(one, other)
    first = list(network.stages[0].parameters())
    reached = torch.autograd.grad(connected[-1].sum(), first, allow_unused=True)
    assert all(gradient is not None for gradient in reached)
    cut = torch.autograd.grad(detached[-1].sum(), first, allow_unused=True)
    assert all(gradient is None for gradient in cut)


@every_kind
def test_layer_sizes_leave_the_network_as_it_was(kind: str, arguments: dict[str, Any]) -> None:
    network = build(kind, arguments).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sizes = layer_sizes(network, SMALLEST.get(kind, SHAPE))
    assert network.training
    assert sizes == [output[0].numel() for output in network.eval().outputs(images(kind), connected=True)]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@every_kind
def test_weights_follow_torchs_seed(kind: str, arguments: dict[str, Any]) -> None:
    same, other = build(kind, arguments), build(kind, arguments, seed=1)
    for name, tensor in build(kind, arguments).state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    assert not torch.equal(same(images(kind)), other(images(kind)))


@pytest.mark.parametrize("pooling", ["end", "start"])
def test_a_convnet_may_be_deeper_than_its_images_can_be_halved(pooling: str) -> None:
    deep = build("convnet", {"channels": [4] * 7, "hidden": [], "pool_every": 3, "pooling": pooling})
    pools = [sum(isinstance(module, nn.AvgPool2d) for module in stage.modules()) for stage in deep.stages]
    # With pooling: start a map is halved at the start of the stage behind the third and the sixth convolution.
    assert [number for number, count in enumerate(pools) if count] == ([2, 5] if pooling == "end" else [3, 6])
    assert deep.stages[-1][-1].in_features == 4 * 2 * 2
    assert deep(images()).shape == (4, 5)


def test_the_convnet_computes_what_it_says() -> None:
    network, x = build(*EVERY_KIND[0]), images()
    weights = network.state_dict()
    for stage in ("0", "1"):
        kernel, bias = weights[f"stages.{stage}.0.weight"], weights[f"stages.{stage}.0.bias"]
        x = F.avg_pool2d(F.relu(F.conv2d(x, kernel, bias, padding=1)), 2)
    x = F.relu(F.linear(x.flatten(1), weights["stages.2.1.weight"], weights["stages.2.1.bias"]))
    x = F.linear(x, weights["stages.3.1.weight"], weights["stages.3.1.bias"])
    assert torch.allclose(network(images()), x, atol=1e-6)
    assert network.stage_names == ("conv1", "conv2", "fc1", "logits")
    assert layer_sizes(network, SHAPE) == [4 * 16, 6 * 4, 7, 5]


def test_batch_norm_and_dropout_are_where_they_are_asked_for() -> None:
    kinds = [[type(module) for module in build(*case).modules()] for case in EVERY_KIND[:2]]  # convnets
    assert [types.count(nn.BatchNorm2d) for types in kinds] == [0, 2]
    assert [types.count(nn.Dropout) for types in kinds] == [0, 1]


def test_pooling_at_the_start_of_the_next_stage_computes_the_same_with_noise_before_it() -> None:
    arguments = {"channels": [4, 6], "hidden": [7], "batch_norm": True}
    end, start = (build("convnet", arguments | {"pooling": pooling}) for pooling in ("end", "start"))
    assert start.stage_names == end.stage_names
    assert all(map(torch.equal, end.parameters(), start.parameters()))
    assert torch.equal(end(images()), start(images()))
    assert layer_sizes(end, SHAPE) == [4 * 16, 6 * 4, 7, 5]
    assert layer_sizes(start, SHAPE) == [4 * 64, 6 * 16, 7, 5]
    for one, other in zip(end.outputs(images(), True)[:2], start.outputs(images(), True)[:2], strict=True):
        assert torch.equal(one, F.avg_pool2d(other, 2))
    no_hidden = build("convnet", {"channels": [4], "hidden": [], "pooling": "start"})
    assert layer_sizes(no_hidden, SHAPE) == [4 * 64, 5]


@pytest.mark.parametrize("stages", ["blocks", "groups"])
def test_resnet20_is_the_one_that_published_weights_fit(stages: str) -> None:
    torch.manual_seed(0)
    network, published = build_network("resnet", (3, 32, 32), 10, {"stages": stages}), resnet20()
    ours = [tensor for tensor in network.state_dict().values() if tensor.ndim]
    theirs = [tensor for tensor in published.state_dict().values() if tensor.ndim]
    for source, target in zip(ours, theirs, strict=True):
        target.copy_(source + 0.1 * torch.rand(source.shape))  # statistics of batch norm above zero too
        source.copy_(target)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(network.eval()(x), published.eval()(x), atol=1e-4)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20
    assert sum(weight.numel() for weight in network.parameters()) == 269_722  # 0.27 million in the paper
    groups = [f"group{number}" for number in (1, 2, 3)]
    blocks = [f"{group}_block{number}" for group in groups for number in (1, 2, 3)]
    assert network.stage_names == ("stem", *(blocks if stages == "blocks" else groups), "logits")
    assert layer_sizes(network, (3, 32, 32))[-2] == 64 * 8 * 8


def test_alexnet_is_torchvisions() -> None:
    network = build_network("alexnet", (3, 224, 224), 1000, {})
    theirs = torchvision.models.alexnet()
    for source, target in zip(network.parameters(), theirs.parameters(), strict=True):
        target.data = source.data
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(network.eval()(x), theirs.eval()(x), atol=1e-5)
    assert network.stage_names == ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "logits")
    with pytest.raises(UserError, match="62 x 62 pixels are too small"):
        build_network("alexnet", (3, 62, 62), 10, {})


def test_a_linear_mlp_is_one_matrix() -> None:
    network = build("mlp", {"hidden": [9, 7], "activation": "linear"})
    x, y = images(count=2)
    zero = torch.zeros(SHAPE)
    whole = network(torch.stack([x + 2 * y, x, y, zero]))
    assert torch.allclose(whole[0] - whole[3], (whole[1] - whole[3]) + 2 * (whole[2] - whole[3]), atol=1e-5)


OWN = """
import torch
from torch import nn
from nmnc.networks import Network

CONSTANT = 3

def named(shape, classes, width=6):
    return nn.Sequential(dict_of(shape, classes, width))

def dict_of(shape, classes, width):
    from collections import OrderedDict
    first = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.ReLU())
    return OrderedDict(body=first, head=nn.Linear(width, classes))

def network(shape, classes, **anything):
    return Network(dict_of(shape, classes, 6).items())

def weightless(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, classes))

def frozen(shape, classes):
    net = named(shape, classes)
    net.body.requires_grad_(False)
    return net

def one_stage(shape, classes):
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(192, classes)))

def no_module(shape, classes):
    return "a network"

def plain_module(shape, classes):
    return nn.Linear(192, classes)

def fails(shape, classes):
    return {}["a\\nkey"]

def wrong_input(shape, classes):
    return nn.Sequential(nn.Linear(7, 6), nn.Linear(6, classes))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Network]:
    """Builds networks of the module `own_networks` in the working directory."""
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("def net(:\n")
    (tmp_path / "own_importing.py").write_text("import no_such_package\n")
    (tmp_path / "own_raising.py").write_text("None.attribute\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return lambda kind, **arguments: build_network(kind, SHAPE, 5, arguments)


def test_a_users_own_network_becomes_stages(own: Callable[..., Network]) -> None:
    network = own("own_networks:named", width=11)
    assert network.stage_names == ("body", "head")
    assert layer_sizes(network, SHAPE) == [11, 5]
    assert own("own_networks:network", whatever=1).stage_names == ("body", "head")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("convnte", r"unknown kind 'convnte', neither MODULE:FUNCTION; did you mean 'convnet'\?"),
        ("vgg", "unknown kind 'vgg'.*known: alexnet, convnet, mlp, resnet"),
        ("no_such_module:net", "No module named 'no_such_module'; fix it, or put its folder on PYTHONPATH"),
        ("own_networks:absent", "module own_networks has no function 'absent'"),
        ("own_networks:CONSTANT", "module own_networks has no function 'CONSTANT'"),
        ("own_broken:net", "importing own_broken failed: SyntaxError"),
        ("own_importing:net", "No module named 'no_such_package'"),
        ("own_raising:net", "importing own_raising failed: AttributeError"),
        (":net", "importing  failed: ValueError: Empty module name"),
        ("own_networks:weightless", "stage 0 has no weights to train; merge it with the stage before it"),
        ("own_networks:frozen", "stage body has no weights to train"),
        ("own_networks:one_stage", "has no hidden stage; add at least one before the logits"),
        ("own_networks:no_module", "returned str; return an nn.Sequential of stages"),
        ("own_networks:plain_module", "returned Linear; return an nn.Sequential"),
        ("own_networks:fails", "cannot be built: KeyError"),
    ],
)
def test_networks_that_cannot_be_used_are_refused(own: Callable[..., Network], kind: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        own(kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("convnet", {"chanels": [4]}, r"network convnet: unknown argument 'chanels'; did you mean 'channels'\?"),
        ("own_networks:named", {"layers": 4}, "unknown argument 'layers'; known: width"),
        ("convnet", {"channels": 4}, r"argument channels: .* valid list \(got 4\); fix it"),
        ("convnet", {"dropout": 2}, r"argument dropout: .* less than or equal to 1 \(got 2\)"),
        ("convnet", {"kernel": 3.0}, r"argument kernel: .* valid integer \(got 3.0\)"),
        ("convnet", {"batch_norm": 1}, "argument batch_norm: .* valid boolean"),
        ("mlp", {"hidden": [0]}, "argument hidden: .* greater than or equal to 1"),
        ("mlp", {"hidden": [8, True]}, r"argument hidden: .* valid integer \(got True\)"),
        ("mlp", {"hidden": ["8"]}, "argument hidden: .* valid integer"),
        ("mlp", {"hidden": [10**9]}, "argument hidden: .* less than or equal to 1000000"),
        ("mlp", {"hidden": {"a": 8}}, "argument hidden: .* valid list"),
        ("mlp", {"hidden": [8] * 201}, "argument hidden: .* at most 200 items"),
        ("mlp", {"activation": None}, "argument activation: .* valid string"),
        ("resnet", {"blocks": 10**6}, "argument blocks: .* less than or equal to 200"),
        ("convnet", {"channels": [], "hidden": []}, "has no hidden stage"),
        ("convnet", {"channels": [4] * 4}, "8 x 8 pixels cannot be halved 4 times; set fewer channels, a larger"),
        ("convnet", {"pool_every": 0}, "argument pool_every: .* greater than or equal to 1"),
        ("convnet", {"pooling": "before"}, "unknown pooling 'before'; set it to start or end"),
        ("resnet", {"stages": "layers"}, "unknown stages 'layers'; set it to blocks or groups"),
        ("resnet", {"blocks": 0}, "argument blocks: .* greater than or equal to 1"),
        ("resnet", {"channels": [16, 8]}, "channels that never become fewer"),
        ("alexnet", {}, "8 x 8 pixels are too small; set dataset.image_size to 224"),
        ("mlp", {"activation": "relus"}, "unknown activation 'relus'; did you mean 'relu'"),
        ("mlp", {"hidden": [-1]}, "argument hidden: .* greater than or equal to 1"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    own: Callable[..., Network], kind: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        own(kind, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", [SystemExit(0), KeyboardInterrupt(), RuntimeError("two\nlines")])
def test_a_stage_cannot_end_the_program(end: BaseException) -> None:
    class Ending(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise end

    with pytest.raises(UserError, match="do not pass through the network: ") as caught:
        layer_sizes(Network([("a", Ending(2, 2)), ("b", nn.Linear(2, 2))]), SHAPE)
    assert "\n" not in str(caught.value)


def test_images_that_do_not_fit_are_refused(own: Callable[..., Network]) -> None:
    with pytest.raises(UserError, match=r"images of shape \(3, 8, 8\) do not pass through the network: ") as caught:
        layer_sizes(own("own_networks:wrong_input"), SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "noise"),
    [
        ("nmnc", {"feedback": "factored"}),
        ("nmnc", {"feedback": "full"}),
        ("nmnc", {"adaptive": True}),
        ("vnc", {}),
        ("random_subspace", {}),
        ("spectral", {}),
        ("dfa", {}),
        ("fdfa", {}),
    ],
)
def test_direct_rules_train_residual_blocks_with_batch_norm(
    toy: Any, tmp_path: Path, kind: str, noise: dict[str, Any]
) -> None:
    run = toy.trainer(
        kind,
        networks={"net": {"kind": "resnet", "arguments": {"blocks": 1, "channels": [8, 12]}}},
        training={"epochs": 10},
        noise={"basis_every": 3, "basis_images": 32, "rate": 0.2} | noise,
    )
    run.train(tmp_path / "state.pt")
    assert run.epochs[-1]["train_loss"] < 0.5 * run.epochs[1]["train_loss"]


@pytest.mark.parametrize(("kind", "arguments"), [("mlp", {}), ("convnet", {"batch_norm": True}), ("resnet", {})])
def test_a_network_is_as_large_as_it_is_foreseen(kind: str, arguments: dict[str, Any]) -> None:
    network = build_network(kind, SHAPE, 10, arguments)
    weights = sum(weight.numel() for weight in network.parameters())
    assert size_of(kind, SHAPE, 10, arguments) == (weights, layer_sizes(network, SHAPE))
    assert size_of("own_networks:named", SHAPE, 10, {}) is None
