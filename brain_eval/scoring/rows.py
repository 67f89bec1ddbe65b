"""Rows of scores.csv: each recording's score, then the means over an animal's and a region's recordings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from brain_eval.benchmarks.recorded_rdms import metric_label
from brain_eval.benchmarks.whole_regions import ALL, MEAN
from brain_eval.codes import Code
from brain_eval.inference.intervals import FISHER_Z, correlation_interval, interval_code
from brain_eval.inference.variation import Spread, joint_variance, stacked, stimulus_variance
from brain_eval.scoring.ceilings import UNKNOWN, Ceiling
from brain_eval.scoring.targets import Score, Scores, Target

COLUMNS = (
    "network", "rule", "kind", "seed", "layer", "benchmark", "version", "session", "animal", "species",
    "region", "metric", "raw", "ci_low", "ci_high", "interval_method", "n_draws", "ceiling_lower",
    "ceiling_upper", "ceiled", "ceiling_definition", "n_stimuli", "n_neuroids", "preprocessing",
)  # fmt: skip
SPREAD = Code("jackknife+draws", "variance by jackknife and draws")


def rows_of_layer(target: Target, scores: Scores, confidence: float) -> Iterator[dict[str, Any]]:
    """Yield the rows of one layer: region by region its recordings, its animals' means, its mean.

    Args:
        target: the benchmark.
        scores: of the layer; a recording has rows for the metrics that it has scores for.
        confidence: coverage of the intervals.
    """
    metrics = list(dict.fromkeys(name for _, name in scores))
    for indices in target.regions:
        for index in indices:
            yield from _recording_rows(target, index, metrics, scores, confidence)
        animals: dict[str, list[int]] = {}
        for index in indices:
            animals.setdefault(target.recordings[index].animal, []).append(index)
        groups = {animal: members for animal, members in animals.items() if len(members) > 1}
        if len(indices) > 1:
            groups[ALL] = indices
        for animal, members in groups.items():
            yield from _mean_rows(target, animal, members, metrics, scores, confidence)


def _recording_rows(
    target: Target, index: int, metrics: Sequence[str], scores: Scores, confidence: float
) -> Iterator[dict[str, Any]]:
    recording = target.recordings[index]
    for name in (name for name in metrics if (index, name) in scores):
        score = scores[index, name]
        ceiling = score.ceiling or target.ceilings[index].get(name, UNKNOWN)
        yield {
            "session": recording.session,
            "animal": recording.animal,
            "species": recording.species,
            "region": recording.region,
            "metric": metric_label(target.kind, name),
            "n_stimuli": len(recording.stimuli),
            "n_neuroids": recording.n_neuroids,
            **_recording_interval(score, confidence),
            **_ceiled(score.raw, ceiling, score.ceiled),
        }


def _recording_interval(score: Score, confidence: float) -> dict[str, Any]:
    cells: dict[str, Any] = {"raw": score.raw, "interval_method": score.method}
    if score.raw is not None and score.variation is not None:
        spread = stimulus_variance(score.variation)
        low, high = correlation_interval(score.raw, spread, confidence)
        cells |= {"ci_low": low, "ci_high": high, "n_draws": score.variation.n_draws}
        cells["interval_method"] = _method(confidence, ["stimuli"]).then(score.method)
    return cells


def _method(confidence: float, factors: Sequence[str]) -> Code:
    return interval_code(FISHER_Z, confidence, factors).then(SPREAD, ", ")


def _ceiled(raw: float | None, ceiling: Ceiling, ceiled: float | None = None) -> dict[str, Any]:
    """Return the cells of the ceiling; by default `ceiled` is raw divided by the upper ceiling."""
    if ceiled is None and raw is not None and ceiling.upper is not None and ceiling.upper > 0:
        ceiled = raw / ceiling.upper
    cells: dict[str, Any] = {"ceiling_lower": ceiling.lower, "ceiling_upper": ceiling.upper, "ceiled": ceiled}
    return cells | {"ceiling_definition": ceiling.definition}


def _mean_rows(
    target: Target, animal: str, indices: Sequence[int], metrics: Sequence[str], scores: Scores, confidence: float
) -> Iterator[dict[str, Any]]:
    """Yield the mean over some recordings per metric; neuroids add up, shared stimuli count once."""
    for name in metrics:
        known = [index for index in indices if (index, name) in scores]
        if len(known) < 2:
            continue
        recordings = [target.recordings[index] for index in known]
        neuroids = [recording.n_neuroids for recording in recordings if recording.n_neuroids is not None]
        stimuli = np.unique(np.concatenate([recording.stimuli for recording in recordings]))
        parts = [scores[index, name] for index in known]
        cells = _interval_of_mean(parts, confidence)
        ceiled = _mean_ceiling(parts, cells["raw"]) or _ceiled(cells["raw"], target.ceiling_of_subjects(known, name))
        yield {
            "session": MEAN,
            "animal": animal,
            "species": recordings[0].species,
            "region": recordings[0].region,
            "metric": metric_label(target.kind, name),
            "n_stimuli": len(stimuli),
            "n_neuroids": sum(neuroids) if len(neuroids) == len(recordings) else None,
            **cells,
            **ceiled,
        }


def _mean_ceiling(scores: Sequence[Score], raw: float | None) -> dict[str, Any] | None:
    """Return the cells of the mean ceiling of scores that have their ceiling; None if no score has one.

    The mean is over the recordings with a known ceiling; the definition states how many. `ceiled` is known only if it
    is known for every recording, so that it covers the same recordings as `raw`.
    """
    ceilings = [score.ceiling for score in scores if score.ceiling is not None]
    if not ceilings:
        return None
    lower = [ceiling.lower for ceiling in ceilings if ceiling.lower is not None]
    upper = [ceiling.upper for ceiling in ceilings if ceiling.upper is not None]
    ceiled = [score.ceiled for score in scores if score.ceiled is not None]
    known = next((ceiling for ceiling in ceilings if (ceiling.lower, ceiling.upper) != (None, None)), ceilings[0])
    whole = raw is not None and len(ceiled) == len(scores)
    return {
        "ceiling_lower": _mean(lower),
        "ceiling_upper": _mean(upper),
        "ceiled": _mean(ceiled) if whole else None,
        "ceiling_definition": known.definition and known.definition.then(averaged(lower, upper, len(scores))),
    }


def averaged(lower: Sequence[float], upper: Sequence[float], n: int) -> Code | None:
    """Return a code for how many of n recordings a mean ceiling is over; None if neither end is known."""
    ends = {name: len(known) for name, known in (("lower", lower), ("upper", upper)) if known}
    text = ", ".join(f"{name} over {known}" for name, known in ends.items())
    code = ":".join(["mean", *(f"{name}-{known}-of-{n}" for name, known in ends.items())])
    return Code(code, f"mean over those of {n} recordings that have it: {text}") if ends else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _interval_of_mean(scores: Sequence[Score], confidence: float) -> dict[str, Any]:
    """Average scores (not RDMs); undefined if any of them is."""
    missing = [score.method for score in scores if score.raw is None]
    if missing:
        return {"raw": None, "interval_method": missing[0]}
    values = np.array([[score.raw for score in scores]], dtype=np.float64)
    raw = float(values.mean())
    variations = [score.variation for score in scores if score.variation is not None]
    if len(variations) < len(scores):
        spread = Spread.of_sample(float(values.var(ddof=1)) / values.size, values.size - 1)
        method = interval_code(FISHER_Z, confidence, ["recordings"]).then(scores[0].method, "; each: ")
        draws = None
    else:
        influence, remainder = stacked(variations)
        smallest = min(len(variation.influence) for variation in variations)
        spread = joint_variance(values, influence[None], remainder[None], smallest)
        method = _method(confidence, ["stimuli", "recordings"]).then(scores[0].method)
        draws = int(np.isfinite(remainder).all(axis=0).sum())
    low, high = correlation_interval(raw, spread, confidence)
    return {"raw": raw, "ci_low": low, "ci_high": high, "n_draws": draws, "interval_method": method}
