"""Per-image noise correlation is unbiased; an average over images is not, on a network that is not linear."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nmnc.errors import UserError
from nmnc.measure.diagnostics import diagnose, margin, output_error
from nmnc.networks import Network, layer_sizes
from nmnc.networks.mlp import mlp
from nmnc.noise.feedback import effective_samples
from nmnc.rule_kinds import RULES
from nmnc.rules import make_rule
from nmnc.rules.noise_correlation import NoiseCorrelation
from nmnc.settings import Noise

SHAPE, CLASSES, IMAGES, DIMENSIONS = (1, 2, 5), 4, 6, 3


@pytest.fixture
def network() -> Network:
    """Two hidden layers with a steep non-linearity: the Jacobian differs from image to image."""
    torch.manual_seed(3)
    network = mlp(SHAPE, CLASSES, hidden=[16, 12], activation="relu").eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(2)
    return network


def batch_of(network: Network, images: int = IMAGES) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Hidden outputs and output error of a fixed batch, and backprop's gradient (images, units) per hidden stage."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(images, *SHAPE, generator=generator)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    *hidden, logits = network.outputs(batch, connected=True)
    error = output_error(logits, labels).detach()
    gradients = torch.autograd.grad(logits, hidden, error)
    return [output.detach() for output in hidden], error, [gradient.flatten(1) for gradient in gradients]


def rule_of(kind: str, network: Network, outputs: list[Tensor], **noise: Any) -> NoiseCorrelation:
    settings = {"dimensions": DIMENSIONS, "images": IMAGES, "basis_images": 64, "basis_every": 10**9} | noise
    # Forward mode: finite differences would add a bias of their own where noise crosses a kink.
    rule = make_rule(
        kind, network, layer_sizes(network, SHAPE)[:-1], CLASSES, Noise(estimator="forward_mode", **settings), 1
    )
    rule.start(outputs)
    assert isinstance(rule, NoiseCorrelation)
    return rule


def repeated_signals(kind: str, network: Network, copies: int, **noise: Any) -> tuple[NoiseCorrelation, list[Tensor]]:
    """Signals (copies, images, units) of a rule whose batch holds the fixed images many times over."""
    outputs, error, _ = batch_of(network)
    rule = rule_of(kind, network, outputs, images=copies * IMAGES, **noise)
    rule.observe(0, [output.repeat(copies, 1) for output in outputs], {})
    signals = rule.signals(error.repeat(copies, 1))
    return rule, [signal.unflatten(0, (copies, IMAGES)) for signal in signals]


@pytest.mark.parametrize("kind", ["vnc", "nmnc", "random_subspace"])
def test_its_expectation_is_every_images_own_gradient(network: Network, kind: str) -> None:
    gradients = batch_of(network)[2]
    rule, signals = repeated_signals(kind, network, 16_000, per_image=True)
    for stage, (signal, gradient) in enumerate(zip(signals, gradients, strict=True)):
        true = gradient @ rule.bases[stage] @ rule.bases[stage].T if rule.bases else gradient
        axes = rule.bases[stage].shape[1] if rule.bases else gradient.shape[1]
        means = signal.unflatten(0, (40, 400)).mean(1)
        # Each image has samples of its own: of 400 the mean has E |error|^2 = |true|^2 (axes + 1) / 400.
        relative = (means - true).square().sum(2) / true.square().sum(1)
        assert relative.mean().item() == pytest.approx((axes + 1) / 400, rel=0.25)
        assert torch.cosine_similarity(means.mean(0), true, dim=1).min() > 0.995


def test_the_average_tends_to_a_plateau_where_per_image_tends_to_one(network: Network) -> None:
    outputs, error, gradients = batch_of(network)
    _, own = repeated_signals("vnc", network, 16_000, per_image=True)
    _, averaged = repeated_signals("vnc", network, 16_000, rate=1.0)
    for stage, gradient in enumerate(gradients):

        def suffix(x: Tensor, first: int = stage + 1) -> Tensor:
            return network.suffix(x[None], first)[0]

        # The plateau is known: the mean Jacobian of the batch carries every image's error.
        mean_jacobian = torch.func.vmap(torch.func.jacrev(suffix))(outputs[stage]).mean(0)
        plateau = torch.cosine_similarity(error @ mean_jacobian, gradient, dim=1)
        assert torch.cosine_similarity(own[stage].mean(0), gradient, dim=1).min() > 0.995
        found = torch.cosine_similarity(averaged[stage][0], gradient, dim=1)
        torch.testing.assert_close(found, plateau, rtol=0, atol=0.02)
        # From the last hidden layer on the network is linear, and the average is right as well.
        assert plateau.mean() > 0.999 if stage == len(gradients) - 1 else plateau.mean() < 0.9


@pytest.mark.parametrize("kind", ["vnc", "nmnc"])
def test_diagnosis_measures_it_and_leaves_no_trace(network: Network, kind: str) -> None:
    outputs, error, _ = batch_of(network)
    rule, untouched = (rule_of(kind, network, outputs, per_image=True) for _ in range(2))
    for one in (rule, untouched):
        one.observe(0, outputs, {})
    images, labels = torch.randn(400, *SHAPE), torch.randint(CLASSES, (400,))
    rows = diagnose(rule, rule.noise, images, labels, images[:8])
    cosine = {row["layer"]: row["cosine"] for row in rows if row["space"] == "activity"}
    # E cos of one sample with its gradient is about 1 / sqrt(n): small, not zero, over 400 images.
    assert all(value > 0.05 for value in cosine.values())
    assert all(map(torch.equal, rule.signals(error), untouched.signals(error)))
    for after in (rule, untouched):
        after.observe(1, outputs, {})
    assert all(map(torch.equal, rule.signals(error), untouched.signals(error)))
    assert (rule.perturbations, rule.forward_passes) == (untouched.perturbations, untouched.forward_passes)
    assert rule.perturbations == 2 * 2 * IMAGES
    assert rule.forward_passes == 2 * 3 * IMAGES


def test_diagnosing_a_running_average_draws_no_noise(network: Network) -> None:
    outputs, error, _ = batch_of(network)
    rule = rule_of("vnc", network, outputs)
    rule.observe(0, outputs, {})
    state, signals = rule.generator.get_state(), rule.signals(error)
    with rule.measuring([torch.cat([output, output]) for output in outputs], {}):
        assert all(map(torch.equal, rule.signals(error), signals))
    assert torch.equal(rule.generator.get_state(), state)
    assert rule.perturbations == 2 * IMAGES


def test_one_sample_stands_behind_each_signal() -> None:
    assert effective_samples(Noise(images=128, rate=0.2, per_image=True)) == 1
    assert effective_samples(Noise(images=8, rate=0.2)) == pytest.approx(8 * 9)
    assert margin(0.5, Noise(per_image=True), (64, 0.7), (1000, 0.7)) == pytest.approx(0.5 - 66 / 1002)


def test_a_resumed_rule_goes_on_bit_for_bit(network: Network) -> None:
    outputs, error, _ = batch_of(network)
    whole, resumed = (rule_of("nmnc", network, outputs, per_image=True) for _ in range(2))
    whole.observe(0, outputs, {})
    resumed.load_state_dict(whole.state_dict())
    for rule in (whole, resumed):
        rule.observe(1, outputs, {})
    assert all(map(torch.equal, whole.signals(error), resumed.signals(error)))


def test_impossible_settings_are_refused(network: Network) -> None:
    outputs, _, _ = batch_of(network)
    with pytest.raises(UserError, match=r"^noise\.refresh_every 5: with noise\.per_image every batch needs its own"):
        rule_of("vnc", network, outputs, per_image=True, refresh_every=5)
    with pytest.raises(UserError, match=r"^noise\.images 4: .* all 6 images .* set noise\.images to training\.batch"):
        rule_of("vnc", network, outputs, per_image=True, images=4).observe(0, outputs, {})
    for kind in ("spectral", "fdfa"):
        with pytest.raises(
            UserError, match=rf"^noise\.per_image works only with the rules vnc, nmnc, .*; remove it for {kind}$"
        ):
            make_rule(kind, network, [16, 12], CLASSES, Noise(per_image=True), 0)
    for kind in ("vnc", "random_subspace", "spectral"):
        with pytest.raises(
            UserError, match=rf"^noise\.mean_direction works only with the rule nmnc; remove it for {kind}"
        ):
            make_rule(kind, network, [16, 12], CLASSES, Noise(mean_direction=True), 0)


def test_rules_without_noise_pass_over_its_settings(network: Network) -> None:
    for kind in set(RULES) - {"vnc", "nmnc", "random_subspace", "smooth_subspace", "spectral", "fdfa"}:
        assert make_rule(kind, network, [16, 12], CLASSES, Noise(per_image=True, adaptive=True), 0)
