"""What decides the numbers in a file of activations: reductions, number format, memory layout; and its address."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from torch import nn
from typer.testing import CliRunner

from brain_eval.__main__ import app
from brain_eval.activations import extraction as activations
from brain_eval.activations.extraction import extract
from brain_eval.activations.layer_outputs import Computation
from brain_eval.activations.models import Model
from brain_eval.activations.preprocessing import Preprocessing
from brain_eval.activations.reductions.reduction import Reduction
from brain_eval.benchmarks.base import Benchmark, Description, stimuli_in_memory
from brain_eval.metrics.similarity import correlation_rdm, upper_triangle
from nmnc.errors import UserError
from tests.sections import kept

N, SIZE = 40, 16


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5)
        self.relu = nn.ReLU(inplace=True)
        self.deep = nn.Conv2d(8, 16, 3, 2)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(400, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.flat(self.deep(self.relu(self.conv(x)))))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    module = Net().eval()
    layers = {name: module.get_submodule(name) for name in ("conv", "deep", "fc")}
    return Model("net", module, layers, Preprocessing(SIZE, 3, (0.4,) * 3, (0.3,) * 3), "weights", "code")


@pytest.fixture
def toy() -> Benchmark:
    images = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)
    stimuli = stimuli_in_memory("toy", [f"s{i}" for i in range(N)], images)
    return Benchmark(Description("toy", 1, (), (), "", ""), stimuli)


def extracted(
    model: Model, toy: Benchmark, out: Path, batch_size: int = 7, **settings: Any
) -> tuple[Any, dict[str, str]]:
    """The file's variable `activations` and its attributes."""
    extract(model, [toy], out, settings=kept(**settings), batch_size=batch_size, device="cpu")
    with xr.open_dataset(out / "toy.nc") as dataset:
        return dataset["activations"].load(), dataset.attrs


def layer_of(values: Any, layer: str) -> Any:
    return values[:, values.layer.values == layer]


def without_place(part: Any) -> Any:
    return (part.channel_x == -1).all() and (part.channel_y == -1).all()


def said(attributes: dict[str, str]) -> dict[str, str]:
    return json.loads(attributes["reduction_of_layers"])


