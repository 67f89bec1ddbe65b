"""NMNC that chooses its own dimension: from what two halves of the perturbed images agree on."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.measure.diagnostics import diagnose
from nmnc.networks import Network
from nmnc.noise.feedback import FactoredFeedback, effective_samples
from nmnc.noise.manifold import random_basis
from nmnc.noise.perturbation import within_subspace
from nmnc.rules import make_rule
from nmnc.rules.adaptive import AdaptiveManifoldNoiseCorrelation, HalvesFeedback
from nmnc.settings import Noise

UNITS, CLASSES, BATCH, TRUE = 300, 10, 64, 16
CPU = torch.device("cpu")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(basis: Tensor, seed: int) -> Tensor:
    return torch.randn(8, basis.shape[1], generator=generator(seed))


AXES = torch.linalg.qr(torch.randn(UNITS, UNITS, generator=generator(0))).Q


def activity(images: int, seed: int) -> Tensor:
    """Activity whose variance falls along the columns of AXES."""
    spread = 0.97 ** torch.arange(UNITS)
    return (torch.randn(images, UNITS, generator=generator(seed)) * spread) @ AXES.T


@pytest.fixture
def network() -> Network:
    """A readout of the 16 widest axes of a hidden layer, each as much as the others."""
    network = Network([("hidden", nn.Linear(3, UNITS)), ("out", nn.Linear(UNITS, CLASSES))])
    weight = torch.linalg.qr(torch.randn(TRUE, CLASSES, generator=generator(1))).Q.T @ AXES[:, :TRUE].T
    network.stages[-1].weight.data.copy_(weight)
    return network


def rule_of(network: Network, seed: int = 0, **noise: Any) -> AdaptiveManifoldNoiseCorrelation:
    settings: dict[str, Any] = {"dimensions": 128, "adaptive": True, "basis_images": 512} | noise
    rule = make_rule("nmnc", network, [UNITS], CLASSES, Noise(**settings), seed)
    rule.start([activity(512, 1_000 + seed)])
    assert isinstance(rule, AdaptiveManifoldNoiseCorrelation)
    return rule


def path_of(rule: AdaptiveManifoldNoiseCorrelation, steps: int, seed: int = 0) -> list[int]:
    """d after every step."""
    path = []
    for step in range(steps):
        rule.observe(step, [activity(BATCH, 10_000 * seed + step)], {})
        path += rule.dimensions
    return path


@pytest.mark.parametrize("start", [128, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_settles_where_alpha_saturates(network: Network, start: int, seed: int) -> None:
    rule = rule_of(network, seed, dimensions=start)
    path = path_of(rule, 401, seed)
    assert path[0] == start
    settled = path[160:]
    assert min(settled) >= TRUE // 2
    assert max(settled) <= TRUE * 2
    assert all(path[step] == path[step - 1] for step in range(1, 401) if step % 20)  # only with the basis
    alpha = (network.stages[-1].weight @ rule.bases[0]).square().sum() / CLASSES
    assert alpha > 0.8  # what it settled on holds the Jacobian


def test_the_best_dimension_is_the_laws_own_when_nothing_is_noisy() -> None:
    axes, samples = 40, 30.0
    feedback = HalvesFeedback(CLASSES, torch.eye(UNITS)[:, :axes], 20)
    exact = torch.randn(CLASSES, axes, generator=generator(3)) * 0.9 ** torch.arange(axes)
    feedback.matrix = torch.stack([exact, exact])
    energy = exact.square().sum(0)
    gains = {d: (energy[:d].sum() / (1 + (d + 1) / samples)).item() for d in range(10, axes + 1)}
    assert feedback.best_dimensions(samples).item() == max(gains, key=lambda d: gains[d])
    feedback.matrix[:, :, 2:] = 0
    assert feedback.best_dimensions(samples).item() == 10  # half of 20, no further at once
    feedback.matrix[:, :, 2:] = 5
    assert feedback.best_dimensions(samples).item() == axes
    feedback.matrix = torch.stack([exact, -exact])  # halves that contradict each other show no signal
    assert feedback.best_dimensions(samples).item() == 10


def test_noise_alone_counts_as_no_signal() -> None:
    """Squared, a running estimate of nothing looks like d / K of signal; the halves' product averages to none."""
    basis = random_basis(UNITS, 64, generator(0), CPU)
    squares, products = [], []
    for repeat in range(40):
        feedback = HalvesFeedback(CLASSES, basis, 32)
        for step in range(20):
            perturbation = within_subspace(normal(basis, 1_000 * repeat + step), basis, 0.05)
            feedback.update(torch.randn(8, CLASSES, generator=generator(-1 - 1_000 * repeat - step)), perturbation, 0.2)
        squares.append(feedback.matrix.mean(0).square().sum().item())
        products.append((feedback.matrix[0] * feedback.matrix[1]).sum().item())
    mean, spread = torch.tensor(products).mean().item(), torch.tensor(products).std().item() / len(products) ** 0.5
    assert abs(mean) < 4 * spread
    assert min(squares) > 20 * abs(mean)


