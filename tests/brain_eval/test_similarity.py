"""RDMs and their comparison against scipy, rsatoolbox and published values."""

import warnings

import numpy as np
import pytest
from scipy.io import loadmat
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata, spearmanr

from brain_eval import similarity
from brain_eval.errors import UserError
from brain_eval.similarity import (
    METRICS,
    Metric,
    UndefinedSimilarity,
    compare,
    correlation_rdm,
    ranks,
    square,
    upper_triangle,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox


def features_of(case):
    """Random and degenerate features: (stimuli, neuroids)."""
    rng = np.random.default_rng(7)
    return {
        "random": rng.standard_normal((20, 50)),
        "float32": rng.standard_normal((20, 50)).astype(np.float32),
        "offset": rng.standard_normal((12, 30)) + 1e4,
        "ties": rng.integers(0, 3, (25, 6)).astype(float) + np.arange(6) / 2,
        "duplicates": np.repeat(rng.standard_normal((6, 9)), 3, axis=0),
        "three stimuli": rng.standard_normal((3, 4)),
        "two neuroids": rng.standard_normal((8, 2)),
        "spike counts": rng.poisson(2.0, (15, 33)),
    }[case]


CASES = ["random", "float32", "offset", "ties", "duplicates", "three stimuli", "two neuroids", "spike counts"]


def rsa_rdms(*rdms):
    return rsatoolbox.rdm.RDMs(np.stack([upper_triangle(rdm) for rdm in rdms]))


@pytest.mark.parametrize("case", CASES)
def test_rdm_equals_scipy(case):
    features = features_of(case)
    rdm = correlation_rdm(features)
    assert rdm.dtype == np.float64
    oracle = pdist(features.astype(np.float64), "correlation")
    np.testing.assert_allclose(upper_triangle(rdm), oracle, atol=1e-10, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_rdm_equals_rsatoolbox(case):
    features = features_of(case).astype(np.float64)
    oracle = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(features), method="correlation")
    np.testing.assert_allclose(upper_triangle(correlation_rdm(features)), oracle.dissimilarities[0], atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_rdm_is_symmetric_with_zero_diagonal_within_bounds(case):
    rdm = correlation_rdm(features_of(case))
    assert np.array_equal(rdm, rdm.T)
    assert not np.diag(rdm).any()
    assert rdm.min() >= 0
    assert rdm.max() <= 2


def test_equal_rows_are_exactly_zero_apart_and_so_tie():
    features = np.random.default_rng(0).standard_normal((7, 1001))
    twice = correlation_rdm(np.concatenate([features, 3.7 * features + 1.3]))
    assert not np.diag(twice[:7, 7:]).any()
    assert np.count_nonzero(twice == 0) == 14 + 14


def test_rdm_of_a_wide_layer_does_not_depend_on_the_blocks(monkeypatch):
    features = features_of("random")
    whole = correlation_rdm(features)
    monkeypatch.setattr(similarity, "BLOCK", 7)
    np.testing.assert_allclose(correlation_rdm(features), whole, atol=1e-14)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-40, 2.0**60])
def test_scaling_by_a_power_of_two_changes_no_bit(scale):
    features = features_of("float32")
    scaled = features * np.float32(scale)
    assert np.array_equal(correlation_rdm(scaled), correlation_rdm(features))


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_tiny_and_huge_activity_neither_underflows_nor_overflows(size):
    features = features_of("random")
    np.testing.assert_allclose(correlation_rdm(features * size), correlation_rdm(features), atol=1e-12)


def test_rows_may_be_scaled_and_shifted_each_its_own_way():
    features = features_of("random")
    rng = np.random.default_rng(1)
    moved = features * rng.uniform(0.1, 9, (20, 1)) + rng.standard_normal((20, 1))
    np.testing.assert_allclose(correlation_rdm(moved), correlation_rdm(features), atol=1e-12)


def test_permuting_stimuli_permutes_the_rdm():
    features, order = features_of("random"), np.random.default_rng(2).permutation(20)
    permuted = correlation_rdm(features[order])
    np.testing.assert_allclose(permuted, correlation_rdm(features)[np.ix_(order, order)], atol=1e-14)


def test_constant_row_is_named():
    features = features_of("random")
    features[13] = 0.1
    with pytest.raises(UndefinedSimilarity, match="constant in row 13") as caught:
        correlation_rdm(features)
    assert caught.value.row == 13


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_row_that_is_not_finite_is_named(bad):
    features = features_of("random")
    features[4, 49] = bad
    with pytest.raises(UserError, match="row 4"):
        correlation_rdm(features)


@pytest.mark.parametrize("shape", [(2, 10), (0, 10), (10, 0), (10,), (4, 4, 4)])
def test_too_few_stimuli_or_a_wrong_shape_is_refused(shape):
    with pytest.raises(UserError, match="at least 3 stimuli"):
        correlation_rdm(np.ones(shape))


