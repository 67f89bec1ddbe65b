"""A benchmark as scores see it: what is compared, resampled and divided by, whatever the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from brain_eval.benchmarks.base import Benchmark, Ceiling, Recording
from brain_eval.ceilings import leave_one_out, split_half_all
from brain_eval.errors import UserError
from brain_eval.similarity import Metric, UndefinedSimilarity, Vector, correlate, upper_triangle
from brain_eval.statistics import (
    Moments,
    bootstrap_counts,
    generator,
    recording_counts,
    resampled_means,
    stimulus_strata,
    weighted_correlations,
    weighted_moments,
)

#: Random splits of the repetitions behind a split-half ceiling.
SPLITS = 20

UNKNOWN = Ceiling(None, None, "")


@dataclass(frozen=True)
class Score:
    """A raw score and its (draws,) bootstrap; or None twice and the reason."""

    raw: float | None
    draws: Vector | None
    reason: str = ""


#: Scores of one layer by (position of the recording, metric).
Scores = dict[tuple[int, str], Score]


class Target:
    """The recordings of a benchmark with their resampled stimuli, transformed RDMs and ceilings.

    Args:
        benchmark: with its recordings.
        metrics: name -> metric.
        draws, seed: of the bootstrap. Stimuli are drawn from the union of the recordings' stimuli, so
            that recordings share the draws of shared stimuli; they are stratified by the set of
            recordings that contain them, so that each recording keeps its number of stimuli.

    Attributes:
        groups: recordings (positions) by the stimuli they have in common, which share a model RDM.
        regions: recordings (positions) of each species and region, in order of appearance.
        ceilings: per recording and metric, from its repetitions.
        stratified: whether there is more than one stratum.
    """

    def __init__(self, benchmark: Benchmark, metrics: dict[str, Metric], draws: int, seed: int) -> None:
        self.metrics, self.draws, self.seed = metrics, draws, seed
        self.name, self.recordings = benchmark.description.name, benchmark.recordings
        self.stimulus_ids = benchmark.stimulus_set.stimulus_ids
        self.groups = _grouped([recording.stimuli.tobytes() for recording in self.recordings])
        self.regions = _grouped([(recording.species, recording.region) for recording in self.recordings])
        strata = stimulus_strata([recording.stimuli for recording in self.recordings], self.stimulus_ids)
        self.stratified = len(strata) > 1
        rng = generator(seed, self.name, "stimuli")
        counts = bootstrap_counts(strata, len(self.stimulus_ids), draws, rng)
        self._weights = [counts[:, self.stimuli(group)].astype(np.float64) for group in self.groups]
        self._recorded: dict[tuple[int, Any], tuple[Vector, Moments]] = {}
        for group, weights in zip(self.groups, self._weights, strict=True):
            for index in group:
                pairs = _pairs(self.recordings[index], self.name)
                for transform in {metric.transform for metric in metrics.values()}:
                    recorded = transform(pairs)
                    self._recorded[index, transform] = recorded, weighted_moments(recorded, weights)
        progress = tqdm(self.recordings, f"ceilings of {self.name}", disable=None)
        self.ceilings = [self._ceilings(recording) for recording in progress]

    def stimuli(self, group: Sequence[int]) -> NDArray[np.intp]:
        """Return the (n,) positions of a group's stimuli in the stimulus set."""
        return self.recordings[group[0]].stimuli

    def _ceilings(self, recording: Recording) -> dict[str, Ceiling]:
        if recording.repetitions is None:
            return dict.fromkeys(self.metrics, UNKNOWN)
        return split_half_all(recording.repetitions, list(self.metrics), SPLITS, self.seed)

    def compare(self, group_number: int, pairs: Vector) -> Scores:
        """Compare a model's RDM, given as its pairs (m,), with every recording of a group.

        Raises:
            UndefinedSimilarity: all pairs are tied.
        """
        scores: Scores = {}
        group, weights = self.groups[group_number], self._weights[group_number]
        for transform in {metric.transform for metric in self.metrics.values()}:
            model = transform(pairs)
            if model.max() == model.min():
                raise UndefinedSimilarity("the RDM is constant")
            moments = weighted_moments(model, weights)
            for index in group:
                recorded, recorded_moments = self._recorded[index, transform]
                draws = weighted_correlations(moments, recorded_moments, weights)
                for name, metric in self.metrics.items():
                    if metric.transform is transform:
                        raw = correlate(model, recorded, metric)
                        scores[index, name] = Score(raw, draws * metric.factor(model, recorded))
        return scores

    def mean(self, indices: Sequence[int], animal: str, metric: str, scores: Scores) -> Score:
        """Average the scores (not the RDMs) of some recordings, resampling recordings too.

        Undefined where one of the recordings' scores is.
        """
        own = [scores[index, metric] for index in indices]
        raws = [score.raw for score in own if score.raw is not None]
        draws = [score.draws for score in own if score.draws is not None]
        if len(raws) < len(own):
            return Score(None, None, next(score.reason for score in own if score.raw is None))
        first = self.recordings[indices[0]]
        rng = generator(self.seed, self.name, "recordings", first.species, first.region, animal)
        counts = recording_counts(len(indices), self.draws, rng)
        return Score(float(np.mean(raws)), resampled_means(draws, counts))

    def ceiling_of_subjects(self, indices: Sequence[int], metric: str) -> Ceiling:
        """Leave-one-subject-out ceiling where several animals saw the same stimuli, else unknown."""
        recordings = [self.recordings[index] for index in indices]
        orders = [np.argsort(recording.stimuli) for recording in recordings]
        stimuli = [recording.stimuli[order] for recording, order in zip(recordings, orders, strict=True)]
        animals = [recording.animal for recording in recordings]
        if len(set(animals)) < 2 or any(not np.array_equal(stimuli[0], other) for other in stimuli):
            return UNKNOWN
        rdms = [r.rdm[np.ix_(order, order)] for r, order in zip(recordings, orders, strict=True)]
        return leave_one_out(rdms, metric, animals)


def _grouped(keys: Sequence[object]) -> list[list[int]]:
    """Return the positions of equal keys, in order of first appearance."""
    groups: dict[object, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return list(groups.values())


def _pairs(recording: Recording, benchmark: str) -> Vector:
    whose = f"benchmark {benchmark}, session {recording.session}, animal {recording.animal}"
    if np.shape(recording.rdm)[0] != len(recording.stimuli) or len(recording.stimuli) < 3:
        raise UserError(f"{whose}: its RDM must have a row for each of its stimuli, at least 3; mend the data")
    pairs = upper_triangle(recording.rdm)
    if not np.isfinite(pairs).all() or pairs.max() == pairs.min():
        raise UserError(f"{whose}: its RDM holds NaN or is constant; mend the data or leave it out")
    return pairs
