"""Every kind of RDM against scipy and rsatoolbox, on random and degenerate features, and its invariances."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from brain_eval.metrics import gram
from brain_eval.metrics.rdms import (
    RECORDS,
    UndefinedSimilarity,
    correlation_rdm,
    cosine_rdm,
    euclidean_rdm,
    square,
    upper_triangle,
)
from nmnc.errors import UserError

pytestmark = pytest.mark.numeric

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm

KINDS = {kind.name: kind.of_recording for kind in RECORDS}


def features_of(case: str) -> NDArray[Any]:
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
        "constant rows": np.vstack([np.zeros((1, 30)), 1e4 + rng.standard_normal((9, 30)), np.full((2, 30), 2.5)]),
    }[case]


CASES = ["random", "float32", "offset", "ties", "duplicates", "three stimuli", "two neuroids", "spike counts"]


def scipys(features: NDArray[Any], kind: str) -> NDArray[np.float64]:
    metric = {"euclidean": "sqeuclidean"}.get(kind, kind)
    distances = pdist(features.astype(np.float64), metric)
    return distances / features.shape[1] if kind == "euclidean" else distances


@pytest.mark.parametrize("case", [*CASES, "constant rows"])
def test_rdm_equals_scipy_is_symmetric_with_zero_diagonal_within_bounds(case: str) -> None:
    features = features_of(case)
    # A constant row has no correlation, and one of zeros no angle. Distances of up to 1e8 have no 18 digits.
    kinds, rtol = (["euclidean"], 1e-12) if case == "constant rows" else (list(KINDS), 0)
    for kind in kinds:
        rdm = KINDS[kind](features)
        assert rdm.dtype == np.float64
        oracle = scipys(features, kind)
        np.testing.assert_allclose(upper_triangle(rdm), oracle, atol=1e-10, rtol=rtol, err_msg=kind)
        assert np.array_equal(rdm, rdm.T)
        assert not np.diag(rdm).any()
        assert rdm.min() >= 0
        assert kind == "euclidean" or rdm.max() <= 2


def test_stimuli_near_each_other_and_far_from_one_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of all but the first cancel: their squares are 1e16, their distances near 2."""
    features = 1e8 + np.random.default_rng(3).standard_normal((12, 40))
    features[0] = 0
    for paired in (2**22, 50):  # at once, and few pairs at a time
        monkeypatch.setattr("brain_eval.metrics.rdms.PAIRED", paired)
        rdm = euclidean_rdm(features)
        np.testing.assert_allclose(rdm[1:, 1:], squareform(scipys(features[1:], "euclidean")), rtol=1e-10)
        assert np.array_equal(rdm, rdm.T)


def test_cosine_of_constant_rows_is_scipys() -> None:
    features = features_of("constant rows")[1:]
    np.testing.assert_allclose(upper_triangle(cosine_rdm(features)), scipys(features, "cosine"), atol=1e-10, rtol=0)


@pytest.mark.parametrize("offset", [1e4, 1e5, 1e6])
def test_float32_keeps_its_bound_beside_a_large_offset(offset: float) -> None:
    """The mean of a row of float32 is no float32: what is left of it is taken out of the products."""
    features = (offset + np.random.default_rng(0).standard_normal((30, 500))).astype(np.float32)
    np.testing.assert_allclose(correlation_rdm(features, np.float32), correlation_rdm(features), atol=1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case != "offset"])