def test_upper_triangle_is_in_scipys_order_and_square_undoes_it():
    rdm = correlation_rdm(features_of("random"))
    assert np.array_equal(upper_triangle(rdm), squareform(rdm, checks=False))
    assert np.array_equal(square(upper_triangle(rdm), 20), rdm)


def test_upper_triangle_refuses_what_is_not_square():
    with pytest.raises(UserError, match="square"):
        upper_triangle(np.zeros((3, 4)))


@pytest.mark.parametrize("levels", [1, 2, 10, 10**9])
def test_ranks_equal_scipys_bit_for_bit(levels):
    values = np.random.default_rng(levels).integers(0, levels, 1000) / 7
    assert np.array_equal(ranks(values), rankdata(values))


@pytest.mark.parametrize("case", ["random", "ties", "duplicates", "three stimuli", "spike counts"])
@pytest.mark.parametrize("other", ["random", "ties"])
def test_compare_equals_scipy_and_rsatoolbox(case, other):
    features = features_of(case)
    a = correlation_rdm(features)
    rng = np.random.default_rng(3)
    b = correlation_rdm(rng.standard_normal((len(a), 5)) + 0.3 * features[:, :1])
    if other == "ties":
        b = np.round(b, 1)
    oracle = spearmanr(upper_triangle(a), upper_triangle(b)).statistic
    assert compare(a, b, "spearman") == pytest.approx(oracle, abs=1e-10)
    for metric in METRICS:
        oracle = rsatoolbox.rdm.compare(rsa_rdms(a), rsa_rdms(b), method=metric)[0, 0]
        assert compare(a, b, metric) == pytest.approx(oracle, abs=1e-10), metric


@pytest.mark.parametrize("metric", METRICS)
def test_compare_is_symmetric_blind_to_monotone_change_and_one_for_itself(metric):
    rng = np.random.default_rng(4)
    a, b = (correlation_rdm(rng.standard_normal((15, 8))) for _ in range(2))
    assert compare(a, b, metric) == pytest.approx(compare(b, a, metric), abs=1e-14)
    assert compare(a**3, np.sqrt(b), metric) == pytest.approx(compare(a, b, metric), abs=1e-14)
    assert compare(a, a, metric) == pytest.approx(1, abs=1e-14)
    assert compare(a, 2 - a, metric) == pytest.approx(-1, abs=1e-14)


def test_ties_lower_rho_a_of_a_perfect_prediction_but_not_spearman():
    categories = np.arange(12) % 3
    model = (categories[:, None] != categories).astype(float)
    assert compare(model, model, "spearman") == pytest.approx(1)
    # 66 pairs: 18 within and 48 between categories; variance of tied ranks over that of 66 ranks.
    tied = 18 * 48 * ((66 / 2) ** 2) / 66**2
    assert compare(model, model, "rho-a") == pytest.approx(12 * tied / (66**2 - 1))


def test_a_new_metric_is_one_registry_line(monkeypatch):
    monkeypatch.setitem(METRICS, "corr", Metric(lambda pairs: pairs, lambda a, b: 1.0, "pairs as they are"))
    rng = np.random.default_rng(5)
    a, b = (correlation_rdm(rng.standard_normal((9, 4))) for _ in range(2))
    oracle = rsatoolbox.rdm.compare(rsa_rdms(a), rsa_rdms(b), method="corr")[0, 0]
    assert compare(a, b, "corr") == pytest.approx(oracle, abs=1e-10)


def test_compare_refuses_what_has_no_answer():
    rdm = correlation_rdm(features_of("random"))
    with pytest.raises(UserError, match="unknown metric 'kendall'; choose from spearman, rho-a"):
        compare(rdm, rdm, "kendall")
    with pytest.raises(UserError, match="of 20 and 19 stimuli"):
        compare(rdm, rdm[:19, :19])
    with pytest.raises(UserError, match="at least 3 stimuli, got 2"):
        compare(rdm[:2, :2], rdm[:2, :2])
    with pytest.raises(UserError, match="NaN"):
        compare(rdm, np.where(rdm > 1, np.nan, rdm))
    with pytest.raises(UndefinedSimilarity, match="constant"):
        compare(rdm, 1 - np.eye(20))


@pytest.mark.real_data
def test_published_rdms_compare_as_documented(data_folder):
    name = "kriegeskorte2008/Kriegeskorte_Neuron2008_supplementalData.mat"
    neuron = loadmat(data_folder(name) / name)
    macaque, human = (squareform(entry["RDM"].ravel()) for entry in neuron["RDMs_mIT_hIT_fig1"].ravel()[:2])
    # The value that independent code (scipy alone) gives for the two published RDMs.
    assert compare(macaque, human, "spearman") == pytest.approx(0.4389, abs=5e-5)
