"""The choice of a layer: on images that do not score it, and what happens otherwise."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.inference.draws import Drawn
from brain_eval.inference.layer_choice import CHOSEN, COLUMNS, choose_layer, choose_layers, variance_of_choice
from brain_eval.inference.resampling import random_halves
from brain_eval.metrics.base import metrics_of_rdms
from brain_eval.metrics.rdms import correlation_rdm, upper_triangle
from brain_eval.scoring.targets import SPLITS_OF_STIMULI, Target


def test_each_half_chooses_and_the_other_scores() -> None:
    half = np.array([[0.5, 0.1, 0.3, 0.2], [0.4, 0.6, 0.1, 0.9]])
    choice = choose_layer(half)
    # Half 1 chooses layer 0, scored .1 on half 2; half 2 layer 1, scored .4; half 3 layer 0, .2; half 4 layer 1, .1.
    assert choice.chosen.tolist() == [0.5, 0.5]
    assert choice.held_out == pytest.approx((0.1 + 0.4 + 0.2 + 0.1) / 4)
    assert choice.same_images == pytest.approx((0.5 + 0.6 + 0.3 + 0.9) / 4)
    assert choice.n_choices == 4


def test_a_layer_without_a_score_is_not_chosen() -> None:
    half = np.array([[np.nan, 0.9, np.nan, np.nan], [0.1, 0.2, np.nan, np.nan]])
    choice = choose_layer(half)
    assert choice.chosen.tolist() == [0.0, 1.0]
    assert choice.n_choices == 2
    assert choose_layer(np.full((2, 4), np.nan)) is None


def layer_scores(seed: int, quality: list[float], n: int = 40) -> NDArray[np.float64]:
    """Scores of layers on the halves of a benchmark: noisy views of one code, of given noise."""
    rng = np.random.default_rng(seed)
    code = rng.standard_normal((n, 8))
    rdm = correlation_rdm(code + rng.standard_normal((n, 8)))
    about = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    stimuli = StimulusSet("fake", tuple(f"{i:02d}" for i in range(n)), lambda indices: [], "sha")
    recording = Recording("A", "M1", "macaque", "IT", np.arange(n), 8, rdm)
    target = Target(Benchmark(about, stimuli, (recording,)), {"spearman": metrics_of_rdms()["spearman"]}, 5, seed)
    layers = [correlation_rdm(code + noise * rng.standard_normal((n, 8))) for noise in quality]
    return np.stack([target.compare(0, upper_triangle(rdm))[0, "spearman"].halves for rdm in layers])


def test_choosing_on_the_scored_images_inflates_the_score_and_held_out_images_do_not() -> None:
    """Ten layers of the same quality in 40 benchmarks: the true score of any choice is the layers' mean."""
    inflated, honest = [], []
    for seed in range(40):
        half = layer_scores(seed, [2.0] * 10)
        choice = choose_layer(half)
        inflated.append(choice.same_images - half.mean())
        honest.append(choice.held_out - half.mean())
    error = np.std(honest) / np.sqrt(40)
    assert np.mean(inflated) > 0.08
    assert abs(np.mean(honest)) < max(3 * error, 0.02)


def test_the_better_layer_is_chosen() -> None:
    choice = choose_layer(layer_scores(0, [4.0, 0.3, 4.0]))
    assert choice.chosen[1] == 1.0
    assert choice.n_choices == 2 * SPLITS_OF_STIMULI


def drawn(half: NDArray[np.float64], raw: NDArray[np.float64], labels: tuple[Any, ...]) -> Drawn:
    layers, recordings, _ = half.shape
    empty = np.zeros((layers, recordings, 4), dtype=np.float32)
    names = tuple(f"layer{i}" for i in range(layers))
    return Drawn("one", names, labels, raw, empty, empty, half, np.ones((recordings, 4), dtype=bool))


