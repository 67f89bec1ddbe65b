"""Rules with a direct way from the error to every layer: DFA, direct Kolen-Pollack, forward-mode direct feedback."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmnc.data.dataset import Dataset, load_dataset
from nmnc.networks import Network, layer_sizes
from nmnc.networks.convnet import convnet
from nmnc.networks.mlp import mlp
from nmnc.rules import Rule, make_rule
from nmnc.settings import Dataset as DatasetConfig
from nmnc.settings import Diagnostics, NetworkEntry, Noise, Run, Training
from nmnc.training.trainer import Trainer

SHAPE, CLASSES = (1, 8, 8), 5
SIZES = [64, 20]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return convnet(SHAPE, CLASSES, channels=[4], hidden=[20]).train()


def rule_of(kind: str, network: Network, seed: int = 1, **noise: Any) -> Rule:
    return make_rule(kind, network, layer_sizes(network, SHAPE)[:-1], CLASSES, Noise(**noise), seed)


def hidden_outputs(network: Network, images: int, seed: int = 2) -> list[Tensor]:
    batch = torch.randn(images, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return [output.detach() for output in network.outputs(batch, connected=True)[:-1]]


def error_of(images: int, seed: int = 3) -> Tensor:
    return torch.randn(images, CLASSES, generator=torch.Generator().manual_seed(seed))


# DFA


def test_dfa_sends_the_error_through_fixed_matrices(network: Network) -> None:
    rule = rule_of("dfa", network)
    rule.start(hidden_outputs(network, 4))
    error = error_of(6)
    first = rule.signals(error)
    for step in range(3):
        rule.observe(step, hidden_outputs(network, 6, step), {})
        rule.adapt(error, hidden_outputs(network, 6, step))
    assert all(map(torch.equal, first, rule.signals(error)))
    assert [signal.shape for signal in first] == [(6, size) for size in SIZES]
    for one, two, both in zip(first, rule.signals(2 * error.flip(0)), rule.signals(error + 1), strict=True):
        torch.testing.assert_close(two, 2 * one.flip(0))  # linear, image by image
        torch.testing.assert_close(both - one, (both - one)[:1].expand_as(one), rtol=1e-4, atol=1e-5)
    assert rule.perturbations == rule.forward_passes == 0


def test_dfa_draws_rows_of_length_one_from_its_seed(network: Network) -> None:
    wide = mlp((1, 1, 3), 40, hidden=[2500])
    rule = make_rule("dfa", wide, [2500], 40, Noise(), 7)
    rule.start([])
    (signal,) = rule.signals(torch.eye(40))
    assert signal.norm(dim=1).mean().item() == pytest.approx(1, abs=0.01)
    assert signal.mean().abs() < 4 / math.sqrt(signal.numel() * 2500)
    other = make_rule("dfa", wide, [2500], 40, Noise(), 8)
    other.start([])
    assert not torch.equal(other.signals(torch.eye(40))[0], signal)


# Direct Kolen-Pollack


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    import numpy as np

    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 160)
    images = (random.integers(40, 216, (4, 8, 8))[labels] + random.normal(0, 30, (160, 8, 8))).clip(0, 255)
    images = images.astype(np.uint8)
    np.savez(tmp_path / "toy.npz", x_train=images[:128], y_train=labels[:128], x_test=images[128:], y_test=labels[128:])
    return load_dataset(DatasetConfig(name="toy.npz"), tmp_path)


def trainer(dataset: Dataset, kind: str, **training: Any) -> Trainer:
    run = Run(
        kind=kind,
        training=Training(**({"batch_size": 32, "epochs": 3} | training)),
        noise=Noise(dimensions=4, images=8, basis_images=32),
        diagnostics=Diagnostics(images=16),
    )
    entry = NetworkEntry(kind="convnet", arguments={"channels": [4], "hidden": [20]})
    return Trainer(dataset, entry, run, 0, torch.device("cpu"))


@pytest.mark.parametrize(
    "training",
    [
        {"weight_decay": 0.02, "momentum": 0.0, "clip_norm": None},
        {"weight_decay": 0.02, "momentum": 0.9, "clip_norm": 0.3},
        {"weight_decay": 0.05, "momentum": 0.5, "clip_norm": 0.1, "schedule": "cosine"},
    ],
    ids=["plain", "momentum and clipping", "schedule"],
)
def test_kolen_pollack_forgets_all_but_the_forward_weights_of_the_last_layer(
    dataset: Dataset, tmp_path: Path, training: dict[str, Any]
) -> None:
    run = trainer(dataset, "kolen_pollack", **training)
    differences: list[Tensor] = []

    def difference() -> Tensor:
        return run.rule.learned[-1] - run.network.stages[-1][1].weight.detach()

    step = run._step

    def spy(images: Tensor, labels: Tensor) -> Tensor:
        differences.append(difference())
        return step(images, labels)

    run._step = spy  # type: ignore[method-assign]
    run.train(tmp_path / "state.pt")
    # Equal updates cancel: the difference sees the decay alone, whatever the images, the errors and the clipping.
    settings, factor, velocity = run.run.training, 1.0, 0.0
    for number, found in enumerate([*differences, difference()]):
        torch.testing.assert_close(found, factor * differences[0], rtol=1e-3, atol=1e-5)
        rate = settings.learning_rate
        if settings.schedule == "cosine":
            rate *= (1 + math.cos(math.pi * number / len(differences))) / 2
        velocity = settings.momentum * velocity + settings.weight_decay * factor
        factor -= rate * velocity
    assert factor < 0.99
    assert (run.rule.learned[-1] - differences[0]).norm() > 0.1  # and yet it moved


def test_kolen_pollack_learns_from_error_and_activity(network: Network) -> None:
    rule = rule_of("kolen_pollack", network)
    outputs, error = hidden_outputs(network, 6), error_of(6)
    rule.start(outputs)
    before = [matrix.clone() for matrix in rule.learned]
    optimiser = torch.optim.SGD(rule.learned, 0.1)
    rule.adapt(error, outputs)
    optimiser.step()
    for old, new, output, signal in zip(before, rule.learned, outputs, rule.signals(error), strict=True):
        expected = old - 0.1 * torch.einsum("bc,bn->cn", error, output.flatten(1)) / 6
        torch.testing.assert_close(new, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(signal, error @ expected, rtol=1e-4, atol=1e-5)


def test_kolen_pollack_resumes_to_the_same_matrices(dataset: Dataset, tmp_path: Path) -> None:
    whole, halved = trainer(dataset, "kolen_pollack"), trainer(dataset, "kolen_pollack", epochs=1)
    whole.train(tmp_path / "whole.pt")
    halved.train(tmp_path / "halved.pt")
    resumed = trainer(dataset, "kolen_pollack")
    resumed.train(tmp_path / "halved.pt")
    assert all(map(torch.equal, whole.rule.learned, resumed.rule.learned))
    assert not any(map(torch.equal, whole.rule.learned, halved.rule.learned))


# Forward-mode direct feedback


def test_fdfa_converges_to_the_mean_jacobian_of_every_layer(network: Network) -> None:
    """One average over many images: mean(dy xi^T) for all layers at once, the other layers' noise being noise."""
    network.eval()
    one = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(4))
    images = 20_000
    clean = [output.detach() for output in network.outputs(one, connected=True)[:-1]]
    outputs = [output.repeat(images, *[1] * (output.ndim - 1)) for output in clean]
    rule = rule_of("fdfa", network, images=images, rate=1.0)
    rule.start(outputs)
    rule.observe(0, outputs, {})
    truths = []
    for stage, output in enumerate(clean):

        def suffix(x: Tensor, first: int = stage + 1) -> Tensor:
            return network.suffix(x, first)

        truths.append(torch.func.jacrev(suffix)(output).reshape(CLASSES, -1))
    energy = sum(truth.square().sum().item() for truth in truths)
    for truth, estimate in zip(truths, rule.signals(torch.eye(CLASSES)), strict=True):
        # Each entry's variance is that of dy_c xi_i: the energy of row c over all layers, and the entry's own square.
        noise = math.sqrt(energy * truth.shape[1] / images)
        assert (estimate - truth).norm().item() == pytest.approx(noise, rel=0.2)
        assert torch.cosine_similarity(estimate.flatten(), truth.flatten(), dim=0) > 0.9