def test_the_spatial_mean_of_a_file_is_the_mean_of_its_maps(model: Model, toy: Benchmark, tmp_path: Path) -> None:
    whole, plain = extracted(model, toy, tmp_path / "whole")
    means, attributes = extracted(model, toy, tmp_path / "mean", reduction=Reduction("spatial_mean"))
    for layer, channels in (("conv", 8), ("deep", 16)):
        part = layer_of(means, layer)
        assert part.channel.values.tolist() == list(range(channels))
        assert without_place(part)
        maps = layer_of(whole, layer).values.reshape(N, channels, -1)
        np.testing.assert_allclose(part.values, maps.mean(2), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(layer_of(means, "fc").values, layer_of(whole, "fc").values)
    assert (layer_of(means, "fc").channel_x == 0).all()
    assert attributes["reduction"] == "spatial mean over the map of each channel"
    assert said(attributes)["conv"] == "mean over 12 x 12 places; channel_x and channel_y are -1"
    assert plain["reduction"] == "none"
    assert "reduction_of_layers" not in plain


@pytest.mark.parametrize("batch_size", [7, 64])
def test_principal_components_of_a_file_are_scikit_learns(
    model: Model, toy: Benchmark, tmp_path: Path, batch_size: int
) -> None:
    whole, _ = extracted(model, toy, tmp_path / "whole", batch_size)
    found, attributes = extracted(model, toy, tmp_path / "pca", batch_size, reduction=Reduction("pca", 12))
    for layer, components in (("conv", 12), ("deep", 12), ("fc", 9)):  # fc: fewer units than images
        part, features = layer_of(found, layer), layer_of(whole, layer).values.astype(np.float64)
        oracle = PCA(components, svd_solver="full").fit_transform(features)
        assert part.shape == (N, components)
        assert part.channel.values.tolist() == list(range(components))
        assert without_place(part)
        signs = np.sign((oracle * part.values).sum(0))
        np.testing.assert_allclose(part.values * signs, oracle, rtol=1e-3, atol=1e-5 * np.abs(oracle).max())
    assert "9 principal components of 9 values hold 1.000000 of the variance" in said(attributes)["fc"]
    assert [path.name for path in (tmp_path / "pca").iterdir()] == ["toy.nc"]


def test_a_random_projection_keeps_distances_as_its_attributes_say(
    model: Model, toy: Benchmark, tmp_path: Path
) -> None:
    whole, _ = extracted(model, toy, tmp_path / "whole")
    found, attributes = extracted(model, toy, tmp_path / "rp", reduction=Reduction("random_projection", 395))
    part = layer_of(found, "conv")
    assert part.shape == (N, 395)
    assert without_place(part)
    note = said(attributes)["conv"]
    error = float(note.split("1 +- ")[1].split()[0])
    before, after = (torch.pdist(torch.from_numpy(values.values)) ** 2 for values in (layer_of(whole, "conv"), part))
    assert 0 < float((after / before - 1).abs().max()) <= error
    assert said(attributes)["fc"] == "kept whole"
    np.testing.assert_array_equal(layer_of(found, "fc").values, layer_of(whole, "fc").values)


def test_a_layer_alone_and_beside_others_is_projected_alike(model: Model, toy: Benchmark, tmp_path: Path) -> None:
    both, _ = extracted(model, toy, tmp_path / "all", reduction=Reduction("random_projection", 50))
    alone = replace(model, layers={"deep": model.layers["deep"]})
    one, _ = extracted(alone, toy, tmp_path / "one", reduction=Reduction("random_projection", 50))
    np.testing.assert_array_equal(one.values, layer_of(both, "deep").values)


@pytest.mark.parametrize(
    ("options", "lowest", "told"),
    [
        ({"channels_last": True}, 0.99999, ("float32", "channels last")),
        ({"dtype": "bfloat16", "channels_last": False}, 0.99, ("bfloat16 by torch.autocast, kept as float32",
                                                                "contiguous")),
        ({"dtype": "bfloat16", "channels_last": True}, 0.99, ("bfloat16 by torch.autocast, kept as float32",
                                                               "channels last")),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_speed_keep_the_rdm_and_are_written_down(
    model: Model, toy: Benchmark, tmp_path: Path, options: dict[str, Any], lowest: float, told: tuple[str, str]
) -> None:
    plain, attributes = extracted(model, toy, tmp_path / "plain", channels_last=False)
    assert (attributes["dtype"], attributes["memory_format"]) == ("float32", "contiguous")
    found, attributes = extracted(model, toy, tmp_path / "option", **options)
    assert (attributes["dtype"], attributes["memory_format"]) == told
    assert found.dtype == np.float32
    for layer in model.layers:
        np.testing.assert_allclose(
            layer_of(found, layer), layer_of(plain, layer), atol=1e-5 if told[0] == "float32" else 0.1
        )
        rdms = [upper_triangle(correlation_rdm(layer_of(values, layer).values)) for values in (plain, found)]
        assert spearmanr(*rdms).statistic > lowest
        for coordinate in ("channel", "channel_x", "channel_y"):
            np.testing.assert_array_equal(found[coordinate].values, plain[coordinate].values)
    rounded = not np.allclose(found.values, plain.values, rtol=1e-4, atol=1e-5)
    assert rounded == (options.get("dtype") == "bfloat16")  # or the option did nothing


class Viewing(nn.Module):
    """Flattens with `view`, which refuses activity in the channels-last layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(images).view(len(images), -1))


def test_a_cpu_computes_in_the_channels_last_layout_where_the_network_takes_it(
    model: Model, toy: Benchmark, tmp_path: Path
) -> None:
    _, attributes = extracted(model, toy, tmp_path)
    assert attributes["memory_format"] == "channels last"
    seen = (tmp_path / "toy.nc").stat().st_ino
    extracted(model, toy, tmp_path, channels_last=True)
    assert (tmp_path / "toy.nc").stat().st_ino == seen  # the same file, however the layout was chosen
    module = Viewing().eval()
    viewing = replace(model, module=module, layers={"conv": module.conv, "fc": module.fc})
    found, attributes = extracted(viewing, toy, tmp_path / "viewing")
    assert attributes["memory_format"] == "contiguous"
    asked, _ = extracted(viewing, toy, tmp_path / "contiguous", channels_last=False)
    np.testing.assert_array_equal(found.values, asked.values)
    with pytest.raises(UserError, match=r"use --contiguous or fix --preprocessing \(RuntimeError: view size"):
        extracted(viewing, toy, tmp_path / "refused", channels_last=True)


def test_what_fails_in_any_layout_is_said_of_the_contiguous_one(model: Model, toy: Benchmark, tmp_path: Path) -> None:
    model = replace(model, preprocessing=replace(model.preprocessing, image_size=4))
    with pytest.raises(UserError, match=r"; fix --preprocessing \("):
        extracted(model, toy, tmp_path)


ORIGINS = {
    "weights": lambda model, toy: (replace(model, weights_sha256="other"), toy, {}),
    "code": lambda model, toy: (replace(model, code_sha256="other"), toy, {}),
    "input size": lambda model, toy: (
        replace(model, preprocessing=replace(model.preprocessing, image_size=15)), toy, {}),
    "mean": lambda model, toy: (
        replace(model, preprocessing=replace(model.preprocessing, mean=(0.4, 0.4, 0.41))), toy, {}),
    "stimuli": lambda model, toy: (
        model, replace(toy, stimulus_set=replace(toy.stimulus_set, sha256="other")), {}),
    "layers": lambda model, toy: (replace(model, layers={"fc": model.layers["fc"]}), toy, {}),
    "dtype": lambda model, toy: (model, toy, {"dtype": "bfloat16"}),
    "memory layout": lambda model, toy: (model, toy, {"channels_last": False}),
    "reduction": lambda model, toy: (model, toy, {"reduction": Reduction("spatial_mean")}),
    "compression": lambda model, toy: (model, toy, {"compression": True}),
}  # fmt: skip


@pytest.mark.parametrize("what", [*ORIGINS, "package version", "nothing"])
def test_each_ingredient_is_part_of_the_address(
    model: Model, toy: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "input size":  # a network that takes images of any size
        model = replace(model, layers={name: model.layers[name] for name in ("conv", "deep")})
        model.module.fc, model.module.flat = nn.Identity(), nn.Identity()
    extracted(model, toy, tmp_path)
    before = (tmp_path / "toy.nc").stat().st_ino, (tmp_path / "toy.nc").stat().st_mtime_ns
    settings: Any = {}
    if what in ORIGINS:
        model, toy, settings = ORIGINS[what](model, toy)
    elif what == "package version":
        monkeypatch.setattr(activations, "version", lambda package: "99")
    extracted(model, toy, tmp_path, **settings)
    after = (tmp_path / "toy.nc").stat().st_ino, (tmp_path / "toy.nc").stat().st_mtime_ns
    assert (before == after) == (what == "nothing")


@pytest.mark.parametrize(
    "other",
    [Reduction("pca", 5), Reduction("pca", 6), Reduction("random_projection", 5), Reduction("random_projection", 5, 1)],
    ids=str,
)
def test_a_reduced_file_is_kept_and_never_taken_for_another(
    model: Model, toy: Benchmark, tmp_path: Path, other: Reduction
) -> None:
    first, _ = extracted(model, toy, tmp_path, reduction=Reduction("random_projection", 6))
    seen = (tmp_path / "toy.nc").stat().st_ino
    extracted(model, toy, tmp_path, reduction=Reduction("random_projection", 6))
    assert (tmp_path / "toy.nc").stat().st_ino == seen
    second, _ = extracted(model, toy, tmp_path, reduction=other)
    assert not np.array_equal(first.values, second.values)


def test_an_unknown_number_format_is_one_line() -> None:
    with pytest.raises(UserError, match="--dtype float16: unknown; choose float32 or bfloat16"):
        Computation(torch.device("cpu"), "float16")


def test_the_command_passes_every_option_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {}
    monkeypatch.setattr("brain_eval.activations.models.load_model", lambda *arguments, **options: None)
    monkeypatch.setattr(activations, "extract_all", lambda *arguments, **options: given.update(options))
    options = "--memory-gb 0.5 --reduction pca --reduction-dimensions 7 --reduction-seed 3 --dtype bfloat16"
    command = ["extract", "--model", "m", "--benchmark", "b", "--out", str(tmp_path), *options.split()]
    done = CliRunner().invoke(app, [*command, "--channels-last", "--compression", "--channel-axis", "last"])
    assert done.exit_code == 0, done.output
    expected = {"dtype": "bfloat16", "channels_last": True, "compression": True, "channel_axis": "last"}
    assert given["settings"] == kept(Reduction("pca", 7, 3), memory_gb=0.5, **expected)
    assert CliRunner().invoke(app, [*command[:7], "--contiguous"]).exit_code == 0
    assert given["settings"] == kept(channels_last=False)
    assert CliRunner().invoke(app, command[:7]).exit_code == 0
    assert given["settings"] == kept()


def test_a_file_is_not_compressed_unless_asked_for(model: Model, toy: Benchmark, tmp_path: Path) -> None:
    for name, settings in (("default", {}), ("asked for", {"compression": True})):
        extracted(model, toy, tmp_path / name, **settings)
        with netCDF4.Dataset(tmp_path / name / "toy.nc") as dataset:
            assert dataset["activations"].filters()["zlib"] == bool(settings)
            assert dataset.getncattr("compression") == ("zlib" if settings else "none")
