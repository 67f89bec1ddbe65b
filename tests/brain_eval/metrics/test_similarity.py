"""How RDMs are compared, against scipy, rsatoolbox and published values; every metric in every bootstrap draw too."""

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.spatial.distance import squareform
from scipy.stats import pearsonr, rankdata, spearmanr

from brain_eval.metrics import RDMS as KINDS
from brain_eval.metrics import similarity
from brain_eval.metrics.base import metrics_of_rdms
from brain_eval.metrics.rdms import cosine_rdm
from brain_eval.metrics.similarity import (
    UndefinedSimilarity,
    compare,
    compare_features,
    correlate,
    correlation_rdm,
    ranks,
    square,
    upper_triangle,
)
from brain_eval.metrics.whitened import row_sums, stimuli_of
from nmnc.errors import UserError

pytestmark = pytest.mark.numeric

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox
    from rsatoolbox.util.matrix import get_v

METRICS = metrics_of_rdms()

#: What rsatoolbox calls them.
THEIRS = {
    "pearson": "corr",
    "cosine": "cosine",
    "whitened-cosine": "cosine_cov",
    "whitened-correlation": "corr_cov",
}
RANKED = ("spearman", "rho-a", "tau-a")
CASES = ["random", "ties", "duplicates", "three stimuli", "spike counts"]


def features_of(case: str) -> NDArray[Any]:
    rng = np.random.default_rng(7)
    return {
        "random": rng.standard_normal((20, 50)),
        "ties": rng.integers(0, 3, (25, 6)).astype(float) + np.arange(6) / 2,
        "duplicates": np.repeat(rng.standard_normal((6, 9)), 3, axis=0),
        "three stimuli": rng.standard_normal((3, 4)),
        "spike counts": rng.poisson(2.0, (15, 33)),
        "constant rows": np.vstack([np.full((3, 12), 2.5), np.ones((1, 12)), rng.standard_normal((9, 12))]),
    }[case]


def rsa_compare(a: NDArray[np.float64], b: NDArray[np.float64], metric: str) -> float:
    first, second = (rsatoolbox.rdm.RDMs(upper_triangle(rdm)[None]) for rdm in (a, b))
    return rsatoolbox.rdm.compare(first, second, method=THEIRS.get(metric, metric))[0, 0]


def two_rdms(n: int, seed: int = 0, size: int = 6) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, size))
    return [correlation_rdm(common + rng.standard_normal((n, size))) for _ in range(2)]


@pytest.mark.parametrize("levels", [1, 2, 10, 10**9])
def test_ranks_equal_scipys_bit_for_bit_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch, levels: int) -> None:
    for chunk in [1, 7, 400, 10**6]:
        monkeypatch.setattr(similarity, "CHUNK", chunk)
        values = np.random.default_rng(levels).integers(0, levels, 1000) / 7
        assert np.array_equal(ranks(values), rankdata(values))


