"""A metric, a benchmark and a reduction are one new file and one registry line each, in a copy of the packages."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from brain_eval.activations.reductions import REDUCTIONS
from brain_eval.metrics import METRICS, RDMS
from brain_eval.registry import Registry
from tests.places import ROOT

BENCHMARK = """
import numpy as np

from brain_eval.benchmarks.base import Benchmark, Description, Recording, stimuli_in_memory
from brain_eval.metrics.rdms import correlation_rdm

DESCRIPTION = Description("mine", 1, ("macaque",), ("V4",), "Me (2026)", "CC0", n_stimuli=12)


def load(data_folder):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    responses = images.reshape(12, -1)[:, :5].astype(float)
    recording = Recording("1", "A", "macaque", "V4", np.arange(12), 5, correlation_rdm(responses), None, responses)
    return Benchmark(DESCRIPTION, stimuli_in_memory("mine", [f"s{i}" for i in range(12)], images), (recording,))
"""
#: The one that the page teaches.
RDM_METRIC = (ROOT / "docs/adding-a-metric.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
RESPONSE_METRIC = """
import numpy as np

from brain_eval.metrics.base import SubsetMetric


def compare(features, responses):
    return float(np.corrcoef(np.mean(features, axis=1), np.mean(responses, axis=1))[0, 1])


RECORDS = (SubsetMetric(name="means", label="correlation of mean activity", compare=compare),)
"""
REDUCTION = """
from brain_eval.activations.reductions.reduction import Kept, Method


def keep(layer, reduction):
    return Kept((1, 1, 1), False, lambda output: output.flatten(1)[:, :1], "first value")


RECORDS = (Method("first_value", lambda reduction: "the first value of each layer", keep),)
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with the benchmark `mine`: its file and its registry line."""
    folder = tmp_path_factory.mktemp("packages")
    for package in ("brain_eval", "nmnc"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    add(folder, "brain_eval/benchmarks", "mine", BENCHMARK)
    return folder


def add(folder: Path, package: str, name: str, content: str) -> None:
    """Write the new file, and one line into the registry behind its first entry."""
    (folder / package / f"{name}.py").write_text(content, encoding="utf-8")
    registry = folder / package / "__init__.py"
    head, entries = registry.read_text(encoding="utf-8").split("    __name__,\n    {\n", 1)
    registry.write_text(f'{head}    __name__,\n    {{\n        "{name}": "{name}",\n{entries}', encoding="utf-8")


def run(folder: Path, *arguments: str) -> str:
    """Run a command of the copy; its standard output."""
    command = [sys.executable, "-m", "brain_eval", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def extract(folder: Path, out: str, *options: str) -> None:
    seen = '{"image_size": 8, "channels": 3, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}'
    run(folder, "extract", "--model", "pixels", "--preprocessing", seen, "--benchmark", "mine", "--out", out, *options)


def test_names_are_known_without_the_libraries_behind_them() -> None:
    code = "import sys, brain_eval.metrics, brain_eval.activations.reductions; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "scipy", "torch"} & set(done.stdout.split())


@pytest.mark.parametrize("registry", [METRICS, RDMS, REDUCTIONS], ids=lambda registry: registry.what)
def test_every_line_of_a_registry_has_its_record(registry: Registry[Any]) -> None:
    assert [registry[name].name for name in registry] == list(registry)


def test_a_benchmark_is_one_file_and_one_line(packages: Path) -> None:
    assert "mine" in run(packages, "benchmarks")
    run(packages, "fetch", "--benchmark", "mine", "--out", "fetched")
    assert (packages / "fetched/mine.json").is_file()


def test_a_reduction_is_one_file_and_one_line(packages: Path) -> None:
    add(packages, "brain_eval/activations/reductions", "first_value", REDUCTION)
    extract(packages, "reduced", "--reduction", "first_value")
    with netCDF4.Dataset(packages / "reduced/mine.nc") as file:
        assert file["activations"].shape == (12, 1)
        assert file.reduction == "the first value of each layer"


def test_a_metric_is_one_file_and_one_line(packages: Path) -> None:
    """One of RDMs and one of responses, whose draws and interval nobody had to write."""
    add(packages, "brain_eval/metrics", "cubes", RDM_METRIC)
    add(packages, "brain_eval/metrics", "means", RESPONSE_METRIC)
    extract(packages, "whole")
    run(
        packages, "score", "--activations", "whole", "--benchmark", "mine", "--out", "scores.csv", "--rdms", "rdms.nc",
        "--metrics", "cubes,means", "--draws", "50",
    )  # fmt: skip
    with (packages / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["cubes", "means"]
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8).reshape(12, -1)
    expected = np.corrcoef(pixels.mean(axis=1), pixels[:, :5].mean(axis=1))[0, 1]
    assert float(rows["means"]["raw"]) == pytest.approx(expected, abs=1e-5)
    for row in rows.values():
        assert float(row["ci_low"]) < float(row["raw"]) < float(row["ci_high"])
