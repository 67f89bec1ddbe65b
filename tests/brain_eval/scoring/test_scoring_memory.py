"""Scoring says beforehand what memory it takes, and refuses where that is not there."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

import brain_eval.benchmarks
from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.metrics import METRICS
from brain_eval.metrics.rdms import correlation_rdm, upper_triangle
from brain_eval.scoring import scores as scoring
from brain_eval.scoring.memory import bytes_to_score, refuse_too_much
from brain_eval.scoring.response_scores import ResponseTarget
from brain_eval.scoring.targets import Target
from nmnc.errors import UserError
from tests import sections

STIMULI = 600


def benchmark_of(recordings: int) -> Benchmark:
    rng = np.random.default_rng(0)
    ids = tuple(str(number) for number in range(STIMULI))
    rdms = [correlation_rdm(rng.standard_normal((STIMULI, 20))) for _ in range(recordings)]
    here = tuple(
        Recording(f"day {day}", "one", "macaque", "IT", np.arange(STIMULI), 20, rdm) for day, rdm in enumerate(rdms)
    )
    return Benchmark(Description("many", 1, (), (), "", ""), StimulusSet("many", ids, lambda _: [], "0"), here)


@pytest.mark.parametrize("recordings", [1, 3])
@pytest.mark.parametrize("names", [["spearman"], ["spearman", "rho-a", "pearson"], ["cosine"], ["whitened-cosine"]])
def test_what_is_said_is_what_it_takes(names: list[str], recordings: int) -> None:
    benchmark, metrics = benchmark_of(recordings), {name: METRICS[name] for name in names}
    features = np.random.default_rng(1).standard_normal((STIMULI, 50))
    tracemalloc.start()
    try:
        Target(benchmark, metrics, 50, 0).compare(0, upper_triangle(correlation_rdm(features)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    told = sum(bytes_to_score(benchmark, names, 1, 50))
    assert 0.9 * peak < told < 1.6 * peak


@pytest.mark.parametrize("names", [["cka-unbiased"], ["cka-biased", "cka-unbiased"], ["ridge"], ["pls"]])
def test_what_responses_take_is_said_too(names: list[str]) -> None:
    rng = np.random.default_rng(0)
    (recording,) = benchmark_of(1).recordings
    responses = rng.standard_normal((STIMULI, 20))
    benchmark = replace(benchmark_of(1), recordings=(replace(recording, responses=responses),))
    features = rng.standard_normal((STIMULI, 2000)).astype(np.float32)
    target = Target(benchmark, {}, 50, 0)
    ResponseTarget(target, names, 50).score([0], features)  # what it imports is not counted below
    tracemalloc.start()
    try:
        ResponseTarget(target, names, 50).score([0], features)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    told = sum(bytes_to_score(benchmark, names, 1, 50))
    assert 0.9 * peak < told < 1.6 * peak


def test_too_little_memory_for_all_benchmarks_is_refused_before_any_is_scored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2.5e7))
    monkeypatch.setattr(scoring, "Target", lambda *_: pytest.fail("a target was made"))
    monkeypatch.setattr(brain_eval.benchmarks, "load_benchmark", lambda *_: benchmark_of(1))
    refuse_too_much([benchmark_of(1)], ["spearman"], 1, 50)
    words = r"score many, many: needs 0\.0259 GB of memory and 0\.025 GB are available; name fewer benchmarks"
    with pytest.raises(UserError, match=words):
        scoring.score_model(
            tmp_path,
            ["many", "many"],
            tmp_path,
            scoring.Outputs(tmp_path / "scores.csv", tmp_path / "rdms.nc"),
            identity="a,b,c,0",
            settings=sections.scoring(metrics=["spearman"], bootstrap_draws=50),
        )


def test_scoring_needs_no_matrices_where_nothing_is_asked_for() -> None:
    assert bytes_to_score(benchmark_of(2), [], 1, 50) == (0, 0)
    assert bytes_to_score(benchmark_of(2), ["pls", "cka-biased"], 1, 50) == (0, 0)  # without responses
