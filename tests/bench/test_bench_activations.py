"""The benches of extraction and principal components at small sizes: both sides compute the same numbers."""

import csv
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.places import BENCH


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that imports a bench by its name; nothing of it stays behind."""
    monkeypatch.syspath_prepend(str(BENCH))
    for name in ("BS_INSTALL_DEPENDENCIES", "RESULTCACHING_DISABLE", "RESULTCACHING_HOME", "BRAINSCORE_HOME",
                 "BRAINIO_HOME"):  # fmt: skip
        monkeypatch.setenv(name, "set by the bench")
    before, threads = set(sys.modules), torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCH:
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Brain-Score's imports
def test_extraction_gives_the_numbers_of_the_bare_pass_and_of_brain_score(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    rows = bench("activations").main(["--quick", "--out", str(tmp_path / "rows.csv")])
    assert [row["other"] for row in rows].count("bare forward pass") == 2 * 2 * 4
    assert [row["other"] for row in rows].count("PytorchWrapper to memory") == 2 * 2 * 2
    assert all(row["seconds_ours"] > 0 for row in rows)
    with (tmp_path / "rows.csv").open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(rows)
    told = capsys.readouterr().out
    assert told.count("Spearman of its RDMs") == 3
    lowest = [float(line.split()[-1]) for line in told.splitlines() if "Spearman of its RDMs" in line]
    assert min(lowest) > 0.97
    kept = [float(row["lowest_spearman"]) for row in written if row["lowest_spearman"]]
    assert kept == pytest.approx(lowest, abs=1e-5)
    assert not list((tmp_path / "scratch").glob("bench-activations-*"))


@pytest.mark.slow
def test_thingsvision_needs_its_interpreter_and_says_what_failed(
    bench: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = bench("activations")
    with pytest.raises(SystemExit):
        module.main(["--quick", "--part", "thingsvision"])
    assert "--python INTERPRETER belong together" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"thingsvision did not run in .*: ModuleNotFoundError: .*thingsvision"):
        module.main(["--quick", "--part", "thingsvision", "--python", sys.executable])


def test_the_bench_of_extraction_would_see_other_numbers(bench: Callable[..., Any], tmp_path: Path) -> None:
    module = bench("activations")
    model = module.network("torchvision:resnet18", "avgpool", 32)
    images = module.noise(3)
    ours = module.Extraction(model, module.stimuli_in_memory("noise", ["a", "b", "c"], images), module.QUICK, tmp_path)
    ours()
    module.check_against_the_network(model, model.preprocessing(list(images)), ours)
    with pytest.raises(AssertionError):
        module.check_against_the_network(model, model.preprocessing(list(images[::-1])), ours)


def test_components_are_those_of_the_full_decomposition(
    bench: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = bench("pca")
    rows = module.main(["--quick", "--out", str(tmp_path / "rows.csv")])
    assert [row["other"] for row in rows] == ["scipy.linalg.svd", "scikit-learn PCA(full)"]
    assert "the same 40 singular values above 0.0001 and subspaces" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["values", "count", "subspace"])
def test_the_bench_of_components_would_see_other_numbers(bench: Callable[..., Any], what: str) -> None:
    module = bench("pca")
    features = module.features_of(20, 60)
    left, singular, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    found = module.principal_components(features, 20)
    module.same(found, left, singular)
    if what == "values":
        singular = singular * 1.001
    elif what == "count":
        singular = singular + 0.01 * singular[0]
    else:
        left = left[::-1]
    with pytest.raises(AssertionError):
        module.same(found, left, singular)
