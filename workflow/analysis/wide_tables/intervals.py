"""Intervals of means over seeds, jointly with stimuli and recordings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from brain_eval.codes import Code
from brain_eval.inference.draws import Drawn, Recordings, draws_of_region
from brain_eval.inference.intervals import FISHER_Z, STUDENT, correlation_interval, interval_code, t_interval
from brain_eval.inference.layer_choice import variance_of_choice
from brain_eval.inference.variation import joint_variance


class Interval(NamedTuple):
    """Its ends, how it was made, and the variance of the mean."""

    low: float
    high: float
    method: Code
    variance: float


def joint_interval(
    drawn: Sequence[Drawn | None],
    shares: Sequence[Mapping[str, float]],
    which: Recordings,
    confidence: float,
    means: Sequence[float] | None = None,
    further: float = 0.0,
) -> Interval | None:
    """Interval of a mean over seeds, over seeds, stimuli and recordings jointly (see variation.joint_variance).

    Args:
        drawn: the draws of each seed, None where there are none.
        shares: per seed how much of its score is each layer's; they add to 1.
        which: the recordings that count.
        confidence: coverage.
        means: per seed its score, where that is not its layers' score on all stimuli; differences between
            recordings are then still theirs.
        further: variance beyond that of the layers' scores, known as well as that of the stimuli is.

    Returns:
        None where the draws are not known (see score_draws.draws_of_region).
    """
    joint = draws_of_region(drawn, shares, which)
    if joint is None:
        return None
    values = joint.values
    if means is not None:
        values = values + (np.asarray(means) - values.mean(axis=1))[:, None]
    spread = joint_variance(values, joint.influence, joint.remainder, joint.smallest)
    if further:
        spread = spread.and_also(further, max(joint.smallest - 1, 1))
    low, high = correlation_interval(float(values.mean()), spread, confidence)
    return Interval(low, high, interval_code(FISHER_Z, confidence, joint.factors), spread.variance)


def chosen_interval(
    drawn: Sequence[Drawn | None],
    shares: Sequence[Mapping[str, float]],
    which: Recordings,
    confidence: float,
    held_out: Sequence[float],
) -> Interval | None:
    """`joint_interval` of the layer that was chosen on held-out stimuli, with what the choice varies.

    Args:
        drawn, shares, which, confidence: see `joint_interval`.
        held_out: per seed the score of what was chosen.
    """
    return joint_interval(drawn, shares, which, confidence, held_out, _choice(drawn, shares, which))


def _choice(drawn: Sequence[Drawn | None], shares: Sequence[Mapping[str, float]], which: Recordings) -> float:
    """See layers.variance_of_choice, of the scores averaged over recordings; 0 where their draws are not known."""
    known = [draws for draws in drawn if draws is not None]
    if len(known) < len(drawn) or len({(draws.sampling, draws.labels, draws.layers) for draws in known}) != 1:
        return 0.0
    places = which.among(known[0].labels)
    chosen = np.array([[share.get(layer, 0.0) for layer in known[0].layers] for share in shares])
    scores, influence, remainder = (
        np.stack([getattr(draws, name)[:, places].mean(axis=1, dtype=np.float64) for draws in known])
        for name in ("raw", "influence", "remainder")
    )
    if not np.isfinite(scores[chosen > 0]).all() or not np.isfinite(influence[chosen > 0]).all():
        return 0.0
    return variance_of_choice(scores, influence, remainder, chosen, known[0].half.shape[2] // 2)


def over_seeds(values: Sequence[float], confidence: float) -> tuple[float, float | None, float | None, Code | None]:
    """Return the mean over seeds, the ends of its interval and how it was made; None with one seed."""
    mean, low, high, _, n = t_interval(values, confidence)
    return mean, low, high, interval_code(STUDENT, confidence, ["seeds"]) if n > 1 else None


def by_region(methods: Iterable[tuple[str, str]]) -> str:
    """Join texts on how regions' intervals were made: one text if all agree, else each with its regions."""
    regions: dict[str, list[str]] = {}
    for region, how in methods:
        regions.setdefault(how, []).append(region)
    if len(regions) < 2:
        return next(iter(regions), "")
    return "; ".join(f"{how} ({', '.join(titles)})" for how, titles in regions.items())
