"""Encoding scores of resampled test stimuli, by brute force, and of recordings too small for a regression."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import pearsonr

from brain_eval.benchmarks import freemanziemba2013public, kriegeskorte2008, majajhong2015public
from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.inference.draws import read_draws
from brain_eval.inference.encoding_resampling import (
    median_of_known,
    scores_under_weights,
    variation_of_test_stimuli,
    weighted_pearson,
)
from brain_eval.inference.intervals import correlation_interval
from brain_eval.inference.layer_choice import choose_layers
from brain_eval.inference.variation import stimulus_variance
from brain_eval.metrics.encoding import Fold, correlated, cross_validated, median_score, out_of_split, splits_of
from brain_eval.metrics.rdms import correlation_rdm
from brain_eval.scoring.draws_file import write_draws
from brain_eval.scoring.response_scores import ResponseTarget
from brain_eval.scoring.rows import rows_of_layer
from brain_eval.scoring.targets import SPLITS_OF_STIMULI, Target

N, DRAWS = 90, 50
ABOUT = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")


def simulated(
    n: int = N, seed: int = 0, noise: float = 2.0, neuroids: int = 15, features: int = 40
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Features (n, features) and responses (n, neuroids) that read the same 6 causes."""
    rng = np.random.default_rng(seed)
    code = rng.standard_normal((n, 6))
    mixing = np.random.default_rng(99)
    a, b = mixing.standard_normal((6, features)), mixing.standard_normal((6, neuroids))
    return (
        (code @ a + rng.standard_normal((n, features))).astype(np.float32),
        code @ b + noise * rng.standard_normal((n, neuroids)),
    )


def benchmark_of(
    responses: NDArray[np.float64], categories: Sequence[str] = (), stratified: bool = False, **options: Any
) -> Benchmark:
    n = len(responses)
    stimuli = StimulusSet("fake", tuple(f"{i:04d}" for i in range(n)), lambda indices: [], "sha", tuple(categories))
    recording = Recording(
        "A", "M", "macaque", "IT", np.arange(n), responses.shape[1], correlation_rdm(responses), None, responses
    )
    return Benchmark(replace(ABOUT, stratified=stratified), stimuli, (replace(recording, **options),))


def scores_of(
    benchmark: Benchmark, features: NDArray[np.float32], metrics: Sequence[str] = ("ridge",), draws: int = DRAWS
) -> tuple[Target, dict[tuple[int, str], Any]]:
    target = Target(benchmark, {}, draws, 0)
    return target, ResponseTarget(target, metrics, draws).score([0], features)


def by_repetition(folds: list[Fold], responses: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """The score of one draw: its test stimuli written out as often as they were drawn."""
    scores = []
    for fold in folds:
        picked = np.repeat(np.arange(len(fold.test)), counts[fold.test].astype(int))
        if len(set(picked)) < 3:
            continue
        pairs = zip(fold.predicted[picked].T, responses[fold.test][picked].T, strict=True)
        scores.append(np.median([pearsonr(a, b).statistic for a, b in pairs]))
    return np.mean(scores)


@pytest.mark.parametrize("regression", ["ridge", "pls"])
def test_draws_equal_repeated_stimuli_by_brute_force(regression: str) -> None:
    features, responses = simulated()
    folds = out_of_split(features, responses, regression)
    target = Target(benchmark_of(responses), {}, DRAWS, 0)
    weights = target.weights(np.arange(N))
    assert weights.shape == (DRAWS + 2 * SPLITS_OF_STIMULI, N)
    found, _ = scores_under_weights(folds, responses, weights)
    oracle = [by_repetition(folds, responses, row) for row in weights[::8]]
    np.testing.assert_allclose(found[::8], oracle, atol=1e-10)


def test_without_a_stimulus_one_neuroid_is_scored_as_by_brute_force_and_many_by_their_share_of_the_medians() -> None:
    features, responses = simulated()
    folds = out_of_split(features, responses, "ridge")
    weights = Target(benchmark_of(responses), {}, DRAWS, 0).weights(np.arange(N))
    alone = [Fold(fold.test, fold.predicted[:, 3:4]) for fold in folds]
    _, left_out = scores_under_weights(alone, responses[:, 3:4], weights)
    oracle = [by_repetition(alone, responses[:, 3:4], row) for row in 1 - np.eye(N)]
    np.testing.assert_allclose(left_out, oracle, atol=1e-10)
    _, left_out = scores_under_weights(folds[:1], responses, weights)
    (fold,) = folds[:1]
    drawn = weighted_pearson(fold.predicted, responses[fold.test], np.vstack([weights[:, fold.test], np.ones(9)]))
    middle = [np.argsort(row)[7] for row in drawn if np.isfinite(row).all()]
    for place, stimulus in enumerate(fold.test):
        kept = np.delete(np.arange(9), place)
        r = [pearsonr(fold.predicted[kept, k], responses[fold.test[kept], k]).statistic for k in middle]
        oracle = np.median(drawn[-1]) + np.mean(r) - np.mean(drawn[-1, middle])
        assert left_out[stimulus] == pytest.approx(oracle, abs=1e-10)


def test_each_stimulus_once_is_the_raw_score() -> None:
    features, responses = simulated()
    folds = out_of_split(features, responses, "ridge")
    found, _ = scores_under_weights(folds, responses, np.ones((1, N)))
    assert found[0] == pytest.approx(median_score(correlated(folds, responses)), abs=1e-12)
    assert np.array_equal(correlated(folds, responses), cross_validated(features, responses, "ridge"))


def test_weights_of_too_few_stimuli_and_constant_columns_have_no_correlation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6, 3))
    a[:, 1], b[:4, 2] = 0.1, 7.0
    weights = np.array([[1.0] * 6, [2, 1, 0, 0, 0, 0], [1, 1, 3, 1, 0, 0], [0] * 6])
    found = weighted_pearson(a, b, weights)
    assert np.isfinite(found).tolist() == [[True, False, True], [False] * 3, [True, False, False], [False] * 3]
    medians, shares = median_of_known(np.array([[np.nan, 3, 1, 2], [5, np.nan, 1, np.nan], [np.nan] * 4]))
    assert np.array_equal(medians, [2, 3, np.nan], equal_nan=True)
    assert shares.tolist() == [0.25, 0, 0.25, 0.5]
    folds = [Fold(np.arange(3), a[:3]), Fold(np.arange(6), a)]
    scores, left_out = scores_under_weights(folds, b, weights)
    assert np.isfinite(scores).tolist() == [True, False, True, False]
    assert np.isfinite(left_out).all()


