"""A benchmark prepared for scoring: what is compared, resampled and divided by, whatever the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, Recording
from brain_eval.benchmarks.recorded_rdms import CORRELATION
from brain_eval.codes import Code, none
from brain_eval.inference.resampling import (
    Matrix,
    Moments,
    bootstrap_counts,
    generator,
    leaving_each_out,
    split_halves,
    stimulus_strata,
    weighted_moments,
)
from brain_eval.inference.variation import Variation, variation_of_correlation, variation_of_draws
from brain_eval.metrics.base import RdmMetric
from brain_eval.metrics.rdms import UndefinedSimilarity, Vector, upper_triangle
from brain_eval.metrics.similarity import correlate
from brain_eval.scoring.ceiling_files import SPLITS as SPLITS
from brain_eval.scoring.ceiling_files import ceilings_of
from brain_eval.scoring.ceilings import UNKNOWN, Ceiling, leave_one_out
from nmnc.errors import UserError

#: Number of draws, and of groups of stimuli (or of stimuli, if fewer), for metrics that are recomputed in every draw.
RECOMPUTED_DRAWS, RECOMPUTED_UNITS = 100, 100
#: Random splits of the stimuli in two halves: a layer is chosen on one and scored on the other.
SPLITS_OF_STIMULI = 10

Transform = Callable[[Vector], Vector]


@dataclass(frozen=True)
class Score:
    """A raw score and its variation over stimuli; both None, with the reason in `method`, if undefined.

    Attributes:
        raw: the similarity.
        variation: over the resampled units.
        method: how the draws were made, or why the score is undefined.
        halves: (2 * SPLITS_OF_STIMULI,) scores of the halves of the stimuli, for the choice of layers.
        ceiling, ceiled: the same for the ceiling, where it is not raw over a ceiling of the recording.
    """

    raw: float | None
    variation: Variation | None
    method: Code
    halves: Vector | None = None
    ceiling: Ceiling | None = None
    ceiled: float | None = None


#: Scores of one layer by (position of the recording, metric).
Scores = dict[tuple[int, str], Score]


@dataclass(frozen=True)
class Resampled:
    """Which stimuli are in which draw; shared by all recordings of a benchmark.

    Attributes:
        counts: (draws, units) float64: how often each unit is drawn.
        unit: (stimuli,) the unit of each stimulus of the set.
        method: what the units are, where they are not the stimuli.
    """

    counts: Matrix
    unit: NDArray[np.intp]
    method: Code | None = None

    def weights(self, stimuli: NDArray[np.intp]) -> Matrix:
        """Return (draws, n) float64 counts of these stimuli."""
        return self.counts[:, self.unit[stimuli]]


class Target:
    """The recordings of a benchmark with their resampled stimuli, transformed RDMs and ceilings.

    Args:
        benchmark: with its recordings.
        metrics: name -> comparison of RDMs.
        draws, seed: of the bootstrap. Stimuli are drawn from the union of the recordings' stimuli, so that recordings
            share the draws of shared stimuli, stratified by the set of recordings that contain them, so that each
            recording keeps its number of stimuli.
        ceilings: folder in which ceilings are kept, or None.
        kind: of the recordings' RDMs, a name in brain_eval.metrics.RDMS.

    Attributes:
        groups: recordings (positions) by the stimuli they have in common, which share a model RDM.
        regions: recordings (positions) of each species and region, in order of appearance.
        ceilings: per recording and metric, from its repetitions.
        strata: stimuli by the recordings that contain them.
        halves: (2 * SPLITS_OF_STIMULI, stimuli) float64 of 0 and 1: a half, the other half, of each split.
    """

    def __init__(
        self, benchmark: Benchmark, metrics: dict[str, RdmMetric], draws: int, seed: int, ceilings: Path | None = None,
        kind: str = CORRELATION,
    ) -> None:  # fmt: skip
        self.metrics, self.draws, self.seed, self.kind = metrics, draws, seed, kind
        self.name, self.recordings = benchmark.description.name, benchmark.recordings
        self._place = benchmark.place
        self.stimulus_ids = benchmark.stimulus_set.stimulus_ids
        #: One label per stimulus whose share the splits of encoding models keep; empty: splits at random.
        self.categories = benchmark.stimulus_set.categories if benchmark.description.stratified else ()
        self.groups = _grouped([recording.stimuli.tobytes() for recording in self.recordings])
        self.regions = _grouped([(recording.species, recording.region) for recording in self.recordings])
        self.strata = stimulus_strata([recording.stimuli for recording in self.recordings], self.stimulus_ids)
        n = len(self.stimulus_ids)
        counts = bootstrap_counts(self.strata, n, draws, generator(seed, self.name, "stimuli"))
        self._fine = Resampled(counts.astype(np.float64), np.arange(n))
        self._coarse = self._groups_of_stimuli(min(draws, RECOMPUTED_DRAWS))
        self.halves = split_halves(self.strata, n, SPLITS_OF_STIMULI, generator(seed, self.name, "halves for layers"))
        self._weights = [self.weights(self.stimuli(group)) for group in self.groups]
        self._pairs = [pairs_of(recording, self._place) for recording in self.recordings] if metrics else []
        self._recorded: dict[tuple[int, Transform], tuple[Vector, Moments | None]] = {}
        for group, weights in zip(self.groups, self._weights, strict=True):
            for index, transform in ((i, t) for i in group for t in {metric.transform for metric in metrics.values()}):
                recorded = transform(self._pairs[index])
                self._recorded[index, transform] = recorded, self._moments(transform, recorded, weights)
        self.ceilings = ceilings_of(benchmark, list(metrics), seed, ceilings, kind)
        self._of_subjects: dict[tuple[tuple[int, ...], str], Ceiling] = {}

    def _groups_of_stimuli(self, draws: int) -> Resampled:
        """Return groups of stimuli to draw together: leaving out each of many stimuli in turn takes too long."""
        ordered = np.concatenate([np.zeros(0, np.intp), *self.strata])
        n, rng = len(self.stimulus_ids), generator(self.seed, self.name, "groups of stimuli")
        if len(ordered) <= 2 * RECOMPUTED_UNITS:
            return Resampled(self._fine.counts[:draws], np.arange(n))
        unit = np.zeros(n, dtype=np.intp)
        for positions in self.strata:
            unit[rng.permutation(positions)] = np.arange(len(positions)) % RECOMPUTED_UNITS
        counts = bootstrap_counts([np.arange(RECOMPUTED_UNITS)], RECOMPUTED_UNITS, draws, rng)
        return Resampled(
            counts.astype(np.float64),
            unit,
            Code(f"groups:{RECOMPUTED_UNITS}", f"stimuli in {RECOMPUTED_UNITS} random groups"),
        )

    def _moments(self, transform: Transform, pairs: Vector, weights: Matrix) -> Moments | None:
        """Return the moments if a metric with this transform is a Pearson correlation, else None."""
        closed = any(metric.transform is transform and metric.draws is None for metric in self.metrics.values())
        return weighted_moments(pairs, weights) if closed and pairs.max() > pairs.min() else None

    def weights(self, stimuli: NDArray[np.intp]) -> Matrix:
        """Return (draws + 2 * SPLITS_OF_STIMULI, n) float64 counts of these stimuli: the draws, then `halves`."""
        return np.concatenate([self._fine.weights(stimuli), self.halves[:, stimuli]])

    def stimuli(self, group: Sequence[int]) -> NDArray[np.intp]:
        """Return the (n,) positions of a group's stimuli in the stimulus set."""
        return self.recordings[group[0]].stimuli

    def compare(self, group_number: int, pairs: Vector) -> Scores:
        """Compare a model's RDM, given as its pairs (m,), with every recording of a group.

        A metric that is undefined, e.g. because all pairs are tied, gives a score of None with the reason.
        """
        scores: Scores = {}
        group, weights = self.groups[group_number], self._weights[group_number]
        for transform in {metric.transform for metric in self.metrics.values()}:
            model = transform(pairs)
            moments = self._moments(transform, model, weights)
            for index in group:
                chosen = {name: metric for name, metric in self.metrics.items() if metric.transform is transform}
                scores |= self._compare_recording(index, chosen, model, moments, weights)
        return scores

    def _compare_recording(
        self, index: int, metrics: dict[str, RdmMetric], model: Vector, moments: Moments | None, weights: Matrix
    ) -> Scores:
        recorded, recorded_moments = self._recorded[index, next(iter(metrics.values())).transform]
        scores: Scores = {}
        shared: tuple[Variation, Vector] | None = None
        for name, metric in metrics.items():
            try:
                raw = correlate(model, recorded, metric)
            except UndefinedSimilarity:
                scores[index, name] = Score(None, None, none("constant-rdm", "the RDM is constant"))
                continue
            if metric.draws is not None:
                scores[index, name] = self._drawn(index, raw, metric, model, recorded)
                continue
            if shared is None:
                assert moments is not None  # neither RDM is constant
                assert recorded_moments is not None
                units = self.recordings[index].stimuli
                shared = variation_of_correlation(moments, recorded_moments, weights, units, self.draws)
            factor = metric.factor(model, recorded)
            scores[index, name] = Score(raw, shared[0].times(factor), metric.method, factor * shared[1][self.draws :])
        return scores

    def _drawn(self, index: int, raw: float, metric: RdmMetric, model: Vector, recorded: Vector) -> Score:
        """Return a score for which the metric itself computes the draws and the value without each unit."""
        assert metric.draws is not None
        resampled = self._coarse if metric.recomputed else self._fine
        stimuli = self.recordings[index].stimuli
        units = np.unique(resampled.unit[stimuli])
        rows = (resampled.weights(stimuli), leaving_each_out(resampled.unit[stimuli]), self.halves[:, stimuli])
        values = metric.draws(model, recorded, np.concatenate(rows))
        draws, left_out, halves = np.split(values, np.cumsum([len(part) for part in rows[:2]]))
        variation = variation_of_draws(raw, draws, left_out, resampled.counts[:, units], units, metric.biased)
        method = resampled.method.then(metric.method) if resampled.method else metric.method
        return Score(raw, variation, method, halves)

    def ceiling_of_subjects(self, indices: Sequence[int], metric: str) -> Ceiling:
        """Return the leave-one-out ceiling over animals, or sessions of one animal, if all saw the same stimuli."""
        key = (tuple(indices), metric)
        if key not in self._of_subjects:
            self._of_subjects[key] = self._leave_one_out(indices, metric)
        return self._of_subjects[key]

    def _leave_one_out(self, indices: Sequence[int], metric: str) -> Ceiling:
        recordings = [self.recordings[index] for index in indices]
        orders = [np.argsort(recording.stimuli) for recording in recordings]
        stimuli = [recording.stimuli[order] for recording, order in zip(recordings, orders, strict=True)]
        same = all(np.array_equal(stimuli[0], other) for other in stimuli)
        labels = {"subject": [r.animal for r in recordings], "session": [r.session for r in recordings]}
        what = next((what for what, names in labels.items() if len(set(names)) > 1), None)
        if metric not in self.metrics or what is None or not same:
            return UNKNOWN
        rdms = [_rdm(r, self._place)[np.ix_(order, order)] for r, order in zip(recordings, orders, strict=True)]
        try:
            return leave_one_out(rdms, metric, labels[what], what)
        except UndefinedSimilarity as error:  # RDMs that are not constant may cancel in their mean
            return Ceiling(None, None, none("leave-one-out", str(error)))


def _grouped(keys: Sequence[object]) -> list[list[int]]:
    """Return the positions of equal keys, in order of first appearance."""
    groups: dict[object, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return list(groups.values())


def _rdm(recording: Recording, place: str) -> Matrix:
    if recording.rdm is None:
        raise UserError(f"{place}, {recording.name}: no correlation RDM; choose other recorded RDMs")
    return recording.rdm


def pairs_of(recording: Recording, place: str) -> Vector:
    """Return the pairs of a recording's RDM, (m,); errors name `place` and the recording.

    Raises:
        UserError: no RDM, of fewer than 3 stimuli, with NaN, or constant.
    """
    rdm = _rdm(recording, place)
    if np.shape(rdm)[0] != len(recording.stimuli) or len(recording.stimuli) < 3:
        raise UserError(
            f"{place}, {recording.name}: its RDM must have a row for each of its stimuli, at least 3; fix the data"
        )
    pairs = upper_triangle(rdm)
    if not np.isfinite(pairs).all() or pairs.max() == pairs.min():
        raise UserError(f"{place}, {recording.name}: its RDM contains NaN or is constant; fix or remove the recording")
    return pairs