def rdms_of(kind: str, features: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RDM of a layer, and that of a recording that shares something with it, both of this kind."""
    rng, chosen = np.random.default_rng(3), KINDS[kind]
    shape = (4, len(features), 5) if chosen.repeated else (len(features), 5)
    return chosen.of_layer(features), chosen.of_recording(rng.standard_normal(shape) + 0.3 * features[:, :1])


#: A constant row has no correlation, which is refused by name; see test_rdms.py.
KINDS_AND_CASES = [(kind, case) for kind in KINDS for case in (*CASES, "constant rows")]
KINDS_AND_CASES.remove(("correlation", "constant rows"))


@pytest.mark.parametrize(("kind", "case"), KINDS_AND_CASES)
def test_compare_equals_scipy_and_rsatoolbox(kind: str, case: str) -> None:
    for other in ["as it is", "ties"]:
        a, b = rdms_of(kind, features_of(case))
        if other == "ties":
            b = np.round(b, 1)
        assert kind != "crossnobis" or case == "three stimuli" or b.min() < 0
        pairs = upper_triangle(a), upper_triangle(b)
        assert compare(a, b, "spearman") == pytest.approx(spearmanr(*pairs).statistic, abs=1e-10)
        assert compare(a, b, "pearson") == pytest.approx(pearsonr(*pairs).statistic, abs=1e-10)
        for metric in METRICS:
            assert compare(a, b, metric) == pytest.approx(rsa_compare(a, b, metric), abs=1e-10), metric


@pytest.mark.parametrize("metric", ["whitened-cosine", "whitened-correlation"])
def test_whitening_equals_the_inverse_covariance_of_the_distances(metric: str) -> None:
    """The definition itself (Diedrichsen et al. 2020, eq. 12): V of all pairs built and inverted."""
    for n in [3, 4, 7, 30]:
        pairs = [upper_triangle(rdm) for rdm in two_rdms(n, size=40)]
        found = correlate(*pairs, METRICS[metric])
        if metric == "whitened-correlation":
            pairs = [values - values.mean() for values in pairs]
        precision = np.linalg.inv(get_v(n, None).toarray())
        ab, aa, bb = (x @ precision @ y for x, y in (pairs, pairs[:1] * 2, pairs[1:] * 2))
        assert found == pytest.approx(ab / np.sqrt(aa * bb), abs=1e-10)


@pytest.mark.parametrize("metric", METRICS)
def test_compare_is_symmetric_and_one_for_itself(metric: str) -> None:
    a, b = two_rdms(15)
    assert compare(a, b, metric) == pytest.approx(compare(b, a, metric), abs=1e-14)
    assert compare(a, a, metric) == pytest.approx(1, abs=1e-14)
    assert metric in ("cosine", "whitened-cosine") or compare(a, 2 - a, metric) == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("metric", RANKED)
def test_ranks_are_blind_to_monotone_change(metric: str) -> None:
    a, b = two_rdms(15)
    assert compare(a**3, np.sqrt(b), metric) == pytest.approx(compare(a, b, metric), abs=1e-14)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12), st.floats(1e-3, 1e3), st.floats(0, 10))
def test_metrics_are_blind_to_scale_and_order_of_stimuli_and_the_centred_ones_to_an_offset(
    seed: Any, n: Any, scale: Any, offset: Any
) -> None:
    a, b = two_rdms(n, seed, size=4)
    order = np.random.default_rng(seed).permutation(n)
    for metric, chosen in METRICS.items():
        value = compare(a, b, metric)
        assert -1 <= value <= 1
        assert compare(scale * a, b, metric) == pytest.approx(value, abs=1e-9)
        assert compare(a[np.ix_(order, order)], b[np.ix_(order, order)], metric) == pytest.approx(value, abs=1e-10)
        if not chosen.defined_if_constant:
            assert compare(a + offset * (1 - np.eye(n)), b, metric) == pytest.approx(value, abs=1e-8)


def test_tau_a_counts_the_pairs_of_pairs_that_agree() -> None:
    a, b = (np.round(rdm, 1) for rdm in two_rdms(9))
    x, y = upper_triangle(a), upper_triangle(b)
    signs = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in itertools.combinations(range(len(x)), 2)]
    assert 0 in signs
    assert compare(a, b, "tau-a") == pytest.approx(np.mean(signs), abs=1e-14)


def test_ties_lower_rho_a_and_tau_a_of_a_perfect_prediction_but_not_spearman() -> None:
    categories = np.arange(12) % 3
    model = (categories[:, None] != categories).astype(float)
    assert compare(model, model, "spearman") == pytest.approx(1)
    # 66 pairs: 18 within and 48 between categories; variance of tied ranks over that of 66 ranks.
    tied = 18 * 48 * ((66 / 2) ** 2) / 66**2
    assert compare(model, model, "rho-a") == pytest.approx(12 * tied / (66**2 - 1))
    assert compare(model, model, "tau-a") == pytest.approx(18 * 48 / (66 * 65 / 2))


def resampled(rdm: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The RDM of a draw, copies of stimuli beside each other; NaN between copies."""
    stimuli = np.repeat(np.arange(len(counts)), counts)
    drawn = rdm[np.ix_(stimuli, stimuli)].astype(float)
    drawn[stimuli[:, None] == stimuli] = np.nan
    np.fill_diagonal(drawn, 0)
    return drawn


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.draws])
def test_every_draw_equals_rsatoolbox_on_the_resampled_rdms(metric: str) -> None:
    for n in [5, 12, 31]:
        a, b = (np.round(rdm, 2) for rdm in two_rdms(n))
        rng = np.random.default_rng(n)
        counts = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(12)])
        counts = counts[(counts > 0).sum(axis=1) > 3]
        counts[0] = 1
        chosen = METRICS[metric]
        transformed = [chosen.transform(upper_triangle(rdm)) for rdm in (a, b)]
        draws = chosen.draws(*transformed, counts.astype(float))
        oracle = [rsa_compare(resampled(a, row), resampled(b, row), metric) for row in counts]
        np.testing.assert_allclose(draws, oracle, atol=1e-10)
        assert draws[0] == pytest.approx(compare(a, b, metric), abs=1e-12)


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.draws])
def test_draw_without_pairs_or_without_variance_has_no_score(metric: str) -> None:
    a, b = two_rdms(6)
    a[:3, :3] = b[:3, :3] = 0
    counts = np.array([[6.0, 0, 0, 0, 0, 0], [2.0, 2, 2, 0, 0, 0]])
    draws = METRICS[metric].draws(upper_triangle(a), upper_triangle(b), counts)
    assert np.isnan(draws).all()


