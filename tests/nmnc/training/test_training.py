"""The loop: the same for every rule, local where it says so, repeatable, resumed bit for bit."""

import csv
import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmnc.data.dataset import Dataset, load_dataset
from nmnc.device import choose_device
from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.rule_kinds import RULES
from nmnc.rules.noise_correlation import NoiseCorrelation
from nmnc.settings import Dataset as DatasetConfig
from nmnc.training.checkpoint import load_network, weights_sha256
from nmnc.training.job import train_job
from nmnc.training.trainer import Trainer, seeds_of
from workflow.study import Study

CPU = torch.device("cpu")
KINDS = sorted(set(RULES) - {"untrained"})
CLASSES: dict[str, Any] = {kind: resolve_name(RULES[kind].rule) for kind in KINDS}
LOCAL = [kind for kind in KINDS if CLASSES[kind].local]
# fdfa counts derivatives, not copies: see test_direct_rules.py.
PERTURBING = [kind for kind in KINDS if issubclass(CLASSES[kind], NoiseCorrelation) and kind != "fdfa"]
FILES = {"network.pt", "epochs.csv", "alignment.csv", "timing.csv", "provenance.json"}
BATCH, IMAGES, EPOCHS = 32, 200, 2
STEPS = EPOCHS * (IMAGES // BATCH)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy.npz: four noisy patterns of 8 x 8 pixels."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    patterns = generator.integers(40, 216, (4, 8, 8))
    labels = generator.integers(0, 4, 264)
    images = (patterns[labels] + generator.normal(0, 30, (264, 8, 8))).clip(0, 255).astype(np.uint8)
    np.savez(
        folder / "toy.npz", x_train=images[:IMAGES], y_train=labels[:IMAGES],
        x_test=images[IMAGES:], y_test=labels[IMAGES:],
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    return load_dataset(DatasetConfig(name="toy.npz"), data)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NMNC_DATA", raising=False)


def study(data: Path = Path("absent"), results: Path = Path("absent"), **changes: Any) -> Study:
    """A study with every rule; `changes` replace whole sections or values within training and noise."""
    content: dict[str, Any] = {
        "study": "toy",
        "device": "cpu",
        "paths": {"data": data, "results": results},
        "dataset": {"name": "toy.npz"},
        "networks": {"net": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [8]}}},
        "rules": {kind: {"kind": kind} for kind in KINDS},
        "training": {"epochs": EPOCHS, "batch_size": BATCH},
        "noise": {"dimensions": 4, "images": 4, "basis_images": 48, "basis_every": 5},
        "diagnostics": {"images": 32},
    }
    for section, value in changes.items():
        content[section] = content[section] | value if section in ("training", "noise") else value
    return Study(**content)


def trainer(dataset: Dataset, kind: str, seed: int = 0, **changes: Any) -> Trainer:
    settings = study(**changes)
    return Trainer(dataset, settings.networks["net"], settings.run(kind), seed, CPU)


def weights(network: Network) -> list[Tensor]:
    return [tensor.clone() for tensor in network.state_dict().values()]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def csv_bytes(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("epochs.csv", "alignment.csv")]


def provenance(out: Path) -> dict[str, Any]:
    return json.loads((out / "provenance.json").read_text())


# The same for every rule


