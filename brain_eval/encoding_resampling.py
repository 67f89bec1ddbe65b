"""Encoding scores of resampled test stimuli: the fits are kept, their predictions are weighted.

A draw counts each stimulus so many times in the test part of every split. All weighted Pearson correlations
of a split are one matrix product, so that a thousand draws cost little beside the fits.
"""

from collections.abc import Sequence

import numpy as np

from brain_eval.encoding import FEWEST, Fold
from brain_eval.resampling import NO_VARIANCE, Matrix, Vector


def weighted_pearson(a: Matrix, b: Matrix, weights: Matrix) -> Matrix:
    """Return the weighted Pearson correlations of the columns of a and b.

    Args:
        a, b: (n, k) float64.
        weights: (rows, n) float64, not negative: how often each of the n counts.

    Returns:
        (rows, k) float64; NaN where fewer than 3 different ones count, or a column is constant over them.
    """
    one, other = _standardised(a), _standardised(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (weights / weights.sum(axis=1, keepdims=True)) @ np.hstack(
            [one, other, one * one, other * other, one * other]
        )
        one, other, squares, others, products = np.split(means, 5, axis=1)
        squares -= one * one
        others -= other * other
        products -= one * other
        r = products / np.sqrt(squares * others)
        usable = (squares > NO_VARIANCE) & (others > NO_VARIANCE)
    usable &= (weights > 0).sum(axis=1, keepdims=True) >= FEWEST
    return np.where(usable, np.clip(r, -1.0, 1.0), np.nan)


def _standardised(values: Matrix) -> Matrix:
    """Columns of mean 0 and variance 1, or of 0 where they are constant."""
    size = np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), np.inf)
    return (values - values.mean(axis=0)) / size


def median_of_known(values: Matrix) -> Vector:
    """Return the median of each row without its NaN, (rows,) float64; NaN where a row holds nothing else."""
    ordered = np.sort(values, axis=1)  # NaN last
    known = np.isfinite(values).sum(axis=1)
    rows, last = np.arange(len(values)), np.maximum(known - 1, 0)
    middle = (ordered[rows, last // 2] + ordered[rows, (last + 1) // 2]) / 2
    return np.where(known > 0, middle, np.nan)


def scores_under_weights(folds: Sequence[Fold], responses: Matrix, weights: Matrix) -> tuple[Vector, Vector]:
    """Score resampled test stimuli, and the test stimuli without each stimulus.

    The score is encoding.median_score: the median over neuroids, then the mean over splits. Splits with fewer
    than 3 different test stimuli in a draw are left out of that draw's mean.

    Args:
        folds: the fitted splits.
        responses: (n, neuroids) float64.
        weights: (rows, n) float64 counts of the n stimuli.

    Returns:
        (rows,) scores of the draws, NaN where no split has one; (n,) scores without each stimulus in turn,
        where a split too small to do without one of its stimuli keeps its score.
    """
    n, rows = len(responses), len(weights)
    drawn = np.empty((len(folds), rows))
    left_out = np.empty((len(folds), n))
    for index, fold in enumerate(folds):
        size = len(fold.test)
        counts = np.concatenate([weights[:, fold.test], 1.0 - np.eye(size), np.ones((1, size))])
        medians = median_of_known(weighted_pearson(fold.predicted, responses[fold.test], counts))
        without, whole = medians[rows:-1], medians[-1]
        drawn[index], left_out[index] = medians[:rows], whole
        left_out[index, fold.test] = np.where(np.isfinite(without), without, whole)
    known = np.isfinite(drawn)
    with np.errstate(invalid="ignore"):
        return np.where(known, drawn, 0.0).sum(axis=0) / known.sum(axis=0), left_out.mean(axis=0)
