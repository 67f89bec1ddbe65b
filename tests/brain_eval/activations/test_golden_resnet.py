"""Golden check on real data: published ResNet-20 weights, brought as a user's own module:function."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from brain_eval.activations.extraction import extract_all
from brain_eval.activations.models import load_model
from brain_eval.benchmarks import load_benchmark
from brain_eval.metrics.similarity import compare, correlation_rdm

IMAGENET = {"image_size": 32, "channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
WEIGHTS = {"resnet20": "resnet_cifar10/resnet20-12fca82f.th", "resnet32": "resnet_cifar10/resnet32-d509ac18.th"}
#: Spearman correlation with macaque IT's RDM of 92 images, measured once with other code.
GOLDEN = {"relu": 0.151, "layer1": 0.230, "layer2": 0.213, "layer3": 0.308, "linear": 0.304}


def load(name: str, data: Path) -> Any:
    return load_model(
        f"examples.cifar_resnet:{name}",
        layers=",".join(GOLDEN),
        weights=data / WEIGHTS[name],
        preprocessing=json.dumps(IMAGENET),
    )


@pytest.mark.real_data
def test_resnet20_resembles_macaque_it_as_much_as_it_did(
    data_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(request.config.rootpath)  # where the user would call the command
    data = data_folder("kriegeskorte2008", WEIGHTS["resnet20"])
    extract_all(load("resnet20", data), ["kriegeskorte2008"], data, tmp_path, device="cpu", threads=1)
    recordings = load_benchmark("kriegeskorte2008", data).recordings
    (macaque,) = [recording for recording in recordings if (recording.species, recording.region) == ("macaque", "IT")]
    with xr.open_dataset(tmp_path / "kriegeskorte2008.nc") as dataset:
        values = dataset["activations"].load()
    assert values.sizes["presentation"] == 92
    found = {}
    for layer in GOLDEN:
        features = values.values[macaque.stimuli][:, values.layer.values == layer]
        found[layer] = compare(correlation_rdm(features), macaque.rdm, "spearman")
    assert found == pytest.approx(GOLDEN, abs=0.01)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "published"), [("resnet20", 0.9173), ("resnet32", 0.9263)])
def test_the_example_networks_classify_as_published(
    data_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    name: str,
    published: float,
) -> None:
    monkeypatch.chdir(request.config.rootpath)
    data = data_folder(WEIGHTS[name], "cifar10.npz")
    model = load(name, data)
    with np.load(data / "cifar10.npz", allow_pickle=False) as arrays:
        images, labels = arrays["x_test"][:500], arrays["y_test"][:500].ravel()
    with torch.inference_mode():
        logits = [model.module(model.preprocessing(list(images[a:b]))) for a, b in pairwise(range(0, 501, 250))]
    accuracy = float((torch.cat(logits).argmax(1).numpy() == labels).mean())
    assert accuracy == pytest.approx(published, abs=0.04)  # over 3 standard errors of 500 images


def test_the_example_networks_have_the_layers_they_promise() -> None:
    counts = {}
    for name in WEIGHTS:
        model = load_model(
            f"examples.cifar_resnet:{name}", ",".join(GOLDEN), None, '{"classes": 7}', json.dumps(IMAGENET)
        )
        convolutions = [part for part in model.module.modules() if isinstance(part, torch.nn.Conv2d)]
        counts[name] = len(convolutions) + 1
        assert model.module(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert counts == {"resnet20": 20, "resnet32": 32}
