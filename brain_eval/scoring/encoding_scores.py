"""Scores of encoding models: how well a layer predicts the single neuroids of a recording.

A score's interval is from a bootstrap over the test stimuli, with the fits kept: what another sample of training
stimuli would do to the fits is not in it. The draws are those of the RDMs, so that models stay paired.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import CEILED, Ceiling, Recording
from brain_eval.inference.encoding_resampling import scores_under_weights, variation_of_test_stimuli
from brain_eval.metrics.base import EncodingMetric
from brain_eval.metrics.encoding import (
    SPLITS,
    TooFew,
    corrected,
    correlated,
    median_score,
    reliability,
)
from brain_eval.scoring.targets import Score, Scores, Target

CEILING = (
    f"upper = median over neuroids of sqrt(reliability), the reliability of the mean response by Spearman-Brown over "
    f"{SPLITS} halvings of the repetitions{CEILED} = median over neuroids of r / sqrt(reliability), mean over splits"
)


class EncodingTarget:
    """The responses and reliabilities of a benchmark's recordings.

    Args:
        target: the benchmark, with its draws and halves of the stimuli.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._reliabilities: dict[int, NDArray[np.float64] | str | None] = {}

    def score(self, indices: Sequence[int], features: NDArray[np.float32], metrics: Sequence[EncodingMetric]) -> Scores:
        """Score a layer's activity (n, neuroids) against recordings that have responses to these n stimuli.

        A recording or layer too small for a metric gets a score of None with the reason. The halves for the
        choice of layers are halves of the test stimuli: every half is predicted by fits without its stimuli.
        """
        scores: Scores = {}
        for index in indices:
            responses = self.target.recordings[index].responses
            if responses is not None:
                for metric in metrics:
                    scores[index, metric.name] = self._score(index, features, responses, metric)
        return scores

    def _score(
        self, index: int, features: NDArray[np.float32], responses: NDArray[np.float64], metric: EncodingMetric
    ) -> Score:
        recording = self.target.recordings[index]
        if features.shape[1] < metric.fewest_features:
            return Score(None, None, f"none: {metric.name.upper()} needs at least {metric.fewest_features} features")
        categories = self.target.categories
        strata = [categories[position] for position in recording.stimuli] if categories else None
        try:
            folds = metric.fit(features, responses, strata)
        except TooFew as error:
            return Score(None, None, f"none: {error}")
        correlations = correlated(folds, responses)
        raw = median_score(correlations)
        if raw is None:
            return Score(None, None, "none: every neuroid or prediction is constant")
        weights, draws = self.target.weights(recording.stimuli), self.target.draws
        values, left_out = scores_under_weights(folds, responses, weights)
        variation = variation_of_test_stimuli(values[:draws], left_out, recording.stimuli)
        words = (
            f"{metric.method if variation is not None else 'no interval: too few test stimuli'}; {len(folds)} splits"
            f"{' stratified by category' if strata else ''}, median over neuroids, mean over splits"
        )
        ceiling, ceiled = self._ceiling(index, recording, correlations)
        return Score(raw, variation, words, values[draws:], ceiling, ceiled)

    def _ceiling(
        self, index: int, recording: Recording, correlations: NDArray[np.float64]
    ) -> tuple[Ceiling | None, float | None]:
        if index not in self._reliabilities:
            self._reliabilities[index] = _reliability(recording)
        reliabilities = self._reliabilities[index]
        if reliabilities is None:
            return None, None
        if isinstance(reliabilities, str):
            return Ceiling(None, None, f"none: {reliabilities}"), None
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
