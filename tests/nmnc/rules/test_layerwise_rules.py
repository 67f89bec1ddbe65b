"""Rules whose error goes back layer by layer: feedback alignment, weight mirrors, layer-wise NMNC."""

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nmnc.config import Noise, Study
from nmnc.errors import UserError
from nmnc.measure.diagnostics import diagnose
from nmnc.networks import Network, layer_sizes
from nmnc.networks.backward import through, ways_back
from nmnc.networks.convnet import convnet
from nmnc.networks.mlp import mlp
from nmnc.networks.resnet import resnet
from nmnc.noise.manifold import random_basis
from nmnc.rules import make_rule
from nmnc.rules.base import Rule
from nmnc.rules.layerwise import FeedbackAlignment
from nmnc.rules.layerwise_noise import LayerwiseManifoldNoiseCorrelation
from nmnc.rules.weight_mirror import WeightMirror
from nmnc.training.job import check
from nmnc.training.trainer import Trainer

SHAPE, CLASSES, CPU = (1, 8, 8), 4, torch.device("cpu")


def plain(**arguments: Any) -> Network:
    return convnet(SHAPE, CLASSES, channels=[4, 6], hidden=[10], **arguments)


def residual() -> Network:
    return resnet(SHAPE, CLASSES, blocks=1, channels=[4, 6])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 24) -> Tensor:
    return torch.randn(count, *SHAPE, generator=generator(1))


def error(count: int = 24) -> Tensor:
    return torch.randn(count, CLASSES, generator=generator(2))


def relative(found: Tensor, true: Tensor) -> float:
    return ((found - true).norm() / true.norm()).item()


def started(kind: str, network: Network, **noise: Any) -> Rule:
    """A rule that has seen the hidden stages' outputs to the images, but not yet a step."""
    rule = make_rule(kind, network, layer_sizes(network, SHAPE)[:-1], CLASSES, Noise(**noise), 5)
    rule.start([output.detach() for output in network.outputs(images(), connected=True)[:-1]])
    return rule


def gradients(network: Network, rule: Rule | None = None, step: int | None = None) -> list[Tensor]:
    """Of hidden outputs and all weights, as backprop or a rule sends them, the rule having seen the step if any."""
    if rule is None:
        outputs = network.outputs(images(), connected=True)
    else:
        with rule.carrying():
            outputs = network.outputs(images(), connected=True)
        if step is not None:
            rule.observe(step, [output.detach() for output in outputs[:-1]], {})
    return list(torch.autograd.grad(outputs[-1], [*outputs[:-1], *network.parameters()], error()))


def trainer(toy: Any, kind: str, network: str, epochs: int = 2, **noise: Any) -> Trainer:
    arguments = {
        "convnet": {"channels": [4, 6], "hidden": [16], "batch_norm": True, "dropout": 0.1},
        "resnet": {"blocks": 1, "channels": [8, 12]},
    }
    return toy.trainer(
        kind,
        networks={"net": {"kind": network, "arguments": arguments[network]}},
        training={"epochs": epochs},
        noise={"basis_every": 3, "basis_images": 32} | noise,
    )


def weights(run: Trainer) -> list[Tensor]:
    return [tensor.clone() for tensor in run.network.state_dict().values()]


# All of them: kind, settings, network


FA, MIRROR = ("fa", {}), ("weight_mirror", {"refresh_every": 2})
USF, FRSF, BRSF = ("usf", {}), ("frsf", {}), ("brsf", {})
LAYERWISE = [(kind, {"feedback": "layerwise", "refresh_every": 2}) for kind in ("nmnc", "vnc")]
CASES = [
    *((*rule, network) for rule in (FA, MIRROR, USF, FRSF, BRSF) for network in ("convnet", "resnet")),
    *((*rule, "convnet") for rule in LAYERWISE),
]