def test_halves_are_scored_by_fits_that_saw_none_of_their_stimuli() -> None:
    """Every half is a part of the test stimuli of each split; what one half predicts says nothing of the other."""
    features, responses = simulated()
    target, scores = scores_of(benchmark_of(responses), features)
    halves = scores[0, "ridge"].halves
    folds = out_of_split(features, responses, "ridge")
    trains = [set(train) for train, _ in splits_of(N)]
    for side in (0, 1, 9):
        assert halves[side] == pytest.approx(by_repetition(folds, responses, target.halves[side]), abs=1e-10)
        for fold, train in zip(folds, trains, strict=True):
            assert not set(fold.test[target.halves[side][fold.test] > 0]) & train
    assert (target.halves[0] * target.halves[1] == 0).all()
    # The same fits, other responses in one half: the other half keeps its score.
    changed = responses + 5 * target.halves[0][:, None] * np.random.default_rng(1).standard_normal(responses.shape)
    found, _ = scores_under_weights(folds, changed, target.halves[:2])
    assert found[1] == pytest.approx(halves[1], abs=1e-10)
    assert found[0] < halves[0]


def test_rules_are_paired_and_what_they_share_through_the_stimuli_cancels() -> None:
    """Two layers that differ by a little noise: their difference varies less than half as much as either score."""
    features, responses = simulated()
    benchmark = benchmark_of(responses)
    other = features + 0.1 * np.random.default_rng(3).standard_normal(features.shape).astype(np.float32)
    (_, a), (_, again), (_, b) = (scores_of(benchmark, one, draws=300) for one in (features, features, other))
    one, same, two = (scores[0, "ridge"].variation for scores in (a, again, b))
    assert np.array_equal(one.remainder, same.remainder)
    assert np.array_equal(one.units, two.units)
    difference = replace(one, influence=one.influence - two.influence, remainder=one.remainder - two.remainder)
    assert stimulus_variance(difference).variance < 0.5 * stimulus_variance(one).variance


