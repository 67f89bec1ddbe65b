"""What is measured of a trained network, against exact Jacobians, closed forms and scipy."""

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scipy.linalg import subspace_angles
from torch import Tensor, nn
from typer.testing import CliRunner

from nmnc.__main__ import app
from nmnc.config import load_study
from nmnc.data.dataset import load_dataset
from nmnc.errors import UserError
from nmnc.measure.diagnostics import diagnose
from nmnc.measure.dimension import QUANTITIES
from nmnc.measure.principal_angles import principal_angles
from nmnc.measure.row_space import Projections, median_share, over_draws, row_space, total_share
from nmnc.measure.signal_losses import mean_jacobian, signal_losses
from nmnc.networks import Network
from nmnc.networks.convnet import convnet
from nmnc.noise.manifold import principal_basis, random_basis
from nmnc.rules.base import Backprop
from nmnc.settings import Noise
from nmnc.training.job import train_job
from nmnc.training.measure_job import COLUMNS, DRAWS, Images, choose_images, measure, measure_job

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(batch_norm: bool = False) -> Network:
    torch.manual_seed(7)
    return convnet((1, 8, 8), 5, channels=[4, 8], hidden=[12], batch_norm=batch_norm).eval()


def pictures(seed: int, images: int) -> tuple[Tensor, Tensor]:
    return torch.randn(images, 1, 8, 8, generator=generator(seed)), torch.arange(images) % 5


def table(net: Network, seed: int = 0) -> list[dict[str, Any]]:
    held_out, labels = pictures(0, 40)
    return list(measure(net, Images(pictures(1, 80)[0], held_out, labels), generator(seed)))


def pick(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


# Angles


def test_angles_are_scipys() -> None:
    for a, b in ((1, 1), (3, 7), (7, 3), (20, 20)):
        one, other = (
            torch.linalg.qr(random_basis(30, d, generator(d + s), CPU).double()).Q for d, s in ((a, 0), (b, 50))
        )
        expected = torch.from_numpy(subspace_angles(one.numpy(), other.numpy())).flip(0).rad2deg()
        torch.testing.assert_close(principal_angles(one, other), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 1e-3, 44.9, 45.1, 89.99999, 90.0])
def test_known_angles_are_found_to_all_digits(degrees: float) -> None:
    axes = torch.eye(6, dtype=torch.float64)
    angle = math.radians(degrees)
    turned = torch.stack([axes[0], math.cos(angle) * axes[1] + math.sin(angle) * axes[2]], 1)
    found = principal_angles(axes[:, :2], turned).tolist()
    assert found == pytest.approx([0, degrees], rel=1e-9, abs=1e-12)


def test_no_axis_has_no_angle() -> None:
    axes = torch.eye(4)
    assert principal_angles(axes[:, :0], axes[:, :2]).shape == (0,)


# Gradients and Jacobians


def jacobians(net: Network, stage: int, images: Tensor) -> Tensor:
    """The oracle: float64 (images, outputs, units)."""
    net = net.double()
    output = net.prefix(images.double(), stage).detach()
    exact = torch.func.vmap(torch.func.jacrev(lambda x: net.suffix(x[None], stage + 1)[0]))(output)
    net.float()
    return exact.detach().flatten(2)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_row_space_agrees_with_jacrev(stage: int) -> None:
    net, (images, labels) = network(), pictures(0, 40)
    exact = jacobians(net, stage, images)
    basis = random_basis(exact.shape[2], 6, generator(), CPU)
    found = row_space(net, stage, images, labels, [basis])
    along = (exact @ basis.double()).square().sum(1)
    torch.testing.assert_close(found.jacobian[0].along.double(), along, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.jacobian[0].total.double(), exact.square().sum((1, 2)), rtol=1e-4, atol=1e-7)
    error = net(images).softmax(1) - torch.nn.functional.one_hot(labels, 5)
    gradient = torch.einsum("bo,bon->bn", error.detach().double(), exact)
    shares = (gradient @ basis.double()).square().sum(1) / gradient.square().sum(1)
    assert median_share(found.gradient[0], 6).value == pytest.approx(shares.median().item(), rel=1e-4)
    right = torch.linalg.svd(exact.flatten(0, 1), full_matrices=False)[2][:4].T
    assert found.right.shape == (exact.shape[2], 4)
    assert principal_angles(found.right, right)[-1] < 1


