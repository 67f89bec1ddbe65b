"""Laws of prediction-error feedback (docs/method.md), on linear networks and on responses whose Jacobian is known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.networks.backward import response
from nmnc.networks.mlp import mlp
from nmnc.noise.draws import DENSE, OrthogonalDraws
from nmnc.noise.feedback import FactoredFeedback, prediction_rate
from nmnc.noise.local_feedback import LocalFeedback
from nmnc.noise.manifold import random_basis
from nmnc.noise.perturbation import isotropic, within_subspace
from nmnc.rules import make_rule
from nmnc.rules.noise_correlation import NoiseCorrelation
from nmnc.rules.smooth_subspace import smooth_basis
from nmnc.rules.spectral import largest_stable_rate
from nmnc.rules.weight_mirror import WeightMirror
from nmnc.settings import Noise

UNITS, AXES, CLASSES = 40, 12, 5
CPU = torch.device("cpu")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def linear() -> Network:
    """10 pixels -> 40 units -> 5 outputs, no non-linearity: the Jacobian is the last weight matrix."""
    torch.manual_seed(0)
    return mlp((1, 2, 5), CLASSES, hidden=[UNITS], activation="linear")


def jacobian(network: Network) -> Tensor:
    return network.stages[-1][1].weight.detach()


def batch(seed: int) -> list[Tensor]:
    """The hidden stage's output to 24 images."""
    return [torch.randn(24, UNITS, generator=generator(seed))]


def rule_of(network: Network, kind: str, seed: int = 1, **changes: Any) -> NoiseCorrelation:
    settings: dict[str, Any] = {
        "dimensions": AXES, "images": 5, "learning": "prediction_error",
        "basis_images": 24, "basis_every": 1000,
    }  # fmt: skip
    rule = make_rule(kind, network, [UNITS], CLASSES, Noise(**settings | changes), seed)
    assert isinstance(rule, NoiseCorrelation)
    rule.start(batch(0))
    return rule


def matrix(rule: NoiseCorrelation) -> Tensor:
    """The estimate of J, (classes, units); layer by layer the last weight, which is the same here."""
    return rule.feedback[0].signal(torch.eye(CLASSES))


def squared_error(rule: NoiseCorrelation, target: Tensor) -> float:
    return ((matrix(rule) - target).square().sum() / target.square().sum()).item()


def target_of(rule: NoiseCorrelation, network: Network) -> Tensor:
    """J, or of it what the rule's subspace holds."""
    whole = jacobian(network)
    return whole @ rule.bases[0] @ rule.bases[0].T if rule.most_axes(UNITS) < UNITS else whole


FORMS = [
    ("vnc", {}),
    ("nmnc", {}),
    ("nmnc", {"feedback": "full"}),
    ("nmnc", {"feedback": "layerwise"}),
    ("random_subspace", {}),
    ("smooth_subspace", {}),
    ("vnc", {"feedback": "layerwise"}),
]


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_the_error_shrinks_at_the_predicted_rate(linear: Network, kind: str, form: dict[str, Any]) -> None:
    for gain in [0.3, 1.0]:
        steps, before, after = 8, 0.0, 0.0
        for seed in range(25):
            rule = rule_of(linear, kind, seed, gain=gain, **form)
            target = target_of(rule, linear)
            before += squared_error(rule, target)
            for step in range(steps):
                rule.observe(step, batch(step), {})
            after += squared_error(rule, target)
        axes = rule.most_axes(UNITS)
        eta = gain * 5 / (5 + axes + 1)
        assert prediction_rate(rule.noise, axes) == pytest.approx(eta)
        shrinks = 1 - 2 * eta + eta**2 * (1 + (axes + 1) / 5)
        assert (after / before) ** (1 / steps) == pytest.approx(shrinks, rel=0.04)