def test_the_whole_table_stands_beside_the_choice() -> None:
    rng = np.random.default_rng(0)
    half, raw = rng.uniform(0, 1, (3, 4, 6)), rng.uniform(0, 1, (3, 4))
    labels = tuple(("s", f"M{i}", "macaque", region) for i, region in enumerate(("V4", "IT", "IT", "IT")))
    rows = choose_layers({("bench", "spearman"): drawn(half, raw, labels)})
    assert [(row["region"], row["layer"]) for row in rows] == [
        (region, layer) for region in ("V4", "IT") for layer in ("layer0", "layer1", "layer2", CHOSEN)
    ]
    assert all(set(row) < set(COLUMNS) for row in rows)
    choice = choose_layer(half[:, 1:].mean(axis=1))
    table, summary = rows[4:7], rows[7]
    assert [row["raw"] for row in table] == pytest.approx(raw[:, 1:].mean(axis=1).tolist())
    assert [row["chosen"] for row in table] == choice.chosen.tolist()
    assert (summary["half"], summary["same_images"]) == (choice.held_out, choice.same_images)
    assert "raw" not in summary


def test_a_region_that_cannot_choose_has_no_rows() -> None:
    nothing = np.full((2, 1, 4), np.nan)
    labels = (("s", "M", "macaque", "V4"),)
    assert choose_layers({("bench", "spearman"): drawn(nothing, np.zeros((2, 1)), labels)}) == []


@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_variance_of_a_choice_is_that_of_repeated_data_sets(seeds: int) -> None:
    """Scores of five layers, some of which tie, as means over stimuli: no pairs, all known.

    What the stimuli do to a layer is half its own, half that of the same layer of the other seeds.
    """
    rng, n, truth = np.random.default_rng(0), 40, np.array([0.3, 0.3, 0.28, 0.25, 0.1])
    errors, extra = [], []
    for _ in range(400):
        of_stimuli = 0.2 * rng.standard_normal((n, 1)) + 0.3 * rng.standard_normal((n, 5))
        values = truth + of_stimuli + 0.05 * rng.standard_normal((seeds, n, 5))
        first = random_halves([np.arange(n)], n, 10, rng)
        half = np.stack([first, 1 - first], axis=1).reshape(20, n) @ values / (n / 2)
        choices = [choose_layer(one.T) for one in half]
        shares = np.stack([choice.chosen for choice in choices])
        means = values.mean(axis=1)
        influence = (values - means[:, None]).swapaxes(1, 2) / np.sqrt(n * (n - 1))
        extra.append(variance_of_choice(means, influence, np.zeros((seeds, 5, 3)), shares, 10))
        held_out = np.array([choice.held_out for choice in choices])
        errors.append(((held_out - shares @ truth).mean(), ((means - truth) * shares).sum(axis=1).mean()))
    held_out, mixture = np.array(errors).T
    assert abs(held_out.mean()) < 3 * held_out.std() / 20
    assert mixture.mean() > 5 * mixture.std() / 20, "the whole sample's scores of what was chosen are too high"
    assert np.mean(extra) == pytest.approx(held_out.var() - mixture.var(), rel=0.5)


def test_layers_that_are_always_chosen_add_no_variance() -> None:
    one, shares = np.ones((2, 3, 6)), np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert variance_of_choice(np.full((2, 3), 0.3), one, one, shares, 10) == 0.0


def test_a_layer_that_no_half_chose_may_be_undefined() -> None:
    rng = np.random.default_rng(0)
    scores, influence, remainder = rng.random((1, 3)), rng.standard_normal((1, 3, 20)), np.zeros((1, 3, 4))
    shares = np.array([[0.5, 0.5, 0.0]])
    expected = variance_of_choice(scores[:, :2], influence[:, :2], remainder[:, :2], shares[:, :2], 10)
    scores[0, 2], influence[0, 2], remainder[0, 2] = np.nan, np.nan, np.nan
    assert variance_of_choice(scores, influence, remainder, shares, 10) == pytest.approx(expected) != 0.0