def test_both_halves_together_are_the_factored_feedback() -> None:
    basis = random_basis(UNITS, 12, generator(0), CPU)
    halves, factored = HalvesFeedback(CLASSES, basis, 12), FactoredFeedback(CLASSES, basis)
    for step in range(4):
        perturbation = within_subspace(normal(basis, step), basis, 0.05)
        change = torch.randn(8, CLASSES, generator=generator(100 + step))
        for feedback in (halves, factored):
            feedback.update(change, perturbation, 0.3)
    error = torch.randn(5, CLASSES, generator=generator(7))
    torch.testing.assert_close(halves.signal(error), factored.signal(error), rtol=1e-4, atol=1e-4)
    moved = random_basis(UNITS, 12, generator(9), CPU)
    for feedback in (halves, factored):
        feedback.rebase(moved)
    torch.testing.assert_close(halves.signal(error), factored.signal(error), rtol=1e-4, atol=1e-4)
    halves.dimensions = 5
    leading = factored.matrix[:, :5] @ moved[:, :5].T
    torch.testing.assert_close(halves.signal(error), error @ leading, rtol=1e-4, atol=1e-4)


def test_its_bases_are_those_that_carry_the_signal(network: Network) -> None:
    rule = rule_of(network, dimensions=10)
    path_of(rule, 25)
    (basis,), (probe,) = rule.bases, rule.probes
    assert probe.shape == (UNITS, 2 * rule.dimensions[0])
    assert torch.equal(basis, probe[:, : rule.dimensions[0]])
    (signal,) = rule.signals(torch.eye(CLASSES))
    torch.testing.assert_close(signal @ basis @ basis.T, signal, rtol=1e-4, atol=1e-5)
    rows = diagnose(rule, rule.noise, torch.randn(20, 3), torch.randint(CLASSES, (20,)), torch.randn(20, 3))
    assert {row["d"] for row in rows} == set(rule.dimensions)


def test_poor_activity_gives_fewer_axes(network: Network) -> None:
    rule = rule_of(network, dimensions=40)
    rule.start([activity(512, 3) @ AXES[:, :7] @ AXES[:, :7].T])
    assert rule.probes[0].shape[1] == 7
    assert rule.dimensions == [7]
    rule.observe(0, [activity(BATCH, 1)], {})
    assert rule.signals(torch.eye(CLASSES))[0].shape == (CLASSES, UNITS)


@pytest.mark.parametrize("at", [30, 40, 55])
def test_a_resumed_rule_goes_on_bit_for_bit(network: Network, at: int) -> None:
    whole, resumed = rule_of(network), rule_of(network, dimensions=128)
    for step in range(90):
        if step == at:
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        for rule in (whole, resumed) if step >= at else (whole,):
            rule.observe(step, [activity(BATCH, step)], {})
    assert whole.dimensions == resumed.dimensions
    assert torch.equal(whole.signals(torch.eye(CLASSES))[0], resumed.signals(torch.eye(CLASSES))[0])
    assert whole.dimensions[0] < 128


def test_it_counts_as_nmnc_does(network: Network) -> None:
    rule = rule_of(network, images=6)
    plain = make_rule("nmnc", network, [UNITS], CLASSES, Noise(dimensions=128, images=6), 0)
    plain.start([activity(512, 1)])
    for one in (rule, plain):
        one.observe(0, [activity(BATCH, 1)], {})
    assert (rule.perturbations, rule.forward_passes) == (plain.perturbations, plain.forward_passes) == (6, 12)
    assert effective_samples(rule.noise) == pytest.approx(6 * 9)


@pytest.mark.parametrize(
    ("kind", "noise", "words"),
    [
        ("nmnc", {"images": 7}, r"^noise\.images 7: noise\.adaptive compares two halves .* set an even number$"),
        ("nmnc", {"per_image": True}, r"^noise\.per_image cannot be combined with noise\.adaptive"),
        ("nmnc", {"mean_direction": True}, r"^noise\.mean_direction cannot be combined with noise\.adaptive"),
        ("nmnc", {"feedback": "full"}, r"^noise\.feedback full cannot be combined with noise\.adaptive"),
        ("vnc", {}, r"^noise\.adaptive works only with the rule nmnc; remove it for vnc$"),
        ("random_subspace", {}, r"^noise\.adaptive works only with the rule nmnc;"),
        ("spectral", {}, r"^noise\.adaptive works only with the rule nmnc;"),
    ],
)
def test_impossible_settings_are_refused(network: Network, kind: str, noise: dict[str, Any], words: str) -> None:
    settings = {"dimensions": 20, "adaptive": True} | noise
    with pytest.raises(UserError, match=words):
        make_rule(kind, network, [UNITS], CLASSES, Noise(**settings), 0)
