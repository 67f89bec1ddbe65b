"""The user's own files are inputs: a change of any of them reruns what reads it."""

from pathlib import Path
from typing import Any

import pytest

from nmnc.config import study_from
from workflow.inputs import benchmark_files, dataset_files, model_files, network_files
from workflow.study import Study

PREPROCESSING = {"image_size": 8, "mean": [0.0] * 3, "std": [1.0] * 3}


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return [Path(name) for name in names]


def study(**content: Any) -> Study:
    base = {"study": "mine", "dataset": {"name": "digits"}, "networks": {"net": {"kind": "convnet"}}}
    return study_from(base | content, "mine.yaml", Study)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NMNC_DATA", raising=False)
    return tmp_path


def test_files_of_the_training_data(here: Path) -> None:
    assert dataset_files(study()) == []
    assert dataset_files(study(dataset={"name": "cifar10"})) == []  # absent: downloaded by the job
    expected = touch(here, "data/cifar10.npz")
    assert dataset_files(study(dataset={"name": "cifar10"})) == expected
    expected = touch(here, "own/test/a/0.png", "own/train/a/0.png")
    touch(here, "own/train/a/.hidden")
    assert dataset_files(study(dataset={"name": "own"})) == expected
    (here / "data" / "below.npz").touch()
    assert dataset_files(study(dataset={"name": "below.npz"})) == [Path("data/below.npz")]


def test_files_of_benchmark_folders_that_are_scored_on(here: Path) -> None:
    expected = touch(here, "v4/benchmark.yaml", "v4/responses.nc", "v4/stimuli/0.png")
    touch(here, "other/benchmark.yaml")
    evaluation = {"benchmarks": ["simulated", "v4"], "benchmark_folders": {"v4": "v4", "other": "other"}}
    assert benchmark_files(study(evaluation=evaluation)) == expected


def test_files_of_networks_and_reference_models(here: Path) -> None:
    touch(here, "package/__init__.py", "package/net.py")
    own = study(networks={"net": {"kind": "package.net:function"}, "plain": {"kind": "convnet"}})
    assert network_files(own, "net") == [here / "package/__init__.py", here / "package/net.py"]
    assert network_files(own, "plain") == []
    model = {"network": "package.net:function", "weights": "w.pth", "preprocessing": PREPROCESSING}
    models = {"one": model, "two": {"network": "elsewhere/network.pt"}}
    scored = study(evaluation={"models": models})
    assert model_files(scored, "one") == [here / "package/__init__.py", here / "package/net.py", Path("data/w.pth")]
    assert model_files(scored, "two") == [Path("elsewhere/network.pt")]
