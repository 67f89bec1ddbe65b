"""bfloat16 for the clean pass and the weights' gradients: what it costs in cosine, and what stays float32."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmnc.measure.diagnostics import output_error
from nmnc.networks.replay import recording
from nmnc.noise.perturbation import Perturbation, responses
from nmnc.rule_kinds import RULES
from nmnc.rules.noise_correlation import NoiseCorrelation
from nmnc.training.trainer import Trainer
from tests.tolerance import tolerance

ONE_SIDED = {"estimator": "one_sided"}
CASES = [(kind, {}, "batch norm") for kind in sorted(set(RULES) - {"untrained"})]
CASES += [("nmnc", {"feedback": "layerwise"}, "batch norm"), ("nmnc", {"basis": "incremental"}, "batch norm")]
CASES += [("nmnc", ONE_SIDED, "batch norm"), ("nmnc", ONE_SIDED, "convnet"), ("nmnc", {}, "convnet")]
CASES += [("vnc", {"estimator": "forward_mode"}, "convnet")]
NETWORKS: dict[str, dict[str, Any]] = {
    "convnet": {"kind": "convnet", "arguments": {"channels": [8, 16], "hidden": [32]}},
    "batch norm": {"kind": "convnet", "arguments": {"channels": [8, 16], "hidden": [32], "batch_norm": True}},
    "resnet": {"kind": "resnet", "arguments": {"blocks": 1, "channels": [8, 12]}},
    "dropout": {"kind": "convnet", "arguments": {"channels": [8], "hidden": [32], "batch_norm": True, "dropout": 0.3}},
}
TRAINED, SEEN = 30, 20


def trainer(toy: Any, kind: str, precision: str, network: str = "convnet", **noise: Any) -> Trainer:
    """A run that is ready for its first step."""
    settings = {"dimensions": 8, "images": 16, "basis_every": TRAINED - 1} | noise
    run = toy.trainer(
        kind, networks={"net": NETWORKS[network]}, training={"precision": precision, "epochs": 50}, noise=settings
    )
    run.rule.start(run._first_outputs())
    run.network.train()
    return run


def batch(run: Trainer, step: int) -> tuple[Tensor, Tensor]:
    chosen = torch.arange(32 * step, 32 * step + 32) % len(run.images)
    return run.images[chosen], run.labels[chosen]


def steps(run: Trainer, count: int) -> None:
    for _ in range(count):
        run._step(*batch(run, run.step))


def exact(run: Trainer, images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Backprop's float32 gradients of the hidden outputs and of the weight matrices."""
    network = copy.deepcopy(run.network)
    outputs = network.outputs(run.dataset.normalise(images), connected=True)
    error = output_error(outputs[-1], labels).detach()
    matrices = [weight for weight in network.parameters() if weight.ndim > 1]
    found = torch.autograd.grad(outputs[-1], [*outputs[:-1], *matrices], error)
    return list(found[: len(outputs) - 1]), list(found[len(outputs) - 1 :])


