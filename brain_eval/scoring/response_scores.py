"""Scores that need a recording's responses and not only its RDM: CKA and encoding models.

The interval of an encoding model is from a bootstrap over the test stimuli, with the fits kept: what another sample of
training stimuli would do to the fits is not included. The draws are those of the RDMs, so that models stay paired.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Recording
from brain_eval.codes import Code, none
from brain_eval.inference.encoding_resampling import scores_under_weights, variation_of_test_stimuli
from brain_eval.inference.resampling import generator, leaving_each_out, random_halves
from brain_eval.inference.variation import variation_of_draws
from brain_eval.metrics.base import EncodingMetric, SubsetMetric, metrics_of_responses
from brain_eval.metrics.encoding import SPLITS as HALVINGS
from brain_eval.metrics.encoding import TooFew, corrected, correlated, median_score, reliability
from brain_eval.scoring.ceiling_files import SPLITS
from brain_eval.scoring.ceilings import Ceiling, split_half_responses
from brain_eval.scoring.targets import Score, Scores, Target

CEILING = Code(
    f"reliability:{HALVINGS}",
    f"upper = median over neuroids of sqrt(reliability), the reliability of the mean response by Spearman-Brown over "
    f"{HALVINGS} halvings of the repetitions; ceiled = median over neuroids of r / sqrt(reliability), mean over splits",
)
NO_INTERVAL = Code("no-interval", "no interval: too few test stimuli")


def splits_code(n: int, *, stratified: bool) -> Code:
    """Return over what an encoding score is averaged."""
    how = f"{n} splits{' stratified by category' if stratified else ''}, median over neuroids, mean over splits"
    return Code(f"splits:{n}{':stratified' if stratified else ''}", how)


class ResponseTarget:
    """The responses of a benchmark's recordings, prepared for one model after the other.

    Args:
        target: the benchmark, with its strata of stimuli.
        metrics: names, of which those that need responses count; none: nothing is prepared.
        draws: random halves of the stimuli; encoding models have the target's draws.
    """

    def __init__(self, target: Target, metrics: Sequence[str], draws: int) -> None:
        self.target, self.draws = target, draws
        chosen = metrics_of_responses(metrics)
        self._compared = [metric for metric in chosen if isinstance(metric, SubsetMetric)]
        self._predicted = [metric for metric in chosen if isinstance(metric, EncodingMetric)]
        self._subsets: dict[bytes, NDArray[np.float64]] = {}
        self._recorded: dict[tuple[int, str], Any] = {}
        self._ceilings: dict[tuple[int, str], Ceiling] = {}
        self._reliabilities: dict[int, NDArray[np.float64] | str | None] = {}
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
        """Compare a layer's activity (n, neuroids) for a group's stimuli with the recordings that have responses.

        A recording or layer too small for a metric gets a score of None with the reason. The halves for the choice of
        layers are halves of the test stimuli: every half is predicted by fits without its stimuli.
        """
        indices = [index for index in group if self.target.recordings[index].responses is not None]
        scores: Scores = {}
        if not indices:
            return scores
        transformed = self._transformed(features)
        for metric in self._compared:
            scores |= self._compare(indices, metric, transformed[metric.transform])
        for index in indices:
            scores |= {(index, metric.name): self._predict(index, features, metric) for metric in self._predicted}
        return scores

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
                scores[key] = Score(None, None, none("constant", "the layer or the recording is constant"))
                continue
            variation = variation_of_draws(raw, values[: self.draws], left_out, shares, stimuli, metric.biased)
            scores[key] = Score(raw, variation, metric.method, chosen, self._ceilings.get(key))
        return scores

    def _predict(self, index: int, features: NDArray[np.float32], metric: EncodingMetric) -> Score:
        recording, categories = self.target.recordings[index], self.target.categories
        if features.shape[1] < metric.fewest_features:
            reason = f"{metric.name.upper()} needs at least {metric.fewest_features} features"
            return Score(None, None, none("few-features", reason, varies=True))
        strata = [categories[position] for position in recording.stimuli] if categories else None
        responses = recording.responses
        assert responses is not None
        try:
            folds = metric.fit(features, responses, strata)
        except TooFew as error:
            return Score(None, None, none("too-few", str(error), varies=True))
        correlations = correlated(folds, responses)
        raw = median_score(correlations)
        if raw is None:
            return Score(None, None, none("constant-prediction", "every neuroid or prediction is constant"))
        weights, draws = self.target.weights(recording.stimuli), self.target.draws
        values, left_out = scores_under_weights(folds, responses, weights)
        variation = variation_of_test_stimuli(values[:draws], left_out, recording.stimuli)
        method = metric.method if variation is not None else NO_INTERVAL
        method = method.then(splits_code(len(folds), stratified=bool(strata)))
        return Score(raw, variation, method, values[draws:], *self._reliable(index, recording, correlations))

    def _reliable(
        self, index: int, recording: Recording, correlations: NDArray[np.float64]
    ) -> tuple[Ceiling | None, float | None]:
        """The ceiling from the reliability of the neuroids, and the score that is corrected for it."""
        if index not in self._reliabilities:
            self._reliabilities[index] = _reliability(recording)
        reliabilities = self._reliabilities[index]
        if reliabilities is None:
            return None, None
        if isinstance(reliabilities, str):
            return Ceiling(None, None, none("reliability", reliabilities, varies=True)), None
        positive = reliabilities[reliabilities > 0]
        upper = float(np.median(np.sqrt(positive))) if len(positive) else None
        return Ceiling(None, upper, CEILING), median_score(corrected(correlations, reliabilities))


def _reliability(recording: Recording) -> NDArray[np.float64] | str | None:
    """The reliability of a recording's neuroids, or why there is none; None where nothing was repeated."""
    if recording.repetitions is None:
        return None
    try:
        return reliability(recording.repetitions)
    except TooFew as error:
        return str(error)
