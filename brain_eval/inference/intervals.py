"""Intervals and tests: Student's t, Fisher's z, the bootstrap over seeds, Holm's correction."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

from brain_eval.codes import Code
from brain_eval.inference.variation import Spread
from nmnc.errors import UserError

#: Smallest number of seeds (or recordings) to resample: a percentile bootstrap over 3 covers 75 % instead of 95 %.
RESAMPLED_SEEDS = 8


#: Methods of intervals: their codes and descriptions.
STUDENT = ("t", "Student's t {:g} % interval")
FISHER_Z = ("t-fisher-z", "Student's t {:g} % interval (Fisher z)")


def interval_code(method: tuple[str, str], confidence: float, factors: Sequence[str]) -> Code:
    """Return how an interval was made, e.g. STUDENT's 95 % interval over ("seeds", "stimuli"): t:95:seeds+stimuli."""
    (name, text), percent = method, 100 * confidence
    return Code(f"{name}:{percent:g}:{'+'.join(factors)}", f"{text.format(percent)} over {enumerated(factors)}")


def enumerated(factors: Sequence[str]) -> str:
    """Return the factors of an interval as text, e.g. "seeds, stimuli and recordings"; at least one factor."""
    return " and ".join(filter(None, [", ".join(factors[:-1]), factors[-1]]))


def correlation_interval(value: float, spread: Spread, confidence: float) -> tuple[float, float]:
    """Return Student's t interval of a score within [-1, 1] on Fisher's z scale; at -1 or 1 it is that value."""
    room = 1.0 - value**2
    if room < 1e-12:
        return value, value
    half = spread.quantile((1 - confidence) / 2) * np.sqrt(spread.variance) / room
    middle = np.arctanh(value)
    return float(np.tanh(middle - half)), float(np.tanh(middle + half))


def difference_interval(
    value: float, spread: Spread, confidence: float
) -> tuple[float | None, float | None, float | None]:
    """Return Student's t interval of a difference and its two-sided p; None where there is no spread."""
    error = float(np.sqrt(spread.variance))
    if error <= 1e-12 * max(abs(value), 1e-3):
        return (value, value, 1.0) if value == 0.0 else (value, value, None)
    half = spread.quantile((1 - confidence) / 2) * error
    return value - half, value + half, spread.p_value(value / error)


def expanded_percentiles(draws: NDArray[np.float64], spread: Spread, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of draws (draws,) with percentiles widened as Student's t is over the normal.

    Plain percentiles cover too little in small samples (Hesterberg 2015, Am Stat 69:371, "expanded percentile
    interval"). The draws' variance must be the spread's.
    """
    tail = float(norm.sf(spread.quantile((1 - confidence) / 2)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


class MeanInterval(NamedTuple):
    """A mean with Student's t interval and two-sided p against 0; None where n < 2.

    p is also None for equal values other than 0: without spread there is no t.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def t_interval(values: ArrayLike, confidence: float = 0.95) -> MeanInterval:
    """Return the mean of `values` (n,), Student's t interval and p; for paired tests pass differences.

    Below 8 seeds a percentile bootstrap covers too little (75 % instead of 95 % at n = 3); Student's t
    is exact for normal values at any n >= 2.

    Raises:
        UserError: no values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise UserError("a mean needs at least one value; check that the runs have finished")
    n, mean = len(sample), float(sample.mean())
    if n < 2:
        return MeanInterval(mean, None, None, None, n)
    error = float(sample.std(ddof=1) / np.sqrt(n))
    half = float(student.ppf((1 + confidence) / 2, n - 1)) * error
    if error <= 1e-12 * abs(mean):
        return MeanInterval(mean, mean - half, mean + half, 1.0 if mean == 0.0 else None, n)
    p = float(2 * student.sf(abs(mean) / error, n - 1))
    return MeanInterval(mean, mean - half, mean + half, p, n)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's (1979) adjusted p values of one family, in the order given; None stays None."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = largest
    return adjusted