def test_pairs_tell_the_number_of_stimuli_and_row_sums() -> None:
    for n in (2, 3, 50, 1001):
        rdm = square(np.random.default_rng(n).random(n * (n - 1) // 2), n)
        assert stimuli_of(upper_triangle(rdm)) == n
        np.testing.assert_allclose(row_sums(upper_triangle(rdm)), rdm.sum(axis=0), rtol=1e-12)


def test_features_compare_as_their_rdms_do() -> None:
    rng = np.random.default_rng(6)
    features, others = rng.standard_normal((30, 9)), rng.standard_normal((30, 4))
    for metric in METRICS:
        assert compare_features(features, others, metric) == compare(*map(correlation_rdm, (features, others)), metric)
    assert compare_features(features, others, "pearson", cosine_rdm) == compare(
        cosine_rdm(features), cosine_rdm(others), "pearson"
    )
    with pytest.raises(UserError, match="the same stimuli in the same order"):
        compare_features(features, others[:29])


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_rdms(40)
    whole = {metric: compare(a, b, metric) for metric in METRICS}
    monkeypatch.setattr(similarity, "CHUNK", 100)
    assert {metric: compare(a, b, metric) for metric in METRICS} == pytest.approx(whole, abs=1e-14)


def test_a_metric_of_responses_compares_no_rdms() -> None:
    with pytest.raises(UserError, match="cka-biased compares responses, not RDMs"):
        compare(*two_rdms(9), "cka-biased")


def test_compare_refuses_what_has_no_answer() -> None:
    rdm = correlation_rdm(features_of("random"))
    with pytest.raises(UserError, match=r"unknown metric 'kendall'; known: .*, cosine, pearson, pls, rho-a, ridge"):
        compare(rdm, rdm, "kendall")
    with pytest.raises(UserError, match="of 20 and 19 stimuli"):
        compare(rdm, rdm[:19, :19])
    with pytest.raises(UserError, match="at least 3 stimuli, got 2"):
        compare(rdm[:2, :2], rdm[:2, :2])
    with pytest.raises(UserError, match=r"the (first|second) RDM contains NaN or infinity between rows \d and \d"):
        compare(rdm, np.where(rdm > 1, np.nan, rdm))


@pytest.mark.parametrize("metric", METRICS)
def test_constant_rdm_has_a_cosine_at_most(metric: str) -> None:
    for level in [0.0, 0.1, 1.0]:
        rdm, constant = correlation_rdm(features_of("random")), level * (1 - np.eye(20))
        if METRICS[metric].defined_if_constant and level:
            assert compare(rdm, constant, metric) == pytest.approx(rsa_compare(rdm, constant, metric), abs=1e-10)
            continue
        for pair in ((rdm, constant), (constant, rdm)):
            with pytest.raises(UndefinedSimilarity, match=r"constant|are 0|no structure"):
                compare(*pair, metric)


@pytest.mark.real_data
def test_published_rdms_compare_as_documented(data_folder: Callable[..., Path]) -> None:
    name = "kriegeskorte2008/Kriegeskorte_Neuron2008_supplementalData.mat"
    neuron = loadmat(data_folder(name) / name)
    macaque, human = (squareform(entry["RDM"].ravel()) for entry in neuron["RDMs_mIT_hIT_fig1"].ravel()[:2])
    # The value that independent code (scipy alone) gives for the two published RDMs.
    assert compare(macaque, human, "spearman") == pytest.approx(0.4389, abs=5e-5)