@pytest.mark.parametrize(("kind", "noise", "network"), CASES)
def test_a_resumed_run_ends_in_the_same_weights(
    toy: Any, tmp_path: Path, kind: str, noise: dict[str, Any], network: str
) -> None:
    whole = trainer(toy, kind, network, epochs=3, **noise)
    whole.train(tmp_path / "whole.pt")
    trainer(toy, kind, network, epochs=1, **noise).train(tmp_path / "state.pt")
    rest = trainer(toy, kind, network, epochs=3, **noise)
    torch.manual_seed(99)
    rest.train(tmp_path / "state.pt")
    assert rest.epochs == whole.epochs
    assert rest.alignment == whole.alignment
    assert all(map(torch.equal, weights(rest), weights(whole)))
    fresh = make_rule(kind, rest.network, rest.rule.sizes, CLASSES, rest.rule.noise, 77)
    fresh.load_state_dict(copy.deepcopy(rest.rule.state_dict()))  # even one that was never started
    for name, value in rest.rule.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "noise", "network"), CASES)
def test_it_learns(toy: Any, tmp_path: Path, kind: str, noise: dict[str, Any], network: str) -> None:
    run = trainer(toy, kind, network, epochs=8, **noise)
    run.train(tmp_path / "state.pt")
    assert run.epochs[-1]["test_accuracy"] > 0.7  # chance: 0.25
    assert run.epochs[-1]["train_loss"] < 0.6 * run.epochs[1]["train_loss"]