def test_alphas_are_those_of_the_training_tables() -> None:
    net, (images, labels), (activity, _) = network(), pictures(0, 40), pictures(1, 80)
    rule = Backprop(net, [64, 32, 12], 5, Noise(dimensions=8), 0)
    expected = {row["layer"]: row for row in diagnose(rule, rule.noise, images, labels, activity) if "margin" in row}
    for quantity in ("alpha_gradient", "alpha_jacobian"):
        found = pick(table(net), quantity=quantity, subspace="principal", d=8)
        assert len(found) == 3
        for row in found:
            assert row["value"] == pytest.approx(expected[row["layer"]][quantity], rel=1e-4)
            assert row["n_images"] == 40
            assert row["chance"] == 8 / expected[row["layer"]]["n"]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_losses_of_exact_signals_agree_with_jacrev(stage: int) -> None:
    net, (images, labels), (others, _) = network(), pictures(0, 40), pictures(1, 300)
    exact, mean = jacobians(net, stage, images), jacobians(net, stage, others).mean(0)
    found_mean = mean_jacobian(net, stage, others)
    torch.testing.assert_close(found_mean.double(), mean, rtol=1e-3, atol=1e-6)
    basis = random_basis(exact.shape[2], 6, generator(), CPU).double()
    error = (net(images).softmax(1) - torch.nn.functional.one_hot(labels, 5)).detach().double()
    gradient = torch.einsum("bo,bon->bn", error, exact)
    rows = list(signal_losses(net, stage, images, labels, found_mean, {"random": basis.float()}))
    for signal, whole in (("gradient", gradient), ("mean_jacobian", error @ mean)):
        for subspace, own in (("", whole), ("random", (whole @ basis) @ basis.T)):
            expected = torch.nn.functional.cosine_similarity(gradient, own, 1).mean().item()
            of = pick(rows, signal=signal, subspace=subspace, quantity="cosine_activity")
            if (signal, subspace) == ("gradient", ""):
                assert not of
            else:
                assert [row["value"] for row in of] == pytest.approx([expected], rel=1e-4)


def test_weight_gradients_of_the_whole_gradient_are_backprops() -> None:
    # A basis of the whole space loses nothing, in weight space as in activity space; the mean Jacobian of a linear
    # network is everyone's Jacobian.
    net, (images, labels) = linear(torch.randn(80, 32, generator=generator(5))), pictures(0, 40)
    images = images.flatten(1)[:, :32]
    every = {"every": torch.eye(32)}
    rows = list(signal_losses(net, 0, images, labels % 3, mean_jacobian(net, 0, images), every))
    assert len(rows) == 6
    assert all(row["value"] == pytest.approx(1.0, abs=1e-5) for row in rows)
    half = {"half": torch.eye(32)[:, :16]}
    lost = pick(list(signal_losses(net, 0, images, labels % 3, mean_jacobian(net, 0, images), half)), signal="gradient")
    assert all(0.0 < row["value"] < 0.99 for row in lost)


def linear(activity: Tensor) -> Network:
    """32 inputs pass as they are to a last stage whose weights lie along the leading 8 components of `activity`."""
    keep, last = nn.Linear(32, 32, bias=False), nn.Linear(32, 3)
    mix = torch.randn(3, 8, generator=generator(4))
    with torch.no_grad():
        keep.weight.copy_(torch.eye(32))
        last.weight.copy_(mix @ principal_basis(activity, 8).T)
    return Network([("same", nn.Sequential(nn.Flatten(), keep)), ("logits", last)])


