"""Scores that need a recording's responses and not only its RDM: CKA and encoding models."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Ceiling
from brain_eval.inference.resampling import generator, leaving_each_out, random_halves
from brain_eval.inference.variation import variation_of_draws
from brain_eval.metrics.base import EncodingMetric, SubsetMetric, metrics_of_responses
from brain_eval.scoring.ceiling_files import SPLITS
from brain_eval.scoring.ceilings import split_half_responses
from brain_eval.scoring.encoding_scores import EncodingTarget
from brain_eval.scoring.targets import Score, Scores, Target


class ResponseTarget:
    """The responses of a benchmark's recordings, prepared for one model after the other.

    Args:
        target: the benchmark, with its strata of stimuli.
        metrics: names, of which those that need responses count; none: nothing is prepared.
        draws: random halves of the stimuli; encoding models have the target's draws.
    """

    def __init__(self, target: Target, metrics: Sequence[str], draws: int) -> None:
        self.target, self.draws = target, draws
        self._encoding = EncodingTarget(target)
        chosen = metrics_of_responses(metrics)
        self._compared = [metric for metric in chosen if isinstance(metric, SubsetMetric)]
        self._predicted = [metric for metric in chosen if isinstance(metric, EncodingMetric)]
        self._subsets: dict[bytes, NDArray[np.float64]] = {}
        self._recorded: dict[tuple[int, str], Any] = {}
        self._ceilings: dict[tuple[int, str], Ceiling] = {}
        if self._compared:
            rng = generator(target.seed, target.name, "halves of the stimuli")
            halves = random_halves(target.strata, len(target.stimulus_ids), draws, rng)
            for group in target.groups:
                self._prepare(group, halves)

    def _prepare(self, group: Sequence[int], halves: NDArray[np.float64]) -> None:
        """Subsets of a group's stimuli: random halves, all but each stimulus, halves for the choice of layers, all."""
        stimuli = self.target.stimuli(group)
        n = len(stimuli)
        parts = (halves[:, stimuli], leaving_each_out(np.arange(n)), self.target.halves[:, stimuli], np.ones((1, n)))
        subsets = np.concatenate(parts)
        self._subsets[stimuli.tobytes()] = subsets
        for index in group:
            recording = self.target.recordings[index]
            if recording.responses is None:
                continue
            transformed = self._transformed(recording.responses)
            for metric in self._compared:
                key = index, metric.name
                self._recorded[key] = metric.prepare(transformed[metric.transform], subsets)
                if recording.repetitions is not None:
                    self._ceilings[key] = split_half_responses(
                        recording.repetitions, metric.compare, SPLITS, self.target.seed
                    )

    def _transformed(self, values: NDArray[Any]) -> dict[Callable[[Any], Any], Any]:
        """Activity or responses (n, p) by every transform that a metric asks for."""
        return {transform: transform(values) for transform in {metric.transform for metric in self._compared}}

    def score(self, group: Sequence[int], features: NDArray[np.float32]) -> Scores:
        """Compare a layer's activity (n, neuroids) for a group's stimuli with the recordings that have responses."""
        indices = [index for index in group if self.target.recordings[index].responses is not None]
        scores: Scores = {}
        if not indices:
            return scores
        transformed = self._transformed(features)
        for metric in self._compared:
            scores |= self._compare(indices, metric, transformed[metric.transform])
        return scores | self._encoding.score(indices, features, self._predicted)

    def _compare(self, indices: Sequence[int], metric: SubsetMetric, transformed: Any) -> Scores:
        stimuli = self.target.stimuli(indices)
        subsets, n = self._subsets[stimuli.tobytes()], len(stimuli)
        model = metric.prepare(transformed, subsets)
        halves = subsets[: self.draws]
        shares = halves * (n / np.maximum(halves.sum(axis=1, keepdims=True), 1.0))
        scores: Scores = {}
        for index in indices:
            key = index, metric.name
            values = metric.compare_subsets(model, self._recorded[key], subsets)
            raw, left_out, chosen = float(values[-1]), values[self.draws : self.draws + n], values[self.draws + n : -1]
            if not np.isfinite(raw):
                scores[key] = Score(None, None, "none: the layer or the recording is constant")
                continue
            variation = variation_of_draws(raw, values[: self.draws], left_out, shares, stimuli, metric.biased)
            scores[key] = Score(raw, variation, metric.method, chosen, self._ceilings.get(key))
        return scores