def test_fdfa_counts_one_pass_and_one_derivative_and_follows_its_rate(network: Network) -> None:
    rule = rule_of("fdfa", network, images=8, refresh_every=2, rate=0.25)
    outputs, error = hidden_outputs(network, 10), error_of(10)
    rule.start(outputs)
    rule.observe(0, outputs, {})
    first = rule.signals(error)
    rule.observe(1, outputs, {})
    assert all(map(torch.equal, first, rule.signals(error)))
    assert (rule.perturbations, rule.forward_passes) == (2 * 8, 2 * 8)
    fresh = rule_of("fdfa", network, images=8, rate=1.0)
    fresh.start(outputs)
    fresh.observe(0, outputs, {})
    for part, whole in zip(first, fresh.signals(error), strict=True):
        torch.testing.assert_close(part, 0.25 * whole)


def test_fdfa_needs_no_size_of_noise(network: Network) -> None:
    outputs, error = hidden_outputs(network, 10), error_of(10)
    found = []
    for scale, estimator in ((0.05, "antithetic"), (50.0, "one_sided")):
        rule = rule_of("fdfa", network, scale=scale, estimator=estimator)
        rule.start(outputs)
        rule.observe(0, outputs, {})
        found.append(rule.signals(error))
    assert all(map(torch.equal, *found))
