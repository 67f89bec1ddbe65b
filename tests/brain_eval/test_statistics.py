"""Bootstrap, intervals and corrections against explicit loops, scipy, and simulated coverage."""

import itertools

import numpy as np
import pytest
from scipy import stats

from brain_eval.errors import UserError
from brain_eval.similarity import correlation_rdm, ranks, square, upper_triangle
from brain_eval.statistics import (
    bootstrap_counts,
    generator,
    holm,
    pair_totals,
    percentile_interval,
    quadratic_forms,
    recording_counts,
    resampled_means,
    stimulus_strata,
    t_interval,
    weighted_correlations,
    weighted_moments,
)


def two_rdms(n, seed=0, shared=0.5):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, 6))
    return [correlation_rdm(common * shared + rng.standard_normal((n, 6))) for _ in range(2)]


def draws_of(a, b, counts, transform=lambda pairs: pairs):
    weights = counts.astype(np.float64)
    moments = [weighted_moments(transform(upper_triangle(rdm)), weights) for rdm in (a, b)]
    return weighted_correlations(*moments, weights)


def loop_over_pairs(a, b, w):
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
def test_bootstrap_draws_equal_a_loop_that_weights_the_pairs(n):
    a, b = two_rdms(n)
    counts = bootstrap_counts([np.arange(n)], n, 20, generator(0, "test"))
    for transform in (lambda pairs: pairs, ranks):
        treated = [square(transform(upper_triangle(rdm)), n) for rdm in (a, b)]
        oracle = [loop_over_pairs(*treated, w) if np.count_nonzero(w) > 2 else np.nan for w in counts]
        np.testing.assert_allclose(draws_of(a, b, counts, transform), oracle, atol=1e-10)


@pytest.mark.parametrize("n", [5, 17])
def test_bootstrap_draws_equal_pearson_over_expanded_stimuli(n):
    a, b = two_rdms(n)
    counts = bootstrap_counts([np.arange(n)], n, 20, generator(1, "test"))
    counts = counts[(counts > 0).sum(axis=1) > 2]
    for w, draw in zip(counts, draws_of(a, b, counts), strict=True):
        picked = np.repeat(np.arange(n), w)
        pairs = [(i, j) for i, j in itertools.combinations(picked, 2) if i != j]
        oracle = np.corrcoef([a[i, j] for i, j in pairs], [b[i, j] for i, j in pairs])[0, 1]
        assert draw == pytest.approx(oracle, abs=1e-10)
        assert pair_totals(w[None].astype(float))[0] == 2 * len(pairs)


def test_each_stimulus_once_is_the_full_sample():
    a, b = two_rdms(12)
    once = np.ones((1, 12), dtype=np.int32)
    oracle = stats.spearmanr(upper_triangle(a), upper_triangle(b)).statistic
    assert draws_of(a, b, once, ranks)[0] == pytest.approx(oracle, abs=1e-12)


def test_draws_without_pairs_or_variance_are_nan_and_leave_the_interval():
    a, b = two_rdms(4)
    counts = np.array([[4, 0, 0, 0], [2, 2, 0, 0], [1, 1, 1, 1]], dtype=np.int32)
    draws = draws_of(a, b, counts)
    assert np.isnan(draws[:2]).all()
    assert np.isfinite(draws[2])
    assert percentile_interval(draws, 0.95) == (draws[2], draws[2], 1)
    assert percentile_interval(draws[:2], 0.95) == (None, None, 0)


def test_identical_rdms_have_every_draw_at_one():
    a, _ = two_rdms(40)
    counts = bootstrap_counts([np.arange(40)], 40, 200, generator(0, "test"))
    np.testing.assert_allclose(draws_of(a, 3 * a + 1, counts), 1, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 31])
def test_quadratic_forms_equal_the_plain_product(n):
    rng = np.random.default_rng(n)
    matrix = rng.standard_normal((n, n))
    matrix += matrix.T
    weights = rng.integers(0, 4, (9, n)).astype(float)
    oracle = [w @ matrix @ w for w in weights]
    np.testing.assert_allclose(quadratic_forms(matrix, weights), oracle, atol=1e-10)


