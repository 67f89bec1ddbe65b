"""tables/means.csv: mean score of every rule and layer over seeds, with one interval over all that varies."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from brain_eval.inference.comparisons import ScoredRun
from brain_eval.inference.draws import Recordings
from workflow.analysis.results import MEANS, WHERE
from workflow.analysis.wide_tables.intervals import joint_interval, over_seeds


def mean_rows(runs: Sequence[ScoredRun], confidence: float = 0.95) -> Iterator[dict[str, Any]]:
    """Yield the rows of means.csv: the raw scores of scores.csv, averaged over seeds.

    The interval is over seeds, stimuli and recordings jointly (see variation.joint_variance) where the scores' draws
    are known, else over seeds alone; of one seed without draws it is that of scores.csv.

    Args:
        runs: with their rows of scores.csv and their draws.
        confidence: coverage of the intervals.
    """
    groups: dict[tuple[str, ...], list[tuple[ScoredRun, Mapping[str, str]]]] = {}
    for run in runs:
        for row in run.scores:
            key = (run.network, run.rule, row["kind"], row["layer"], *(row[column] for column in WHERE))
            known = groups.setdefault(key, [])
            if row["raw"] != "":
                known.append((run, row))
    for key, known in groups.items():
        yield dict(zip(MEANS, (*key, *_mean(known, confidence)), strict=True))


def _mean(members: Sequence[tuple[ScoredRun, Mapping[str, str]]], confidence: float) -> tuple[Any, ...]:
    """Return the number of seeds, mean, ends of the interval and how it was made; None where undefined."""
    if not members:
        return 0, None, None, None, None
    values, (_, row) = [float(row["raw"]) for _, row in members], members[0]
    drawn = [run.draws.get((row["benchmark"], row["metric"])) for run, _ in members]
    shares = [{row["layer"]: 1.0}] * len(members)
    joint = joint_interval(drawn, shares, Recordings(*(row[column] for column in Recordings._fields)), confidence)
    if joint is not None:
        return len(values), float(np.mean(values)), joint.low, joint.high, joint.method
    if len(values) > 1:
        return len(values), *over_seeds(values, confidence)
    low, high = (float(row[end]) if row[end] != "" else None for end in ("ci_low", "ci_high"))
    return 1, values[0], low, high, row["interval_method"] if low is not None else None