def test_every_rule_starts_from_the_same_weights_and_sees_the_same_batches(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, list[Tensor]] = {}
    step = Trainer._step

    def spy(self: Trainer, images: Tensor, labels: Tensor) -> Tensor:
        seen[current] += [images.clone(), labels.clone()]
        return step(self, images, labels)

    monkeypatch.setattr(Trainer, "_step", spy)
    dropping = {"net": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [8], "dropout": 0.5}}}
    first, last, accuracies = {}, {}, set()
    for current in KINDS:
        run = trainer(dataset, current, networks=dropping)
        first[current], seen[current] = weights(run.network), []
        run.train(tmp_path / current)
        last[current] = torch.get_rng_state()
        accuracies.add(run.epochs[0]["test_accuracy"])
    for kind in KINDS:
        assert len(seen[kind]) == 2 * STEPS
        assert all(map(torch.equal, first[kind], first["backprop"]))
        assert all(map(torch.equal, seen[kind], seen["backprop"]))
        assert torch.equal(last[kind], last["backprop"])  # noise has its own generator: equal dropout masks
    assert len(accuracies) == 1
    assert not torch.equal(seen["vnc"][0], seen["vnc"][2 * (STEPS // 2)])  # the second epoch has its own order


def test_seeds_decide_weights_order_and_noise_separately(dataset: Dataset) -> None:
    assert len({value for seed in range(50) for value in seeds_of(seed).values()}) == 200
    one, same, other = (trainer(dataset, "vnc", seed) for seed in (0, 0, 1))
    assert all(map(torch.equal, weights(one.network), weights(same.network)))
    assert not torch.equal(weights(one.network)[0], weights(other.network)[0])
    assert not torch.equal(one.order.get_state(), other.order.get_state())
    assert not torch.equal(one.rule.generator.get_state(), other.rule.generator.get_state())
    assert not torch.equal(one.augment.generator.get_state(), other.augment.generator.get_state())


def test_backprop_is_the_plain_loop_of_torch(dataset: Dataset, tmp_path: Path) -> None:
    settings = {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.01, "clip_norm": 0.5}
    run = trainer(dataset, "backprop", training=settings)
    plain = trainer(dataset, "backprop", training=settings).network.train()
    optimiser = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.8, weight_decay=0.01)
    order = torch.Generator().manual_seed(seeds_of(0)["order"])
    losses = []
    for _ in range(EPOCHS):
        shuffled = torch.randperm(IMAGES, generator=order)
        for chosen in shuffled[: IMAGES // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(plain(dataset.normalise(dataset.train_images[chosen])), dataset.train_labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimiser.step()
            losses.append(loss.item())
    run.train(tmp_path / "state.pt")
    for ours, theirs in zip(weights(run.network), weights(plain), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    expected = np.array(losses).reshape(EPOCHS, -1).mean(1)
    assert [row["train_loss"] for row in run.epochs[1:]] == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_learns(dataset: Dataset, tmp_path: Path, kind: str) -> None:
    run = trainer(dataset, kind, training={"epochs": 8})
    run.train(tmp_path / "state.pt")
    losses = [row["train_loss"] for row in run.epochs[1:]]
    assert losses[-1] < 0.5 * losses[0]
    assert run.epochs[-1]["test_accuracy"] > 0.8  # chance: 0.25


# Locality


OUTPUTS = Network.outputs


def influence(run: Trainer, connected: bool, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Entry (i, j): does the signal of hidden stage i change the weight gradients of stage j in a step?"""
    monkeypatch.setattr(Network, "outputs", lambda self, x, **_: OUTPUTS(self, x, connected))
    monkeypatch.setattr(run.rule, "observe", lambda *_: None)
    run.optimiser.param_groups[0]["lr"] = 0.0  # the weights stay
    generator = torch.Generator().manual_seed(0)
    signals = [torch.randn(BATCH, size, generator=generator) for size in run.rule.sizes]

    def gradients(changed: int | None) -> list[Tensor]:
        given = [-3 * signal if stage == changed else signal for stage, signal in enumerate(signals)]
        monkeypatch.setattr(run.rule, "signals", lambda error: given)
        run._step(run.images[:BATCH], run.labels[:BATCH])
        return [torch.cat([weight.grad.flatten() for weight in stage.parameters()]) for stage in run.network.stages]

    before = gradients(None)
    return np.array(
        [
            [not torch.equal(*pair) for pair in zip(before, gradients(stage), strict=True)]
            for stage in range(len(signals))
        ]
    )


@pytest.mark.parametrize("kind", LOCAL)
def test_no_gradient_flows_between_the_stages_of_local_rules(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    networks = {"net": {"kind": "convnet", "arguments": {"channels": [4, 6], "hidden": [8], "batch_norm": True}}}
    run = trainer(dataset, kind, networks=networks, training={"clip_norm": None, "weight_decay": 0})
    assert np.array_equal(influence(run, False, monkeypatch), np.eye(3, 4))  # its own stage only
    # A graph that connects the stages would fail: every signal then reaches all stages up to its own.
    assert np.array_equal(influence(run, True, monkeypatch), np.tri(3, 4))


def test_local_gradients_are_each_stages_own_product_with_its_signal(dataset: Dataset) -> None:
    run = trainer(dataset, "vnc", training={"clip_norm": None})
    run.rule.start([])
    images, labels = run.images[:BATCH], run.labels[:BATCH]
    run.optimiser.param_groups[0]["lr"] = 0.0
    run._step(images, labels)
    x = run.dataset.normalise(images)
    error = run.network(x).softmax(1) - F.one_hot(labels, 4)
    for stage, signal in enumerate([*run.rule.signals(error), error]):
        inputs = run.network.prefix(x, stage - 1).detach() if stage else x
        output = run.network.stages[stage](inputs)
        parameters = list(run.network.stages[stage].parameters())
        by_hand = torch.autograd.grad(output, parameters, signal.view_as(output) / BATCH)
        for weight, gradient in zip(parameters, by_hand, strict=True):
            assert torch.allclose(weight.grad, gradient, atol=1e-6)
    assert any(signal.abs().max() > 0 for signal in run.rule.signals(error))


def test_diagnosis_leaves_the_run_as_it_was(dataset: Dataset) -> None:
    networks = {"net": {"kind": "convnet", "arguments": {"channels": [4], "batch_norm": True, "dropout": 0.5}}}
    for kind in KINDS:
        run = trainer(dataset, kind, networks=networks)
        run.rule.start(run._first_outputs())
        before, noise, global_state = weights(run.network), run.rule.generator.get_state(), torch.get_rng_state()
        counts = run.rule.perturbations, run.rule.forward_passes
        run._report(0, None)
        assert all(map(torch.equal, before, weights(run.network)))
        assert torch.equal(noise, run.rule.generator.get_state())
        assert torch.equal(global_state, torch.get_rng_state())
        assert counts == (run.rule.perturbations, run.rule.forward_passes)


# Counts


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("kind", ["backprop", "fa", "dfa", *PERTURBING])
def test_perturbations_and_forward_passes_are_counted(
    dataset: Dataset, tmp_path: Path, kind: str, antithetic: bool
) -> None:
    estimator = "antithetic" if antithetic else "one_sided"
    noise = {"estimator": estimator, "refresh_every": 4, "images": 5}
    run = trainer(dataset, kind, noise=noise)
    passed: list[int] = []  # every image and every perturbed copy reaches the logits once
    run.network.stages[-1].register_forward_hook(
        lambda module, inputs, output: passed.append(len(output) if module.training else 0)
    )
    run.train(tmp_path / "state.pt")
    refreshes, hidden = len(range(0, STEPS, 4)), 2
    assert [row["perturbations"] for row in run.epochs] == (
        [0, 2 * hidden * 5, refreshes * hidden * 5] if kind in PERTURBING else [0, 0, 0]
    )
    assert run.epochs[-1]["forward_passes"] == sum(passed) - (0 if run.rule.local else 48)
    copies = 2 * hidden * 5 if antithetic else (hidden + 1) * 5
    counted = STEPS * BATCH + (48 if run.rule.local else 0) + (refreshes * copies if kind in PERTURBING else 0)
    assert run.epochs[-1]["forward_passes"] == counted
    assert run.epochs[0]["forward_passes"] == (48 if run.rule.local else 0)


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes(data: Path, tmp_path: Path, kind: str) -> None:
    outs = [
        train_job(study(data, tmp_path / name), "net", kind, seed, None, 0)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert outs[0] == tmp_path / "a" / "toy" / "networks" / "net" / kind / "seed0"
    digests = {f"{name}.sha256" for name in FILES if not name.endswith(".pt")}
    assert {path.name for path in outs[0].iterdir()} == FILES | digests
    assert csv_bytes(outs[0]) == csv_bytes(outs[1])
    assert (outs[0] / "network.pt").read_bytes() == (outs[1] / "network.pt").read_bytes()
    assert provenance(outs[0])["weights_sha256"] == provenance(outs[1])["weights_sha256"]
    assert all(one != other for one, other in zip(csv_bytes(outs[0]), csv_bytes(outs[2]), strict=True))


def test_the_files_of_a_run_agree_with_one_another(data: Path, dataset: Dataset, tmp_path: Path) -> None:
    out = train_job(study(data, tmp_path), "net", "nmnc", 0, None, 0)
    epochs, alignment, facts = read(out / "epochs.csv"), read(out / "alignment.csv"), provenance(out)
    assert list(epochs[0]) == ["epoch", "train_loss", "test_accuracy", "perturbations", "forward_passes", "collapsed"]
    assert [row["epoch"] for row in epochs] == ["0", "1", "2"]
    assert [row["train_loss"] == "" for row in epochs] == [True, False, False]
    assert [(row["epoch"], row["layer"], row["space"]) for row in alignment] == [
        (str(epoch), layer, space)
        for epoch in range(3) for layer in ("conv1", "fc1") for space in ("activity", "weight")
    ]  # fmt: skip
    for row in alignment:
        assert (row["alpha_gradient"] == "") == (row["space"] == "weight")
        assert (row["d"], row["n"]) == ("4", {"conv1": "64", "fc1": "8"}[row["layer"]])
    network, config = load_network(out / "network.pt")
    with torch.no_grad():
        right = network(dataset.normalise(dataset.test_images)).argmax(1) == dataset.test_labels
    assert float(epochs[-1]["test_accuracy"]) == pytest.approx(right.float().mean().item(), abs=1e-6)
    assert config["preprocessing"] == dataset.preprocessing()
    assert facts["weights_sha256"] == weights_sha256(network)
    assert facts["dataset"]["sha256"] == dataset.sha256
    assert (facts["threads"], facts["kind"], facts["device"]) == (1, "nmnc", "cpu")
    assert torch.__version__.startswith(facts["versions"]["torch"])
    timing = {row["stage"]: float(row["seconds"]) for row in read(out / "timing.csv")}
    assert set(timing) == {"training", "evaluation", "diagnosis"}
    assert facts["seconds"] == pytest.approx(sum(timing.values()), abs=0.01)


def test_the_untrained_network_is_where_the_others_start(data: Path, dataset: Dataset, tmp_path: Path) -> None:
    out = train_job(study(data, tmp_path), "net", "untrained", 0, None, 0)
    assert [row["epoch"] for row in read(out / "epochs.csv")] == ["0"]
    network, _ = load_network(out / "network.pt")
    assert all(map(torch.equal, weights(network), weights(trainer(dataset, "nmnc").network)))


def test_a_finished_run_is_not_trained_again(data: Path, tmp_path: Path) -> None:
    settings = study(data, tmp_path)
    out = train_job(settings, "net", "vnc", 0, None, 0)
    (state,) = (tmp_path / "toy" / ".checkpoints").glob("*/state.pt")
    stamp, before = state.stat().st_mtime_ns, csv_bytes(out)
    other = train_job(settings, "net", "vnc", 0, tmp_path / "other", 0)
    assert state.stat().st_mtime_ns == stamp
    assert csv_bytes(other) == before
    assert (other / "network.pt").read_bytes() == (out / "network.pt").read_bytes()
    assert (other / "timing.csv").read_bytes() == (out / "timing.csv").read_bytes()


# Resume


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_its_state_and_not_from_the_start(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    whole = trainer(dataset, kind, training={"epochs": 3})
    whole.train(tmp_path / "whole.pt")
    first = trainer(dataset, kind, training={"epochs": 1})
    first.train(tmp_path / "state.pt")
    rest = trainer(dataset, kind, training={"epochs": 3})
    torch.manual_seed(99)  # whatever the new process has drawn before
    steps: list[int] = []
    observe = rest.rule.observe
    monkeypatch.setattr(rest.rule, "observe", lambda step, *rest: (steps.append(step), observe(step, *rest)))
    rest.train(tmp_path / "state.pt")
    assert steps == list(range(STEPS // 2, 3 * STEPS // 2))
    assert rest.epochs == whole.epochs
    assert rest.alignment == whole.alignment
    assert all(map(torch.equal, weights(rest.network), weights(whole.network)))


# What cannot go on


@pytest.mark.parametrize("images", [IMAGES, BATCH])  # six steps an epoch, or one: seen in training or in diagnosis
@pytest.mark.parametrize("kind", KINDS)
def test_divergence_stops_a_run_with_step_and_layer(data: Path, tmp_path: Path, kind: str, images: int) -> None:
    settings = study(
        data, tmp_path / "results", dataset={"name": "toy.npz", "train_images": images},
        training={"learning_rate": 1e30, "clip_norm": None}, noise={"basis_every": 1},
    )  # fmt: skip
    words = (
        r"^training: .*step 1\b.*layer (conv1|fc1|logits).*; lower training\.learning_rate or set training\.clip_norm"
    )
    with pytest.raises(UserError, match=words) as caught:
        train_job(settings, "net", kind, 0, None, 0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results" / "toy" / "networks").exists()


def test_a_dead_layer_stops_a_run_with_its_name(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying.py").write_text(
        "from torch import nn\n"
        "def net(shape, classes):\n"
        "    dead = nn.Linear(6, 6)\n"
        "    nn.init.constant_(dead.bias, -1e3)\n"
        "    alive = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU())\n"
        "    return nn.Sequential(alive, nn.Sequential(dead, nn.ReLU()), nn.Linear(6, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = study(data, tmp_path / "results", networks={"net": {"kind": "dying:net"}})
    words = r"^training: step 0: layer 1 is dead: .* same for all images; lower training\.learning_rate"
    with pytest.raises(UserError, match=words):
        train_job(settings, "net", "nmnc", 0, None, 0)
    assert not (tmp_path / "results" / "toy" / "networks").exists()
    train_job(settings, "net", "backprop", 0, None, 0)  # 12 steps: too few for rules without a manifold to be sure


def test_batches_larger_than_the_data_are_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"training\.batch_size 201 exceeds the 200 training images"):
        trainer(dataset, "nmnc", training={"batch_size": 201})


def test_a_gpu_that_is_not_there_is_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(UserError, match="device: cuda, but torch finds no GPU; set it to auto or cpu"):
        choose_device("cuda")
