"""Distances in units of a recording's own noise, from single repetitions: Mahalanobis and crossnobis RDMs.

The noise covariance of the neuroids is estimated from the residuals of the repetitions around each stimulus' mean,
shrunk as in rsatoolbox. Both RDMs are squared distances divided by the number of neuroids (Walther et al. 2016,
NeuroImage 137:188). Stimuli may have different numbers of repetitions, as in rsatoolbox's forms for unbalanced data.
Whitening mixes neuroids, so a repetition that some neuroid lacks (NaN) is left out for all of them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from brain_eval.metrics.base import RdmKind
from brain_eval.metrics.gram import RowError
from brain_eval.metrics.rdms import euclidean_rdm, squared_distances
from brain_eval.metrics.repetitions import recorded_trials, whole_trials
from nmnc.errors import UserError

#: Estimators of the noise covariance, by rsatoolbox's names.
SHRINKAGES = ("shrinkage_diag", "shrinkage_eye", "diag", "full")
#: What is left of a neuroid's variance beside the others', as part of it, below which it is rounding.
SINGULAR = 1e-12


class _Repetitions(NamedTuple):
    """Responses (repetitions, n, p), NaN where missing; which are there (repetitions, n); how many (n,)."""

    values: NDArray[np.float64]
    available: NDArray[np.bool_]
    counts: NDArray[np.intp]

    @property
    def means(self) -> NDArray[np.float64]:
        return np.asarray(np.nanmean(self.values, axis=0))


def _checked(repetitions: ArrayLike, fewest: int = 1) -> _Repetitions:
    values = np.asarray(repetitions, dtype=np.float64)
    if values.ndim != 3 or values.shape[0] < 2 or values.shape[1] < 3 or values.shape[2] < 1:
        raise UserError(
            "noise needs responses of at least 2 repetitions x 3 stimuli x 1 neuroid, "
            f"got shape {values.shape}; use another recording or a distance without noise"
        )
    recorded = recorded_trials(values)
    there = recorded.all(axis=2)
    counts = there.sum(axis=0)
    if counts.min() < fewest or counts.max() < 2:
        row = int(np.argmin(counts))
        whose = " of all neuroids" if recorded.shape[2] > 1 else ""
        raise RowError(f"{counts[row]} repetitions{whose}, where {max(fewest, 2)} are needed,", row)
    if recorded.shape[2] > 1:
        values = whole_trials(values)
    return _Repetitions(values, there, counts)


def noise_covariance(repetitions: ArrayLike, shrinkage: str = "shrinkage_diag") -> NDArray[np.float64]:
    """Estimate the covariance of the neuroids' noise, (p, p) float64, from the residuals around each stimulus' mean.

    Args:
        repetitions: (repetitions, n, p) responses of p neuroids to n stimuli, NaN where one is missing.
        shrinkage: "shrinkage_diag" towards the variances (Schäfer & Strimmer 2005), "shrinkage_eye" towards a
            multiple of the identity (Ledoit & Wolf 2004), "diag" the variances alone, "full" without shrinkage.

    Raises:
        UserError: unknown shrinkage, no stimulus with 2 repetitions, fewer than 3 stimuli, infinity (names
            repetition and row), a neuroid without noise (names it), squares that overflow or underflow.
    """
    if shrinkage not in SHRINKAGES:
        raise UserError(f"unknown shrinkage '{shrinkage}'; choose from {', '.join(SHRINKAGES)}")
    known = _checked(repetitions)
    residuals = (known.values - known.means)[known.available]
    _refuse_without_noise(known, residuals, shrinkage)
    freedom = len(residuals) - len(known.counts)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # told below
        covariance = _covariance(residuals, freedom, shrinkage)
    if not np.isfinite(covariance).all():
        raise UserError("the squares of the responses overflow or underflow; scale all of them to values near 1")
    return covariance


def _refuse_without_noise(known: _Repetitions, residuals: NDArray[np.float64], shrinkage: str) -> None:
    """UserError where repetitions differ by their mean's rounding alone; shrinkage_eye lends a neuroid some noise."""
    rounding = len(known.values) * np.finfo(np.float64).eps * np.nanmax(np.abs(known.values), axis=(0, 1))
    silent = np.abs(residuals).max(axis=0) <= rounding
    if silent.all() or (silent.any() and shrinkage != "shrinkage_eye"):
        neuroid = int(np.argmax(silent))
        raise UserError(
            f"neuroid {neuroid} has identical responses in all repetitions, so its noise cannot be estimated; remove it"
        )


