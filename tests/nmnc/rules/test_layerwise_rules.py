"""Rules whose error goes back layer by layer: feedback alignment, weight mirrors, layer-wise NMNC."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmnc.config import Study
from nmnc.errors import UserError
from nmnc.networks import Network, layer_sizes
from nmnc.networks.mlp import mlp
from nmnc.rules import make_rule
from nmnc.rules.layerwise import FeedbackAlignment
from nmnc.rules.weight_mirror import WeightMirror
from nmnc.settings import Noise
from nmnc.training.job import check
from tests.nmnc.rules.layerwise import (
    CLASSES,
    SHAPE,
    Seen,
    error,
    gradients,
    images,
    plain,
    residual,
    started,
    trainer,
    weights,
)

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


# What cannot be done


def refused(kind: str, network: Network, **noise: Any) -> None:
    make_rule(kind, network, layer_sizes(network, SHAPE)[:-1], CLASSES, Noise(dimensions=4, **noise), 0)


@pytest.mark.parametrize("kind", ["spectral", "random_subspace"])
def test_the_layerwise_form_is_nmncs_and_vncs(kind: str) -> None:
    with pytest.raises(
        UserError,
        match=rf"layerwise works only with the rules vnc, nmnc; set noise.feedback to factored or full for {kind}",
    ):
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
        UserError, match=r"^noise\.feedback layerwise: stage b: a convolution has padding_mode 'circular'"
    ):
        refused("nmnc", network, feedback="layerwise")
    for kind in ("fa", "weight_mirror"):
        with pytest.raises(UserError, match="a convolution has padding_mode 'circular'"):
            refused(kind, network)


def test_check_says_so_before_any_run() -> None:
    study = Study(
        study="toy", dataset={"name": "digits"}, networks={"net": {"kind": "resnet"}},
        rules={"mine": {"kind": "nmnc", "noise": {"feedback": "layerwise", "dimensions": 4}}},
    )  # fmt: skip
    words = r"^rules\.mine on networks\.net: noise\.feedback layerwise: stage group1_block1 .*factored$"
    with pytest.raises(UserError, match=words):
        check(study)
