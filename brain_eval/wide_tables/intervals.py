"""Intervals of means over seeds that stimuli and recordings vary too."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from brain_eval.score_draws import Drawn, draws_of_region
from brain_eval.statistics import correlation_interval, enumerated
from brain_eval.variation import joint_variance
from brain_eval.whole_regions import ALL, MEAN


class Interval(NamedTuple):
    """Its ends, and how it was made."""

    low: float
    high: float
    method: str


def joint_interval(
    drawn: Sequence[Drawn | None],
    shares: Sequence[Mapping[str, float]],
    species: str,
    region: str,
    confidence: float,
    means: Sequence[float] | None = None,
    recordings: tuple[str, str] = (MEAN, ALL),
) -> Interval | None:
    """Interval of a mean over seeds, over seeds, stimuli and recordings jointly (see variation.joint_variance).

    Args:
        drawn: the draws of each seed, None where there are none.
        shares: per seed how much of its score is each layer's; they add to 1.
        species, region: whose recordings count.
        confidence: coverage.
        means: per seed its score, where that is not its layers' score on all stimuli; differences between
            recordings are then still theirs.
        recordings: session and animal, as in scores.csv: of several, of one animal, or one.

    Returns:
        None where the draws are not known (see score_draws.draws_of_region).
    """
    joint = draws_of_region(drawn, shares, species, region, *recordings)
    if joint is None:
        return None
    values = joint.values
    if means is not None:
        values = values + (np.asarray(means) - values.mean(axis=1))[:, None]
    spread = joint_variance(values, joint.influence, joint.remainder, joint.smallest)
    low, high = correlation_interval(float(values.mean()), spread, confidence)
    return Interval(low, high, words(confidence, joint.factors, "(Fisher z) "))


def words(confidence: float, over: Sequence[str], scale: str = "") -> str:
    """How an interval was made."""
    return f"Student's t {100 * confidence:g} % interval {scale}over {enumerated(over)}"


def methods(every: Iterable[str]) -> str:
    """The different ways in which intervals were made; what they are over stands together."""
    over: dict[str, list[str]] = {}
    for method in dict.fromkeys(method for method in every if method):
        how, _, what = method.partition(" over ")
        over.setdefault(how, []).append(what)
    return "; ".join(f"{how} over {', or '.join(whats)}" if any(whats) else how for how, whats in over.items())
