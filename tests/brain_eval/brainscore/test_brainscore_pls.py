"""Brain-Score's own PLS benchmark on a network of ours: Brain-Score's numbers, our rows."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brain_eval.activations.models import Model, load_model
from brain_eval.benchmarks import majajhong2015public
from brain_eval.benchmarks.base import Benchmark
from brain_eval.benchmarks.public.assembly import load
from brain_eval.benchmarks.public.environment import brainscore
from brain_eval.brainscore import pls as brainscore_pls
from brain_eval.brainscore.pls import COLUMNS, pls_rows, public_source, write_pls
from nmnc.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def model(checkpoint: Path) -> Model:
    return load_model(str(checkpoint), "conv2,logits")


def by_hand(public: Any, model: Model, benchmark: Benchmark) -> Any:
    """Brain-Score's score of features that were computed without a commitment, its stimuli shuffled."""
    import torch
    from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
    from brainscore_vision import load_benchmark
    from brainscore_vision.benchmark_helpers import PrecomputedFeatures

    order = np.random.default_rng(0).permutation(60)
    found = []
    hook = model.layers["conv2"].register_forward_hook(lambda _, __, output: found.append(output.flatten(1).numpy()))
    with torch.inference_mode():
        model.module(model.preprocessing(benchmark.stimulus_set.read(order)))
    hook.remove()
    (features,) = found
    ids = [public.ids[i] for i in order]
    assembly = NeuroidAssembly(
        features,
        coords={
            "stimulus_id": ("presentation", ids),
            "object_name": ("presentation", [benchmark.stimulus_set.categories[i] for i in order]),
            "neuroid_id": ("neuroid", [str(unit) for unit in range(features.shape[1])]),
            "layer": ("neuroid", ["conv2"] * features.shape[1]),
        },
        dims=["presentation", "neuroid"],
    )
    return load_benchmark("MajajHong2015public.V4-pls")(PrecomputedFeatures({"small.set": assembly}, visual_degrees=8))


def test_rows_hold_brain_scores_numbers(
    public: Any, model: Model, registered: Callable[[str, str, Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    registered("MajajHong2015.public", "majajhong2015", public)
    row, empty = pls_rows(model, "small", public.source, public.data)
    benchmark = load(public.description, public.source, public.data)
    with brainscore(public.data / "brainio"):
        score = by_hand(public, model, benchmark)
    assert tuple(row) == COLUMNS
    assert row["raw"] == pytest.approx(float(score.raw), abs=1e-6)
    assert row["ceiled"] == pytest.approx(float(score), abs=1e-6)
    assert row["ceiling_upper"] == pytest.approx(float(score.ceiling), abs=1e-9)
    assert row["ceiled"] == pytest.approx(row["raw"] ** 2 / row["ceiling_upper"], rel=1e-9)
    assert row["raw"] > 0.2, "a random network reads the tint"
    expected = {
        "layer": "conv2", "benchmark": "small", "region": "V4", "metric": "Brain-Score pls", "n_stimuli": 60,
        "n_neuroids": 4, "version": "MajajHong2015.V4.public-pls v4",
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
    assert "raw^2 / ceiling_upper" in row["ceiling_definition"].meaning
    assert row["preprocessing"].meaning.endswith("image taken as 8 degrees wide")
    # Ten logits are too few for 25 components: told, not fatal, and not a number.
    assert (empty["layer"], empty["raw"], empty["ceiled"]) == ("logits", None, None)
    assert empty["interval_method"].meaning.startswith("none: ")
    assert "layer 'logits': Brain-Score's MajajHong2015public.V4-pls" in capsys.readouterr().err


def test_written_rows(model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(brainscore_pls, "ensure_files", lambda source, data: None)
    rows = [dict.fromkeys(COLUMNS) | {"layer": "fc1", "raw": 1 / 3}, dict.fromkeys(COLUMNS) | {"layer": "logits"}]
    monkeypatch.setattr(brainscore_pls, "pls_rows", lambda model, name, source, data: iter(rows))
    write_pls(model, ["majajhong2015public"], tmp_path, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["model"], first["layer"], first["raw"]) == ("small/nmnc/seed3", "fc1", "0.3333333333")
    assert (second["layer"], second["raw"], second["ceiled"]) == ("logits", "", "")


def test_only_brain_scores_benchmarks_have_its_pls(model: Model, tmp_path: Path) -> None:
    assert public_source("majajhong2015public") is majajhong2015public.SOURCE
    with pytest.raises(UserError, match="'simulated' is not Brain-Score's; its own PLS exists for freeman"):
        write_pls(model, ["simulated"], tmp_path, tmp_path / "out.csv")
    with pytest.raises(UserError, match="did you mean 'majajhong2015public'"):
        public_source("MajajHong2015public")
    assert list(tmp_path.iterdir()) == []