def _covariance(residuals: NDArray[np.float64], freedom: int, shrinkage: str) -> NDArray[np.float64]:
    """(p, p) from (responses, p) residuals."""
    sums = residuals.T @ residuals
    if shrinkage == "diag":
        return np.diag(np.diag(sums)) / freedom
    if shrinkage == "full":
        return sums / freedom
    squares = residuals**2
    squared_sums = squares.T @ squares
    if shrinkage == "shrinkage_eye":
        return _towards_identity(sums, squared_sums, len(residuals), freedom)
    return _towards_variances(sums, squared_sums, len(residuals), freedom)


def _towards_identity(
    sums: NDArray[np.float64], squared_sums: NDArray[np.float64], n: int, freedom: int
) -> NDArray[np.float64]:
    """Ledoit & Wolf 2004, eq. 14; `n` residuals with sums of products and of squared products."""
    covariance = sums / n
    identity = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    away = float(np.sum((covariance - identity) ** 2))
    if away == 0.0:
        return covariance * n / freedom
    spread = min(away, float(np.sum(squared_sums / n - covariance**2)) / n)
    return (spread / away * identity + (away - spread) / away * covariance) * n / freedom


def _towards_variances(
    sums: NDArray[np.float64], squared_sums: NDArray[np.float64], n: int, freedom: int
) -> NDArray[np.float64]:
    """Schäfer & Strimmer 2005, target D, with rsatoolbox's degrees of freedom."""
    covariance = sums / freedom
    variances = np.diag(covariance)
    products = np.outer(variances, variances)
    correlations = sums / np.sqrt(products) / (n - 1)
    spread = n / freedom**2 * (squared_sums / products / (n - 1) - correlations**2)
    off_diagonal = ~np.eye(len(sums), dtype=bool)
    size = float(np.sum(correlations[off_diagonal] ** 2))
    weight = min(max(float(np.sum(spread[off_diagonal])) / size, 0.0), 1.0) if size > 0 else 1.0
    return np.where(off_diagonal, (1.0 - weight) * covariance, covariance)


def whitened(responses: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return responses (..., p) in coordinates in which noise of that covariance (p, p) is white.

    Raises:
        UserError: the covariance is singular.
    """
    try:
        factor = cholesky(covariance, lower=True)
        singular = bool((np.diag(factor) ** 2 <= SINGULAR * np.diag(covariance)).any())
    except LinAlgError:
        singular = True
    if singular:
        raise UserError(
            "the noise covariance is singular: neuroids that repeat others, or more neuroids than residuals; "
            "use shrinkage_diag, or leave out what is repeated"
        )
    flat = responses.reshape(-1, responses.shape[-1])
    return solve_triangular(factor, flat.T, lower=True).T.reshape(responses.shape)


def mahalanobis_rdm(repetitions: ArrayLike, shrinkage: str = "shrinkage_diag") -> NDArray[np.float64]:
    """Return squared Mahalanobis distances between the stimuli's mean responses, divided by the number of neuroids.

    Args as `noise_covariance`. Returns (n, n) float64, symmetric, zero diagonal, not negative. Raises UserError as
    `noise_covariance`, and for a singular covariance.
    """
    known = _checked(repetitions)
    return euclidean_rdm(whitened(known.means, noise_covariance(known.values, shrinkage)))


def crossnobis_rdm(repetitions: ArrayLike, shrinkage: str = "shrinkage_diag") -> NDArray[np.float64]:
    """Return cross-validated squared Mahalanobis distances, divided by the number of neuroids.

    They are 0 on average where nothing differs, and may be negative: every repetition is multiplied with all others
    but itself, so that the noise of the two is independent. (Nearly: the covariance comes from the same repetitions.
    With f residual degrees of freedom the bias is at most 2 (p + 1) / (repetitions f) noise variances.)

    Args as `noise_covariance`. Returns (n, n) float64, symmetric, zero diagonal. Raises UserError as
    `mahalanobis_rdm`, and for a stimulus with one repetition.
    """
    known = _checked(repetitions, fewest=2)
    p = known.values.shape[2]
    # The stimuli's mean is common to all distances; without it the products do not cancel.
    centred = np.where(known.available[..., None], known.values - known.means.mean(axis=0), 0.0)
    white = whitened(centred, noise_covariance(known.values, shrinkage))
    total, single = white.sum(axis=0), white.transpose(1, 0, 2).reshape(len(known.counts), -1)
    # Of all pairs of repetitions those of one repetition with itself are taken away; so are their numbers.
    here = known.available.astype(np.float64)
    pairs = np.outer(known.counts, known.counts) - here.T @ here
    rdm = squared_distances((total @ total.T - single @ single.T) / pairs, p)
    np.fill_diagonal(rdm, 0.0)
    return rdm


RECORDS = (
    RdmKind("mahalanobis", euclidean_rdm, mahalanobis_rdm, repeated=True),
    RdmKind("crossnobis", euclidean_rdm, crossnobis_rdm, repeated=True),
)
