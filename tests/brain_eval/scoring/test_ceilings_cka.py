"""The lower noise ceiling of CKA against halves taken here image by image, and where it is undefined."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import squareform

from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.inference.resampling import generator
from brain_eval.metrics.base import metrics_of_rdms
from brain_eval.metrics.cka import linear_cka
from brain_eval.scoring.ceilings import split_half_responses
from brain_eval.scoring.targets import Target
from nmnc.errors import UserError


def repetitions_of(noise: float, n: int = 30, repetitions: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((n, 8)) @ rng.standard_normal((8, 20))
    return signal + noise * rng.standard_normal((repetitions, n, 20))


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("missing", [0, 2])
def test_it_is_the_mean_cka_of_the_averages_of_two_halves(unbiased: bool, missing: int) -> None:
    repetitions = repetitions_of(2.0)
    repetitions[:missing, ::3] = np.nan
    available = ~np.isnan(repetitions).any(axis=2)
    rng, found = generator(7, "split-half"), []
    for _ in range(4):
        keys, extra = rng.random(available.shape), rng.random(30) < 0.5
        first, second = np.zeros((30, 20)), np.zeros((30, 20))
        for image in range(30):
            order = [r for r in np.argsort(keys[:, image]) if available[r, image]]
            cut = (len(order) + int(extra[image])) // 2
            first[image] = repetitions[order[:cut], image].mean(axis=0)
            second[image] = repetitions[order[cut:], image].mean(axis=0)
        found.append(linear_cka(first, second, unbiased))
    ceiling = split_half_responses(repetitions, partial(linear_cka, unbiased=unbiased), 4, 7)
    assert ceiling.lower == pytest.approx(np.mean(found), abs=1e-12)
    assert ceiling.upper is None
    assert "4 random splits; 30 images" in ceiling.definition.meaning


@pytest.mark.parametrize("unbiased", [True, False])
def test_without_noise_it_is_one_and_more_noise_lowers_it(unbiased: bool) -> None:
    lower = [
        split_half_responses(repetitions_of(noise), partial(linear_cka, unbiased=unbiased), 5, 0).lower
        for noise in (0.0, 1.0, 3.0, 9.0)
    ]
    assert lower[0] == pytest.approx(1.0, abs=1e-12)
    assert lower == sorted(lower, reverse=True)


def test_a_model_of_the_signal_is_above_it() -> None:
    """The average over all repetitions holds less noise than a half, and the signal none."""
    repetitions = repetitions_of(3.0)
    signal = repetitions_of(0.0)[0]
    ceiling = split_half_responses(repetitions, linear_cka, 20, 0).lower
    assert ceiling is not None
    assert linear_cka(signal, repetitions.mean(axis=0)) > ceiling > 0.1


def test_images_seen_once_do_not_count_and_too_few_leave_it_empty() -> None:
    repetitions = repetitions_of(1.0)
    repetitions[1:, 5:] = np.nan
    some = split_half_responses(repetitions, linear_cka, 3, 0)
    assert "5 images" in some.definition.meaning
    assert some.lower is not None
    repetitions[1:, 3:] = np.nan
    few = split_half_responses(repetitions, linear_cka, 3, 0)
    assert (few.lower, few.upper) == (None, None)
    assert few.definition.meaning.startswith("none: unbiased CKA needs features of at least 4 stimuli")


def test_an_infinite_response_is_refused() -> None:
    repetitions = repetitions_of(1.0)
    repetitions[0, 0, 0] = np.inf
    with pytest.raises(UserError, match="repetition 0 holds infinity in row 0"):
        split_half_responses(repetitions, linear_cka, 3, 0)


def test_animals_whose_rdms_cancel_leave_an_empty_ceiling_and_not_an_error() -> None:
    def recording(animal: Any, pairs: Any) -> Any:
        rdm = squareform(pairs)
        return Recording(animal, animal, "macaque", "IT", np.arange(3), 5, rdm)

    stimuli = StimulusSet("fake", ("a", "b", "c"), lambda indices: [], "sha")
    about = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    both = (recording("M1", [1.0, 2.0, 3.0]), recording("M2", [3.0, 2.0, 1.0]))
    target = Target(Benchmark(about, stimuli, both), {"spearman": metrics_of_rdms()["spearman"]}, 10, 0)
    ceiling = target.ceiling_of_subjects([0, 1], "spearman")
    assert (ceiling.lower, ceiling.upper) == (None, None)
    assert ceiling.definition.meaning.startswith("none: an RDM is constant")
