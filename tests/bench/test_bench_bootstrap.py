"""The bench's two sides compute the same bootstrap."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.places import BENCH


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Import a module of bench/ as its own command does."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: Any) -> Any:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__(name)

    return load


def test_rsatoolbox_draws_the_same_numbers(bench: Callable[..., Any]) -> None:
    bootstrap = bench("bootstrap")
    models, recorded = bootstrap.make_rdms(25)
    ours = bootstrap.our_draws(models, recorded, bootstrap.picks(25, 12, 3))
    theirs = bootstrap.their_draws(models, recorded, 12, 3)
    assert ours.shape == theirs.shape == (12, 3)
    assert np.ptp(ours) > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_the_bench_says_its_ratio_and_writes_it(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap = bench("bootstrap")
    out = tmp_path / "bootstrap.csv"
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--quick", "--repeats", "1", "--out", str(out)])
    bootstrap.main()
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert row["bench"] == "bootstrap"
    assert float(row["ratio"]) == pytest.approx(float(row["seconds_other"]) / float(row["seconds_ours"]), rel=1e-3)
    assert "largest difference on the same 20 draws" in capsys.readouterr().out
