"""Laws of the noise-correlation estimator (docs/method.md), on linear networks where the truth is known."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from nmnc.networks import Network
from nmnc.networks.convnet import convnet
from nmnc.networks.mlp import mlp
from nmnc.noise.feedback import FactoredFeedback, FullFeedback
from nmnc.noise.manifold import random_basis
from nmnc.noise.perturbation import Perturbation, isotropic, responses, within_subspace
from nmnc.rules.manifold_noise import ManifoldNoiseCorrelation
from nmnc.rules.noise_correlation import NoiseCorrelation
from nmnc.settings import Noise
from tests.tolerance import tolerance

UNITS, DIMENSIONS, CLASSES, SCALE = 96, 12, 7, 0.05
CPU = torch.device("cpu")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(images: int, axes: int, seed: int) -> Tensor:
    return torch.randn(images, axes, generator=generator(seed))


@pytest.fixture
def linear() -> Network:
    """10 pixels -> 96 units -> 7 outputs, no non-linearity: the Jacobian is the last weight matrix."""
    torch.manual_seed(0)
    return mlp((1, 2, 5), CLASSES, hidden=[UNITS], activation="linear")


def jacobian(network: Network) -> Tensor:
    return network.stages[-1][1].weight.detach()


def estimate(network: Network, perturbation: Perturbation, basis: Tensor | None) -> Tensor:
    """One estimate of the Jacobian (classes, units) from as many samples as the perturbation has."""
    images = torch.randn(len(perturbation.noise), 1, 2, 5, generator=generator(9))
    clean = network.outputs(images, connected=True)[0].detach()
    (change,) = responses(network, [clean], [perturbation], {}, "antithetic")
    feedback = FullFeedback(CLASSES, UNITS, basis, CPU)
    feedback.update(change, perturbation, 1.0)
    return feedback.matrix


def relative(found: Tensor, true: Tensor) -> float:
    return ((found - true).norm() / true.norm()).item()


def test_vnc_converges_to_the_jacobian(linear: Network) -> None:
    true = jacobian(linear)
    for samples in (2_000, 32_000):
        found = estimate(linear, isotropic(normal(samples, UNITS, 1), DIMENSIONS, SCALE), None)
        assert relative(found, true) == pytest.approx(math.sqrt((UNITS + 1) / samples), rel=0.15)


def test_nmnc_converges_to_the_projected_jacobian(linear: Network) -> None:
    basis = random_basis(UNITS, DIMENSIONS, generator(2), CPU)
    true = jacobian(linear) @ basis @ basis.T
    for samples in (2_000, 32_000):
        found = estimate(linear, within_subspace(normal(samples, DIMENSIONS, 3), basis, SCALE), basis)
        assert relative(found, true) == pytest.approx(math.sqrt((DIMENSIONS + 1) / samples), rel=0.25)


def mean_cosine(network: Network, samples: int, basis: Tensor | None, error: Tensor) -> tuple[float, float]:
    """Mean cosine between J^T e and its estimate over repeated estimates, and its standard error."""
    true, cosines = error @ jacobian(network), []
    for repeat in range(150):
        noise = (
            isotropic(normal(samples, UNITS, repeat), DIMENSIONS, SCALE)
            if basis is None
            else within_subspace(normal(samples, DIMENSIONS, repeat), basis, SCALE)
        )
        cosines.append(torch.cosine_similarity(error @ estimate(network, noise, basis), true, dim=0))
    values = torch.stack(cosines)
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


@pytest.mark.parametrize("samples", [8, 64, 512])
def test_cosine_of_vnc_follows_its_law(linear: Network, samples: int) -> None:
    error = torch.randn(CLASSES, generator=generator(4))
    mean, spread = mean_cosine(linear, samples, None, error)
    assert mean == pytest.approx(1 / math.sqrt(1 + (UNITS + 1) / samples), abs=3 * spread + 0.01)


@pytest.mark.parametrize("samples", [8, 64, 512])
def test_cosine_of_nmnc_follows_its_law(linear: Network, samples: int) -> None:
    error = torch.randn(CLASSES, generator=generator(4))
    gradient = error @ jacobian(linear)
    # A basis that holds half of the gradient's energy: half a gradient direction mixed with random ones.
    random = torch.randn(UNITS, DIMENSIONS, generator=generator(5))
    outside = random[:, 0] - gradient * (random[:, 0] @ gradient) / gradient.square().sum()
    random[:, 0] = gradient / gradient.norm() + outside / outside.norm()
    basis = torch.linalg.qr(random).Q
    alpha = ((gradient @ basis).square().sum() / gradient.square().sum()).item()
    assert 0.45 < alpha < 0.65
    mean, spread = mean_cosine(linear, samples, basis, error)
    law = math.sqrt(alpha) / math.sqrt(1 + (DIMENSIONS + 1) / samples)
    # The law replaces the mean of a ratio by the ratio of means; at 8 samples that is worth a few per cent.
    assert mean == pytest.approx(law, abs=3 * spread + (0.03 if samples == 8 else 0.01))


def test_with_the_whole_space_nmnc_is_vnc_draw_for_draw(linear: Network) -> None:
    noise = Noise(dimensions=UNITS, images=4, basis_every=2, basis_images=8)
    whole = torch.eye(UNITS)

    class WholeSpace(ManifoldNoiseCorrelation):
        def principal_bases(self, batches: list[list[Tensor]]) -> list[Tensor]:
            return [whole]

    manifold = WholeSpace(linear, [UNITS], CLASSES, noise, seed=5)
    vanilla = NoiseCorrelation(linear, [UNITS], CLASSES, noise, seed=5)
    images = torch.randn(10, 8, 1, 2, 5, generator=generator(6))
    for step, batch in enumerate(images):
        outputs = [output.detach() for output in linear.outputs(batch, connected=True)[:-1]]
        for rule in (manifold, vanilla):
            if step == 0:
                rule.start(outputs)
            rule.observe(step, outputs, {})
        error = torch.randn(8, CLASSES, generator=generator(step))
        torch.testing.assert_close(manifold.signals(error), vanilla.signals(error), rtol=1e-4, atol=1e-5)
    assert manifold.perturbations == vanilla.perturbations == 40


def test_energy_is_matched() -> None:
    basis = random_basis(UNITS, DIMENSIONS, generator(0), CPU)
    for perturbation in (
        isotropic(normal(20_000, UNITS, 1), DIMENSIONS, SCALE),
        within_subspace(normal(20_000, DIMENSIONS, 2), basis, SCALE),
    ):
        energy = perturbation.noise.square().sum(1).mean().item()
        assert energy == pytest.approx(SCALE**2 * DIMENSIONS, rel=0.02)


def test_factored_and_full_feedback_give_the_same_signals_across_refreshes() -> None:
    torch.manual_seed(1)
    network = convnet((1, 8, 8), 5, channels=[6, 8], hidden=[20])
    sizes, settings = [96, 32, 20], {"dimensions": 6, "images": 8, "basis_every": 3, "basis_images": 32}
    rules = [
        ManifoldNoiseCorrelation(network, sizes, 5, Noise(feedback=form, **settings), seed=2)
        for form in ("factored", "full")
    ]
    bases = []
    for step in range(16):
        batch = torch.randn(16, 1, 8, 8, generator=generator(step))
        outputs = [output.detach() for output in network.outputs(batch, connected=True)[:-1]]
        error = torch.randn(16, 5, generator=generator(100 + step))
        for rule in rules:
            if step == 0:
                rule.start(outputs)
            rule.observe(step, outputs, {})
        bases.append(rules[0].bases[0])
        for factored, full in zip(rules[0].signals(error), rules[1].signals(error), strict=True):
            assert relative(factored, full) < 1e-5
    moved = sum(not torch.equal(before, after) for before, after in itertools.pairwise(bases))
    assert moved >= 3


def test_moving_the_basis_keeps_what_both_spans_share() -> None:
    old = random_basis(UNITS, DIMENSIONS, generator(0), CPU)
    new = random_basis(UNITS, DIMENSIONS, generator(1), CPU)
    feedback = FactoredFeedback(CLASSES, old)
    feedback.matrix = torch.randn(CLASSES, DIMENSIONS, generator=generator(2))
    full = feedback.matrix @ old.T
    feedback.rebase(new)
    torch.testing.assert_close(feedback.signal(torch.eye(CLASSES)), full @ new @ new.T, rtol=1e-4, atol=1e-5)


def test_the_running_average_forgets_at_the_given_rate() -> None:
    feedback = FullFeedback(2, 3, None, CPU)
    perturbation = Perturbation(torch.eye(3), torch.eye(3), 0.5)
    change = torch.ones(3, 2)
    feedback.update(change, perturbation, 0.2)
    feedback.update(torch.zeros(3, 2), perturbation, 0.2)
    expected = 0.8 * 0.2 * torch.ones(2, 3) / (3 * 0.5)
    torch.testing.assert_close(feedback.matrix, expected)


def manifold_rule(network: Network, outputs: list[Tensor], **changes: object) -> ManifoldNoiseCorrelation:
    noise = Noise(**{"dimensions": DIMENSIONS, "basis_images": len(outputs[0]), "images": 8} | changes)
    rule = ManifoldNoiseCorrelation(network, [UNITS], CLASSES, noise, seed=1)
    rule.start(outputs)
    return rule


@pytest.mark.parametrize("form", ["factored", "full"])
def test_the_mean_direction_is_one_more_orthonormal_axis(linear: Network, form: str) -> None:
    offset = 5 * torch.randn(UNITS, generator=generator(7))
    activity = [torch.randn(40, UNITS, generator=generator(8)) + offset]
    without = manifold_rule(linear, activity).bases[0]
    rule = manifold_rule(linear, activity, mean_direction=True, feedback=form)
    (basis,) = rule.bases
    assert basis.shape == (UNITS, DIMENSIONS + 1)
    torch.testing.assert_close(basis[:, :-1], without, rtol=0, atol=0)
    torch.testing.assert_close(
        basis.T @ basis, torch.eye(DIMENSIONS + 1), rtol=0, atol=tolerance(steps=UNITS, dtype="float32")
    )
    mean = activity[0].mean(0)
    torch.testing.assert_close(basis @ (basis.T @ mean), mean, rtol=1e-5, atol=1e-5)
    assert (without.T @ mean).norm() < 0.5 * mean.norm()
    rule.observe(0, [activity[0][:8]], {})  # noise, feedback and signal take the axis in
    assert all(signal.shape == (8, UNITS) for signal in rule.signals(torch.randn(8, CLASSES)))


def test_a_mean_within_the_span_adds_no_axis(linear: Network) -> None:
    axes = random_basis(UNITS, DIMENSIONS, generator(2), CPU)
    activity = [(torch.randn(40, DIMENSIONS, generator=generator(3)) + 1) @ axes.T]
    assert manifold_rule(linear, activity, mean_direction=True).bases[0].shape == (UNITS, DIMENSIONS)
