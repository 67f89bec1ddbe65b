"""Alignment, alpha and margin against exact Jacobians and known answers."""

import math

import pytest
import torch

from nmnc.measure.diagnostics import diagnose, margin, output_error
from nmnc.networks import Network
from nmnc.networks.convnet import convnet
from nmnc.rules.base import Backprop, Rule, Untrained
from nmnc.rules.noise_correlation import NoiseCorrelation, RandomSubspace
from nmnc.settings import Noise

SIZES = [64, 32, 12]
NOISE = Noise(dimensions=8, images=4, basis_images=40)


def network() -> Network:
    torch.manual_seed(7)
    return convnet((1, 8, 8), 5, channels=[4, 8], hidden=[12])


def batch(seed: int, images: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 1, 8, 8, generator=generator), torch.arange(images) % 5


def rows_of(rule: Rule) -> dict[tuple[str, str], dict]:
    rows = diagnose(rule, NOISE, *batch(0), batch(1)[0])
    return {(row["layer"], row["space"]): row for row in rows}


def test_backprop_agrees_with_itself() -> None:
    rows = rows_of(Backprop(network(), SIZES, 5, NOISE, 0))
    assert [row["cosine"] for row in rows.values()] == pytest.approx([1.0] * 6, abs=1e-5)
    assert [row["n"] for (_, space), row in rows.items() if space == "activity"] == SIZES


def test_alpha_of_the_jacobian_agrees_with_jacrev() -> None:
    net = network()
    rule = RandomSubspace(net, SIZES, 5, NOISE, seed=3)
    rule.start([])
    rows = rows_of(rule)
    images, _ = batch(0)
    outputs = net.eval().outputs(images, connected=True)[:-1]
    for stage, (output, basis) in enumerate(zip(outputs, rule.bases, strict=True)):
        exact = torch.func.vmap(torch.func.jacrev(lambda x, first=stage + 1: net.suffix(x[None], first)[0]))(output)
        flat = exact.detach().flatten(2)
        alpha = ((flat @ basis).square().sum() / flat.square().sum()).item()
        assert rows[net.stage_names[stage], "activity"]["alpha_jacobian"] == pytest.approx(alpha, rel=1e-4)


def test_alpha_of_a_random_subspace_is_d_over_n() -> None:
    alphas = []
    for seed in range(20):
        rule = RandomSubspace(network(), SIZES, 5, NOISE, seed)
        rule.start([])
        alphas.append(rows_of(rule)["conv1", "activity"]["alpha_gradient"])
    assert sum(alphas) / len(alphas) == pytest.approx(8 / 64, abs=0.03)


def test_a_rule_with_the_true_gradient_has_cosine_one_and_its_opposite_minus_one() -> None:
    net = network()
    images, _labels = batch(0)

    class Exact(NoiseCorrelation):
        sign = 1.0

        def signals(self, error: torch.Tensor) -> list[torch.Tensor]:
            outputs = net.outputs(images, connected=True)
            gradients = torch.autograd.grad(outputs[-1], outputs[:-1], error)
            return [self.sign * gradient.flatten(1) for gradient in gradients]

    rule = Exact(net, SIZES, 5, NOISE, 0)
    for rule.sign in (1.0, -1.0):
        assert [row["cosine"] for row in rows_of(rule).values()] == pytest.approx([rule.sign] * 6, abs=1e-4)


def test_output_error_is_the_gradient_of_the_cross_entropy() -> None:
    logits = torch.randn(6, 5, requires_grad=True)
    labels = torch.arange(6) % 5
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"), logits)
    torch.testing.assert_close(output_error(logits.detach(), labels), gradient)


@pytest.mark.parametrize("variation", [0.0, 1.5])
@pytest.mark.parametrize("alpha", [0.2, 0.9])
def test_margin_says_who_has_the_larger_expected_cosine(alpha: float, variation: float) -> None:
    noise, dimensions, units = Noise(images=8, rate=0.2), 16, 64
    samples = 8 * (2 - 0.2) / 0.2
    nmnc = math.sqrt(alpha / (1 + (dimensions + 1 + (dimensions + 2) * variation) / samples))
    vnc = 1 / math.sqrt(1 + (units + 1 + (units + 2) * variation) / samples)
    found = margin(alpha, noise, (dimensions, variation), (units, variation))
    assert (found > 0) is (nmnc > vnc)
    assert found == pytest.approx(alpha * (1 - (vnc / nmnc) ** 2))


def test_variation_is_that_of_the_images_own_jacobians() -> None:
    """Against torch.func; 0 at the last hidden stage, from which on the network is linear."""
    net = network()
    images, _ = batch(0)
    row = rows_of(Backprop(net, SIZES, 5, NOISE, 0))
    outputs = net.outputs(images, connected=True)
    for stage, hidden in enumerate(outputs[:-1]):

        def suffix(x: torch.Tensor, after: int = stage + 1) -> torch.Tensor:
            return net.suffix(x[None], after)[0]

        exact = torch.func.vmap(torch.func.jacrev(suffix))(hidden.detach()).flatten(2).double()
        mean, n = exact.mean(0), len(exact)
        variance = (exact - mean).square().sum() / (n - 1)
        expected = variance / (mean.square().sum() - variance / n)
        found = row[(net.stage_names[stage], "activity")]["variation_jacobian"]
        assert found == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
    assert row[(net.stage_names[-2], "activity")]["variation"] == pytest.approx(0, abs=1e-5)  # the last weight alone


def test_without_noise_only_a_whole_gradient_on_the_manifold_would_do() -> None:
    noise = Noise(estimator="infinite")
    assert margin(0.9, noise, (16, 1.0), (64, 1.0)) == pytest.approx(-0.1)
    many = Noise(images=10**6, rate=0.2)
    assert margin(0.9, many, (16, 1.0), (64, 1.0)) == pytest.approx(-0.1, abs=1e-4)


def test_diagnosis_leaves_the_network_as_it_was() -> None:
    net = network().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rows_of(Backprop(net, SIZES, 5, NOISE, 0))
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())


def test_an_untrained_network_has_alphas_but_no_signal_to_compare() -> None:
    rows = rows_of(Untrained(network(), SIZES, 5, NOISE, 0)).values()
    assert {row["cosine"] for row in rows} == {None}
    assert all(0 <= row["alpha_gradient"] <= 1 for row in rows if row["space"] == "activity")