def test_a_row_space_within_the_manifold_has_alpha_one_and_no_angle() -> None:
    spread = torch.linspace(3, 0.3, 32)
    activity, held_out = (torch.randn(300, 32, generator=generator(seed)) * spread for seed in (0, 1))
    images = Images(activity[:, None, None], held_out[:40, None, None], torch.arange(40) % 3)
    rows = list(measure(linear(activity), images, generator()))
    for quantity in ("alpha_gradient", "alpha_jacobian"):
        for d in (8, 16):
            (row,) = pick(rows, quantity=quantity, subspace="principal", d=d)
            assert [row[key] for key in ("value", "low", "high")] == pytest.approx([1, 1, 1], abs=1e-5)
    angles = [row["value"] for row in pick(rows, quantity="principal_angle", subspace="principal")]
    assert len(angles) == 4  # two directions, at d = 8 and d = 16
    assert max(angles) < 0.1
    assert min(row["value"] for row in pick(rows, quantity="principal_angle", subspace="random", d=8)) > 10


def test_a_random_subspace_holds_d_over_n() -> None:
    rows = table(network())
    for row in pick(rows, quantity="alpha_jacobian", subspace="random"):
        error = (row["high"] - row["low"]) / 2 / 1.96 / DRAWS**0.5
        assert row["value"] == pytest.approx(row["chance"], abs=4 * error)
        assert row["low"] < row["chance"] < row["high"]


def test_the_interval_of_a_median_covers_it() -> None:
    draws = 400
    shares = torch.rand(draws, 41, generator=generator())
    found = [median_share(Projections(row[:, None], torch.ones(41)), 1) for row in shares]
    covered = sum(one.low <= 0.5 <= one.high for one in found) / draws
    assert 0.93 < covered < 0.99
    assert all(one.value == row.median() for one, row in zip(found, shares, strict=True))


def test_the_interval_of_a_ratio_of_sums_covers_it() -> None:
    draws, images = 400, 100
    whole = torch.rand(draws, images, generator=generator()) ** 2 + 0.1
    shares = torch.rand(draws, images, generator=generator(1))
    found = [total_share(Projections((w * s)[:, None], w), 1) for w, s in zip(whole, shares, strict=True)]
    covered = sum(one.low <= 0.5 <= one.high for one in found) / draws
    assert 0.92 < covered < 0.98


def test_draws_are_summed_up_by_mean_and_spread() -> None:
    found = over_draws(torch.tensor([1.0, 2.0, 3.0]))
    assert found == pytest.approx((2, 2 - 1.96, 2 + 1.96), abs=1e-3)


# The table


def test_every_layer_has_every_row_once() -> None:
    rows = table(network())
    assert {key for row in rows for key in row} == set(COLUMNS)
    keys = Counter(
        tuple(row.get(key) for key in ("layer", "quantity", "signal", "subspace", "d", "axis", "fraction"))
        for row in rows
    )
    assert set(keys.values()) == {1}
    assert {row["layer"]: row["n_units"] for row in rows} == {"conv1": 64, "conv2": 32, "fc1": 12}
    for layer, sizes in (("conv1", {8, 16, 32}), ("conv2", {8, 16}), ("fc1", {8})):
        for quantity in ("alpha_gradient", "alpha_jacobian", "principal_angle"):
            assert {row["d"] for row in pick(rows, layer=layer, quantity=quantity)} == sizes
        angles = pick(rows, layer=layer, quantity="principal_angle", d=8)
        assert [row["axis"] for row in angles] == [1, 2, 3, 4] * 2
        for quantity in QUANTITIES:
            assert [row["n_images"] for row in pick(rows, layer=layer, quantity=quantity)] == [80, 40, 20, 10]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row.get("low") is not None)


