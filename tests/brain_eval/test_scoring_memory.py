"""Scoring says beforehand what memory it takes, and refuses where that is not there."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from brain_eval import scoring
from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.errors import UserError
from brain_eval.rdms import correlation_rdm, upper_triangle
from brain_eval.similarity import METRICS
from brain_eval.targets import Target, bytes_to_score

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
    told = bytes_to_score(benchmark, metrics.values())
    assert 0.9 * peak < told < 1.6 * peak


def test_too_little_memory_is_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**7))
    monkeypatch.setattr(scoring, "Target", lambda *_: pytest.fail("a target was made"))
    words = r"score many: needs 0\.0202 GB of memory and 0\.01 GB are available; name fewer metrics"
    with pytest.raises(UserError, match=words):
        list(scoring._targets(benchmark_of(1), ["spearman"], ["correlation"], 50, 0, None))


def test_scoring_needs_no_matrices_where_no_rdm_is_asked_for() -> None:
    assert bytes_to_score(benchmark_of(2), []) == 0