def test_counts_keep_the_size_of_every_stratum_and_follow_the_bootstrap_law():
    strata = [np.array([0, 3, 5, 7, 9, 11]), np.array([1, 2]), np.array([4])]
    counts = bootstrap_counts(strata, 12, 40_000, generator(0, "test"))
    for positions in strata:
        assert (counts[:, positions].sum(axis=1) == len(positions)).all()
    assert not counts[:, [6, 8, 10]].any()
    # A count is binomial(m, 1/m): mean 1, variance 1 - 1/m; two of them have covariance -1/m.
    six = counts[:, strata[0]]
    np.testing.assert_allclose(six.mean(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(np.cov(six.T), np.eye(6) - 1 / 6, atol=0.03)


def test_draws_depend_on_seed_and_names_only():
    def draw(seed, *names):
        return bootstrap_counts([np.arange(30)], 30, 50, generator(seed, *names))

    assert np.array_equal(draw(0, "cowley2023"), draw(0, "cowley2023"))
    assert not np.array_equal(draw(0, "cowley2023"), draw(1, "cowley2023"))
    assert not np.array_equal(draw(0, "cowley2023"), draw(0, "kriegeskorte2008"))
    assert not np.array_equal(draw(0, "ab", "c"), draw(0, "a", "bc"))
    assert np.array_equal(draw(-1, "x"), draw(-1, "x"))


def test_strata_are_the_sets_of_recordings_that_share_stimuli():
    ids = ["a", "b", "c", "d", "e", "f"]
    strata = stimulus_strata([np.array([4, 0, 1]), np.array([1, 2, 4])], ids)
    assert [stratum.tolist() for stratum in strata] == [[0], [1, 4], [2]]


def test_strata_follow_the_stimuli_through_a_permutation():
    rng = np.random.default_rng(0)
    ids = [f"s{i:02d}" for i in range(20)]
    memberships = [np.arange(12), np.arange(8, 20), np.arange(0, 20, 3)]
    order = rng.permutation(20)
    place = np.argsort(order)
    moved = stimulus_strata([place[positions] for positions in memberships], [ids[i] for i in order])
    for before, after in zip(stimulus_strata(memberships, ids), moved, strict=True):
        assert [ids[i] for i in before] == [ids[order[i]] for i in after]


def test_resampled_means_equal_a_loop():
    rng = np.random.default_rng(0)
    scores = [rng.standard_normal(50) for _ in range(3)]
    counts = recording_counts(3, 50, rng)
    assert (counts.sum(axis=1) == 3).all()
    for draw, mean in enumerate(resampled_means(scores, counts)):
        picked = [scores[k][draw] for k in range(3) for _ in range(counts[draw, k])]
        assert mean == pytest.approx(np.mean(picked))


def test_resampled_mean_is_nan_only_where_the_missing_recording_was_drawn():
    scores = [np.array([0.2, 0.2]), np.array([np.nan, np.nan])]
    means = resampled_means(scores, np.array([[2, 0], [1, 1]], dtype=np.int32))
    assert means[0] == 0.2
    assert np.isnan(means[1])


def test_percentile_interval_is_the_central_quantiles():
    draws = np.random.default_rng(0).standard_normal(1000)
    low, high, n = percentile_interval(np.append(draws, np.nan), 0.9)
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
    assert n == 1000


@pytest.mark.parametrize("n", [2, 3, 8])
def test_t_interval_equals_scipys_paired_test(n):
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n))
    found = t_interval(a - b, 0.9)
    oracle = stats.ttest_rel(a, b)
    low, high = oracle.confidence_interval(0.9)
    assert (found.mean, found.low, found.high) == pytest.approx(((a - b).mean(), low, high))
    assert (found.p, found.n) == (pytest.approx(oracle.pvalue), n)


def test_t_interval_says_nothing_it_cannot_know():
    assert t_interval([0.5]) == (0.5, None, None, None, 1)
    assert t_interval([0.0, 0.0, 0.0]) == (0.0, 0.0, 0.0, 1.0, 3)
    # .53 - .51 and .54 - .52 differ in the last bit only: no spread, hence no t.
    assert t_interval([0.53 - 0.51, 0.54 - 0.52]).p is None
    with pytest.raises(UserError, match="at least one value"):
        t_interval([])


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = list(rng.uniform(0, 0.2, 6))
        adjusted = holm(p_values)
        for alpha in (0.01, 0.05, 0.1, 0.3):
            rejected = set()
            for step, index in enumerate(np.argsort(p_values)):
                if p_values[index] > alpha / (6 - step):
                    break
                rejected.add(int(index))
            assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected


def test_holm_leaves_unknown_p_values_out_of_the_family():
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([None, None]) == [None, None]
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_student_interval_covers_at_three_seeds_where_a_percentile_bootstrap_does_not():
    """Found: Student's t 95 %, percentile bootstrap over the three seeds 75 %, as method.md says."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0.3, 1, (2000, 3))
    picks = rng.integers(3, size=(400, 3))
    student = [t_interval(sample) for sample in samples]
    bootstrap = [percentile_interval(sample[picks].mean(axis=1), 0.95) for sample in samples]
    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in student])
    assert covered == pytest.approx(0.95, abs=0.015)
    covered = np.mean([low <= 0.3 <= high for low, high, _ in bootstrap])
    assert covered == pytest.approx(0.75, abs=0.04)


def simulated_experiment(seed, signal, n=40, neuroids=30):
    """Model and brain respond to n stimuli of one population, sharing `signal`: (raw, low, high) at 95 %."""
    rng = np.random.default_rng([5, seed])
    code = signal * rng.standard_normal((n, 8))
    mixing = np.random.default_rng(11).standard_normal((2, 8, neuroids))
    a, b = (correlation_rdm(code @ mix + 3 * rng.standard_normal((n, neuroids))) for mix in mixing)
    counts = bootstrap_counts([np.arange(n)], n, 200, generator(seed, "coverage"))
    low, high, _ = percentile_interval(draws_of(a, b, counts, ranks), 0.95)
    return stats.spearmanr(upper_triangle(a), upper_triangle(b)).statistic, low, high


@pytest.mark.parametrize(("signal", "found"), [(0.0, 1.0), (1.0, 0.947)])
def test_bootstrap_over_stimuli_covers_the_population_value(signal, found):
    """300 experiments of 40 stimuli, 95 % intervals; the truth is the mean over the experiments.

    Found: exact where the RDMs are similar (.38), too wide where they are unrelated.
    """
    results = [simulated_experiment(seed, signal) for seed in range(300)]
    truth = np.mean([raw for raw, _, _ in results])
    covered = np.mean([low <= truth <= high for _, low, high in results])
    assert covered == pytest.approx(found, abs=0.02)
