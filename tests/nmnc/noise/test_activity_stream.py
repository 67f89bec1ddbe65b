"""Components of all batches against an SVD of everything at once, manifolds that move, and NMNC in such a basis."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import nmnc.noise.activity_stream
from nmnc.config import Study
from nmnc.errors import UserError
from nmnc.measure.principal_angles import principal_angles
from nmnc.networks import Network
from nmnc.noise.activity_stream import RANDOM_AXES, ActivityStream
from nmnc.noise.manifold import principal_basis, random_basis
from nmnc.rules import make_rule
from nmnc.rules.manifold_noise import ManifoldNoiseCorrelation
from nmnc.settings import Noise

UNITS, CLASSES, BATCH, CPU = 300, 5, 32, torch.device("cpu")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def subspace(dimensions: int, seed: int, units: int = UNITS) -> Tensor:
    return random_basis(units, dimensions, generator(seed), CPU)


def activity(images: int, axes: Tensor, seed: int, outside: float = 0.0) -> Tensor:
    """Gaussian of unit variance along `axes` and of `outside`^2 along all others, about a mean of size 1."""
    drawn, units = generator(seed), len(axes)
    inside = torch.randn(images, axes.shape[1], generator=drawn) @ axes.T
    return inside + outside * torch.randn(images, units, generator=drawn) + torch.randn(units, generator=generator(7))


def stream_of(first: Tensor, components: int, seed: int = 0) -> ActivityStream:
    stream = ActivityStream(components, generator(seed))
    stream.start(first)
    return stream


def svd(rows: Tensor) -> tuple[np.ndarray, Tensor]:
    """The oracle: singular values and right singular vectors (columns), float64."""
    _, values, right = np.linalg.svd(rows.double().numpy(), full_matrices=False)
    return values, torch.from_numpy(right.T.copy())


def centred(rows: Tensor) -> Tensor:
    return rows.double() - rows.double().mean(0)


def test_with_room_for_the_whole_rank_it_is_the_svd_of_everything_older_parts_weighing_half() -> None:
    axes = subspace(12, 1) * 0.8 ** torch.arange(12)
    batches = [activity(BATCH, axes, seed) for seed in range(9)]
    stream = stream_of(batches[0], 12)
    for part in (batches[1:5], batches[5:]):
        for batch in part:
            stream.update(batch)
        basis = stream.basis(12)
    ages = [2] + [1] * 4 + [0] * 4
    values, right = svd(torch.cat([0.5 ** (age / 2) * centred(x) for age, x in zip(ages, batches, strict=True)]))
    np.testing.assert_allclose(stream.components.singular_values[:12].numpy(), values[:12], rtol=1e-4)
    for dimensions in (1, 6, 12):
        assert principal_angles(basis[:, :dimensions], right[:, :dimensions])[-1] < 0.05
    torch.testing.assert_close(basis.T @ basis, torch.eye(12), rtol=0, atol=1e-5)


def test_where_activity_has_more_dimensions_than_axes_the_leading_ones_are_nearly_the_svds() -> None:
    axes = subspace(UNITS, 1) * (1 / torch.arange(1, UNITS + 1) ** 0.75)
    stream, window = stream_of(activity(64, axes, 0), 16), [activity(BATCH, axes, 1 + seed) for seed in range(40)]
    for batch in window:
        stream.update(batch)
    found = stream.basis(8)
    rows = torch.cat([0.5**0.5 * centred(activity(64, axes, 0)), *map(centred, window)])
    exact = svd(rows)[1][:, :8]
    captured = [(rows @ basis.double()).square().sum().item() for basis in (found, exact)]
    assert captured[0] > 0.995 * captured[1]


@pytest.mark.parametrize("outside", [0.0, 0.1])
def test_it_spans_the_subspace_of_gaussian_activity_of_known_rank(outside: float) -> None:
    true = subspace(6, 1)
    stream = stream_of(activity(BATCH, true, 0, outside), 12)
    angles = []
    for refresh in range(4):
        for number in range(20):
            stream.update(activity(BATCH, true, 100 * refresh + number, outside))
        angles.append(principal_angles(stream.basis(6), true)[-1].item())
    # By perturbation theory an axis is off by outside * sqrt(units / images): 2.3 degrees for the 1,920 images that
    # 640 at every refresh, the older weighing half, amount to.
    assert angles[-1] < (3 if outside else 0.05)
    if outside:  # more images than a window of the last few batches has
        last = torch.cat([activity(BATCH, true, 300 + number, outside) for number in range(16, 20)])
        assert angles[-1] < 0.5 * principal_angles(principal_basis(last, 6), true)[-1]


def followed(moves_to: Tensor, refreshes: int) -> float:
    """Largest angle, in degrees, to the subspace that activity moved to so many refreshes ago."""
    before = subspace(4, 1)
    stream = stream_of(activity(BATCH, before, 0), 8)
    for refresh in range(3 + refreshes):
        for number in range(10):
            stream.update(activity(BATCH, before if refresh < 3 else moves_to, 100 * refresh + number))
        basis = stream.basis(4)
    return principal_angles(basis, moves_to)[-1].item()


def test_it_follows_a_manifold_that_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = torch.linalg.qr(subspace(4, 1) + subspace(4, 2)).Q
    assert principal_angles(turned, subspace(4, 1))[0] > 30
    angles = [followed(turned, refreshes) for refreshes in (1, 3, 6)]
    assert angles == sorted(angles, reverse=True)
    assert angles[-1] < 2
    monkeypatch.setattr(nmnc.noise.activity_stream, "MEMORY", 1.0)
    assert followed(turned, 6) > 10  # without forgetting it lags


def test_directions_orthogonal_to_all_that_was_seen_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = torch.eye(UNITS)[:, :4], torch.eye(UNITS)[:, 10:14]
    stream = stream_of(torch.randn(BATCH, 4, generator=generator(0)) @ old.T, 8)
    for number in range(10):
        stream.update(3 * torch.randn(BATCH, 4, generator=generator(number)) @ new.T)
    assert principal_angles(stream.basis(4), new)[-1] < 0.1
    monkeypatch.setattr(nmnc.noise.activity_stream, "RANDOM_AXES", 0)
    blind = stream_of(torch.randn(BATCH, 4, generator=generator(0)) @ old.T, 4)
    blind.update(3 * torch.randn(BATCH, 4, generator=generator(1)) @ new.T)
    assert principal_angles(blind.basis(4), new)[-1] > 89  # what the random axes are for


def test_a_mean_that_drifts_is_no_direction_of_the_manifold() -> None:
    true, drift = subspace(5, 1)[:, :4], subspace(5, 1)[:, 4]
    stream = stream_of(activity(BATCH, true, 0), 8)
    for number in range(20):
        stream.update(activity(BATCH, true, number) + 10 * number * drift)
    assert principal_angles(stream.basis(4), true)[-1] < 0.1


def test_activity_that_does_not_vary_spans_nothing() -> None:
    same = torch.randn(UNITS, generator=generator(0)).repeat(BATCH, 1)
    stream = stream_of(same, 8)
    stream.update(same)
    assert stream.basis(4).shape == (UNITS, 0)
    small = ActivityStream(8, generator(0))
    small.start(torch.randn(BATCH, 3, generator=generator(1)))
    small.update(torch.randn(BATCH, 3, generator=generator(2)))
    assert small.basis(4).shape == (3, 3)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_memory_grows_with_units_times_components_and_batch_never_with_units_squared() -> None:
    components, images = 4, 10
    for units in (20_000, 200_000):
        batches = [torch.randn(images, units, generator=generator(seed)) for seed in range(3)]
        with Largest() as largest:
            stream = stream_of(batches[0], components)
            for batch in batches[1:]:
                stream.update(batch)
            assert stream.basis(2).shape == (units, 2)
        assert largest.bytes == 4 * units * (2 * components + RANDOM_AXES)  # components so far and rows of the sketch


# The rules


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network([("hidden", nn.Linear(3, UNITS)), ("out", nn.Linear(UNITS, CLASSES))])


def rule_of(network: Network, **noise: Any) -> ManifoldNoiseCorrelation:
    settings: dict[str, Any] = {"dimensions": 6, "basis": "incremental", "basis_every": 4, "images": 8} | noise
    rule = make_rule("nmnc", network, [UNITS], CLASSES, Noise(**settings), 1)
    rule.start([activity(64, subspace(6, 1), 0)])
    assert isinstance(rule, ManifoldNoiseCorrelation)
    return rule


def test_nmnc_takes_its_basis_from_every_batch_and_carries_its_feedback_over(network: Network) -> None:
    rule, (before, after) = rule_of(network, refresh_every=3), (subspace(6, 1), subspace(6, 2))
    assert principal_angles(rule.bases[0], before)[-1] < 0.1
    for step in range(9):
        basis, matrix = rule.bases[0], rule.feedback[0].matrix.clone()
        rule.observe(step, [activity(BATCH, after, step)], {})
        if step in (4, 8):
            assert not torch.equal(basis, rule.bases[0])
            assert torch.equal(rule.feedback[0].matrix, matrix @ (basis.T @ rule.bases[0]))
        else:
            assert basis is rule.bases[0]
        assert rule.recent == []
    # Two refreshes after activity moved, six axes of twelve: of what is older a quarter of few images is left.
    assert (after.T @ rule.bases[0]).square().sum().item() > 5.5


@pytest.mark.parametrize("noise", [{}, {"feedback": "layerwise"}, {"mean_direction": True}, {"feedback": "full"}])
def test_a_resumed_rule_goes_on_bit_for_bit(network: Network, noise: dict[str, Any]) -> None:
    for steps in [0, 3, 5, 6]:
        whole: Any = rule_of(network, **noise)
        resumed: Any = None
        for step in range(12):
            if step == steps:
                resumed = make_rule("nmnc", network, [UNITS], CLASSES, whole.noise, 99)
                resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
            for rule in (whole, resumed) if step >= steps else (whole,):
                rule.observe(step, [activity(BATCH, subspace(9, 1), step, 0.1)], {})
        assert torch.equal(whole.bases[0], resumed.bases[0])
        assert torch.equal(whole.feedback[0].matrix, resumed.feedback[0].matrix)
        assert whole.bases[0].shape[1] == 6 + bool(noise.get("mean_direction"))


@pytest.mark.parametrize("noise", [{}, {"feedback": "layerwise"}])
def test_a_resumed_run_ends_in_the_same_weights_and_learns(toy: Any, tmp_path: Path, noise: dict[str, Any]) -> None:
    def run_of(epochs: int) -> Any:
        return toy.trainer("nmnc", training={"epochs": epochs}, noise={"basis": "incremental"} | noise)

    whole, rest = run_of(8), run_of(8)
    whole.train(tmp_path / "whole.pt")
    run_of(1).train(tmp_path / "state.pt")  # 6 steps: one after a refresh of the basis
    rest.train(tmp_path / "state.pt")
    assert rest.alignment == whole.alignment
    for ours, theirs in zip(rest.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert whole.epochs[-1]["test_accuracy"] > 0.8  # chance: 0.25


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_activity_that_is_not_finite_is_refused_with_the_layers_name(network: Network, value: float) -> None:
    words = r"^layer hidden: activity is NaN or infinite; lower training\.learning_rate"
    bad = activity(BATCH, subspace(6, 1), 1)
    bad[3, 4] = value
    rule = rule_of(network)
    if value != 1e25:  # which merges alone, in float64, could bear
        with pytest.raises(UserError, match=words):
            rule.start([bad])
        rule = rule_of(network)
    for step in range(4):
        rule.observe(step, [bad], {})
    with pytest.raises(UserError, match=words):
        rule.observe(4, [activity(BATCH, subspace(6, 1), 4)], {})


@pytest.mark.parametrize(
    ("kind", "noise", "words"),
    [
        (
            "nmnc",
            {"adaptive": True},
            r"^noise\.basis incremental cannot be combined with noise\.adaptive.*; set noise\.basis to window$",
        ),
        ("vnc", {}, r"^noise\.basis incremental works only with the rule nmnc; set noise\.basis to window for vnc$"),
        (
            "random_subspace",
            {},
            r"^noise\.basis incremental works only with the rule nmnc; set noise\.basis to window for random_subspace$",
        ),
        (
            "spectral",
            {},
            r"^noise\.basis incremental works only with the rule nmnc; set noise\.basis to window for spectral$",
        ),
    ],
)
def test_impossible_settings_are_refused(network: Network, kind: str, noise: dict[str, Any], words: str) -> None:
    settings = {"dimensions": 6, "basis": "incremental"} | noise
    with pytest.raises(UserError, match=words):
        make_rule(kind, network, [UNITS], CLASSES, Noise(**settings), 0)


def test_a_batch_of_one_image_is_refused(toy: Any) -> None:
    words = r"rules\.nmnc: noise\.basis incremental compares the images of a batch; set batch_size to 2 or more"
    one = {"training": {"batch_size": 1}, "noise": {"images": 1, "basis": "incremental"}}
    with pytest.raises(ValueError, match=words):
        Study(
            study="toy", dataset={"name": "digits"}, networks={"net": {"kind": "mlp"}},
            rules={"nmnc": {"kind": "nmnc"}}, **one,
        )  # fmt: skip