def test_rdm_equals_rsatoolbox(case: str) -> None:
    for kind in ["correlation", "euclidean"]:
        features = features_of(case).astype(np.float64)
        oracle = calc_rdm(Dataset(features), method=kind)
        np.testing.assert_allclose(upper_triangle(KINDS[kind](features)), oracle.dissimilarities[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("n", [3, 63, 64, 65, 200])
def test_rdm_of_any_number_of_stimuli_is_filled_everywhere(n: int) -> None:
    """Tiles of 64 rows: sizes around their edge."""
    features = np.random.default_rng(n).standard_normal((n, 20))
    for kind, function in KINDS.items():
        np.testing.assert_allclose(function(features), squareform(scipys(features, kind)), atol=1e-12)


def test_equal_rows_are_exactly_zero_apart_and_so_tie() -> None:
    features = np.random.default_rng(0).standard_normal((7, 1001))
    for dtype in (np.float64, np.float32):
        twice = correlation_rdm(np.concatenate([features, 3.7 * features + 1.3]), dtype)
        assert not np.diag(twice[:7, 7:]).any()
        assert np.count_nonzero(twice == 0) == 14 + 14
    for function, again in ((cosine_rdm, 3.7 * features), (euclidean_rdm, features)):
        twice = function(np.concatenate([features, again]))
        assert np.count_nonzero(twice == 0) == 14 + 14


@pytest.mark.parametrize("kind", KINDS)
def test_rdm_of_a_wide_layer_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    features = features_of("random")
    whole = KINDS[kind](features)
    monkeypatch.setattr(gram, "BLOCK_BYTES", 20 * 8 * 7)
    monkeypatch.setattr(gram, "ROWS", 6)
    assert len(list(gram.column_blocks(20, 50, 8))) == 8
    np.testing.assert_allclose(KINDS[kind](features), whole, atol=1e-14)


@pytest.mark.parametrize("rubbish", [np.nan, 3e38])
def test_what_lay_in_fresh_memory_does_not_matter(monkeypatch: pytest.MonkeyPatch, rubbish: float) -> None:
    features = np.random.default_rng(0).standard_normal((130, 50)).astype(np.float32)
    expected = [function(features) for function in KINDS.values()] + [correlation_rdm(features, np.float32)]
    empty = np.empty

    def dirty(shape: Any, dtype: Any = float, order: str = "C") -> Any:
        array = empty(shape, dtype, order)
        array.fill(rubbish)
        return array

    monkeypatch.setattr(np, "empty", dirty)
    found = [function(features) for function in KINDS.values()] + [correlation_rdm(features, np.float32)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", CASES)
def test_float32_rdm_is_within_a_hundred_thousandth_of_the_float64_one(case: str) -> None:
    features = features_of(case)
    fast = correlation_rdm(features, np.float32)
    assert fast.dtype == np.float32
    assert np.array_equal(fast, fast.T)
    np.testing.assert_allclose(fast, correlation_rdm(features), atol=1e-5, rtol=0)


def test_float32_rdm_keeps_its_error_on_a_wide_rectified_layer() -> None:
    rng = np.random.default_rng(5)
    features = np.maximum(rng.standard_normal((120, 8)) @ rng.standard_normal((8, 20000)) + 0.5, 0)
    error = np.abs(correlation_rdm(features, np.float32) - correlation_rdm(features)).max()
    assert 1e-7 < error < 1e-5


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-40, 2.0**60])
def test_scaling_by_a_power_of_two_changes_no_bit(scale: float) -> None:
    features = features_of("float32")
    scaled = features * np.float32(scale)
    for function in (correlation_rdm, cosine_rdm):
        assert np.array_equal(function(scaled), function(features))
    assert np.array_equal(correlation_rdm(scaled, np.float32), correlation_rdm(features, np.float32))


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_tiny_and_huge_activity_neither_underflows_nor_overflows(size: float) -> None:
    features = features_of("random")
    for function in (correlation_rdm, cosine_rdm):
        np.testing.assert_allclose(function(features * size), function(features), atol=1e-12)
    np.testing.assert_allclose(correlation_rdm(features * size, np.float32), correlation_rdm(features), atol=1e-5)


def test_activity_whose_sum_overflows_is_refused_by_row() -> None:
    features = features_of("random")
    features[2] = np.linspace(1.6e308, 1.7e308, features.shape[1])
    with pytest.raises(UserError, match="sum of the activity overflows in row 2; divide"):
        correlation_rdm(features)


def test_squares_that_overflow_are_refused_by_row() -> None:
    features = features_of("random")
    features[3] *= 1e160
    with pytest.raises(UserError, match=r"squares of the activity overflow in row \d+; divide"):
        euclidean_rdm(features)


FEATURES = arrays(np.float64, st.tuples(st.integers(3, 9), st.integers(2, 7)), elements=st.integers(-50, 50))


@settings(max_examples=60)
@given(FEATURES, st.randoms(use_true_random=False))
def test_permuting_stimuli_permutes_the_rdm_and_permuting_neuroids_changes_nothing(features: Any, random: Any) -> None:
    stimuli, neuroids = list(range(len(features))), list(range(features.shape[1]))
    random.shuffle(stimuli), random.shuffle(neuroids)
    for kind, function in KINDS.items():
        if kind != "euclidean" and (np.ptp(features, axis=1) == 0).any():
            # A row of zeros has no direction either; any other constant has one, but no correlation.
            continue
        rdm = function(features)
        np.testing.assert_allclose(function(features[stimuli][:, neuroids]), rdm[np.ix_(stimuli, stimuli)], atol=1e-10)


@settings(max_examples=60)
@given(FEATURES, st.floats(0.01, 100), st.floats(-100, 100))
def test_what_each_kind_does_not_see(features: Any, scale: Any, shift: Any) -> None:
    """Correlation: scale and offset of a stimulus; cosine: its scale; Euclidean: a pattern added to all stimuli."""
    first = np.where(np.arange(len(features))[:, None] == 0, scale, 1.0)
    moved = {"correlation": features * first + (first - 1) * shift, "cosine": features * first}
    moved["euclidean"] = features + shift * np.arange(features.shape[1])
    for kind, function in KINDS.items():
        try:
            rdm = function(features)
        except UndefinedSimilarity:
            continue
        np.testing.assert_allclose(function(moved[kind]), rdm, atol=1e-8)


@pytest.mark.parametrize("kind", ["correlation", "cosine"])
def test_row_without_a_direction_is_named(kind: str) -> None:
    features = features_of("random")
    features[13] = {"correlation": 0.1, "cosine": 0.0}[kind]
    with pytest.raises(UndefinedSimilarity, match=r"(constant|zero everywhere) in row 13") as caught:
        KINDS[kind](features)
    assert isinstance(caught.value, gram.RowError)
    assert caught.value.row == 13


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_row_that_is_not_finite_is_named(bad: float) -> None:
    for kind in KINDS:
        features = features_of("random")
        features[4, 49] = bad
        with pytest.raises(UserError, match="row 4"):
            KINDS[kind](features)


@pytest.mark.parametrize("shape", [(2, 10), (0, 10), (10, 0), (10,), (4, 4, 4)])
def test_too_few_stimuli_or_a_wrong_shape_is_refused(shape: tuple[Any, ...]) -> None:
    for kind in KINDS:
        with pytest.raises(UserError, match="at least 3 stimuli"):
            KINDS[kind](np.ones(shape))


def test_upper_triangle_is_in_scipys_order_and_square_undoes_it() -> None:
    rdm = correlation_rdm(features_of("random"))
    assert np.array_equal(upper_triangle(rdm), squareform(rdm, checks=False))
    assert np.array_equal(square(upper_triangle(rdm), 20), rdm)
    assert upper_triangle(rdm.astype(np.float32)).dtype == np.float64


def test_upper_triangle_refuses_what_is_not_square() -> None:
    with pytest.raises(UserError, match="square"):
        upper_triangle(np.zeros((3, 4)))
