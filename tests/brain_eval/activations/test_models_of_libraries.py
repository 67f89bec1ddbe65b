"""Networks of torchvision and timm, built without a download."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import xarray as xr
from torch import nn

from brain_eval.activations.extraction import extract_all
from brain_eval.activations.models import load_model
from brain_eval.benchmarks.base import Benchmark, Description, stimuli_in_memory
from nmnc.errors import UserError


def test_torchvision_builds_without_a_download_and_takes_local_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    model = load_model("torchvision:squeezenet1_1", preprocessing=SEEN)
    assert list(model.layers) == ["features", "classifier"]
    weights = {key: value + 1 for key, value in model.module.state_dict().items()}
    torch.save(weights, tmp_path / "squeezenet.pth")
    filled = load_model("torchvision:squeezenet1_1", weights=tmp_path / "squeezenet.pth", preprocessing=SEEN)
    for key, value in filled.module.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[key].numpy())


SEEN = '{"image_size": 8, "channels": 3, "mean": [0, 0, 0], "std": [1, 1, 1]}'


@pytest.fixture
def timm_of_one_model(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """A package "timm" with one model, that records how it was asked for."""
    asked = []

    def create_model(name: Any, **arguments: Any) -> Any:
        asked.append((name, arguments))
        return nn.Sequential(nn.Conv2d(3, arguments.get("width", 2), 3))

    functions = {"create_model": create_model, "is_model": "tiny".__eq__, "list_models": lambda: ["tiny"]}
    package = types.ModuleType("timm")
    vars(package).update(functions)
    monkeypatch.setitem(sys.modules, "timm", package)
    return asked


def test_timm_builds_without_a_download_and_takes_arguments(timm_of_one_model: list[Any]) -> None:
    model = load_model("timm:tiny", arguments='{"width": 5, "pretrained": false}', preprocessing=SEEN)
    assert timm_of_one_model == [("tiny", {"width": 5, "pretrained": False})]
    assert model.name == "timm:tiny"
    assert model.layers["0"].out_channels == 5
    with pytest.raises(UserError, match="timm:tinny: no such model; did you mean 'tiny'"):
        load_model("timm:tinny", preprocessing=SEEN)
    with pytest.raises(UserError, match=r"timm:xyz: no such model; .*timm\.list_models\(\) names them all"):
        load_model("timm:xyz", preprocessing=SEEN)


@pytest.mark.parametrize(
    ("source", "argument", "value"),
    [
        ("torchvision:squeezenet1_1", "weights", "DEFAULT"),
        ("torchvision:squeezenet1_1", "weights", "IMAGENET1K_V1"),
        ("torchvision:squeezenet1_1", "pretrained", True),
        ("torchvision:fcn_resnet50", "weights_backbone", "DEFAULT"),
        ("torchvision:fcn_resnet50", "pretrained_backbone", True),
        *[
            ("timm:test_resnet", name, value)
            for name, value in {
                "pretrained": True,
                "pretrained_cfg": {"file": "w.pth"},
                "pretrained_cfg_overlay": {"url": "https://example.org/w.pth"},
                "checkpoint_path": "w.pth",
                "pretrained_strict": True,
            }.items()
        ],
    ],
)
def test_arguments_that_ask_for_trained_weights_are_refused(source: str, argument: str, value: Any) -> None:
    words = f"{source}: the argument '{argument}' asks for trained weights, .* --weights FILE .in a study: weights"
    with pytest.raises(UserError, match=words) as error:
        load_model(source, arguments=json.dumps({argument: value}), preprocessing=SEEN)
    assert "\n" not in str(error.value)


def test_arguments_that_switch_trained_weights_off_or_draw_initial_ones_are_taken() -> None:
    for arguments in ({"weights": None}, {"weights": None, "num_classes": 3}):
        load_model("torchvision:squeezenet1_1", arguments=json.dumps(arguments), preprocessing=SEEN)
    load_model("timm:test_vit", arguments='{"pretrained": false, "weight_init": "jax"}', preprocessing=SEEN)
    load_model("torchvision:googlenet", arguments='{"init_weights": false}', preprocessing=SEEN)


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "resnet18.a1_in1k"])
def test_a_name_of_trained_weights_needs_their_file(name: str) -> None:
    with pytest.raises(UserError, match=r"names trained weights.*set --weights FILE .*initial weights"):
        load_model(f"timm:{name}", preprocessing=SEEN)


@pytest.mark.parametrize("name", ["local-dir:.", "hf_hub:timm/resnet18", "hf-hub:timm/resnet18"])
def test_a_name_of_a_place_is_no_model_of_timm(name: str) -> None:
    with pytest.raises(UserError, match="no such model"):
        load_model(f"timm:{name}", preprocessing=SEEN)


def test_timm_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm:resnet18: timm cannot be imported .* install it") as error:
        load_model("timm:resnet18", preprocessing=SEEN)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "layers"), [("test_resnet", "layer1,fc"), ("test_vit", "blocks,head")])
def test_a_network_of_timm_is_recorded(name: str, layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's own small test networks, weights from seed 0: the last layer's activations equal the network's output."""
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    stimuli = stimuli_in_memory("three", ["a", "b", "c"], images)
    about = Description("three", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    monkeypatch.setattr(
        "brain_eval.activations.extraction.load_benchmark", lambda spec, data: Benchmark(about, stimuli)
    )
    seen = json.dumps({"image_size": 160, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3})
    model = load_model(f"timm:{name}", layers=layers, preprocessing=seen)
    assert type(model.module) is type(timm.create_model(name))
    extract_all(model, ["three"], tmp_path, tmp_path, batch_size=2, device="cpu", threads=1)
    with xr.open_dataset(tmp_path / "three.nc") as file:
        activity = file["activations"].values[:, file["layer"].values == layers.split(",")[1]]
    with torch.inference_mode():
        said = model.module(model.preprocessing(list(images))).numpy()
    np.testing.assert_allclose(activity, said, atol=1e-6)
    assert said.std() > 0
