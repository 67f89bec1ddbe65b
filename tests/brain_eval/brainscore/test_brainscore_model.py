"""Our networks as Brain-Score models: the same activations, so the same score."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import torch
import xarray
import yaml
from PIL import Image
from torch import nn

from brain_eval.activations.extraction import extract_all
from brain_eval.activations.models import Model, load_model
from brain_eval.activations.preprocessing import Preprocessing
from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import Benchmark
from brain_eval.benchmarks.public.environment import brainscore
from brain_eval.brainscore import model as module
from brain_eval.brainscore.model import (
    ActivationsModel,
    brainscore_model,
    commitment,
    identifier_of,
    parse_regions,
    regions_by_order,
)
from brain_eval.metrics.encoding import cross_validated, median_score
from brain_eval.metrics.similarity import compare, correlation_rdm
from nmnc.errors import UserError
from nmnc.training.checkpoint import load_network, save_network

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

N, NEUROIDS = 40, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark folder "mine" of 40 images and averaged responses of 20 neuroids in V4."""
    folder, rng = tmp_path_factory.mktemp("data") / "mine", np.random.default_rng(3)
    (folder / "stimuli").mkdir(parents=True)
    lines, pixels = ["stimulus_id,filename,degrees"], []
    for number in range(N):
        image = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"stimuli/{number}.png")
        # Not in the order of their names: Brain-Score sorts by stimulus_id before it compares.
        lines.append(f"im{(7 * number) % N:02d},{number}.png,8")
        pixels.append(image[::6, ::6].ravel() / 255)
    (folder / "stimuli.csv").write_text("\n".join(lines) + "\n")
    about = {"name": "mine", "species": "macaque", "region": "V4", "citation": "Me (2026)", "licence": "mine"}
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(about))
    responses = np.array(pixels) @ rng.normal(size=(len(pixels[0]), NEUROIDS)) + 0.3 * rng.normal(size=(N, NEUROIDS))
    ids = [line.split(",")[0] for line in lines[1:]]
    xarray.Dataset(
        {"responses": (("presentation", "neuroid"), responses)}, {"stimulus_id": ("presentation", ids)}
    ).to_netcdf(folder / "responses.nc")
    return folder


@pytest.fixture(scope="module")
def benchmark(folder: Path) -> Benchmark:
    return load_benchmark(f"mine={folder}", folder)


@pytest.fixture(scope="module")
def extracted(checkpoint: Path, folder: Path) -> dict[str, np.ndarray]:
    """Layer -> (images, neuroids), from the file that `extract` writes."""
    extract_all(load_model(str(checkpoint)), [f"mine={folder}"], folder, folder.parent / "out", device="cpu")
    with netCDF4.Dataset(folder.parent / "out/mine.nc") as file:
        values, layers = np.asarray(file["activations"][:]), np.array([str(name) for name in file["layer"][:]])
    return {layer: values[:, layers == layer] for layer in dict.fromkeys(layers.tolist())}


