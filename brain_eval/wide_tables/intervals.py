"""Intervals of means over seeds that stimuli and recordings vary too."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brain_eval.score_draws import Drawn
from brain_eval.statistics import correlation_interval, enumerated
from brain_eval.variation import joint_variance


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
) -> Interval | None:
    """Interval of a mean over seeds, over seeds, stimuli and recordings jointly (see variation.joint_variance).

    Args:
        drawn: the draws of each seed, None where there are none.
        shares: per seed how much of its score is each layer's; they add to 1.
        species, region: whose recordings count.
        confidence: coverage.
        means: per seed its score, where that is not its layers' score on all stimuli; differences between
            recordings are then still theirs.

    Returns:
        None where a seed has no draws of these layers, or others than the first, or an undefined score, or where a
        recording's scores have no draws.
    """
    known = [one for one in drawn if one is not None]
    if len(known) < len(drawn) or len({(one.sampling, one.labels) for one in known}) != 1:
        return None
    own = [i for i, label in enumerate(known[0].labels) if label[2:] == (species, region)]
    pairs = list(zip(known, shares, strict=True))
    if not own or any(layer not in one.layers for one, part in pairs for layer in part):
        return None

    def stack(name: str) -> NDArray[np.float64]:
        return np.stack([_mixed(getattr(one, name), one.layers, part)[own] for one, part in pairs])

    values = stack("raw")
    if not np.isfinite(values).all():
        return None
    if means is not None:
        values += (np.asarray(means) - values.mean(axis=1))[:, None]
    recorded = known[0].recorded[own]
    smallest = int(recorded.sum(axis=1).min())
    if not smallest:
        return None
    influence = stack("influence")[..., recorded.any(axis=0)]
    spread = joint_variance(values, influence, stack("remainder"), smallest)
    low, high = correlation_interval(float(values.mean()), spread, confidence)
    over = ["seeds"] * (len(values) > 1) + ["stimuli"] + ["recordings"] * (len(own) > 1)
    return Interval(low, high, words(confidence, over, "(Fisher z) "))


def _mixed(values: NDArray[np.floating], layers: Sequence[str], shares: Mapping[str, float]) -> NDArray[np.float64]:
    """Layers' values (layers, ...) in these shares; a layer of no share may be undefined."""
    parts = [share * values[layers.index(layer)].astype(np.float64) for layer, share in shares.items() if share]
    return np.asarray(sum(parts))


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