@pytest.mark.parametrize(("kind", "form"), [*FORMS, ("spectral", {"gamma": 0.5})])
def test_there_is_no_floor(linear: Network, kind: str, form: dict[str, Any]) -> None:
    """Full-rank noise ends at J itself, spectral noise too and not at J Sigma; plain correlation stays where it is."""
    for draws in ["independent", "orthogonal"]:
        rule = rule_of(linear, kind, draws=draws, **form)
        target = target_of(rule, linear)
        for step in range(400):
            rule.observe(step, batch(step), {})
        assert squared_error(rule, target) < 1e-9
        plain = rule_of(linear, kind, learning="correlation", draws=draws, **form)
        for step in range(100):
            plain.observe(step, batch(step), {})
        assert squared_error(plain, target) > 0.05
        assert rule.perturbations == 4 * plain.perturbations == 400 * 5


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_orthogonal_draws_at_full_gain_are_exact_after_one_cycle(
    linear: Network, kind: str, form: dict[str, Any]
) -> None:
    """From any start, twice in a row, and again after the basis has moved in the middle of a cycle."""
    rule = rule_of(linear, kind, draws="orthogonal", gain=1.0, basis_every=11, **form)
    rule.feedback[0].matrix += torch.randn(rule.feedback[0].matrix.shape, generator=generator(3))
    if "full" in form.values():
        rule.feedback[0].rebase(rule.bases[0])
    cycle = math.ceil(rule.most_axes(UNITS) / 5)
    for step in range(cycle):
        rule.observe(step, batch(step), {})
    assert squared_error(rule, target_of(rule, linear)) < 1e-10
    torch.nn.init.normal_(linear.stages[-1][1].weight)
    for step in range(11 - 2, 11 + cycle):  # in mid-cycle at step 11, where the basis moves
        rule.observe(step, batch(step), {})
    if rule.most_axes(UNITS) < UNITS:
        assert squared_error(rule, target_of(rule, linear)) < 1e-10
    for step in range(2 * cycle):  # those without a basis finish the cycle they were in
        rule.observe(step + 1, batch(step), {})
    assert squared_error(rule, target_of(rule, linear)) < 1e-10


CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 4, 3, bias=False),
    "padded": nn.Conv2d(3, 4, 3, padding=1),
    "strided": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
}