@pytest.fixture(scope="module")
def theirs(benchmark: Benchmark, folder: Path) -> Callable[[str], Any]:
    """A function: metric -> a NeuralBenchmark of brainscore_vision on the same images and responses."""

    def make(metric: str) -> Any:
        from brainscore_core.metrics import Score
        from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
        from brainscore_core.supported_data_standards.brainio.stimuli import StimulusSet
        from brainscore_vision import load_metric
        from brainscore_vision.benchmark_helpers.neural_common import NeuralBenchmark

        ids = list(benchmark.stimulus_set.stimulus_ids)
        stimuli = StimulusSet({"stimulus_id": ids, "object_name": [f"o{i % 4}" for i in range(N)]})
        stimuli.stimulus_paths = {name: folder / f"stimuli/{i}.png" for i, name in enumerate(ids)}
        stimuli.identifier = "mine"
        assembly = NeuroidAssembly(
            benchmark.recordings[0].responses[:, :, None],
            coords={
                "stimulus_id": ("presentation", ids),
                "object_name": ("presentation", list(stimuli["object_name"])),
                "neuroid_id": ("neuroid", list(range(NEUROIDS))),
                "region": ("neuroid", ["V4"] * NEUROIDS),
                "time_bin_start": ("time_bin", [70]),
                "time_bin_end": ("time_bin", [170]),
            },
            dims=["presentation", "neuroid", "time_bin"],
        ).squeeze("time_bin")
        assembly.attrs |= {"stimulus_set": stimuli, "stimulus_set_identifier": "mine"}
        return NeuralBenchmark(
            identifier=f"mine.V4-{metric}", version=1, assembly=assembly, similarity_metric=load_metric(metric),
            visual_degrees=8, number_of_trials=1, ceiling_func=lambda: Score(0.5), parent="V4",
        )  # fmt: skip

    return make


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc1", "logits"])
def test_brain_score_gives_our_score(
    layer: str,
    checkpoint: Path,
    benchmark: Benchmark,
    extracted: dict[str, np.ndarray],
    theirs: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    with brainscore(tmp_path):
        score = theirs("rdm")(brainscore_model(checkpoint, region_layer_map={"V4": layer}))
    ours = compare(correlation_rdm(extracted[layer]), benchmark.recordings[0].rdm, "spearman")
    assert abs(ours) > 0.01
    assert float(score.raw) == pytest.approx(ours, abs=1e-6)
    # Its ceiled value is r^2 over the ceiling, even for RDMs.
    assert float(score) == pytest.approx(ours**2 / 0.5, abs=1e-6)


@pytest.mark.parametrize("regression", ["pls", "ridge"])
def test_brain_score_gives_our_encoding_score(
    regression: str,
    checkpoint: Path,
    benchmark: Benchmark,
    extracted: dict[str, np.ndarray],
    theirs: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    """Its splits, its summary over neuroids; its PLS iterated to the end, which at its own tolerance it is not."""
    with brainscore(tmp_path):
        bench = theirs(regression)
        if regression == "pls":
            bench._similarity_metric.regression._regression.set_params(tol=1e-18, max_iter=100_000)
        score = bench(brainscore_model(checkpoint, region_layer_map={"V4": "conv2"}))
    objects = [f"o{i % 4}" for i in range(N)]
    penalties = {"penalties": [1.0]} if regression == "ridge" else {}
    responses = benchmark.recordings[0].responses
    ours = median_score(cross_validated(extracted["conv2"], responses, regression, strata=objects, **penalties))
    assert float(score.raw) == pytest.approx(ours, abs=1e-6)


def test_images_of_another_width_are_padded(checkpoint: Path, theirs: Callable[[str], Any], tmp_path: Path) -> None:
    """At 16 degrees the image of 8 fills a quarter of what the network sees, the rest is grey."""
    with brainscore(tmp_path):
        scores = [float(theirs("rdm")(brainscore_model(checkpoint, visual_degrees=degrees)).raw) for degrees in (8, 16)]
    assert abs(scores[0] - scores[1]) > 1e-3
    assert list(tmp_path.iterdir()) == []


def test_activations_carry_brain_scores_coordinates(
    checkpoint: Path, folder: Path, extracted: dict[str, np.ndarray], benchmark: Benchmark
) -> None:
    model = brainscore_model(checkpoint, batch_size=7)
    paths = [str(folder / f"stimuli/{number}.png") for number in range(N)]
    found = model.activations_model(paths, layers=["fc1", "conv1"])
    assert list(dict.fromkeys(found["layer"].values)) == ["fc1", "conv1"]
    for layer in ("fc1", "conv1"):
        np.testing.assert_allclose(found.values[:, found["layer"].values == layer], extracted[layer], atol=1e-6)
    assert found["channel"].values[found["layer"].values == "conv1"].max() == 7
    assert set(found["model"].values) == {model.identifier}


def test_the_layers_by_order(checkpoint: Path) -> None:
    model = brainscore_model(checkpoint)
    assert dict(model.layer_model.region_layer_map) == {"V1": "conv1", "V2": "conv2", "V4": "conv2", "IT": "fc1"}
    assert regions_by_order(list("abcde")) == {"V1": "a", "V2": "b", "V4": "c", "IT": "d"}
    for layers in (["only"], ["first", "output"], [f"layer{i}" for i in range(20)]):
        chosen = [layers.index(layer) for layer in regions_by_order(layers).values()]
        assert chosen == sorted(chosen)
        assert chosen[0] == 0
        assert chosen[-1] == max(len(layers) - 2, 0)


def test_one_identifier_for_one_network(checkpoint: Path, tmp_path: Path) -> None:
    own = brainscore_model(checkpoint)
    assert own.identifier.startswith("small-nmnc-seed3-")
    assert own.identifier == own.activations_model.identifier == identifier_of(load_model(str(checkpoint)))
    copied = tmp_path / "network.pt"
    shutil.copy(checkpoint, copied)
    digest = own.identifier.rpartition("-")[2]
    assert brainscore_model(copied).identifier.endswith(digest)
    assert brainscore_model(copied, identifier=own.identifier).identifier == own.identifier

    network, config = load_network(checkpoint)
    other = config | {"preprocessing": config["preprocessing"] | {"mean": [0.4] * 3}}
    save_network(copied, network, other)
    assert not brainscore_model(copied).identifier.endswith(digest)
    with torch.no_grad():
        next(network.parameters())[0] += 1e-3
    save_network(copied, network, config)
    with pytest.raises(UserError, match=f"its weights are not those of {own.identifier}, but .*rewrite the plug-in"):
        brainscore_model(copied, identifier=own.identifier)


class InPlace(nn.Module):
    """A layer whose output the next one overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu = nn.Flatten(), nn.ReLU(inplace=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.relu(self.linear(images)).sum(1, keepdim=True)


def test_an_in_place_layer_does_not_change_the_one_before(tmp_path: Path) -> None:
    network = InPlace()
    seen = Preprocessing(4, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    model = Model("in place", network, {"linear": network.linear}, seen, "w", "c")
    extractor = ActivationsModel(model, "in-place-0", 2)
    images = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    found = extractor.get_activations(list(images), ["linear", "logits"])
    np.testing.assert_array_equal(found["linear"], images.reshape(3, -1))
    np.testing.assert_allclose(found["logits"][:, 0], np.maximum(images, 0).sum(axis=(1, 2, 3)), rtol=1e-5)
    assert list(found) == ["linear", "logits"]
    with pytest.raises(UserError, match="in place: no layer 'relu'; choose from linear"):
        extractor.get_activations(list(images), ["relu"])


def test_a_chosen_call_is_given_and_layers_of_several_calls_are_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.Tanh())
    steps = nn.Sequential(network[0], network[1], network[2], network[1])
    seen = Preprocessing(4, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    layers = {"1": network[1], "1@0": network[1], "1@-1": network[1]}
    extractor = ActivationsModel(Model("steps", steps, layers, seen, "w", "c", {"1@0": 0, "1@-1": -1}), "steps-0", 2)
    images = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    found = extractor.get_activations(list(images), ["1@0", "1@-1"])
    with torch.no_grad():
        first = network[:2](torch.from_numpy(images))
        np.testing.assert_allclose(found["1@0"], first.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["1@-1"], network[1](network[2](first)).numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="steps: layer '1' is called 2 times in a pass"):
        extractor.get_activations(list(images), ["1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"region_layer_map": {"V4": "conv7"}},
            "region V4 is given layer 'conv7'; choose from conv1, conv2, fc1, logits",
        ),
        ({"region_layer_map": {"V9": "conv1"}}, "unknown region 'V9'; Brain-Score records V1, V2, V4, IT"),
        ({"visual_degrees": 0}, "0 is not a width in degrees"),
        ({"layers": "conv9"}, "no layer 'conv9'"),
    ],
)
def test_what_cannot_be_committed_is_one_line(options: dict, message: str, checkpoint: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        brainscore_model(checkpoint, **options)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_source(folder: Path) -> None:
    """Pixels have no weights; Brain-Score's own wrapper could not take them."""
    model = brainscore_model("pixels", preprocessing='{"image_size": 4, "channels": 1, "mean": [0], "std": [1]}')
    found = model.activations_model([str(folder / "stimuli/0.png")], layers=["pixels"])
    assert found.shape == (1, 16)
    assert dict(model.layer_model.region_layer_map) == dict.fromkeys(module.REGIONS, "pixels")


def test_regions_as_options() -> None:
    assert parse_regions(["V4=conv2", "IT = features.12"]) == {"V4": "conv2", "IT": "features.12"}
    for options, message in ((["V4"], "'V4' is not REGION=LAYER"), (["V4=a", "V4=b"], "gives V4 twice")):
        with pytest.raises(UserError, match=message):
            parse_regions(options)


def test_a_commitment_leaves_the_caches_of_the_user_alone(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches are defaults: what the user set stays."""
    import os

    monkeypatch.setenv("RESULTCACHING_DISABLE", "some.function")
    monkeypatch.delenv("BS_INSTALL_DEPENDENCIES", raising=False)
    commitment(load_model(str(checkpoint)))
    assert os.environ["RESULTCACHING_DISABLE"] == "some.function"
    assert os.environ["BS_INSTALL_DEPENDENCIES"] == "no"