def cosines(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of a step's gradients of the weight matrices, and of its signals if any, with backprop's in float32."""
    images, labels = batch(run, run.step)
    activity, weights = exact(run, images, labels)
    signals: list[Tensor] = []
    of_rule = run.rule.signals
    with monkeypatch.context() as patch:
        patch.setattr(run.rule, "signals", lambda error: signals.extend(of_rule(error)) or of_rule(error))
        run._step(images, labels)
    own = [weight.grad for weight in run.weights if weight.ndim > 1 and weight.grad is not None]
    found = [F.cosine_similarity(a.flatten(), b.flatten(), 0) for a, b in zip(weights, own, strict=True)]
    for true, signal in zip(activity, signals, strict=False):
        assert signal.dtype == torch.float32
        found.append(F.cosine_similarity(true.flatten(1), signal, 1).mean())
    return [cosine.item() for cosine in found]


def both(toy: Any, kind: str, network: str, **noise: Any) -> dict[str, Trainer]:
    """Two runs, by precision, that have made the same steps in float32 and whose weights then stay."""
    trained = trainer(toy, kind, "float32", network, **noise)
    steps(trained, TRAINED)
    runs = {precision: trainer(toy, kind, precision, network, **noise) for precision in ("float32", "bfloat16")}
    for run in runs.values():
        run.load_state_dict(copy.deepcopy(trained.state_dict()))
        run.optimiser.param_groups[0].update(lr=0.0)
    return runs


@pytest.mark.parametrize(("kind", "noise", "network"), CASES)
def test_cosines_with_backprops_float32_gradient_drop_by_less_than_a_hundredth(
    toy: Any, monkeypatch: pytest.MonkeyPatch, kind: str, noise: dict[str, Any], network: str
) -> None:
    # The basis stays too: signs of its axes are chance, and with another sign the same draw is another noise, which
    # alone moves a cosine by up to .03 here.
    runs = both(toy, kind, network, **noise)
    for run in runs.values():
        steps(run, SEEN)  # of the feedback before, .8^20 = .01 is left
    found = {precision: cosines(run, monkeypatch) for precision, run in runs.items()}
    drops = [one - other for one, other in zip(found["float32"], found["bfloat16"], strict=True)]
    assert len(drops) == (4 + 3 if runs["float32"].rule.local else 4)
    assert max(drops) < 0.01, found
    assert found["float32"] != found["bfloat16"]


@pytest.mark.parametrize("basis", ["window", "incremental"])
def test_a_basis_from_rounded_activity_holds_as_much_of_activity(toy: Any, basis: str) -> None:
    runs = both(toy, "nmnc", "batch norm", basis=basis, basis_every=5)
    for run in runs.values():
        steps(run, 6)
    exact, rounded = runs["float32"].rule.bases, runs["bfloat16"].rule.bases
    images, _ = batch(run, 1)
    with torch.no_grad():
        hidden = run.network.outputs(run.dataset.normalise(images), connected=True)[:-1]
    for one, other, output in zip(exact, rounded, hidden, strict=True):
        assert not torch.equal(one, other)
        activity = output.flatten(1) - output.flatten(1).mean(0)
        shares = [(activity @ axes).square().sum() / activity.square().sum() for axes in (one, other)]
        assert (shares[0] - shares[1]).abs() < 0.002


@pytest.mark.parametrize("network", ["convnet", "dropout", "resnet"])
@pytest.mark.parametrize("estimator", ["antithetic", "one_sided", "forward_mode"])
def test_without_noise_nothing_changes(toy: Any, monkeypatch: pytest.MonkeyPatch, estimator: str, network: str) -> None:
    run = trainer(toy, "vnc", "bfloat16", network, estimator=estimator)
    assert isinstance(run.rule, NoiseCorrelation)
    changes: list[Tensor] = []

    def spy(*given: Any) -> list[Tensor]:
        changes.extend(responses(*given))
        return changes

    def silent(stage: int, images: int) -> Perturbation:
        return Perturbation(torch.zeros(images, run.rule.sizes[stage]), torch.ones(images, run.rule.sizes[stage]), 1.0)

    monkeypatch.setattr("nmnc.rules.noise_correlation.responses", spy)
    monkeypatch.setattr(run.rule, "perturb", silent)
    steps(run, 1)
    assert len(changes) == len(run.rule.sizes)
    largest = max(change.abs().max().item() for change in changes)
    assert largest == 0 if estimator != "one_sided" else largest < tolerance(steps=max(run.rule.sizes), dtype="float32")


def clean_of(run: Trainer) -> tuple[list[Tensor], Any]:
    """Hidden outputs of a clean pass in bfloat16, widened as the loop does."""
    images, _ = batch(run, 0)
    with torch.no_grad(), recording(run.network) as record, run._precision():
        outputs = run.network.outputs(run.dataset.normalise(images), connected=True)
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    return [output.float() for output in outputs[:-1]], record


@pytest.mark.parametrize("network", ["convnet", "batch norm"])
def test_responses_are_those_of_float32_and_would_drown_in_bfloat16(toy: Any, network: str) -> None:
    run = trainer(toy, "vnc", "bfloat16", network, scale=0.005)  # so little that few units cross their threshold
    assert isinstance(run.rule, NoiseCorrelation)
    steps(run, TRAINED)
    clean, record = clean_of(run)
    noise = [run.rule.perturb(stage, 16) for stage in range(len(clean))]

    def relative(estimator: str, rounded: bool, autocast: bool = False) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = responses(run.network, clean, noise, record, estimator, rounded)
        pairs = zip(found, responses(run.network, clean, noise, record, "forward_mode"), strict=True)
        return max(((ours.float() - true).norm() / true.norm()).item() for ours, true in pairs)

    assert relative("antithetic", True) < 0.02
    assert relative("one_sided", True) < 0.05
    assert relative("antithetic", True, autocast=True) > 0.3
    if network == "convnet":  # with batch norm an unperturbed copy flows along anyway
        assert relative("one_sided", False) > 0.3


def test_all_but_the_clean_pass_and_the_weights_gradients_is_float32(toy: Any) -> None:
    run = trainer(toy, "nmnc", "bfloat16", "batch norm")
    seen: dict[str, set[torch.dtype]] = {"clean": set(), "noise": set()}
    observe, where = run.rule.observe, ["clean"]

    def spy(step: int, outputs: list[Tensor], record: Any) -> None:
        assert {output.dtype for output in outputs} == {torch.float32}
        where[0] = "noise"
        observe(step, outputs, record)
        assert {part.dtype for calls in record.values() for kept in calls for part in kept} == {torch.float32}

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen[where[0]].add(output.dtype)

    run.rule.observe = spy  # type: ignore[method-assign]
    for module in run.network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    steps(run, 1)
    assert seen == {"clean": {torch.bfloat16}, "noise": {torch.float32}}
    assert isinstance(run.rule, NoiseCorrelation)
    state = run.state_dict()
    kept = [
        *run.rule.bases,
        *(feedback.matrix for feedback in run.rule.feedback),
        *state["network"].values(),
        run.total,
    ]
    kept += [part["momentum_buffer"] for part in state["optimiser"]["state"].values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32, torch.int64}  # batch norm counts its batches


def test_float32_is_the_default_and_computes_in_it(toy: Any) -> None:
    run = toy.trainer("nmnc")
    assert run.run.training.precision == "float32"
    with run._precision():
        assert not torch.is_autocast_enabled("cpu")
        assert run.network(run.dataset.normalise(run.images[:4])).dtype == torch.float32


@pytest.mark.parametrize("kind", ["backprop", "nmnc"])
def test_a_run_in_bfloat16_learns_and_is_resumed_bit_for_bit(toy: Any, tmp_path: Path, kind: str) -> None:
    def run_of(epochs: int) -> Trainer:
        return toy.trainer(kind, training={"epochs": epochs, "precision": "bfloat16"})

    whole, rest = run_of(8), run_of(8)
    whole.train(tmp_path / "whole.pt")
    run_of(3).train(tmp_path / "state.pt")
    rest.train(tmp_path / "state.pt")
    assert rest.epochs == whole.epochs
    for ours, theirs in zip(rest.weights, whole.weights, strict=True):
        assert torch.equal(ours, theirs)
    assert whole.epochs[-1]["test_accuracy"] > 0.8  # chance: 0.25
