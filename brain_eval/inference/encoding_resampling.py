"""Encoding scores of resampled test stimuli: the fits are kept, their predictions are weighted.

A draw counts each stimulus so many times in the test part of every split. All weighted Pearson correlations
of a split are one matrix product, so that a thousand draws cost little compared with the fits.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brain_eval.inference.resampling import NO_VARIANCE, Matrix, Vector
from brain_eval.inference.variation import Variation
from brain_eval.metrics.encoding import FEWEST, Fold


def weighted_pearson(a: Matrix, b: Matrix, weights: Matrix) -> Matrix:
    """Return the weighted Pearson correlations of the columns of a and b, (n, k) each: (rows, k) float64.

    Args: weights (rows, n), not negative. NaN where fewer than 3 stimuli count, or a column is constant over them.
    """
    first, second = _standardised(a), _standardised(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (weights / weights.sum(axis=1, keepdims=True)) @ np.hstack(
            [first, second, first * first, second * second, first * second]
        )
        first, second, first_squares, second_squares, products = np.split(means, 5, axis=1)
        first_squares -= first * first
        second_squares -= second * second
        products -= first * second
        r = products / np.sqrt(first_squares * second_squares)
        usable = (first_squares > NO_VARIANCE) & (second_squares > NO_VARIANCE)
    usable &= (weights > 0).sum(axis=1, keepdims=True) >= FEWEST
    return np.where(usable, np.clip(r, -1.0, 1.0), np.nan)


def _standardised(values: Matrix) -> Matrix:
    """Columns of mean 0 and variance 1, or of 0 where they are constant."""
    size = np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), np.inf)
    return (values - values.mean(axis=0)) / size


def median_of_known(values: Matrix) -> tuple[Vector, Vector]:
    """Return each row's median without its NaN, (rows,), and how often each column was that median, (k,).

    The median is NaN where a row has nothing else. The shares add up to 1, or are 0 where no row has a median; of an
    even number of values the two in the middle share a row.
    """
    order = np.argsort(values, axis=1)  # NaN last
    known = np.isfinite(values).sum(axis=1)
    rows, last = np.arange(len(values)), np.maximum(known - 1, 0)
    middle = np.stack([order[rows, last // 2], order[rows, (last + 1) // 2]])
    medians = values[rows, middle].mean(axis=0)
    counts = np.bincount(middle[:, known > 0].ravel(), minlength=values.shape[1])
    return np.where(known > 0, medians, np.nan), counts / max(counts.sum(), 1)


def scores_under_weights(folds: Sequence[Fold], responses: Matrix, weights: Matrix) -> tuple[Vector, Vector]:
    """Score resampled test stimuli, and the test stimuli without each stimulus.

    The score is encoding.median_score: the median over neuroids, then the mean over splits. A split with fewer than 3
    different test stimuli in a draw is left out of that draw's mean.

    The jackknife of the median is 2 to 4 times the variance of the score in simulation: without a stimulus the median
    moves with the one neuroid in the middle, while in the draws others take its place. So the effect of a stimulus on
    each neuroid is averaged over the neuroids by how often they are the median of the draws.

    Args:
        folds: the fitted splits.
        responses: (n, neuroids) float64.
        weights: (rows, n) float64 counts of the n stimuli.

    Returns:
        (rows,) scores of the draws, NaN where no split has one; (n,) scores without each stimulus in turn, where a
        split too small to do without one of its stimuli keeps its score.
    """
    n, rows = len(responses), len(weights)
    drawn = np.empty((len(folds), rows))
    left_out = np.empty((len(folds), n))
    for index, fold in enumerate(folds):
        size = len(fold.test)
        counts = np.concatenate([weights[:, fold.test], np.ones((1, size)), 1.0 - np.eye(size)])
        correlations = weighted_pearson(fold.predicted, responses[fold.test], counts)
        medians, shares = median_of_known(correlations[: rows + 1])
        moved = correlations[rows + 1 :] - correlations[rows]
        drawn[index], left_out[index] = medians[:rows], medians[rows]
        left_out[index, fold.test] += np.nan_to_num(moved) @ shares
    known = np.isfinite(drawn)
    with np.errstate(invalid="ignore"):
        return np.where(known, drawn, 0.0).sum(axis=0) / known.sum(axis=0), left_out.mean(axis=0)


def variation_of_test_stimuli(draws: Vector, left_out: Vector, units: NDArray[np.intp]) -> Variation | None:
    """Return how a score varies with its test stimuli; None where fewer than two draws have one or no stimulus can go.

    The sum of squared influences is the bootstrap's variance; the jackknife (`left_out`) shares it out to the stimuli.
    There is no remainder: this score is not a mean over pairs of stimuli, whose variance the bootstrap overestimates
    (see brain_eval.inference.variation). In simulation the standard error was 1.0 to 1.15 times the spread of repeated
    samples (10 to 60 test stimuli a split, 20 and 60 neuroids).

    Args:
        draws, left_out: from `scores_under_weights`, (draws,) and (n,).
        units: (n,) the stimuli.
    """
    usable = np.isfinite(draws)
    if usable.sum() < 2 or np.ptp(left_out) < NO_VARIANCE:
        return None
    away = left_out.mean() - left_out
    influence = away * (draws[usable].std(ddof=1) / np.linalg.norm(away))
    return Variation(influence, np.where(usable, 0.0, np.nan), units)