@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_kernels_per_position_with_the_true_weights_carry_the_exact_gradient(layer: nn.Conv2d) -> None:
    shape = torch.Size([3, 7, 6])
    feedback = LocalFeedback(layer, shape, CPU)
    feedback.matrix += layer.weight.detach().flatten(1)
    x = torch.randn(5, *shape, generator=generator(0), requires_grad=True)
    out = layer(x)
    error = torch.randn(out.shape, generator=generator(1))
    (exact,) = torch.autograd.grad(out, x, error)
    torch.testing.assert_close(feedback.signal(error.flatten(1)), exact.flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_kernels_per_position_learn_the_weights_where_the_map_is(layer: nn.Conv2d) -> None:
    """Every position by itself, at the rate of its own fan-in; what only padding meets stays zero."""
    shape, images, random = torch.Size([3, 7, 6]), 5, generator(2)
    feedback = LocalFeedback(layer, shape, CPU)
    fan_in = layer.weight[0].numel()
    eta = prediction_rate(Noise(images=images, gain=0.5), fan_in)
    seen = feedback._patches(torch.ones(1, 126))[0, :, None]  # (positions, 1, fan-in): 1 on the map, 0 on padding
    true = layer.weight.detach().flatten(1) * seen
    errors = []
    for _ in range(400):
        perturbation = isotropic(torch.randn(images, 126, generator=random), 12, 0.05)
        change = response(layer, perturbation.noise.view(-1, *shape)).flatten(1)
        feedback.correct(change, perturbation, eta)
        errors.append((feedback.matrix - true).square().sum().item())
    torch.testing.assert_close(feedback.matrix, true, rtol=1e-3, atol=1e-4)
    if seen.all():  # where no position sees padding all follow the law of the linear network
        shrinks = 1 - 2 * eta + eta**2 * (1 + (fan_in + 1) / images)
        assert (errors[30] / errors[0]) ** (1 / 30) == pytest.approx(shrinks, rel=0.05)


@pytest.mark.parametrize("layer", [nn.Linear(30, 8), nn.Conv2d(3, 4, 3, padding=1)], ids=["linear", "convolution"])
def test_a_mirror_by_prediction_error_shrinks_at_its_rate_and_has_no_floor(layer: nn.Linear | nn.Conv2d) -> None:
    """The patches of a convolution overlap, and yet the law of independent samples is right."""
    shape = (30,) if isinstance(layer, nn.Linear) else (3, 9, 9)
    true, random, errors = layer.weight.detach(), generator(4), []
    rule = WeightMirror.__new__(WeightMirror)
    rule.noise = Noise(images=4, gain=0.5, learning="prediction_error")
    weight = torch.zeros_like(true)
    for _ in range(300):
        rule._learn(layer, weight, 0.05 * torch.randn(4, *shape, generator=random))
        errors.append((weight - true).square().sum().item())
    samples, fan_in = 4 * (1 if isinstance(layer, nn.Linear) else 81), true[0].numel()
    eta = 0.5 * samples / (samples + fan_in + 1)
    shrinks = 1 - 2 * eta + eta**2 * (1 + (fan_in + 1) / samples)
    assert (errors[8] / errors[0]) ** (1 / 8) == pytest.approx(shrinks, rel=0.15)
    assert errors[-1] < 1e-9 * true.square().sum()


def test_smooth_axes_are_orthonormal_and_vary_slowly_over_the_map() -> None:
    basis = smooth_basis(torch.Size([4, 16, 16]), 20, generator(0))
    torch.testing.assert_close(basis.T @ basis, torch.eye(20), rtol=0, atol=1e-5)

    def change(of: Tensor) -> float:
        fields = of.T.view(20, 4, 16, 16)
        return (fields.diff(dim=3).square().mean() / (2 * fields.square().mean())).item()

    # Of a field blurred by a Gaussian of s pixels, neighbours correlate by exp(-1 / (4 s^2)).
    assert change(basis) == pytest.approx(1 - math.exp(-1 / 16), rel=0.25)
    assert change(random_basis(1024, 20, generator(1), CPU)) == pytest.approx(1, rel=0.1)
    rows = basis.T.view(20, 4, 16, 16).square().mean((0, 1, 3))
    assert rows.std() < 0.3 * rows.mean()  # as much at the edge


@pytest.mark.parametrize("axes", [1, 7, 64, DENSE + 1, 1500])
def test_orthogonal_draws_use_every_axis_once(axes: int) -> None:
    draws = OrthogonalDraws(generator(0))
    for _ in range(2):
        rows = torch.cat([draws.take(1, axes) for _ in range(axes)]).double()
        torch.testing.assert_close(rows.T @ rows / axes, torch.eye(axes).double(), rtol=0, atol=1e-5)
    fresh = draws.take(1, axes).double()
    assert axes == 1 or (rows @ fresh.T).abs().max() < axes  # of another matrix


def test_orthogonal_draws_resume_in_mid_cycle() -> None:
    for axes in (24, DENSE + 7):
        first, second = OrthogonalDraws(generator(1)), OrthogonalDraws(generator(2))
        first.take(5, axes)
        second.load_state_dict(first.state_dict())
        assert torch.equal(first.take(6, axes), second.take(6, axes))


def test_the_last_refresh_of_a_cycle_repeats_rows_of_its_own_matrix() -> None:
    draws = OrthogonalDraws(generator(0))
    cycle = torch.cat([draws.take(5, 12) for _ in range(3)])
    assert torch.equal(cycle[12:], cycle[:3])
    assert (draws.take(5, 12) @ cycle.T).abs().max() < 12 * (1 - 1e-3)


@pytest.mark.parametrize("draws", ["independent", "orthogonal"])
@pytest.mark.parametrize("learning", ["correlation", "prediction_error"])
def test_variation_between_images_leaves_the_predicted_floor(draws: str, learning: str) -> None:
    """J_m = J + D_m with |D|^2 = v |J|^2 on average."""
    axes, images, v, gain = 16, 4, 0.8, 0.5
    noise = Noise(dimensions=axes, images=images, learning=learning, draws=draws, gain=gain, rate=0.1)
    random = generator(5)
    mean = torch.randn(CLASSES, axes, generator=random)
    mean /= mean.norm()
    feedback = FactoredFeedback(CLASSES, torch.eye(axes))
    source = OrthogonalDraws(random)
    eta, errors = prediction_rate(noise, axes), []
    for step in range(4000):
        z = source.take(images, axes) if draws == "orthogonal" else torch.randn(images, axes, generator=random)
        perturbation = within_subspace(z, feedback.basis, 0.05)
        spread = torch.randn(images, CLASSES, axes, generator=random) * math.sqrt(v / (CLASSES * axes))
        change = torch.einsum("mok,mk->mo", mean + spread, perturbation.noise)
        if learning == "correlation":
            feedback.update(change, perturbation, noise.rate)
        else:
            feedback.correct(change, perturbation, eta)
        if step >= 500:
            errors.append((feedback.matrix - mean).square().sum().item())
    found = sum(errors) / len(errors)
    samples = images * (2 - noise.rate) / noise.rate
    if learning == "prediction_error" and draws == "independent":
        law = eta * (axes + 2) * v / (images * (2 - eta * (1 + (axes + 1) / images)))
    elif learning == "prediction_error":
        law = v * gain / (2 - gain)
    elif draws == "independent":
        law = (axes + 1 + (axes + 2) * v) / samples
    else:  # no law is stated: below that of independent draws
        assert found < 0.9 * (axes + 1 + (axes + 2) * v) / samples
        return
    assert found == pytest.approx(law, rel=0.1)


@pytest.mark.parametrize("images", [1, 8])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5])
def test_shaped_noise_is_stable_up_to_the_bound(images: int, gamma: float) -> None:
    """Against the exact recursion of the error's second moments, whose matrix must have no eigenvalue above 1."""
    units, variances = 30, torch.tensor([9.0, 4.0, 2.0, 1.0, 0.1], dtype=torch.float64) ** gamma
    bound = largest_stable_rate(variances, units, images)
    if gamma == 0:
        assert bound == pytest.approx(2 * images / (images + units + 1), rel=1e-9)
    every = torch.cat([variances[:-1], variances[-1].expand(units - 4)])
    mu = every / every.mean()

    def radius(eta: float) -> float:
        own = 1 - 2 * eta * mu + eta**2 * mu**2 * (1 + 1 / images)
        return torch.linalg.eigvalsh(own.diag() + eta**2 / images * mu[:, None] * mu).abs().max().item()

    assert radius(bound * 0.999) < 1 < radius(bound * 1.001)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "fdfa",
            {},
            "prediction_error works only with the rules vnc, nmnc, random_subspace, smooth_subspace, spectral",
        ),
        (
            "fdfa",
            {"learning": "correlation", "draws": "orthogonal"},
            "noise.draws orthogonal works only with the rules",
        ),
        (
            "vnc",
            {"per_image": True},
            "prediction_error needs a running feedback .* noise.per_image True",
        ),
        ("nmnc", {"adaptive": True, "images": 4}, "needs a running feedback .* noise.adaptive True"),
        ("nmnc", {"estimator": "infinite"}, "needs a running feedback .* noise.estimator infinite"),
        ("nmnc", {"draws": "orthogonal", "images": 13}, "12 axes, fewer than noise.images 13; lower noise.images"),
        ("vnc", {"draws": "orthogonal", "images": 41}, "40 axes, fewer than noise.images 41"),
    ],
)
def test_what_does_not_go_together_is_refused(
    linear: Network, kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        rule_of(linear, kind, **changes)


@pytest.mark.parametrize(
    ("kind", "changes", "cycle"),
    [
        ("nmnc", {"draws": "orthogonal", "basis_every": 5, "refresh_every": 2}, 6),
        ("nmnc", {"draws": "orthogonal", "basis_every": 6, "refresh_every": 2}, None),
        ("nmnc", {"basis_every": 1}, None),
        ("vnc", {"draws": "orthogonal", "basis_every": 1}, None),
        ("spectral", {"draws": "orthogonal", "basis_every": 1}, None),
    ],
)
def test_a_basis_that_moves_within_a_cycle_is_warned_of(
    linear: Network, kind: str, changes: dict[str, Any], cycle: int | None
) -> None:
    found = rule_of(linear, kind, **changes).warnings()
    assert len(found) == (cycle is not None)
    assert cycle is None or f"set noise.basis_every to {cycle} or more" in found[0]


@pytest.mark.parametrize("gain", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_a_gain_outside_0_to_1_is_refused(gain: float) -> None:
    with pytest.raises(ValueError, match="gain"):
        Noise(gain=gain)


def test_activity_of_fewer_axes_than_images_stays_stable() -> None:
    """Rows are then used twice in a refresh; eta takes each axis's error away no faster than the gain."""
    noise = Noise(dimensions=16, images=9, draws="orthogonal", learning="prediction_error", gain=1.0)
    basis = random_basis(64, 4, generator(1), CPU)
    feedback, draws = FactoredFeedback(CLASSES, basis), OrthogonalDraws(generator(2))
    true = torch.randn(CLASSES, 64, generator=generator(3))
    for _ in range(40):
        perturbation = within_subspace(draws.take(9, 4), basis, 0.05)
        feedback.correct(perturbation.noise @ true.T, perturbation, prediction_rate(noise, 4))
    torch.testing.assert_close(feedback.matrix, true @ basis, rtol=1e-3, atol=1e-4)