def test_mode_and_weights_do_not_change_and_training_mode_does_not_matter() -> None:
    net = network(batch_norm=True)
    expected = table(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert table(net.train()) == expected
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert table(net, seed=1) != expected


def test_a_layer_that_never_varies_has_empty_cells_and_random_subspaces_only() -> None:
    net = network()
    with torch.no_grad():
        net.stages[0][0].weight.zero_()
    rows = pick(table(net), layer="conv1")
    assert {row["value"] for row in rows if row["quantity"] in QUANTITIES} == {None}
    assert pick(rows, subspace="principal") == []
    assert len(pick(rows, quantity="alpha_jacobian", subspace="random")) == 3


def test_activity_that_is_not_finite_is_one_line() -> None:
    net = network()
    with torch.no_grad():
        net.stages[1][0].weight[0] = math.nan
    with pytest.raises(UserError, match="layer conv1: its gradients are NaN or infinite; train the network again"):
        table(net)
    with torch.no_grad():
        net.stages[0][0].weight[0] = math.nan
    with pytest.raises(UserError, match="layer conv1: activity is NaN or infinite"):
        table(net)


# The command


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's file in the working directory; its two networks are trained when asked for."""
    monkeypatch.chdir(tmp_path)
    content = {
        "study": "toy",
        "device": "cpu",
        "dataset": {"name": "digits"},
        "networks": {"net": {"kind": "convnet", "arguments": {"channels": [4, 8], "hidden": [16]}}},
        "rules": {"backprop": {"kind": "backprop"}},
        "training": {"epochs": 3, "batch_size": 32},
        "noise": {"dimensions": 8, "images": 8, "basis_images": 64},
        "diagnostics": {"images": 64},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def diagnosed(study: Path, trained: Path, out: str, *options: str) -> list[dict[str, str]]:
    command = ["diagnose", "--config", str(study), "--network", str(trained / "network.pt"), "--out", out, *options]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with Path(out).open() as file:
        return list(csv.DictReader(file))


def test_training_turns_the_row_space_to_the_manifold(study: Path) -> None:
    settings = load_study(study)
    alphas = {}
    for rule in ("untrained", "backprop"):
        rows = diagnosed(study, train_job(settings, "net", rule, 0, None, 0), f"tables/{rule}.csv", "--images", "200")
        assert tuple(rows[0]) == COLUMNS
        assert {row["layer"] for row in rows} == {"conv1", "conv2", "fc1"}
        alphas[rule] = [
            float(row["value"]) for row in rows
            if (row["quantity"], row["subspace"], row["d"]) == ("alpha_jacobian", "principal", "8")
        ]  # fmt: skip
    assert all(after > before for before, after in zip(alphas["untrained"], alphas["backprop"], strict=True))


def test_the_same_seed_writes_the_same_bytes(study: Path) -> None:
    trained = train_job(load_study(study), "net", "untrained", 0, None, 0)
    tables = []
    for out, seed in (("a.csv", "3"), ("b.csv", "3"), ("c.csv", "4")):
        diagnosed(study, trained, out, "--images", "100", "--seed", seed)
        tables.append(Path(out).read_bytes())
    assert tables[0] == tables[1] != tables[2]


def test_no_image_is_in_both_parts(study: Path) -> None:
    dataset = load_dataset(load_study(study).dataset, Path())
    for asked, activity, held_out in ((50, 50, 64), (1000, 296, 64), (1000, 270, 500)):
        parts = choose_images(dataset, asked, held_out, generator())
        assert len(parts.activity) == activity
        assert len(parts.held_out) == len(parts.labels) == min(held_out, 90)
        assert torch.equal(parts.held_out, dataset.normalise(dataset.test_images[: len(parts.labels)]))
        assert torch.equal(parts.labels, dataset.test_labels[: len(parts.labels)])
        apart = torch.cdist(parts.activity.flatten(1), parts.held_out.flatten(1)).min()
        assert apart > 0.1
        assert len(parts.activity.unique(dim=0)) == activity


def test_mistakes_are_one_line_and_write_nothing(study: Path) -> None:
    settings = load_study(study)
    trained = train_job(settings, "net", "untrained", 0, None, 0) / "network.pt"

    def with_dataset(**changes: Any) -> Any:
        return settings.model_copy(update={"dataset": settings.dataset.model_copy(update=changes)})

    for wrong, images, words in (
        (with_dataset(train_images=100), 50, "network.pt: trained on other images"),
        (with_dataset(test_images=30), 50, "dataset digits: 30 test images are too few; 40 are needed"),
        (settings.model_copy(update={"dataset": None}), 50, "toy: it has no dataset .*; add dataset.name"),
        (settings, 5, "--images 5: too few to measure a manifold; set it to 10 or more"),
    ):
        with pytest.raises(UserError, match=words):
            measure_job(wrong, trained, Path("out.csv"), images, 0)
    with pytest.raises(UserError, match=r"absent\.pt: no such file; train the network first"):
        measure_job(settings, Path("absent.pt"), Path("out.csv"), 50, 0)
    assert not Path("out.csv").exists()
