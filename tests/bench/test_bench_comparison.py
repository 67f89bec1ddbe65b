"""The benches of comparison at small sizes: both sides compute the same numbers. Nothing is timed."""

import csv
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.places import BENCH


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """A function that imports a bench by name, as running it does."""

    def load(name: Any) -> Any:
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    sys.path.insert(0, str(BENCH))
    yield load
    sys.path.remove(str(BENCH))


@pytest.mark.parametrize("part", ["rdm_cases", "whitened_cases"])
def test_rdms_are_rsatoolboxs(bench: Callable[..., Any], part: str) -> None:
    rdms = bench("rdms")
    cases = getattr(rdms, part)(rdms.QUICK)
    assert len(cases) == 2
    for case in cases:
        assert np.abs(case.ours[1]() - case.other[1]()).max() < case.tolerance, case.name


def test_encoding_is_scikit_learns(bench: Callable[..., Any]) -> None:
    encoding = bench("encoding")
    cases = encoding.cases(encoding.QUICK)
    assert len(cases) == 3
    for case in cases:
        ours, other = case.ours[1](), case.other[1]()
        assert ours.shape == (encoding.QUICK.splits, encoding.QUICK.neuroids)
        assert np.abs(ours - other).max() < case.tolerance, case.name


def test_comparison_of_many_stimuli_runs_in_a_process_of_its_own(bench: Callable[..., Any]) -> None:
    rdms = bench("rdms")
    found = rdms.measured_many(200, 16, "spearman", 1)
    assert 0.3 < found["value"] < 0.7
    assert found["peak"] >= found["before"] > 2**24


def test_bench_writes_its_rows(bench: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = bench("encoding").main(["--quick", "--part", "ridge", "--repeats", "1", "--out", str(tmp_path / "out.csv")])
    with (tmp_path / "out.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["case"] for row in written] == [row["case"] for row in rows]
    assert float(written[0]["ratio"]) > 0
    assert "largest difference" in capsys.readouterr().out
