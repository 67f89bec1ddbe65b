"""Encoding against scikit-learn's regressions and Brain-Score's own metrics, neuroid by neuroid and split by split."""

import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import pearsonr
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge, RidgeCV

import brain_eval.metrics.encoding
import brain_eval.metrics.gram
from brain_eval.metrics.encoding import (
    corrected,
    cross_validated,
    median_score,
    pearson_by_column,
    reliability,
    splits_of,
)
from brain_eval.metrics.gram import centred_gram
from brain_eval.metrics.regression import centred_on_training, pls_predictions, ridge_of_features, ridge_predictions
from nmnc.errors import UserError
from tests.tolerance import tolerance

pytestmark = pytest.mark.numeric


def simulated(
    n: int, p: int, q: int, seed: int = 0, noise: float = 1.0, latent: int = 8
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rectified features (n, p) and noisy responses (n, q) that share `latent` causes of falling strength."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((n, latent)) * np.logspace(0, -1, latent)
    features = np.maximum(causes @ rng.standard_normal((latent, p)) + 0.3 * rng.standard_normal((n, p)) + 0.5, 0)
    return features, causes @ rng.standard_normal((latent, q)) + noise * rng.standard_normal((n, q))


def case_of(case: str) -> tuple[Any, ...]:
    """Features, responses, number of training stimuli, components of PLS."""
    features, responses = simulated(60, 150, 12)
    return {
        "wide": (features, responses, 50, 25),
        "float32": (features.astype(np.float32), responses, 50, 25),
        "fewer features than stimuli": (features[:, :10], responses, 50, 8),
        "one neuroid": (features, responses[:, :1], 50, 25),
        "more neuroids than stimuli": (features, np.hstack([responses] * 5 + [responses**2]), 50, 10),
        "duplicates": (np.repeat(features[:20], 3, axis=0), responses, 51, 10),
        "ties": (np.round(features), np.round(responses), 50, 10),
        "constant neuroids": (features * (np.arange(150) > 30), responses * (np.arange(12) != 5) + 2.0, 50, 10),
        "offset": (features + 100, responses - 30, 50, 10),
        "constant rows": (np.vstack([np.ones((5, 150)), features[5:]]), responses, 50, 10),
        "three training stimuli": (features[:10], responses[:10], 3, 2),
    }[case]


CASES = [
    "wide", "float32", "fewer features than stimuli", "one neuroid", "more neuroids than stimuli", "duplicates",
    "ties", "constant neuroids", "offset", "constant rows", "three training stimuli",
]  # fmt: skip


def singular_values(features: NDArray[Any], n_train: int) -> NDArray[np.float64]:
    """Those of the centred training stimuli that are not rounding, largest first."""
    train = features[:n_train].astype(float)
    values = np.linalg.svd(train - train.mean(axis=0), compute_uv=False)
    return values[values > 1e-10 * values[0]]


def products(features: NDArray[Any], n_train: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    train, test = np.arange(n_train), np.arange(n_train, len(features))
    return centred_on_training(centred_gram(features), train, test)


@pytest.mark.parametrize("case", CASES)
def test_pls_equals_scikit_learn(case: str) -> None:
    """Its power iteration at the smallest tolerance, and the same steps by singular values."""
    features, responses, n, components = case_of(case)
    found = pls_predictions(*products(features, n), responses[:n], components)
    size = np.abs(found).max()
    oracle = PLSRegression(components, scale=False, tol=1e-18, max_iter=100_000)
    # scikit-learn would predict in float32.
    features = features.astype(np.float64)
    # Deflation squares the condition. The power iteration ends where weights change by sqrt(tol) = 1e-9.
    values = singular_values(features, n)
    condition = (values[0] / values[-1]) ** 2
    for algorithm, within in (("nipals", 1e-9 * condition), ("svd", tolerance(condition, max(features.shape)))):
        oracle.algorithm = algorithm
        predicted = oracle.fit(features[:n], responses[:n]).predict(features[n:]).reshape(found.shape)
        np.testing.assert_allclose(found / size, predicted / size, atol=within, rtol=0)


@pytest.mark.parametrize("exact", [1, 4])
def test_pls_ends_where_the_features_are_used_up(exact: int) -> None:
    """As many independent features as components asked for, and more: then it is least squares."""
    rng = np.random.default_rng(exact)
    features = rng.standard_normal((30, exact)) @ rng.standard_normal((exact, 40))
    responses = rng.standard_normal((30, 3))
    train = np.arange(25)
    design = np.hstack([np.ones((30, 1)), features])
    oracle = design[25:] @ np.linalg.lstsq(design[train], responses[train], rcond=1e-10)[0]
    for components in (exact, 20):
        found = pls_predictions(*products(features, 25), responses[train], components)
        np.testing.assert_allclose(found, oracle, atol=1e-10)
    nothing = pls_predictions(*products(features * 0, 25), responses[train], 5)
    np.testing.assert_allclose(nothing, np.tile(responses[train].mean(axis=0), (5, 1)), atol=1e-12)
    flat = pls_predictions(*products(features, 25), np.ones((25, 3)), 5)
    np.testing.assert_allclose(flat, 1.0, atol=1e-12)


def ridge(
    way: str,
    features: NDArray[Any],
    responses: NDArray[np.float64],
    n: int,
    penalties: NDArray[np.float64] | list[float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predictions and penalties, by the products of the stimuli or by the features themselves."""
    if way == "features":
        return ridge_of_features(features[:n].astype(float), features[n:].astype(float), responses[:n], penalties)
    return ridge_predictions(*products(features, n), responses[:n], penalties)


def ridge_tolerance(features: NDArray[Any], n_train: int, penalty: float) -> float:
    """The condition is that of the products plus the penalty: centring leaves them singular."""
    return tolerance(1 + singular_values(features, n_train)[0] ** 2 / penalty, max(features.shape))


@pytest.mark.parametrize("case", CASES)
def test_ridge_equals_scikit_learn(case: str) -> None:
    for way in ["products", "features"]:
        for penalty in [1e-3, 1.0, 1e4]:
            features, responses, n, _ = case_of(case)
            found, chosen = ridge(way, features, responses, n, [penalty])
            oracle = Ridge(penalty, solver="svd").fit(features[:n].astype(float), responses[:n]).predict(features[n:])
            size = max(1.0, np.abs(oracle).max())
            within = ridge_tolerance(features, n, penalty)
            np.testing.assert_allclose(found / size, oracle.reshape(found.shape) / size, atol=within, rtol=0)
            assert chosen.tolist() == [penalty] * responses.shape[1]


@pytest.mark.parametrize("case", CASES)
def test_penalty_of_each_neuroid_equals_scikit_learn(case: str) -> None:
    for way in ["products", "features"]:
        features, responses, n, _ = case_of(case)
        rng = np.random.default_rng(1)
        # From hardly any noise to nothing but noise: the neuroids must not agree.
        responses = responses + np.logspace(-2, 2, responses.shape[1]) * rng.standard_normal(responses.shape)
        penalties = np.logspace(-1, 5, 13)
        found, chosen = ridge(way, features, responses, n, penalties)
        oracle = RidgeCV(penalties, alpha_per_target=responses.shape[1] > 1).fit(
            features[:n].astype(float), responses[:n]
        )
        assert np.broadcast_to(oracle.alpha_, chosen.shape).tolist() == chosen.tolist()
        predicted = oracle.predict(features[n:]).reshape(found.shape)
        size, within = max(1.0, np.abs(predicted).max()), ridge_tolerance(features, n, chosen.min())
        np.testing.assert_allclose(found / size, predicted / size, atol=within, rtol=0)
        assert len(set(chosen)) > 1 or case in ("one neuroid", "three training stimuli")


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1e4))
def test_predictions_do_not_depend_on_units_rotation_or_offset_of_the_features(seed: Any, scale: Any) -> None:
    features, responses = simulated(40, 12, 3, seed)
    rng = np.random.default_rng(seed)
    moved = scale * features @ np.linalg.qr(rng.standard_normal((12, 12)))[0] + rng.standard_normal(12)
    for regression, options in (("ridge", {}), ("pls", {"components": 4})):
        r = cross_validated(features, responses, regression, splits=2, **options)
        again = cross_validated(moved, 3 * responses - 1, regression, splits=2, **options)
        np.testing.assert_allclose(again, r, atol=1e-6)


@pytest.fixture(scope="module")
def brainscore() -> Iterator[Any]:
    """Brain-Score's metrics of features and responses (n, ...), split by split, and its reliability."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("BS_INSTALL_DEPENDENCIES", "no")
        patch.setenv("RESULTCACHING_DISABLE", "1")
        warnings.simplefilter("ignore")
        from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
        from brainscore_vision.metrics.internal_consistency.ceiling import InternalConsistency
        from brainscore_vision.metrics.regression_correlation import metric

        def assembly(values: Any, objects: Any, repetitions: int = 1) -> Any:
            n = len(values) // repetitions
            presentation = {
                "stimulus_id": [f"{i:04}" for i in range(n)] * repetitions,
                "object_name": list(objects) * repetitions,
                "repetition": np.repeat(np.arange(repetitions), n),
            }
            neuroid = {"neuroid_id": [f"{i:04}" for i in range(values.shape[1])], "region": ["IT"] * values.shape[1]}
            coords = {name: ("presentation", column) for name, column in presentation.items()}
            coords |= {name: ("neuroid", column) for name, column in neuroid.items()}
            return NeuroidAssembly(values, coords=coords, dims=["presentation", "neuroid"])

        def score(features: Any, responses: Any, objects: Any, name: Any, stratify: Any) -> Any:
            regression = {"pls": metric.pls_regression, "ridge": metric.ridge_regression}[name]
            exact = {"regression_kwargs": {"tol": 1e-18, "max_iter": 100_000}} if name == "pls" else {}
            folds = None if stratify else {"stratification_coord": None}
            scorer = metric.CrossRegressedCorrelation(regression(**exact), metric.pearsonr_correlation(), folds)
            return scorer(assembly(features, objects), assembly(responses, objects))

        def consistency(repetitions: Any) -> Any:
            flat = repetitions.reshape(-1, repetitions.shape[2])
            return InternalConsistency()(assembly(flat, ["o"] * repetitions.shape[1], len(repetitions)))

        yield {"score": score, "consistency": consistency}


def degenerate(case: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (50, 120) and responses (50, 3) with a flaw."""
    features, responses = simulated(50, 120, 3)
    here = np.arange(3) == 1
    if case == "duplicates":
        features[35:] = features[:15]  # more distinct ones are left than PLS has components
    elif case == "ties":
        features, responses = np.round(features), np.round(responses)
    elif case == "constant rows":
        features = np.vstack([np.ones((8, 120)), features[8:]])
    elif case == "constant neuroid":
        responses = np.where(here, 0.1, responses)
    elif case == "a neuroid that answers once":
        responses = np.where(here, (np.arange(50) == 7)[:, None], responses)
    return features, responses


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("case", "stratify"),
    [("random", True), ("random", False), ("duplicates", False), ("ties", True), ("constant rows", False),
     ("constant neuroid", True), ("a neuroid that answers once", False)],
)  # fmt: skip
@pytest.mark.parametrize("regression", ["pls", "ridge"])
def test_cross_validation_equals_brain_scores(
    brainscore: dict[str, Callable[..., Any]], regression: str, case: str, stratify: bool
) -> None:
    features, responses = degenerate(case)
    objects = [f"object {i % 5}" for i in range(50)]
    oracle = brainscore["score"](features, responses, objects, regression, stratify)
    strata = objects if stratify else None
    found = cross_validated(features, responses, regression, strata=strata, penalties=[1.0])
    assert found.shape == (10, 3)
    # See test_pls_equals_scikit_learn: the oracle's power iteration decides, not rounding.
    values = singular_values(features, 50)
    within = 1e-9 * (values[0] / values[-1]) ** 2 if regression == "pls" else ridge_tolerance(features, 50, 1.0)
    np.testing.assert_allclose(found, oracle.raw.values, atol=within, rtol=0)
    assert median_score(found) == pytest.approx(float(oracle), abs=within)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["random", "three stimuli", "duplicates", "ties", "constant neuroid", "constant half"])
def test_reliability_equals_brain_scores_internal_consistency(
    brainscore: dict[str, Callable[..., Any]], case: str
) -> None:
    for n_repetitions in [2, 5]:
        rng = np.random.default_rng(n_repetitions)
        repetitions = rng.standard_normal((9, 3)) + rng.standard_normal((n_repetitions, 9, 3))
        if case == "three stimuli":
            repetitions = repetitions[:, :3]
        elif case == "duplicates":
            repetitions = np.repeat(repetitions[:, :3], 3, axis=1)
        elif case == "ties":
            repetitions = np.round(repetitions)
        elif case == "constant neuroid":
            repetitions[:, :, 1] = 0.1
        elif case == "constant half":
            repetitions[: n_repetitions // 2, :, 1] = 0.1
        oracle = brainscore["consistency"](repetitions)
        # Over all splits: where one is undefined, so is the mean.
        np.testing.assert_allclose(reliability(repetitions), oracle.raw.values.mean(axis=0), atol=1e-10)


def test_correction_recovers_the_correlation_with_noiseless_responses() -> None:
    rng = np.random.default_rng(3)
    truth = rng.standard_normal((4000, 3))
    repetitions = truth + np.array([0.5, 1.0, 3.0]) * rng.standard_normal((6, 4000, 3))
    model = 0.6 * truth + 0.8 * rng.standard_normal((4000, 3))
    raw = pearson_by_column(model, repetitions.mean(axis=0))
    np.testing.assert_allclose(corrected(raw, reliability(repetitions)), 0.6, atol=0.04)
    assert (raw < 0.6).all()
    assert raw[2] < 0.45


def test_missing_repetitions_are_left_out_and_too_many_of_them_refused() -> None:
    rng = np.random.default_rng(4)
    repetitions = rng.standard_normal((1, 300, 2)) + rng.standard_normal((6, 300, 2))
    complete = reliability(repetitions)
    repetitions[rng.random((6, 300)) < 0.2] = np.nan
    np.testing.assert_allclose(reliability(repetitions), complete, atol=0.1)
    broken = np.ones((6, 300, 2))
    broken[3, 8, 0] = np.inf
    with pytest.raises(UserError, match="repetition 3 holds infinity in row 8"):
        reliability(broken)
    repetitions[1:] = np.nan
    with pytest.raises(UserError, match="only 0 stimuli were repeated in both halves"):
        reliability(repetitions)
    with pytest.raises(UserError, match="at least 2 repetitions"):
        reliability(repetitions[:1])


def test_correction_and_medians_leave_unknown_neuroids_out() -> None:
    r = np.array([[0.2, np.nan, 0.4], [0.3, np.nan, 0.7]])
    assert median_score(r) == pytest.approx((0.3 + 0.5) / 2)
    assert median_score(np.full((2, 3), np.nan)) is None
    known = corrected(r, np.array([0.25, 0.5, -0.1]))
    np.testing.assert_allclose(known, [[0.4, np.nan, np.nan], [0.6, np.nan, np.nan]])


def test_correlations_of_columns_equal_scipys_and_constants_have_none() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 12, 5))
    oracle = [pearsonr(x, y).statistic for x, y in zip(a.T, b.T, strict=True)]
    np.testing.assert_allclose(pearson_by_column(a, b), oracle, atol=1e-12)
    a[:, 2] = 0.1
    assert np.isnan(pearson_by_column(a, b)).tolist() == [False, False, True, False, False]


def test_same_seed_same_scores_another_seed_other_splits() -> None:
    features, responses = simulated(40, 60, 4)
    first, again, other = (cross_validated(features, responses, "ridge", seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_strata_keep_their_shares() -> None:
    labels = ["a"] * 40 + ["b"] * 20
    for train, test in splits_of(60, strata=labels):
        assert len(train) == 54
        assert sorted(labels[i] for i in test) == ["a"] * 4 + ["b"] * 2
        assert set(train) | set(test) == set(range(60))


def test_unpredictable_responses_score_zero_and_predictable_ones_do_not() -> None:
    features, responses = simulated(120, 300, 40, noise=0.1)
    shuffled = np.random.default_rng(0).permutation(responses)
    for regression in ("pls", "ridge"):
        assert median_score(cross_validated(features, responses, regression)) > 0.8
        assert abs(median_score(cross_validated(features, shuffled, regression))) < 0.15


def test_few_features_take_the_way_of_the_features_to_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    features, responses = simulated(60, 20, 5)
    found = cross_validated(features.astype(np.float32), responses, "ridge")
    monkeypatch.setattr(brain_eval.metrics.encoding, "ridge_predictions", None)
    assert np.array_equal(cross_validated(features.astype(np.float32), responses, "ridge"), found)
    monkeypatch.undo()
    # Columns of zeros say nothing, but make the features many.
    wide = np.hstack([features.astype(np.float32), np.zeros((60, 40), np.float32)])
    monkeypatch.setattr(brain_eval.metrics.encoding, "ridge_of_features", None)
    np.testing.assert_allclose(cross_validated(wide, responses, "ridge"), found, atol=1e-8)


def test_memory_does_not_grow_with_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain_eval.metrics.gram, "BLOCK_BYTES", 2**18)
    peaks = []
    for p in (6_000, 24_000):
        features, responses = simulated(60, p, 3)
        features = features.astype(np.float32)
        for regression in ("pls", "ridge"):
            tracemalloc.start()
            cross_validated(features, responses, regression, splits=2)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert max(peaks) < 1.1 * min(peaks)
    assert max(peaks) < 8 * 2**18


def test_encoding_refuses_what_it_cannot_do() -> None:
    features, responses = simulated(40, 60, 4)
    with pytest.raises(UserError, match="unknown regression 'lasso'; choose from pls, ridge"):
        cross_validated(features, responses, "lasso")
    with pytest.raises(UserError, match=r"responses must be 40 stimuli x neuroids .* got shape \(39, 4\)"):
        cross_validated(features, responses[:39])
    with pytest.raises(UserError, match=r"PLS with 25 components .* got 20 and 36"):
        cross_validated(features[:, :20], responses)
    with pytest.raises(UserError, match="20 stimuli leave fewer than 3 to test"):
        cross_validated(features[:20], responses[:20])
    with pytest.raises(UserError, match="cannot be stratified"):
        cross_validated(features, responses, strata=range(40))
    with pytest.raises(UserError, match="penalties must be positive"):
        cross_validated(features, responses, "ridge", penalties=[0.0])
    with pytest.raises(UserError, match="features of at least 3 stimuli"):
        cross_validated(features[0], responses)
    bad = features.copy(), responses.copy()
    bad[0][3, 0], bad[1][8, 1] = np.nan, np.inf
    with pytest.raises(UserError, match="features contain NaN or infinity in row 3"):
        cross_validated(bad[0], responses)
    with pytest.raises(UserError, match="responses contain NaN or infinity in row 8"):
        cross_validated(features, bad[1])
