"""Ids, labels and layers in any script reach the scores as they were written, whatever the locale."""

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import squareform

from brain_eval.activations.reader import open_activations
from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.inference.draws import read_draws

N = 24
ODD = ["café", "日本" * 30, 'a,"b"', "x\ny", "007", "NA", "nan", "None", "e\u0301😀", "z" * 900]


def benchmark_with(ids: list[str], session: str, animal: str) -> Benchmark:
    pairs = np.random.default_rng(0).random(N * (N - 1) // 2)
    recording = Recording(session, animal, "macaque", "IT", np.arange(N), 5, squareform(pairs))
    about = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    return Benchmark(about, StimulusSet("fake", tuple(ids), lambda indices: [], f"sha of {ids}"), (recording,))


@pytest.mark.parametrize("ids", [ODD, ["é"], ["a", "bé", "日本語"]])
def test_they_are_scored_as_written(study: Any, ids: list[str]) -> None:
    """Characters of several bytes, other lengths, and what CSV has to quote."""
    ids = [*ids, *(f"s{i:02d}" for i in range(N - len(ids)))]
    values = np.random.default_rng(1).standard_normal((N, 8)).astype(np.float32)
    layers = {"größe": values, "fc": values[:, :5]}
    benchmark = benchmark_with(ids, "é1", "Zoë")
    with open_activations(study.write(benchmark, layers), benchmark) as activations:
        assert activations.stimulus_ids == tuple(ids)
        assert list(activations.layers) == list(layers)
    rows = study.score("fake", draws_out=study.folder / "draws.nc")
    assert {(row["layer"], row["session"], row["animal"]) for row in rows} == {(one, "é1", "Zoë") for one in layers}
    drawn = read_draws(study.folder / "draws.nc")["fake", "spearman"]
    assert drawn.labels == (("é1", "Zoë", "macaque", "IT"),)
    assert drawn.layers == tuple(layers)
    plain = study.score_of(benchmark_with([f"i{i:02d}" for i in range(N)], "s", "a"), {"a": values, "b": values[:, :5]})
    assert [row["raw"] for row in rows] == [row["raw"] for row in plain]