class Seen(TorchDispatchMode):
    """Names of all operations, and the elements of the largest tensor any of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.names.add(operation.name())
        self.largest = max([self.largest, *(x.numel() for x in torch.utils._pytree.tree_leaves(result)
                                            if isinstance(x, Tensor))])  # fmt: skip
        return result


@pytest.mark.parametrize(("kind", "noise", "network"), CASES)
def test_a_step_copies_nothing_to_or_from_the_host(toy: Any, kind: str, noise: dict[str, Any], network: str) -> None:
    run = trainer(toy, kind, network, **{"basis_every": 50} | noise)
    run.rule.start(run._first_outputs())
    with Seen() as seen:
        for step in range(2):
            gradients(run.network, run.rule, step)
    waiting = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::lift_fresh", "aten::is_nonzero"}
    assert {name.split(".")[0] for name in seen.names} & waiting == set()
    assert "aten::normal_" in seen.names or "aten::randn.generator" in seen.names or kind == "fa"
    with Seen() as seen:
        torch.ones(3).sum().item()
    assert seen.names & waiting  # it would have been seen


@pytest.mark.parametrize("every", [1, 4])
def test_perturbations_and_passes_are_counted(toy: Any, tmp_path: Path, every: int) -> None:
    steps, batch = toy.epochs * toy.steps_per_epoch, toy.batch
    refreshes, layers = len(range(0, steps, every)), {"convnet": 3, "resnet": 5}
    for network in ("convnet", "resnet"):
        mirror = trainer(toy, "weight_mirror", network, refresh_every=every, images=5)
        mirror.train(tmp_path / f"{network}.pt")
        assert mirror.rule.perturbations == refreshes * layers[network] * 5
        assert mirror.rule.forward_passes == steps * batch + mirror.rule.perturbations
        fixed = trainer(toy, "fa", network)
        fixed.train(tmp_path / f"{network}-fa.pt")
        assert (fixed.rule.perturbations, fixed.rule.forward_passes) == (0, steps * batch)
    manifold = trainer(toy, "nmnc", "convnet", refresh_every=every, images=5, feedback="layerwise")
    manifold.train(tmp_path / "manifold.pt")
    assert manifold.rule.perturbations == refreshes * 3 * 5
    assert manifold.rule.forward_passes == 32 + steps * batch + manifold.rule.perturbations


# Feedback alignment


def test_fa_draws_its_weights_as_the_layers_were_drawn() -> None:
    torch.manual_seed(0)
    network = mlp(SHAPE, CLASSES, hidden=[200, 100])
    one, same = (started("fa", network) for _ in range(2))
    assert isinstance(one, FeedbackAlignment)
    assert [weight.shape for weight in one.weights] == [(100, 200), (4, 100)]
    for weight, layer, other in zip(one.weights, one.layers, same.weights, strict=True):
        assert torch.equal(weight, other)
        assert weight.std().item() == pytest.approx(layer.weight.std().item(), rel=0.1)
        assert torch.corrcoef(torch.stack([weight.flatten(), layer.weight.flatten()]))[0, 1].abs() < 0.15


def test_fa_sends_the_error_through_its_own_weights() -> None:
    torch.manual_seed(0)
    network = mlp(SHAPE, CLASSES, hidden=[20, 10], activation="tanh")
    rule = started("fa", network)
    first, second = network.outputs(images(), connected=True)[:2]
    at_second = error() @ rule.weights[1]
    at_first = (at_second * (1 - second**2)) @ rule.weights[0]
    found = gradients(network, rule)
    torch.testing.assert_close(found[1], at_second)
    torch.testing.assert_close(found[0], at_first)
    inner = at_first * (1 - first**2)
    torch.testing.assert_close(found[2], inner.T @ images().flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["convnet", "resnet"])
def test_fa_with_the_networks_own_weights_is_backprop(toy: Any, tmp_path: Path, network: str) -> None:
    exact, rule = (trainer(toy, kind, network) for kind in ("backprop", "fa"))
    assert isinstance(rule.rule, FeedbackAlignment)
    rule.rule.start = lambda outputs: None  # type: ignore[method-assign]
    rule.rule.weights = [layer.weight.detach() for layer in rule.rule.layers]  # they share memory, and so move along
    for run in (exact, rule):
        torch.manual_seed(3)  # of the dropout masks
        run.train(tmp_path / run.run.kind)
    for ours, theirs in zip(weights(rule), weights(exact), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert min(row["cosine"] for row in rule.alignment) > 1 - 1e-5


def test_fa_keeps_its_weights_and_is_not_backprop(toy: Any, tmp_path: Path) -> None:
    run = trainer(toy, "fa", "convnet", epochs=1)
    kept: list[list[Tensor]] = []
    observe = run.rule.observe
    run.rule.observe = lambda *given: (kept.append([w.clone() for w in run.rule.weights]), observe(*given))
    run.train(tmp_path / "state.pt")
    assert len(kept) == toy.steps_per_epoch
    assert all(torch.equal(*pair) for pair in zip(kept[0], run.rule.weights, strict=True))
    assert max(abs(row["cosine"]) for row in run.alignment if row["epoch"] == 0) < 0.9


# Weight mirrors


def test_a_mirror_is_a_running_average_of_its_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = plain()
    rule = started("weight_mirror", network, rate=0.2, refresh_every=3)
    assert isinstance(rule, WeightMirror)
    monkeypatch.setattr("nmnc.rules.weight_mirror.mirror_estimate", lambda layer, *_: layer.weight.detach())
    shares = []
    for step in range(7):
        gradients(network, rule, step)
        shares.append(rule.weights[0][0, 0, 0, 0] / rule.layers[0].weight[0, 0, 0, 0])
    expected = [1 - 0.8**count for count in (1, 1, 1, 2, 2, 2, 3)]
    torch.testing.assert_close(torch.stack(shares).detach(), torch.tensor(expected))


@pytest.mark.parametrize("build", [partial(plain, batch_norm=True), residual])
def test_with_many_samples_weight_mirrors_become_backprop(build: Callable[..., Network]) -> None:
    torch.manual_seed(0)
    network = build()
    exact, hidden = gradients(network), len(network.stages) - 1
    cosines = []
    for samples in (2, 50, 5_000):
        rule = started("weight_mirror", network, images=samples, rate=1.0)
        found = gradients(network, rule, 0)
        pairs = list(zip(found, exact, strict=True))[:hidden]
        cosines.append([F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0).item() for ours, theirs in pairs])
    assert all(low < middle < high for low, middle, high in zip(*cosines, strict=True))
    assert min(cosines[-1]) > 0.99


# Layer-wise NMNC


def linear(hidden: list[int]) -> Network:
    torch.manual_seed(0)
    return mlp(SHAPE, CLASSES, hidden=hidden, activation="linear")


def layerwise(network: Network, bases: list[Tensor] | None, samples: int, **noise: Any) -> Rule:
    """A rule of rate 1, in given bases if any."""
    settings = {"feedback": "layerwise", "images": samples, "rate": 1.0, "dimensions": 6, "basis_images": 24}
    rule = started("nmnc", network, **settings | noise)
    assert isinstance(rule, LayerwiseManifoldNoiseCorrelation)
    if bases is not None:
        rule.bases = bases
        rule.feedback = rule.make_feedback()
    return rule


def subspaces(network: Network, dimensions: int) -> list[Tensor]:
    sizes = layer_sizes(network, SHAPE)[:-1]
    return [random_basis(size, dimensions, generator(size), CPU) for size in sizes]


def projected_chain(network: Network, rule: LayerwiseManifoldNoiseCorrelation) -> list[Tensor]:
    """The signals whose estimates the rule makes: every layer's exact product, projected on the basis."""

    def back(layer: Any, basis: Tensor, gradient: Tensor, shape: torch.Size) -> Tensor:
        exact = through(layer, layer.weight.detach(), gradient, shape).flatten(1)
        return (exact @ basis @ basis.T).view(shape)

    ways = {layer: partial(back, layer, basis) for layer, basis in zip(rule.layers, rule.bases, strict=True)}
    with ways_back(ways):
        return gradients(network)