def test_intervals_cover_the_score_of_the_same_fits_on_other_test_stimuli() -> None:
    """Fits and neuroids fixed, 150 samples of 100 test stimuli: the 95 % interval holds the population's score."""
    rng = np.random.default_rng(0)
    signal, noise, population, size = 1.0, 1.5, 30_000, 100
    mixing = rng.standard_normal((5, 20))

    def sample(n: Any) -> Any:
        truth = rng.standard_normal((n, 5)) @ mixing
        return signal * truth + rng.standard_normal((n, 20)), truth + noise * 2 * rng.standard_normal((n, 20))

    predicted, recorded = sample(population)
    truth = median_score(correlated([Fold(np.arange(population), predicted)], recorded))
    target = Target(benchmark_of(rng.standard_normal((size, 20))), {}, 200, 0)
    weights, covered, raws, variances = target.weights(np.arange(size)), [], [], []
    for _ in range(150):
        predicted, recorded = sample(size)
        folds = [Fold(part, predicted[part]) for part in np.array_split(rng.permutation(size), 10)]
        raw = median_score(correlated(folds, recorded))
        values, left_out = scores_under_weights(folds, recorded, weights)
        variation = variation_of_test_stimuli(values[:200], left_out, np.arange(size))
        spread = stimulus_variance(variation)
        low, high = correlation_interval(raw, spread, 0.95)
        covered.append(low <= truth <= high)
        raws.append(raw)
        variances.append(spread.variance)
    assert 0.88 <= np.mean(covered) <= 0.99
    assert np.sqrt(np.mean(variances)) / np.std(raws) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("n", "regression", "reason"),
    [
        (20, "ridge", "20 stimuli leave fewer than 3 to test"),
        (20, "pls", "20 stimuli leave fewer than 3 to test"),
        (26, "pls", "PLS with 25 components needs as many features and training stimuli, got 40 and 23"),
    ],
)
def test_a_recording_too_small_for_a_regression_has_an_empty_score_with_the_reason(
    n: int, regression: str, reason: str
) -> None:
    features, responses = simulated(n)
    target, scores = scores_of(benchmark_of(responses), features, [regression])
    (row,) = rows_of_layer(target, scores, 0.95)
    assert row["raw"] is None
    assert row["interval_method"].meaning.startswith(f"none: {reason}")


def test_a_recording_too_small_leaves_its_region_empty_in_every_table(tmp_path: Path) -> None:
    """The other recording alone must not stand for both."""
    features, responses = simulated(60)
    (large,) = benchmark_of(responses).recordings
    small = replace(
        large, session="B", stimuli=np.arange(20), rdm=correlation_rdm(responses[:20]), responses=responses[:20]
    )
    benchmark = replace(benchmark_of(responses), recordings=(large, small))
    target = Target(benchmark, {}, DRAWS, 0)
    scorer = ResponseTarget(target, ["ridge"], DRAWS)
    scores = scorer.score([0], features) | scorer.score([1], features[:20])
    rows = list(rows_of_layer(target, scores, 0.95))
    assert [row["raw"] is None for row in rows] == [False, True, True, True]  # A, B, the animal's mean, the region's
    write_draws(tmp_path / "draws.nc", {}, [(target, "draws", {"layer": scores})])
    drawn = read_draws(tmp_path / "draws.nc")
    assert [label[0] for label in drawn["fake", "ridge"].labels] == ["A", "B"]
    assert choose_layers(drawn) == []


def test_as_many_test_stimuli_as_a_correlation_needs_leave_no_interval() -> None:
    features, responses = simulated(30)
    target, scores = scores_of(benchmark_of(responses), features)
    (row,) = rows_of_layer(target, scores, 0.95)
    assert row["raw"] is not None
    assert row.get("ci_low") is None
    assert row["interval_method"].meaning.startswith("no interval: too few test stimuli; 10 splits")
    assert variation_of_test_stimuli(np.zeros(0), np.arange(3.0), np.arange(3)) is None


@pytest.mark.parametrize("kept", ["one repetition", "sparse"])
def test_repetitions_too_few_for_a_reliability_leave_the_ceiling_empty(kept: str) -> None:
    features, responses = simulated()
    repetitions = np.stack([responses] * (1 if kept == "one repetition" else 4))
    if kept == "sparse":
        repetitions[1:] = np.nan
    target, scores = scores_of(benchmark_of(responses, repetitions=repetitions), features)
    (row,) = rows_of_layer(target, scores, 0.95)
    assert row["raw"] is not None
    assert row["ceiling_upper"] is row["ceiled"] is None
    assert row["ceiling_definition"].meaning.startswith("none: ")


def test_brain_scores_categories_are_the_strata_of_its_assemblies_splits() -> None:
    assert majajhong2015public.DESCRIPTION.stratified
    assert freemanziemba2013public.DESCRIPTION.stratified
    assert not kriegeskorte2008.DESCRIPTION.stratified
    features, responses = simulated()
    labels = np.random.default_rng(0).permutation(np.repeat(list("abc"), N // 3)).tolist()
    for stratified in (True, False):
        _, scores = scores_of(benchmark_of(responses, labels, stratified), features)
        oracle = cross_validated(features, responses, "ridge", strata=labels if stratified else None)
        assert scores[0, "ridge"].raw == median_score(oracle)
        assert ("stratified by category" in scores[0, "ridge"].method.meaning) == stratified
    _, scores = scores_of(benchmark_of(responses, ["only", *labels[1:]], True), features)
    assert scores[0, "ridge"].method.meaning.startswith("none: the stimuli cannot be stratified")
