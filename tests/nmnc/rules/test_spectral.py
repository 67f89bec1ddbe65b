"""Noise shaped as a power of the activity's variance: VNC at gamma 0, J Sigma in expectation, matched energy."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nmnc.networks import Network
from nmnc.rules import make_rule
from nmnc.rules.spectral import SpectralNoiseCorrelation, noise_deviations
from nmnc.settings import Noise

pytestmark = pytest.mark.numeric

UNITS, CLASSES, DIMENSIONS, SCALE, BATCH = 40, 5, 6, 0.05, 32


@pytest.fixture
def network() -> Network:
    """A hidden layer and a linear readout, the Jacobian."""
    torch.manual_seed(0)
    return Network([("hidden", nn.Linear(3, UNITS)), ("out", nn.Linear(UNITS, CLASSES))])


def activity(images: int, seed: int = 1) -> Tensor:
    """Activity with a falling spectrum along random axes, and a mean."""
    generator = torch.Generator().manual_seed(99)
    axes = torch.linalg.qr(torch.randn(UNITS, UNITS, generator=generator)).Q
    spread = 0.85 ** torch.arange(UNITS)
    mean = torch.randn(UNITS, generator=generator)
    return (torch.randn(images, UNITS, generator=torch.Generator().manual_seed(seed)) * spread) @ axes.T + mean


def rule_of(network: Network, gamma: float, kind: str = "spectral", **noise: Any) -> Any:
    settings: dict[str, Any] = {"dimensions": DIMENSIONS, "scale": SCALE, "basis_images": 200, "images": 8} | noise
    rule = make_rule(kind, network, [UNITS], CLASSES, Noise(gamma=gamma, **settings), 1)
    rule.start([activity(200)])
    return rule


def covariance(rows: np.ndarray, gamma: float, dimensions: int = DIMENSIONS) -> np.ndarray:
    """Sigma by the formula, from the whole eigendecomposition of the activity's covariance, in float64."""
    values, vectors = np.linalg.eigh(np.cov(rows.astype(np.float64).T))
    values, vectors = values[::-1], vectors[:, ::-1]
    rest = values[dimensions:].mean()
    variances = np.concatenate([values[:dimensions] ** gamma, np.full(UNITS - dimensions, rest**gamma)])
    shape = vectors * variances @ vectors.T
    return shape * (SCALE**2 * DIMENSIONS / np.trace(shape))


def test_gamma_0_is_vnc_draw_for_draw(network: Network) -> None:
    spectral, vanilla = rule_of(network, 0, basis_every=3), rule_of(network, 0, "vnc")
    assert not isinstance(vanilla, SpectralNoiseCorrelation)
    before = spectral.bases[0]
    error = torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(2))
    for step in range(8):
        for rule in (spectral, vanilla):
            rule.observe(step, [activity(BATCH, 10 + step)], {})
        (found,), (expected,) = spectral.signals(error), vanilla.signals(error)
        assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert not torch.equal(before, spectral.bases[0])
    assert (spectral.perturbations, spectral.forward_passes) == (vanilla.perturbations, vanilla.forward_passes)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_noise_has_the_covariance_of_the_formula(network: Network, gamma: float) -> None:
    rule = rule_of(network, gamma)
    samples = 40_000
    noise = rule.perturb(0, samples).noise.double()
    found = (noise.T @ noise / samples).numpy()
    true = covariance(activity(200).numpy(), gamma)
    assert np.trace(found) == pytest.approx(SCALE**2 * DIMENSIONS, rel=0.02)
    # E |error|^2 of a Gaussian's sample covariance is (tr(Sigma)^2 + tr(Sigma^2)) / samples.
    spread = math.sqrt((np.trace(true) ** 2 + np.square(true).sum()) / samples)
    assert np.linalg.norm(found - true) < 1.3 * spread


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_its_estimate_has_the_expectation_j_sigma(network: Network, gamma: float) -> None:
    samples = 60_000
    rule = rule_of(network, gamma, images=samples, rate=1.0)
    rule.observe(0, [activity(200).repeat(samples // 200, 1)], {})
    found = rule.signals(torch.eye(CLASSES))[0]
    jacobian = network.stages[-1].weight.detach().double()
    sigma = torch.from_numpy(covariance(activity(200).numpy(), gamma))
    true = (jacobian @ sigma * UNITS / (SCALE**2 * DIMENSIONS)).float()
    assert ((found - true).norm() / true.norm()).item() < 3 * math.sqrt(UNITS / samples)
    assert ((jacobian.float() - true).norm() / true.norm()).item() > 0.5  # the shape matters


def test_with_every_axis_and_gamma_1_noise_is_shaped_as_activity() -> None:
    rows = activity(4_000)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T.double()))
    basis, variances = vectors.flip(1).float(), values.flip(0)
    found = noise_deviations(rows, basis, 1.0)
    assert found.shape == (UNITS + 1,)
    torch.testing.assert_close(found[:-1].double().square(), variances / variances.sum(), rtol=1e-3, atol=1e-7)


def test_more_gamma_draws_noise_to_the_widest_axis() -> None:
    rows = activity(500)
    basis = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:DIMENSIONS].T
    first = [noise_deviations(rows, basis, gamma)[0].item() ** 2 for gamma in (0, 0.5, 1, 2)]
    assert first == sorted(first)
    assert first[0] == pytest.approx(1 / UNITS)
    assert first[-1] > 0.4


def test_activity_within_the_basis_leaves_nothing_outside() -> None:
    axes = torch.linalg.qr(torch.randn(UNITS, 3, generator=torch.Generator().manual_seed(5))).Q
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(6)) @ axes.T
    inside = noise_deviations(rows, axes, 1.0)
    assert inside[-1] < 1e-3 * inside[:-1].min()
    assert noise_deviations(rows, axes, 0.0).tolist() == pytest.approx([UNITS**-0.5] * 4)
    assert not noise_deviations(1e-18 * rows, axes, 2.0).isnan().any()


def test_a_resumed_rule_goes_on_bit_for_bit(network: Network) -> None:
    whole, resumed = (rule_of(network, 0.5, basis_every=4, basis_images=64) for _ in range(2))
    for step in range(12):
        if step == 6:
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        for rule in (whole, resumed) if step >= 6 else (whole,):
            rule.observe(step, [activity(BATCH, step)], {})
    error = torch.eye(CLASSES)
    assert torch.equal(whole.signals(error)[0], resumed.signals(error)[0])
    assert torch.equal(whole.deviations[0], resumed.deviations[0])


def test_a_small_layer_has_as_many_axes_as_units(network: Network) -> None:
    rule = rule_of(network, 0.5, dimensions=100)
    assert rule.bases[0].shape[1] <= UNITS
    energy = rule.perturb(0, 20_000).noise.square().sum(1).mean().item()
    assert energy == pytest.approx(SCALE**2 * 100, rel=0.02)  # as VNC's