def test_the_estimate_of_a_layer_converges_to_its_projected_weight() -> None:
    network = linear([96, 50])
    for samples in (2_000, 32_000):
        rule = layerwise(network, subspaces(network, 12), samples)
        gradients(network, rule, 0)
        for layer, feedback, basis in zip(rule.layers, rule.feedback, rule.bases, strict=True):
            assert feedback.matrix.shape == (layer.out_features, 12)
            true = layer.weight.detach() @ basis
            assert relative(feedback.matrix, true) == pytest.approx(math.sqrt(13 / samples), rel=0.25)


def test_on_a_linear_network_the_signal_is_the_projected_jacobian() -> None:
    network = linear([96])
    basis = subspaces(network, 12)[0]
    rule = layerwise(network, [basis], 32_000)
    jacobian = network.stages[1][1].weight.detach()
    expected = error() @ jacobian @ basis @ basis.T
    assert relative(gradients(network, rule, 0)[0], expected) < 3 * math.sqrt(13 / 32_000)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_in_the_whole_space_it_converges_to_backprop(batch_norm: bool) -> None:
    torch.manual_seed(0)
    network = convnet(SHAPE, CLASSES, channels=[2, 3], hidden=[10], batch_norm=batch_norm)
    exact = gradients(network)
    rule = layerwise(network, [torch.eye(size) for size in (32, 12, 10)], 100_000)
    for ours, theirs in zip(gradients(network, rule, 0), exact, strict=True):
        if theirs.norm() > 1e-4:  # a convolution's bias before batch norm has none
            assert relative(ours, theirs) < 0.05


@pytest.mark.parametrize("build", [plain, partial(plain, batch_norm=True)])
def test_with_many_samples_it_tends_to_the_exactly_projected_chain(build: Callable[..., Network]) -> None:
    torch.manual_seed(0)
    network = build()
    errors = []
    for samples in (50, 5_000):
        rule = layerwise(network, None, samples)
        expected = projected_chain(network, rule)
        found = gradients(network, rule, 0)
        errors.append([relative(ours, theirs) for ours, theirs in zip(found[:3], expected[:3], strict=True)])
    ratio = [few / many for few, many in zip(*errors, strict=True)]
    assert ratio == pytest.approx([10, 10, 10], rel=0.5)  # the square root of a hundredfold
    assert max(errors[1]) < 0.2
    exact = gradients(network)  # the projection itself costs something
    assert all(F.cosine_similarity(a.flatten(), b.flatten(), dim=0) < 0.99 for a, b in
               zip(expected[:2], exact[:2], strict=True))  # fmt: skip


def test_a_moving_basis_takes_the_feedback_along() -> None:
    torch.manual_seed(0)
    network = plain()
    rule = layerwise(network, None, 50, basis_every=1, refresh_every=10)
    gradients(network, rule, 0)
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator(8))
    gradients(network, rule, 1)  # sees other activity, from which the next step has another basis
    before = [(feedback.matrix.clone(), basis) for feedback, basis in zip(rule.feedback, rule.bases, strict=True)]
    gradients(network, rule, 2)
    for (matrix, old), feedback, new in zip(before, rule.feedback, rule.bases, strict=True):
        assert not torch.equal(old, new)
        torch.testing.assert_close(feedback.matrix, matrix @ (old.T @ new), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new.T @ new, torch.eye(new.shape[1]), rtol=0, atol=1e-5)


