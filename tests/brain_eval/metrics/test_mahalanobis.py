"""Distances in units of noise against rsatoolbox, with equal and with unlike numbers of repetitions."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from brain_eval.metrics import mahalanobis
from brain_eval.metrics.mahalanobis import SHRINKAGES, crossnobis_rdm, mahalanobis_rdm, noise_covariance
from brain_eval.metrics.rdms import upper_triangle
from nmnc.errors import UserError

pytestmark = pytest.mark.numeric

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from rsatoolbox.data import Dataset
    from rsatoolbox.data.noise import cov_from_unbalanced, prec_from_unbalanced
    from rsatoolbox.rdm import calc_rdm
    from rsatoolbox.rdm.calc_unbalanced import calc_rdm_unbalanced

KINDS = {kind.name: kind.of_recording for kind in mahalanobis.RECORDS}


def repetitions_of(case: str) -> NDArray[np.float64]:
    """Single-trial responses (repetitions, stimuli, neuroids)."""
    rng = np.random.default_rng(11)
    patterns = rng.standard_normal((8, 6))
    mixing = rng.standard_normal((6, 6))
    noisy = patterns + rng.standard_normal((4, 8, 6)) @ mixing
    return {
        "correlated noise": noisy,
        "two repetitions": noisy[:2],
        "three stimuli": noisy[:, :3],
        "duplicates": noisy[:, [0, 0, 1, 1, 2, 3]],
        "spike counts": rng.poisson(3.0, (5, 9, 4)).astype(float),
        "one neuroid": noisy[:, :, :1],
        "more neuroids than residuals": rng.standard_normal((3, 4, 20)),
        "constant rows": np.where((np.arange(8) < 3)[:, None], noisy[:, :, :1], noisy),
        "a stimulus without noise": np.where((np.arange(8) == 2)[:, None], noisy[:1], noisy),
        "ties": np.round(noisy / 2),
    }[case]


REPEATED = [
    "correlated noise", "two repetitions", "three stimuli", "duplicates", "spike counts", "one neuroid",
    "more neuroids than residuals", "constant rows", "a stimulus without noise", "ties",
]  # fmt: skip


def rsa_dataset(repetitions: NDArray[np.float64]) -> Dataset:
    folds, n, p = repetitions.shape
    here = ~np.isnan(repetitions).all(axis=2).ravel()
    # Floats: averaging fills descriptors with NaN first.
    stimulus, fold = np.tile(np.arange(float(n)), folds), np.repeat(np.arange(float(folds)), n)
    return Dataset(repetitions.reshape(-1, p)[here], obs_descriptors={"stimulus": stimulus[here], "fold": fold[here]})


@pytest.mark.parametrize("case", REPEATED)
def test_noise_covariance_equals_rsatoolbox(case: str) -> None:
    repetitions = repetitions_of(case)
    for shrinkage in SHRINKAGES:
        # One neuroid has nothing to shrink: there rsatoolbox divides 0 by 0.
        method = "full" if case == "one neuroid" and shrinkage != "diag" else shrinkage
        oracle = cov_from_unbalanced(rsa_dataset(repetitions), "stimulus", method=method)
        found = noise_covariance(repetitions, shrinkage)
        np.testing.assert_allclose(found, oracle, atol=1e-10, err_msg=shrinkage)


@pytest.mark.parametrize("case", REPEATED)
@pytest.mark.parametrize("kind", KINDS)
def test_distances_in_units_of_noise_equal_rsatoolbox(case: str, kind: str) -> None:
    repetitions, function = repetitions_of(case), KINDS[kind]
    dataset = rsa_dataset(repetitions)
    folds = {"cv_descriptor": "fold"} if kind == "crossnobis" else {}
    for shrinkage in SHRINKAGES:
        if case == "more neuroids than residuals" and shrinkage == "full":
            with pytest.raises(UserError, match="singular"):
                function(repetitions, shrinkage)
            continue
        method = "full" if case == "one neuroid" else shrinkage
        precision = prec_from_unbalanced(dataset, "stimulus", method=method)
        oracle = calc_rdm(dataset, method=kind, descriptor="stimulus", noise=precision, **folds).dissimilarities[0]
        rdm = function(repetitions, shrinkage)
        np.testing.assert_allclose(upper_triangle(rdm), oracle, rtol=1e-10, atol=1e-10, err_msg=shrinkage)
        np.testing.assert_allclose(rdm, rdm.T, atol=1e-14)
        assert not np.diag(rdm).any()


def ragged(fewest: int) -> NDArray[np.float64]:
    """Noisy repetitions (5, 9, 4) of which each stimulus has `fewest` to 5."""
    rng = np.random.default_rng(3)
    repetitions = rng.standard_normal((9, 4)) + rng.standard_normal((5, 9, 4)) @ rng.standard_normal((4, 4))
    for row, count in enumerate([fewest, 5, 3, 4, 2, 5, 3, 2, 4]):
        repetitions[count:, row] = np.nan
    return repetitions


@pytest.mark.parametrize(("kind", "fewest"), [("mahalanobis", 1), ("mahalanobis", 2), ("crossnobis", 2)])
def test_missing_repetitions_are_treated_as_rsatoolbox_treats_unbalanced_data(kind: str, fewest: int) -> None:
    repetitions = ragged(fewest)
    # What all stimuli have in common cancels only where their repetitions are equally many: we take it away.
    centred = rsa_dataset(repetitions - np.nanmean(repetitions, axis=0).mean(axis=0))
    folds = {"cv_descriptor": "fold"} if kind == "crossnobis" else {}
    for shrinkage in SHRINKAGES:
        covariance = cov_from_unbalanced(rsa_dataset(repetitions), "stimulus", method=shrinkage)
        np.testing.assert_allclose(noise_covariance(repetitions, shrinkage), covariance, atol=1e-10)
        oracle = calc_rdm_unbalanced(centred, kind, "stimulus", noise=np.linalg.inv(covariance), **folds)
        found = upper_triangle(KINDS[kind](repetitions, shrinkage))
        np.testing.assert_allclose(found, oracle.dissimilarities[0], rtol=1e-10, atol=1e-10, err_msg=shrinkage)


def test_where_a_missing_repetition_stands_says_nothing_to_means() -> None:
    repetitions = ragged(1)
    np.testing.assert_allclose(mahalanobis_rdm(repetitions[::-1]), mahalanobis_rdm(repetitions), atol=1e-12)


def test_ragged_crossnobis_is_unbiased() -> None:
    """The mean over many recordings of one signal is its distances, whatever is missing."""
    rng = np.random.default_rng(5)
    signal, missing = 2 * rng.standard_normal((6, 3)), np.isnan(ragged(2)).any(axis=2)[:, :6]
    total = np.zeros((6, 6))
    for _ in range(400):
        values = signal + rng.standard_normal((5, 6, 3))
        values[missing] = np.nan
        total += crossnobis_rdm(values, "diag") / 400
    distances = ((signal[:, None] - signal[None]) ** 2).mean(axis=2)
    # The estimate divides by an estimated variance: E[1 / chi2] is f / (f - 2) with f residuals.
    freedom = (~missing).sum() - 6
    np.testing.assert_allclose(total, distances * freedom / (freedom - 2), rtol=0.06, atol=0.1)


def test_crossnobis_is_zero_on_average_where_nothing_differs_and_mahalanobis_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((5, 30, 4)) for _ in range(200)]
    crossed = [upper_triangle(crossnobis_rdm(values)).mean() for values in noise]
    assert abs(np.mean(crossed)) < 0.015
    assert min(crossed) < -0.05
    # The variance of the difference of two means of 5: 2 / 5.
    assert np.mean([upper_triangle(mahalanobis_rdm(values)).mean() for values in noise]) == pytest.approx(0.4, abs=0.02)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_noise_in_other_units_changes_no_distance(seed: Any) -> None:
    """Without shrinkage any invertible mixture of the neuroids leaves Mahalanobis distances as they are."""
    rng = np.random.default_rng(seed)
    repetitions, mixing = rng.standard_normal((4, 9, 3)), rng.standard_normal((3, 3)) + 3 * np.eye(3)
    for function in (mahalanobis_rdm, crossnobis_rdm):
        np.testing.assert_allclose(function(repetitions @ mixing, "full"), function(repetitions, "full"), atol=1e-6)


@pytest.mark.parametrize("repetitions", [2, 3, 7])
def test_noise_that_is_only_the_rounding_of_a_mean_is_refused(repetitions: int) -> None:
    """The mean of three equal numbers is not always that number."""
    values = 100 * np.random.default_rng(0).standard_normal((repetitions, 9, 4))
    alike = np.broadcast_to(values[:1], values.shape)
    one, constant = values.copy(), values.copy()
    one[:, :, 2], constant[:, :, 2] = alike[:, :, 2], 0.1
    for function, shrinkage in itertools.product(KINDS.values(), SHRINKAGES):
        with pytest.raises(UserError, match="neuroid 0 has identical responses in all repetitions"):
            function(alike, shrinkage)
        for silent in (one, constant):
            if shrinkage == "shrinkage_eye":  # it lends every neuroid some noise
                assert np.abs(function(silent, shrinkage)).max() < 1e4
            else:
                with pytest.raises(UserError, match="neuroid 2 has identical responses in all repetitions"):
                    function(silent, shrinkage)


@pytest.mark.parametrize("seed", range(2))
def test_a_neuroid_that_repeats_another_makes_the_covariance_singular_whatever_the_rounding(seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((4, 8, 5))
    values[:, :, 3] = values[:, :, 1]
    for function in KINDS.values():
        with pytest.raises(UserError, match="noise covariance is singular: neuroids that repeat others"):
            function(values, "full")
    dataset = rsa_dataset(values)
    precision = prec_from_unbalanced(dataset, "stimulus", method="shrinkage_diag")
    oracle = calc_rdm(dataset, method="mahalanobis", descriptor="stimulus", noise=precision)
    found = upper_triangle(mahalanobis_rdm(values))
    np.testing.assert_allclose(found, oracle.dissimilarities[0], rtol=1e-10, atol=1e-10)


def test_repetitions_that_say_nothing_about_noise_are_refused() -> None:
    repetitions = repetitions_of("correlated noise")
    with pytest.raises(UserError, match="unknown shrinkage 'oas'; choose from shrinkage_diag"):
        noise_covariance(repetitions, "oas")
    for shape in ((1, 8, 6), (4, 2, 6), (8, 6), (4, 8, 0)):
        with pytest.raises(UserError, match="at least 2 repetitions x 3 stimuli"):
            mahalanobis_rdm(np.ones(shape))
    same = repetitions.copy()
    same[:, :, 2] = same[:1, :, 2]
    for unit in (1e-100, 1e160):
        with pytest.raises(UserError, match="squares of the responses overflow or underflow"):
            mahalanobis_rdm(np.random.default_rng(0).standard_normal((3, 10, 6)) * unit)
    with pytest.raises(UserError, match="neuroid 2 has identical responses in all repetitions"):
        crossnobis_rdm(same)
    same[2, 5, 1] = np.inf
    with pytest.raises(UserError, match="repetition 2 holds infinity in row 5"):
        crossnobis_rdm(same)
    repetitions[1:, 4] = np.nan
    with pytest.raises(UserError, match="1 repetitions, where 2 are needed, in row 4"):
        crossnobis_rdm(repetitions)
    repetitions[:, 4] = np.nan
    with pytest.raises(UserError, match="0 repetitions, where 2 are needed, in row 4"):
        mahalanobis_rdm(repetitions)
