"""Resampled stimuli against explicit loops: draws, strata, halves, quadratic forms."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from brain_eval.inference.resampling import (
    SMALL,
    bootstrap_counts,
    generator,
    leaving_each_out,
    pair_totals,
    quadratic_forms,
    random_halves,
    split_halves,
    stimulus_strata,
    weighted_correlations,
    weighted_moments,
)
from brain_eval.metrics.rdms import correlation_rdm, square, upper_triangle
from brain_eval.metrics.similarity import ranks

pytestmark = pytest.mark.numeric


def two_rdms(n: int, seed: int = 0, shared: float = 0.5) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, 6))
    return [correlation_rdm(common * shared + rng.standard_normal((n, 6))) for _ in range(2)]


def draws_of(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    counts: NDArray[np.int32],
    transform: Callable[..., Any] = lambda pairs: pairs,
) -> NDArray[np.float64]:
    weights = counts.astype(np.float64)
    moments = [weighted_moments(transform(upper_triangle(rdm)), weights) for rdm in (a, b)]
    return weighted_correlations(*moments, weights)


def loop_over_pairs(a: NDArray[np.float64], b: NDArray[np.float64], w: NDArray[np.int32]) -> float:
    """Weighted Pearson over the pairs i < j, weight w_i w_j, one pair at a time."""
    pairs = [(w[i] * w[j], a[i, j], b[i, j]) for i, j in itertools.combinations(range(len(w)), 2)]
    total = sum(weight for weight, _, _ in pairs)
    mean_a = sum(weight * x for weight, x, _ in pairs) / total
    mean_b = sum(weight * y for weight, _, y in pairs) / total
    covariance = sum(weight * (x - mean_a) * (y - mean_b) for weight, x, y in pairs)
    variance_a = sum(weight * (x - mean_a) ** 2 for weight, x, _ in pairs)
    variance_b = sum(weight * (y - mean_b) ** 2 for weight, _, y in pairs)
    return covariance / np.sqrt(variance_a * variance_b)


@pytest.mark.parametrize("n", [4, 5, 13, 30])
def test_bootstrap_draws_equal_a_loop_that_weights_the_pairs(n: int) -> None:
    a, b = two_rdms(n)
    counts = bootstrap_counts([np.arange(n)], n, 20, generator(0, "test"))
    for transform in (lambda pairs: pairs, ranks):
        treated = [square(transform(upper_triangle(rdm)), n) for rdm in (a, b)]
        oracle = [loop_over_pairs(*treated, w) if np.count_nonzero(w) > 2 else np.nan for w in counts]
        np.testing.assert_allclose(draws_of(a, b, counts, transform), oracle, atol=1e-10)


@pytest.mark.parametrize("n", [5, 17])
def test_bootstrap_draws_equal_pearson_over_expanded_stimuli(n: int) -> None:
    a, b = two_rdms(n)
    counts = bootstrap_counts([np.arange(n)], n, 20, generator(1, "test"))
    counts = counts[(counts > 0).sum(axis=1) > 2]
    for w, draw in zip(counts, draws_of(a, b, counts), strict=True):
        picked = np.repeat(np.arange(n), w)
        pairs = [(i, j) for i, j in itertools.combinations(picked, 2) if i != j]
        oracle = np.corrcoef([a[i, j] for i, j in pairs], [b[i, j] for i, j in pairs])[0, 1]
        assert draw == pytest.approx(oracle, abs=1e-10)
        assert pair_totals(w[None].astype(float))[0] == 2 * len(pairs)


def test_each_stimulus_once_is_the_full_sample() -> None:
    a, b = two_rdms(12)
    once = np.ones((1, 12), dtype=np.int32)
    oracle = stats.spearmanr(upper_triangle(a), upper_triangle(b)).statistic
    assert draws_of(a, b, once, ranks)[0] == pytest.approx(oracle, abs=1e-12)


def test_draws_without_pairs_or_variance_are_nan() -> None:
    a, b = two_rdms(4)
    counts = np.array([[4, 0, 0, 0], [2, 2, 0, 0], [1, 1, 1, 1]], dtype=np.int32)
    draws = draws_of(a, b, counts)
    assert np.isnan(draws[:2]).all()
    assert np.isfinite(draws[2])


def test_identical_rdms_have_every_draw_at_one() -> None:
    a, _ = two_rdms(40)
    counts = bootstrap_counts([np.arange(40)], 40, 200, generator(0, "test"))
    np.testing.assert_allclose(draws_of(a, 3 * a + 1, counts), 1, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3, 31, SMALL, SMALL + 1, SMALL + 30])
def test_quadratic_forms_equal_the_plain_product(n: int) -> None:
    rng = np.random.default_rng(n)
    matrix = rng.standard_normal((n, n))
    matrix += matrix.T
    weights = rng.integers(0, 4, (9, n)).astype(float)
    oracle = [w @ matrix @ w for w in weights]
    np.testing.assert_allclose(quadratic_forms(matrix, weights), oracle, atol=1e-10)


def test_counts_keep_the_size_of_every_stratum_and_follow_the_bootstrap_law() -> None:
    strata = [np.array([0, 3, 5, 7, 9, 11]), np.array([1, 2]), np.array([4])]
    counts = bootstrap_counts(strata, 12, 40_000, generator(0, "test"))
    for positions in strata:
        assert (counts[:, positions].sum(axis=1) == len(positions)).all()
    assert not counts[:, [6, 8, 10]].any()
    # A count is binomial(m, 1/m): mean 1, variance 1 - 1/m; two of them have covariance -1/m.
    six = counts[:, strata[0]]
    np.testing.assert_allclose(six.mean(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(np.cov(six.T), np.eye(6) - 1 / 6, atol=0.03)


def test_draws_depend_on_seed_and_names_only() -> None:
    def draw(seed: Any, *names: Any) -> Any:
        return bootstrap_counts([np.arange(30)], 30, 50, generator(seed, *names))

    assert np.array_equal(draw(0, "cowley2023"), draw(0, "cowley2023"))
    assert not np.array_equal(draw(0, "cowley2023"), draw(1, "cowley2023"))
    assert not np.array_equal(draw(0, "cowley2023"), draw(0, "kriegeskorte2008"))
    assert not np.array_equal(draw(0, "ab", "c"), draw(0, "a", "bc"))
    assert np.array_equal(draw(-1, "x"), draw(-1, "x"))


def test_strata_are_the_sets_of_recordings_that_share_stimuli() -> None:
    ids = ["a", "b", "c", "d", "e", "f"]
    strata = stimulus_strata([np.array([4, 0, 1]), np.array([1, 2, 4])], ids)
    assert [stratum.tolist() for stratum in strata] == [[0], [1, 4], [2]]


def test_strata_follow_the_stimuli_through_a_permutation() -> None:
    rng = np.random.default_rng(0)
    ids = [f"s{i:02d}" for i in range(20)]
    memberships = [np.arange(12), np.arange(8, 20), np.arange(0, 20, 3)]
    order = rng.permutation(20)
    place = np.argsort(order)
    moved = stimulus_strata([place[positions] for positions in memberships], [ids[i] for i in order])
    for before, after in zip(stimulus_strata(memberships, ids), moved, strict=True):
        assert [ids[i] for i in before] == [ids[order[i]] for i in after]


def test_halves_take_half_of_every_stratum_without_copies() -> None:
    strata = [np.array([0, 3, 5, 7, 9]), np.array([1, 2]), np.array([4])]
    halves = random_halves(strata, 12, 4000, generator(0, "test"))
    assert set(np.unique(halves)) == {0.0, 1.0}
    assert set(halves[:, strata[0]].sum(axis=1)) == {2.0, 3.0}
    assert set(halves[:, strata[1]].sum(axis=1)) == {1.0}
    assert not halves[:, [6, 8, 10, 11]].any()
    np.testing.assert_allclose(halves[:, [0, 1, 2, 3, 4, 5, 7, 9]].mean(axis=0), 0.5, atol=0.04)


def test_split_halves_are_disjoint_and_hold_every_recorded_stimulus() -> None:
    strata = [np.array([0, 3, 5, 7, 9]), np.array([1, 2])]
    sides = split_halves(strata, 11, 6, generator(0, "test"))
    assert sides.shape == (12, 11)
    for first, second in zip(sides[::2], sides[1::2], strict=True):
        assert np.flatnonzero(first + second).tolist() == [0, 1, 2, 3, 5, 7, 9]
        assert (first * second == 0).all()
    assert len({side.tobytes() for side in sides}) > 6


def test_leaving_each_out_leaves_whole_groups_out() -> None:
    left_out = leaving_each_out(np.array([4, 2, 4, 9]))
    assert left_out.tolist() == [[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]]