def test_nothing_of_units_squared_is_ever_made() -> None:
    torch.manual_seed(0)
    network = convnet(SHAPE, CLASSES, channels=[64, 64])
    clean = [output.detach() for output in network.outputs(images(), connected=True)[:-1]]
    with Seen() as seen:
        rule = layerwise(network, None, 4)
        rule.observe(0, clean, {})
        signals = [feedback.signal(torch.ones(24, len(feedback.matrix))) for feedback in rule.feedback]
    assert [signal.shape[1] for signal in signals] == [1024, 256, 128]
    assert [len(feedback.matrix) for feedback in rule.feedback] == [1024, 128, 4]
    assert seen.largest <= 24 * 64 * 64  # the first stage's clean maps, in place of 1024 x 1024


def test_diagnosis_shows_the_rules_own_subspace() -> None:
    torch.manual_seed(0)
    network = plain()
    rule = layerwise(network, None, 20_000)
    network.eval()
    gradients(network, rule, 0)
    rows = diagnose(rule, rule.noise, images(), torch.arange(24) % CLASSES, images())
    last = next(row for row in rows if row["layer"] == "fc1" and row["space"] == "activity")
    assert (last["d"], last["n"]) == (6, 10)
    # The last hidden layer's signal is the projected gradient: its cosine is the root of alpha, image by image.
    assert last["cosine"] ** 2 == pytest.approx(last["alpha_gradient"], rel=0.2)


# What cannot be done


def refused(kind: str, network: Network, **noise: Any) -> None:
    make_rule(kind, network, layer_sizes(network, SHAPE)[:-1], CLASSES, Noise(dimensions=4, **noise), 0)


@pytest.mark.parametrize("kind", ["spectral", "random_subspace"])
def test_the_layerwise_form_is_nmncs_and_vncs(kind: str) -> None:
    with pytest.raises(UserError, match=rf"layerwise is of the rules nmnc, vnc only; give {kind} factored"):
        refused(kind, plain(), feedback="layerwise")
    for other in ("backprop", "fa", "weight_mirror"):  # they have no such feedback
        refused(other, plain(), feedback="layerwise")


@pytest.mark.parametrize("setting", ["per_image", "adaptive"])
def test_what_needs_the_logits_response_is_refused(setting: str) -> None:
    with pytest.raises(
        UserError, match=rf"^noise\.{setting} needs the logits' response.*; use noise\.feedback factored"
    ):
        refused("nmnc", plain(), feedback="layerwise", **{setting: True})


def test_stages_without_one_first_layer_are_refused() -> None:
    words = r"^noise\.feedback layerwise: stage group1_block1 does not pass all its input to one Linear or Conv2d"
    with pytest.raises(UserError, match=words):
        refused("nmnc", residual(), feedback="layerwise")
    refused("nmnc", residual(), feedback="factored")
    circular = [nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")]
    network = Network(
        [("a", circular[0]), ("b", circular[1]), ("logits", nn.Sequential(nn.Flatten(), nn.Linear(128, 4)))]
    )
    with pytest.raises(
        UserError, match=r"^noise\.feedback layerwise: stage b: a convolution pads with other than zeros"
    ):
        refused("nmnc", network, feedback="layerwise")
    for kind in ("fa", "weight_mirror"):
        with pytest.raises(UserError, match="a convolution pads with other than zeros"):
            refused(kind, network)


def test_check_says_so_before_any_run() -> None:
    study = Study(
        study="toy", dataset={"name": "digits"}, networks={"net": {"kind": "resnet"}},
        rules={"mine": {"kind": "nmnc", "noise": {"feedback": "layerwise", "dimensions": 4}}},
    )  # fmt: skip
    words = r"^rules\.mine on networks\.net: noise\.feedback layerwise: stage group1_block1 .*factored$"
    with pytest.raises(UserError, match=words):
        check(study)
