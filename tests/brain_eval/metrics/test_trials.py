"""Trials that some neuroids lack: averages, noise ceilings and reliabilities, against the truth of simulations."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from brain_eval.metrics.cka import linear_cka
from brain_eval.metrics.encoding import corrected, pearson_by_column, reliability
from brain_eval.metrics.mahalanobis import RECORDS
from brain_eval.metrics.repetitions import random_halves_of_trials, trials_of, whole_trials
from brain_eval.metrics.similarity import compare, correlation_rdm
from brain_eval.scoring.ceilings import split_half, split_half_correlations, split_half_responses
from nmnc.errors import UserError

KINDS = {kind.name: kind.of_recording for kind in RECORDS}

R, N, P = 8, 50, 30


def last_trial(rng: np.random.Generator) -> NDArray[np.bool_]:
    """A third of the neuroids lack the last trial of every stimulus."""
    lost = np.zeros((R, N, P), bool)
    lost[-1, :, : P // 3] = True
    return lost


def half_the_trials(rng: Any) -> Any:
    lost = np.zeros((R, N, P), bool)
    lost[R // 2 :, :, : P // 2] = True
    return lost


def here_and_there(rng: Any) -> Any:
    lost = rng.random((R, N, P)) < 0.15
    lost[:2] = False
    return lost


def other_days(rng: Any) -> Any:
    """Two groups of neuroids have no trial in common."""
    lost = np.zeros((R, N, P), bool)
    lost[: R // 2, :, : P // 2] = True
    lost[R // 2 :, :, P // 2 :] = True
    return lost


PATTERNS = [last_trial, half_the_trials, here_and_there, other_days]


def simulated(
    pattern: Callable[..., Any], noise: float = 5.0, shared: float = 0.0, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noiseless responses (N, P) and trials of them; `shared` is the correlation of the noise between neuroids."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((N, 5)) @ rng.standard_normal((5, P))
    own, common = rng.standard_normal((R, N, P)), rng.standard_normal((R, N, 1))
    trials = truth + noise * (np.sqrt(1 - shared) * own + np.sqrt(shared) * common)
    trials[pattern(rng)] = np.nan
    return truth, trials


@pytest.mark.parametrize("shared", [0.0, 0.1])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_upper_ceiling_is_the_correlation_with_the_noiseless_rdm(
    pattern: Callable[..., Any], shared: float
) -> None:
    found, reached = [], []
    for seed in range(4):
        truth, trials = simulated(pattern, shared=shared, seed=seed)
        found.append(split_half(trials, "spearman", 10, 0).upper)
        reached.append(compare(correlation_rdm(truth), correlation_rdm(np.nanmean(trials, axis=0))))
    assert 0.6 < np.mean(reached) < 0.9
    # With all trials it is .02 too low: halves are attenuated a little more than the formula has it.
    assert np.mean(found) == pytest.approx(np.mean(reached), abs=0.045)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_halves_are_even_disjoint_and_whole(pattern: Callable[..., Any]) -> None:
    _, trials = simulated(pattern)
    known = trials_of(trials, 2)
    rng = np.random.default_rng(1)
    for _ in range(5):
        first, second = random_halves_of_trials(known, rng)
        assert not (first & second).any()
        assert np.array_equal(first | second, known.recorded.any(axis=2))
        sizes = np.stack([known.counts(first), known.counts(second)])
        assert sizes.min() > 0
        most = 2 if pattern is here_and_there else 1
        assert np.percentile(np.abs(sizes[0] - sizes[1]), 90) <= most
        for half in (first, second):
            expected = np.nanmean(np.where(half[..., None], trials[:, known.images], np.nan), axis=0)
            np.testing.assert_allclose(known.means(half), expected, atol=1e-12)


def test_every_pair_of_trials_is_split_and_joined() -> None:
    """Each trial is missing for another neuroid: the split varies all the same."""
    _, trials = simulated(lambda rng: (np.arange(R)[:, None] == np.arange(P))[:, None] & np.ones((R, N, P), bool))
    known, rng = trials_of(trials, 2), np.random.default_rng(0)
    firsts = np.stack([random_halves_of_trials(known, rng)[0][:, 0] for _ in range(60)])
    for one, other in itertools.combinations(range(R), 2):
        assert 0.1 < (firsts[:, one] == firsts[:, other]).mean() < 0.9


def test_images_with_one_trial_of_some_neuroid_are_left_out_and_too_few_refused() -> None:
    _, trials = simulated(last_trial)
    trials[1:, 4, 7] = np.nan
    assert split_half_correlations(trials, ["spearman"], 3, 0)[1] == N - 1
    trials[1:, 2:, 0] = np.nan
    with pytest.raises(UserError, match="3 images with 2 repetitions each of every neuroid, got 2"):
        split_half_correlations(trials, ["spearman"], 3, 0)


def test_neuroids_that_never_meet_in_a_half_leave_the_image_out() -> None:
    """Two trials of each of three neuroids, in all pairs of three: no split gives all of them one on each side."""
    trials = np.random.default_rng(0).standard_normal((3, 10, 3))
    for neuroid in range(3):
        trials[neuroid, 0, neuroid] = np.nan
    assert split_half_correlations(trials, ["spearman"], 3, 0)[1] == 9


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ceiling_of_cka_lies_below_what_the_truth_reaches(pattern: Callable[..., Any]) -> None:
    truth, trials = simulated(pattern, noise=3.0)
    ceiling = split_half_responses(trials, linear_cka, 5, 0)
    assert 0.1 < ceiling.lower < linear_cka(truth, np.nanmean(trials, axis=0))
    complete = split_half_responses(simulated(lambda rng: np.zeros((R, N, P), bool), noise=3.0)[1], linear_cka, 5, 0)
    assert ceiling.lower < complete.lower


@pytest.mark.parametrize("pattern", PATTERNS)
def test_reliability_corrects_to_the_noiseless_correlation(pattern: Callable[..., Any]) -> None:
    """Of each neuroid by its own trials, as if it had been recorded alone."""
    truth, trials = simulated(pattern, noise=2.0)
    found = reliability(trials)
    alone = [reliability(trials[:, :, [neuroid]])[0] for neuroid in range(P)]
    np.testing.assert_allclose(found, alone, atol=1e-12)
    raw = pearson_by_column(truth, np.nanmean(trials, axis=0))
    assert np.median(corrected(raw, found)) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("kind", KINDS)
def test_distances_in_units_of_noise_take_whole_trials(kind: str) -> None:
    _, trials = simulated(last_trial)
    np.testing.assert_allclose(KINDS[kind](trials), KINDS[kind](trials[:-1]), atol=1e-12)
    assert np.isnan(whole_trials(trials)[-1]).all()
    trials[1:, 3, 0] = np.nan
    if kind == "crossnobis":
        with pytest.raises(UserError, match="1 repetitions of all neuroids, where 2 are needed, in row 3"):
            KINDS[kind](trials)
