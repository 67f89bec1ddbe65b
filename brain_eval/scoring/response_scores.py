"""Scores that need a recording's responses and not only its RDM: CKA and encoding models."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Ceiling
from brain_eval.inference.cka_resampling import GramSums, cka_in_subsets, gram_sums
from brain_eval.inference.resampling import generator, leaving_each_out, random_halves
from brain_eval.inference.variation import variation_of_draws
from brain_eval.metrics.gram import centred_gram
from brain_eval.metrics.similarity import COUNTED_TWICE
from brain_eval.scoring.ceiling_files import SPLITS
from brain_eval.scoring.ceilings import split_half_cka
from brain_eval.scoring.encoding_scores import EncodingTarget
from brain_eval.scoring.targets import Score, Scores, Target

#: Name -> whether the estimate of HSIC is unbiased.
CKA = {"cka-biased": False, "cka-unbiased": True}
ENCODING = ("ridge", "pls")
RESPONSE_METRICS = (*CKA, *ENCODING)


class ResponseTarget:
    """The responses of a benchmark's recordings, prepared for one model after the other.

    Args:
        target: the benchmark, with its strata of stimuli.
        metrics: names in RESPONSE_METRICS; none: nothing is prepared.
        draws: of CKA; encoding models have those of the target.
    """

    def __init__(self, target: Target, metrics: Sequence[str], draws: int) -> None:
        self.target, self.draws = target, draws
        self._encoding = EncodingTarget(target)
        self.cka = [name for name in metrics if name in CKA]
        self.encoding = [name for name in metrics if name in ENCODING]
        self._subsets: dict[bytes, NDArray[np.float64]] = {}
        self._recorded: dict[tuple[int, str], GramSums] = {}
        self._ceilings: dict[tuple[int, str], Ceiling] = {}
        if self.cka:
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
            gram = centred_gram(recording.responses)
            for name in self.cka:
                self._recorded[index, name] = gram_sums(gram, subsets, CKA[name])
                if recording.repetitions is not None:
                    ceiling = split_half_cka(recording.repetitions, CKA[name], SPLITS, self.target.seed)
                    self._ceilings[index, name] = ceiling

    def score(self, group: Sequence[int], features: NDArray[np.float32]) -> Scores:
        """Compare a layer's activity (n, neuroids) for a group's stimuli with the recordings that have responses."""
        indices = [index for index in group if self.target.recordings[index].responses is not None]
        scores: Scores = {}
        if not indices:
            return scores
        if self.cka:
            gram = centred_gram(features)
            for name in self.cka:
                scores |= self._aligned(indices, name, gram)
        if self.encoding:
            scores |= self._encoding.score(indices, features, self.encoding)
        return scores

    def _aligned(self, indices: Sequence[int], name: str, gram: NDArray[np.float64]) -> Scores:
        stimuli = self.target.stimuli(indices)
        subsets, unbiased, n = self._subsets[stimuli.tobytes()], CKA[name], len(stimuli)
        model = gram_sums(gram, subsets, unbiased)
        halves = subsets[: self.draws]
        shares = halves * (n / np.maximum(halves.sum(axis=1, keepdims=True), 1.0))
        scores: Scores = {}
        for index in indices:
            values = cka_in_subsets(model, self._recorded[index, name], subsets, unbiased)
            raw, left_out, chosen = float(values[-1]), values[self.draws : self.draws + n], values[self.draws + n : -1]
            if not np.isfinite(raw):
                scores[index, name] = Score(None, None, "none: the layer or the recording is constant")
                continue
            variation = variation_of_draws(raw, values[: self.draws], left_out, shares, stimuli, biased=not unbiased)
            estimate = f"linear CKA, {'unbiased' if unbiased else 'biased'} HSIC"
            words = f"{COUNTED_TWICE}; {estimate}; draws are random halves of the stimuli"
            scores[index, name] = Score(raw, variation, words, chosen, self._ceilings.get((index, name)))
        return scores
