"""CKA against Brain-Score's own functions, and its invariances."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import brain_eval.metrics.gram
from brain_eval.metrics.cka import alignment, gram, linear_cka
from brain_eval.metrics.rdms import UndefinedSimilarity
from nmnc.errors import UserError

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def brainscore() -> dict[bool, Callable[..., Any]]:
    """Brain-Score's functions: (features, features) -> CKA, by whether they are unbiased."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("BS_INSTALL_DEPENDENCIES", "no")
        patch.setenv("RESULTCACHING_DISABLE", "1")
        warnings.simplefilter("ignore")
        from brainscore_vision.metrics.cka.metric import linear_CKA, unbiased_linear_CKA
    return {True: unbiased_linear_CKA, False: linear_CKA}


def features_of(case: str) -> NDArray[np.float64]:
    rng = np.random.default_rng(2)
    return {
        "random": rng.standard_normal((20, 50)),
        "narrow": rng.standard_normal((20, 1)),
        "ties": rng.integers(0, 3, (20, 6)).astype(float),
        "duplicates": np.repeat(rng.standard_normal((5, 30)), 4, axis=0),
        "constant rows": np.repeat(rng.standard_normal((20, 1)), 7, axis=1),
        "constant neuroids": np.hstack([np.ones((20, 3)), rng.standard_normal((20, 4))]),
        "rectified": np.maximum(rng.standard_normal((20, 40)) - 1, 0),
    }[case]


CASES = ["random", "narrow", "ties", "duplicates", "constant rows", "constant neuroids", "rectified"]


@pytest.mark.parametrize("case", CASES)
def test_cka_equals_brain_scores(brainscore: dict[bool, Callable[..., Any]], case: str) -> None:
    for other in ["random", "duplicates"]:
        for unbiased in [True, False]:
            a = features_of(case)
            b = features_of(other) + 0.5 * a[:, :1]
            assert linear_cka(a, b, unbiased) == pytest.approx(brainscore[unbiased](a, b), abs=1e-10)
            assert linear_cka(a.astype(np.float32), b, unbiased) == pytest.approx(brainscore[unbiased](a, b), abs=1e-6)


@pytest.mark.parametrize("case", ["random", "ties", "duplicates", "constant row"])
def test_cka_of_the_fewest_stimuli_equals_brain_scores(brainscore: dict[bool, Callable[..., Any]], case: str) -> None:
    for n in [3, 4, 5]:
        rng = np.random.default_rng(n)
        a, b = rng.standard_normal((n, 6)), rng.standard_normal((n, 3))
        if case == "ties":
            a, b = np.round(a), np.round(b)
        elif case == "duplicates":
            a[1] = a[0]
        elif case == "constant row":
            a[1] = 2.5
        assert linear_cka(a, b, unbiased=False) == pytest.approx(brainscore[False](a, b), abs=1e-10)
        if n == 3:
            with pytest.raises(UserError, match="unbiased CKA needs features of at least 4 stimuli"):
                linear_cka(a, b)
        else:
            assert linear_cka(a, b) == pytest.approx(brainscore[True](a, b), abs=1e-10)


@pytest.mark.parametrize("unbiased", [True, False])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(5, 15), scale=st.floats(1e-6, 1e6))
def test_cka_is_symmetric_and_blind_to_rotation_scale_offset_and_order(
    unbiased: bool, seed: Any, n: Any, scale: Any
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, 6)), rng.standard_normal((n, 4))
    value = linear_cka(a, b, unbiased)
    rotation, order = np.linalg.qr(rng.standard_normal((6, 6)))[0], rng.permutation(n)
    assert linear_cka(b, a, unbiased) == pytest.approx(value, abs=1e-12)
    assert linear_cka(scale * a @ rotation + rng.standard_normal(6), b, unbiased) == pytest.approx(value, abs=1e-8)
    assert linear_cka(a[order], b[order], unbiased) == pytest.approx(value, abs=1e-12)
    assert linear_cka(a, a, unbiased) == pytest.approx(1, abs=1e-12)
    assert (-1 if unbiased else 0) - 1e-12 <= value <= 1 + 1e-12


def test_only_the_biased_form_grows_with_the_neuroids_where_nothing_is_shared() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((15, 300)), rng.standard_normal((15, 300))) for _ in range(100)]
    assert np.mean([linear_cka(a, b, unbiased=False) for a, b in pairs]) > 0.9
    assert abs(np.mean([linear_cka(a, b) for a, b in pairs])) < 0.03


def test_a_large_offset_of_all_stimuli_costs_no_digits() -> None:
    a, b = features_of("random"), features_of("rectified")
    for unbiased in (True, False):
        assert linear_cka(a + 2**20, b, unbiased) == pytest.approx(linear_cka(a, b, unbiased), abs=1e-9)


def test_wide_features_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = features_of("random"), features_of("rectified")
    whole = linear_cka(a, b)
    monkeypatch.setattr(brain_eval.metrics.gram, "BLOCK_BYTES", 20 * 8 * 3)
    assert linear_cka(a, b) == pytest.approx(whole, abs=1e-14)


@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_refuses_what_has_no_answer(unbiased: bool) -> None:
    a = features_of("random")
    bad = a.copy()
    bad[7, 3] = np.nan
    with pytest.raises(UserError, match="NaN or infinity in row 7"):
        linear_cka(a, bad, unbiased)
    with pytest.raises(UserError, match="of 20 and 19 stimuli"):
        linear_cka(a, a[:19], unbiased)
    with pytest.raises(UndefinedSimilarity, match="all stimuli have the same features"):
        linear_cka(np.ones((20, 1)) * a[:1], a, unbiased)


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_unit_of_the_activity_does_not_matter_or_is_refused(unbiased: bool) -> None:
    a, b = features_of("random"), features_of("rectified")
    for unit in (1e-100, 2.0**-300, 1e100):
        assert linear_cka(a * unit, b, unbiased) == pytest.approx(linear_cka(a, b, unbiased), abs=1e-12)
    with pytest.raises(UserError, match="squares of the activity underflow; multiply"):
        linear_cka(a * 1e-170, b, unbiased)
    with pytest.raises(UserError, match=r"activity overflow in row \d+; divide"):
        linear_cka(a * 1e170, b, unbiased)


def test_unbiased_cka_needs_more_than_the_stimuli_with_themselves() -> None:
    """Four stimuli at the corners of a regular body: all products of two different ones are equal."""
    with pytest.raises(UndefinedSimilarity, match="with itself is 0"):
        linear_cka(np.eye(4), np.random.default_rng(0).standard_normal((4, 3)))
    centred = gram(np.eye(4), unbiased=False)
    assert alignment(centred, centred) == pytest.approx(1)
