"""All metrics of a score: against the functions that define them, with their intervals, ceilings and draws."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.inference import draws as score_draws
from brain_eval.metrics.base import metrics_of_rdms
from brain_eval.metrics.cka import cka_in_subsets, gram_sums, linear_cka
from brain_eval.metrics.encoding import corrected, cross_validated, median_score, reliability
from brain_eval.metrics.gram import centred_gram
from brain_eval.metrics.rdms import UndefinedSimilarity, correlation_rdm
from brain_eval.metrics.similarity import compare
from brain_eval.scoring import draws_file
from brain_eval.scoring.ceiling_files import SPLITS
from brain_eval.scoring.ceilings import split_half_responses
from brain_eval.scoring.response_scores import ResponseTarget
from brain_eval.scoring.rows import rows_of_layer
from brain_eval.scoring.scores import score_layer
from brain_eval.scoring.targets import RECOMPUTED_DRAWS, RECOMPUTED_UNITS, Target
from nmnc.errors import UserError

N, DRAWS = 40, 120
METRICS = metrics_of_rdms()


def recordings(
    rng: np.random.Generator, code: NDArray[np.float64], with_responses: bool = True
) -> tuple[Recording, ...]:
    """Session A of 40 stimuli with 4 repetitions, session B of 30 of them without, session C an RDM alone."""
    found = []
    for session, stimuli in (("A", np.arange(N)), ("B", np.arange(10, N)), ("C", np.arange(N))):
        signal = code[stimuli] @ rng.standard_normal((8, 12))
        repetitions = signal + 1.5 * rng.standard_normal((4, len(stimuli), 12))
        mean = repetitions.mean(axis=0)
        known = {"A": {"repetitions": repetitions, "responses": mean}, "B": {"responses": mean}, "C": {}}[session]
        found.append(Recording(session, "M1", "macaque", "IT", stimuli, 12, correlation_rdm(mean), **known))
    return tuple(found)


@pytest.fixture(scope="module")
def made() -> tuple[Benchmark, NDArray[np.float32]]:
    """A benchmark, and the features of a layer that shares its code."""
    rng = np.random.default_rng(0)
    code = rng.standard_normal((N, 8))
    about = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    stimuli = StimulusSet("fake", tuple(f"{i:02d}" for i in range(N)), lambda indices: [], "sha")
    features = (code @ rng.standard_normal((8, 30)) + rng.standard_normal((N, 30))).astype(np.float32)
    return Benchmark(about, stimuli, recordings(rng, code)), features


def score(
    made: tuple[Benchmark, NDArray[np.float32]],
    metrics: list[str],
    draws: int = DRAWS,
    features: NDArray[np.float32] | None = None,
) -> tuple[Target, dict[tuple[int, str], Any]]:
    benchmark, values = made
    values = values if features is None else features
    target = Target(benchmark, metrics_of_rdms(metrics), draws, 0)
    responses = ResponseTarget(target, metrics, draws)
    reader = SimpleNamespace(path="fake.nc", read=lambda layer, stimuli: values[stimuli])
    return target, score_layer(target, responses, reader, "layer")


@pytest.mark.parametrize("metric", METRICS)
def test_every_comparison_of_rdms_has_its_value_and_an_interval_around_it(
    made: tuple[Benchmark, NDArray[np.float32]], metric: str
) -> None:
    benchmark, features = made
    target, scores = score(made, [metric])
    rows = list(rows_of_layer(target, scores, 0.95))
    assert [row["session"] for row in rows] == ["A", "B", "C", "mean", "mean"]
    for row, recording in zip(rows, benchmark.recordings, strict=False):
        oracle = compare(correlation_rdm(features[recording.stimuli]), recording.rdm, metric)
        assert row["raw"] == pytest.approx(oracle, abs=1e-10)
        assert row["ci_low"] < row["raw"] < row["ci_high"]
        assert row["ci_high"] - row["ci_low"] < 1.0
        assert row["n_draws"] == (min(DRAWS, RECOMPUTED_DRAWS) if metric == "tau-a" else DRAWS)
    assert rows[-1]["raw"] == pytest.approx(np.mean([row["raw"] for row in rows[:3]]))


def test_of_many_stimuli_groups_are_drawn_together_where_each_draw_is_computed_anew() -> None:
    rng, n = np.random.default_rng(0), 230
    rdm = correlation_rdm(rng.standard_normal((n, 9)))
    about = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    stimuli = StimulusSet("fake", tuple(map(str, range(n))), lambda indices: [], "sha")
    recording = Recording("A", "M", "macaque", "IT", np.arange(n), 9, rdm)
    target = Target(Benchmark(about, stimuli, (recording,)), {"tau-a": METRICS["tau-a"]}, 200, 0)
    coarse = target._coarse
    assert coarse.counts.shape == (RECOMPUTED_DRAWS, RECOMPUTED_UNITS)
    assert (coarse.counts.sum(axis=1) == RECOMPUTED_UNITS).all()
    assert set(np.bincount(coarse.unit)) == {2, 3}
    weights = coarse.weights(np.arange(n))
    assert all(len(set(weights[:, coarse.unit == u].T.tolist()[0])) >= 1 for u in range(3))
    assert (weights[:, coarse.unit == 7] == weights[:, coarse.unit == 7][:, :1]).all()
    assert coarse.method.meaning == "stimuli in 100 random groups"


@pytest.mark.parametrize("unbiased", [False, True])
def test_cka_in_subsets_is_the_cka_of_each_subset(unbiased: bool) -> None:
    rng = np.random.default_rng(0)
    code = rng.standard_normal((25, 5))
    a, b = (code @ rng.standard_normal((5, p)) + rng.standard_normal((25, p)) for p in (40, 7))
    subsets = (rng.random((12, 25)) < 0.6).astype(float)
    subsets[0] = 1.0
    sums = [gram_sums(centred_gram(values), subsets, unbiased) for values in (a, b)]
    found = cka_in_subsets(*sums, subsets, unbiased)
    oracle = [linear_cka(a[subset > 0], b[subset > 0], unbiased) for subset in subsets]
    np.testing.assert_allclose(found, oracle, atol=1e-10)


def test_cka_of_too_few_stimuli_or_constant_features_is_nan() -> None:
    subsets = np.array([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    gram = centred_gram(np.random.default_rng(0).standard_normal((5, 3)))
    sums = gram_sums(gram, subsets, True)
    assert np.isnan(cka_in_subsets(sums, sums, subsets, True)).tolist() == [True, False]
    nothing = gram_sums(np.zeros((5, 5)), subsets, False)
    assert np.isnan(cka_in_subsets(nothing, sums, subsets, False)).all()
    # All products of two different stimuli are equal: a rounding error of 0 is no alignment, as in linear_cka.
    whole = np.ones((1, 92))
    corners, others = np.eye(92), np.random.default_rng(0).standard_normal((92, 5))
    pair = [gram_sums(centred_gram(values), whole, True) for values in (corners, others)]
    assert np.isnan(cka_in_subsets(*pair, whole, True)).all()
    with pytest.raises(UndefinedSimilarity):
        linear_cka(corners, others)


@pytest.mark.parametrize(("metric", "unbiased"), [("cka-biased", False), ("cka-unbiased", True)])
def test_cka_is_scored_where_there_are_responses(
    made: tuple[Benchmark, NDArray[np.float32]], metric: str, unbiased: bool
) -> None:
    benchmark, features = made
    target, scores = score(made, [metric])
    rows = list(rows_of_layer(target, scores, 0.95))
    assert [row["session"] for row in rows] == ["A", "B", "mean", "mean"]
    for row, recording in zip(rows[:2], benchmark.recordings[:2], strict=True):
        oracle = linear_cka(features[recording.stimuli], recording.responses, unbiased)
        assert row["raw"] == pytest.approx(oracle, abs=1e-10)
        assert row["ci_low"] < row["raw"] < row["ci_high"]
        assert f"linear CKA, {'unbiased' if unbiased else 'biased'} HSIC" in row["interval_method"].meaning
    assert all(row["ceiling_upper"] is row["ceiled"] is None for row in rows)
    halves = split_half_responses(
        benchmark.recordings[0].repetitions, partial(linear_cka, unbiased=unbiased), SPLITS, target.seed
    )
    assert (rows[0]["ceiling_lower"], rows[0]["ceiling_definition"]) == (halves.lower, halves.definition)


def test_the_spread_of_cka_is_that_of_repeated_samples() -> None:
    rng, scores, found = np.random.default_rng(0), [], []
    mixing = rng.standard_normal((2, 6, 15))
    for _ in range(60):
        code = rng.standard_normal((30, 6))
        a, b = (code @ mix + 2 * rng.standard_normal((30, 15)) for mix in mixing)
        about = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
        stimuli = StimulusSet("fake", tuple(map(str, range(30))), lambda indices: [], "sha")
        recording = Recording("A", "M", "macaque", "IT", np.arange(30), 15, correlation_rdm(b), None, b)
        one = Target(Benchmark(about, stimuli, (recording,)), {}, 80, 0)
        score = ResponseTarget(one, ["cka-unbiased"], 80).score([0], a)[0, "cka-unbiased"]
        scores.append(score.raw)
        found.append(score.variation.influence @ score.variation.influence - np.mean(score.variation.remainder**2))
    assert np.sqrt(np.mean(found)) / np.std(scores) == pytest.approx(1.0, abs=0.3)


def test_ridge_is_the_median_over_neuroids_ceiled_by_their_reliability(
    made: tuple[Benchmark, NDArray[np.float32]],
) -> None:
    benchmark, features = made
    target, scores = score(made, ["ridge"])
    rows = list(rows_of_layer(target, scores, 0.95))
    assert [row["session"] for row in rows] == ["A", "B", "mean", "mean"]
    first = benchmark.recordings[0]
    correlations = cross_validated(features, first.responses, "ridge")
    reliabilities = reliability(first.repetitions)
    assert rows[0]["raw"] == median_score(correlations)
    assert rows[0]["ceiled"] == median_score(corrected(correlations, reliabilities))
    assert rows[0]["ceiling_upper"] == pytest.approx(np.median(np.sqrt(reliabilities[reliabilities > 0])))
    assert rows[0]["ceiled"] > rows[0]["raw"]
    assert "reliability" in rows[0]["ceiling_definition"].meaning
    assert rows[0]["ci_low"] <= rows[0]["raw"] <= rows[0]["ci_high"]
    assert str(rows[0]["interval_method"]) == "t-fisher-z:95:stimuli/jackknife+draws/test-stimuli/splits:10"
    meaning = rows[0]["interval_method"].meaning
    assert "test stimuli are drawn, fits are kept (their own variation is not included)" in meaning
    assert rows[1]["ceiling_upper"] is rows[1]["ceiled"] is None
    # Of its 30 stimuli a split tests 3, none of which can be left out.
    assert rows[1]["interval_method"].meaning.startswith("no interval: too few test stimuli")
    assert str(rows[2]["interval_method"]).startswith("t-fisher-z:95:recordings/")


@pytest.mark.parametrize("known", ["ABC", "AC"])
def test_means_over_recordings_average_ceilings_and_say_over_how_many(
    made: tuple[Benchmark, NDArray[np.float32]], known: str
) -> None:
    """Session B with repetitions, and without: raw is then over three, the ceiling over two, so nothing is ceiled."""
    benchmark, features = made
    first, second, _ = benchmark.recordings
    rng = np.random.default_rng(5)
    noisy = first.repetitions + rng.standard_normal(first.repetitions.shape)
    third = replace(first, session="C", repetitions=noisy, responses=noisy.mean(axis=0))
    if "B" in known:
        second = replace(first, session="B")
    target, scores = score((replace(benchmark, recordings=(first, second, third)), features), ["ridge"])
    rows = list(rows_of_layer(target, scores, 0.95))
    assert [row["session"] for row in rows] == ["A", "B", "C", "mean", "mean"]
    for row in rows[3:]:
        assert row["raw"] == pytest.approx(np.mean([one["raw"] for one in rows[:3]]))
        own = [one for one in rows[:3] if one["session"] in known]
        assert row["ceiling_upper"] == pytest.approx(np.mean([one["ceiling_upper"] for one in own]))
        assert row["ceiling_lower"] is None
        over = f"mean over those of 3 recordings that have it: upper over {len(own)}"
        assert row["ceiling_definition"].meaning == f"{rows[0]['ceiling_definition'].meaning}; {over}"
        assert str(row["ceiling_definition"]) == f"reliability:10/mean:upper-{len(own)}-of-3"
        if known == "ABC":
            assert row["ceiled"] == pytest.approx(np.mean([one["ceiled"] for one in own]))
        else:
            assert row["ceiled"] is None


def test_pls_of_fewer_features_than_components_is_empty_and_warned_of(
    made: tuple[Benchmark, NDArray[np.float32]], capsys: pytest.CaptureFixture[str]
) -> None:
    target, scores = score(made, ["pls"], features=made[1][:, :10])
    rows = list(rows_of_layer(target, scores, 0.95))
    assert {row["raw"] for row in rows} == {None}
    assert rows[0]["interval_method"].meaning == "none: PLS needs at least 25 features"
    assert "PLS needs at least 25 features; its scores stay empty" in capsys.readouterr().err


def test_pls_is_brain_scores_regression(made: tuple[Benchmark, NDArray[np.float32]]) -> None:
    benchmark, features = made
    _, scores = score(made, ["pls"], draws=20)
    correlations = cross_validated(features, benchmark.recordings[0].responses, "pls")
    assert scores[0, "pls"].raw == median_score(correlations)


def test_draws_come_back_as_they_were_written(made: tuple[Benchmark, NDArray[np.float32]], tmp_path: Path) -> None:
    metrics = ["spearman", "tau-a", "cka-biased", "ridge"]
    target, scores = score(made, metrics, draws=30)
    path = tmp_path / "draws.nc"
    draws_file.write_draws(path, {"network": "net"}, [(target, "fake, sha, seed 0", {"one": scores, "two": scores})])
    found = score_draws.read_draws(path)
    assert set(found) == {("fake", "spearman"), ("fake", "tau-a"), ("fake", "cka-biased"), ("fake", "ridge")}
    for (_, metric), drawn in found.items():
        assert drawn.sampling == "fake, sha, seed 0"
        assert drawn.layers == ("one", "two")
        for column, label in enumerate(drawn.labels):
            index = "ABC".index(label[0])
            one = scores[index, metric]
            assert drawn.raw[1, column] == one.raw
            units = np.flatnonzero(drawn.recorded[column])
            assert np.array_equal(drawn.half[0, column], one.halves, equal_nan=True)
            if one.variation is None:  # too small for the metric: its region is not to look complete without it
                assert (metric, label[0], len(units)) == ("ridge", "B", 0)
                continue
            assert units.tolist() == one.variation.units.tolist()
            np.testing.assert_allclose(drawn.influence[0, column, units], one.variation.influence, rtol=1e-6)
            np.testing.assert_allclose(drawn.remainder[1, column], one.variation.remainder, rtol=1e-5, atol=1e-9)


def test_draws_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    path = tmp_path / "seed0_draws.nc"
    with pytest.raises(UserError, match=r"seed0_draws\.nc is missing; run: python -m brain_eval score"):
        score_draws.read_draws(path)
    path.write_bytes(b"no NetCDF")
    with pytest.raises(UserError, match=r"seed0_draws\.nc: damaged, or not the NetCDF file it should be"):
        score_draws.read_draws(path)


def test_halves_are_scored_as_their_stimuli_alone(made: tuple[Benchmark, NDArray[np.float32]]) -> None:
    benchmark, features = made
    target, scores = score(made, ["pearson", "cka-biased"])
    first = benchmark.recordings[0]
    for side in (0, 1, 7):
        chosen = np.flatnonzero(target.halves[side])
        assert len(chosen) in {19, 20, 21}
        rdm = compare(correlation_rdm(features)[np.ix_(chosen, chosen)], first.rdm[np.ix_(chosen, chosen)], "pearson")
        assert scores[0, "pearson"].halves[side] == pytest.approx(rdm, abs=1e-10)
        cka = linear_cka(features[chosen], first.responses[chosen], False)
        assert scores[0, "cka-biased"].halves[side] == pytest.approx(cka, abs=1e-10)
