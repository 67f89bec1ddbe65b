"""How often the 95 % intervals of brain_eval hold the truth, and how often its tests find what is not there.

python bench/interval_coverage.py [--quick] [--part rdm|cka|choice] [--out coverage.csv]

A population of 3,000 stimuli is seen by a model and recorded in 60 recordings that read the same 8 hidden
features, each in its own way and with its own noise. Each of 1,000 data sets draws stimuli (and
recordings, and seeds of the network) from it and makes the interval as a score has it. The truth is the
population's: of the one recording, of all 60, or of all seeds. Beside it stands the plain percentile
bootstrap over stimuli, which counts the variance of pairs three times (docs/statistics.md), and over several
recordings the two-factor bootstrap of rsatoolbox (Schuett et al. 2023) from the same draws.
Part cka does the same for the unbiased linear CKA of the responses, whose draws are random halves, in three
populations: one alone gave from 92.3 to 95.1 % for the same case.
Part choice is about the layer of four that is chosen on one half of the stimuli and scored on the other.
About 8 minutes on one core, 4 for part cka, 50 for part choice; --quick runs 40 data sets of the smallest cases.
"""

import argparse
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsatoolbox.util.inference_util import extract_variances
from scipy.stats import t as student
from side_by_side import write

from brain_eval.inference.draws import Drawn, Recordings
from brain_eval.inference.intervals import correlation_interval, difference_interval
from brain_eval.inference.layer_choice import choose_layer
from brain_eval.inference.resampling import (
    bootstrap_counts,
    leaving_each_out,
    random_halves,
    split_halves,
    weighted_moments,
)
from brain_eval.inference.variation import (
    Variation,
    joint_variance,
    stacked,
    variation_of_correlation,
    variation_of_draws,
)
from brain_eval.metrics.cka import cka_in_subsets, gram_sums, linear_cka
from brain_eval.metrics.gram import centred_gram
from brain_eval.metrics.rdms import correlation_rdm, upper_triangle
from brain_eval.metrics.similarity import ranks
from brain_eval.scoring.targets import SPLITS_OF_STIMULI
from nmnc.training.provenance import git_commit
from workflow.analysis.wide_tables.intervals import chosen_interval

POPULATION, FEATURES, NEUROIDS, RECORDINGS, SEEDS = 3000, 8, 30, 60, 40
#: Of part cka, and layers of part choice.
POPULATIONS, LAYERS = 3, 4
#: Pairs of the population from which the truth is taken; its error is below .002.
PAIRS = 400_000
COLUMNS = (
    "case", "n_stimuli", "n_recordings", "n_seeds", "truth", "data_sets", "draws", "covered", "covered_by_percentiles",
    "covered_by_rsatoolbox", "standard_deviation", "standard_error", "median_width", "median_width_of_rsatoolbox",
    "git",
)  # fmt: skip

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """Responses (stimuli, neuroids) of models and recordings, and the true scores (models, recordings)."""

    models: list[Array]
    recordings: list[Array]
    truth: Array


@functools.cache
def population(signal: float, recordings: int, models: int, seed: int, kinds: int = 1) -> Population:
    """Make a population; cases that differ in what they draw from it share it.

    Args:
        signal: size of the hidden features against noise of 3.
        recordings, models: how many of each; models are seeds of one network.
        seed: of everything.
        kinds: 2: two networks of `models` seeds each, which read different halves of the features.
    """
    rng = np.random.default_rng(seed)
    hidden = signal * rng.standard_normal((POPULATION, FEATURES))

    def reads(weights: Array) -> Array:
        mixing = weights[:, None] * rng.standard_normal((FEATURES, NEUROIDS))
        return hidden @ mixing + 3 * rng.standard_normal((POPULATION, NEUROIDS))

    halves = [np.ones(FEATURES)] if kinds == 1 else [np.repeat(w, FEATURES // 2) for w in ([1.4, 0.0], [0.0, 1.4])]
    seen = [reads(half) for half in halves for _ in range(models)]
    recorded = [reads(rng.gamma(4, 0.25, FEATURES) if recordings > 1 else np.ones(FEATURES)) for _ in range(recordings)]
    first, second = rng.integers(POPULATION, size=(2, PAIRS))
    different = first != second
    first, second = first[different], second[different]

    def distances(values: Array) -> Array:
        centred = values - values.mean(axis=1, keepdims=True)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        ranked = ranks(1 - np.einsum("ij,ij->i", centred[first], centred[second]))
        return (ranked - ranked.mean()) / ranked.std()

    sides = [np.stack([distances(values) for values in group]) for group in (seen, recorded)]
    return Population(seen, recorded, sides[0] @ sides[1].T / len(first))


def scored(
    models: list[Array], recordings: list[Array], stimuli: NDArray[np.intp], counts: Array, draws: int | None = None
) -> tuple[Array, list[list[Variation]], Array]:
    """Spearman of the drawn stimuli's RDMs: raw (models, recordings), variations, and scores under every count.

    The first `draws` counts are those of a bootstrap, all where it is None.
    """
    sides = [
        [weighted_moments(ranks(upper_triangle(correlation_rdm(values[stimuli]))), counts) for values in group]
        for group in (models, recordings)
    ]
    n, units = len(stimuli), np.arange(len(stimuli))
    draws = len(counts) if draws is None else draws
    results = [[variation_of_correlation(a, b, counts, units, draws) for b in sides[1]] for a in sides[0]]
    raw = np.array([[(a.matrix * b.matrix).sum() / (n * (n - 1)) for b in sides[1]] for a in sides[0]])
    values = np.array([[values for _, values in row] for row in results])
    return raw, [[one for one, _ in row] for row in results], values


def arrays(variations: list[list[Variation]]) -> tuple[Array, Array]:
    """Influences (models, recordings, n) and remainders (models, recordings, draws)."""
    pairs = [stacked(row) for row in variations]
    return np.stack([one for one, _ in pairs]), np.stack([other for _, other in pairs])


def cover_scores(signal: float, n: int, k: int, data_sets: int, draws: int = 500, seed: int = 0) -> dict[str, Any]:
    """Coverage of the interval of one recording's score (k = 1), or of the mean over k recordings."""
    known = population(signal, RECORDINGS if k > 1 else 1, 1, seed)
    rng, truth = np.random.default_rng([1, seed]), float(known.truth.mean())
    hits, plain, means, errors, widths, published = 0, 0, [], [], [], []
    for _ in range(data_sets):
        stimuli = rng.choice(POPULATION, n, replace=False)
        own = [known.recordings[i] for i in rng.choice(len(known.recordings), k, replace=False)]
        counts = bootstrap_counts([np.arange(n)], n, draws, rng).astype(np.float64)
        raw, variations, drawn = scored(known.models, own, stimuli, counts)
        influence, remainder = arrays(variations)
        spread = joint_variance(raw, influence, remainder, n)
        low, high = correlation_interval(float(raw.mean()), spread, 0.95)
        hits += low <= truth <= high
        picked = rng.integers(k, size=(draws, k))
        low_plain, high_plain = np.nanquantile(drawn[0][picked, np.arange(draws)[:, None]].mean(axis=1), [0.025, 0.975])
        plain += low_plain <= truth <= high_plain
        means.append(raw.mean())
        errors.append(spread.variance)
        widths.append(high - low)
        if k > 1:
            published.append(two_factor_interval(raw[0], drawn[0], picked, n))
    found = row("score", (n, k, 1), truth, (data_sets, draws), hits, means, errors, widths, plain)
    if published:
        found["covered_by_rsatoolbox"] = float(np.mean([low <= truth <= high for low, high in published]))
        found["median_width_of_rsatoolbox"] = float(np.median([high - low for low, high in published]))
    return found


def two_factor_interval(raw: Array, drawn: Array, picked: NDArray[np.intp], n: int) -> tuple[float, float]:
    """Return the 95 % interval that rsatoolbox's `eval_dual_bootstrap` makes of the mean over recordings.

    Its own draws would take half a minute a data set. These are drawn and scored as everywhere here; variances are
    combined by rsatoolbox, and centre, degrees of freedom and quantile are those of its `Result.get_ci`.

    Args:
        raw: scores on all stimuli (recordings,).
        drawn: scores under every draw of stimuli (recordings, draws).
        picked: recordings of every draw (draws, recordings).
        n: stimuli.
    """
    recordings = len(raw)
    both = drawn[picked, np.arange(len(picked))[:, None]].mean(axis=1)
    draws = np.stack([both, raw[picked].mean(axis=1), drawn.mean(axis=0)])
    variances = np.nanvar(draws, axis=1, ddof=1).reshape(3, 1, 1)
    (variance,), _, _ = extract_variances(variances, nc_included=False, n_rdm=recordings, n_pattern=n)
    half = float(student.ppf(0.975, min(recordings, n) - 1) * np.sqrt(variance))
    return float(np.nanmean(both)) - half, float(np.nanmean(both)) + half


def row(
    case: str, sizes: tuple[int, int, int], truth: float, drawn: tuple[int, int], hits: int,
    means: list[float], errors: list[float], widths: list[float], plain: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The row of a case.

    Args:
        case: its name.
        sizes: stimuli, recordings, seeds.
        truth: what the intervals should hold.
        drawn: data sets, and draws in each.
        hits: intervals that held it; `plain`: percentiles that did.
        means, errors, widths: of each data set the score, the variance of its interval, the interval's width.
    """
    (n, k, seeds), (data_sets, draws) = sizes, drawn
    return {
        "case": case, "n_stimuli": n, "n_recordings": k, "n_seeds": seeds, "truth": truth, "data_sets": data_sets,
        "draws": draws, "covered": hits / data_sets,
        "covered_by_percentiles": None if plain is None else plain / data_sets,
        "standard_deviation": float(np.std(means)), "standard_error": float(np.sqrt(np.mean(errors))),
        "median_width": float(np.median(widths)),
    }  # fmt: skip


@functools.cache
def true_cka(signal: float, recordings: int, seed: int) -> float:
    """Unbiased linear CKA of the population's model with its recordings, on average."""
    known = population(signal, recordings, 1, seed)
    return float(np.mean([linear_cka(known.models[0], recording) for recording in known.recordings]))


def cover_cka(
    signal: float, n: int, k: int, data_sets: int, draws: int = 300, populations: int = POPULATIONS
) -> dict[str, Any]:
    """Coverage of the interval of one recording's unbiased linear CKA (k = 1), or of the mean over k recordings.

    As many data sets are drawn from each of so many populations; the truth told is their mean.
    """
    recordings, units = RECORDINGS if k > 1 else 1, np.arange(n)
    hits, means, errors, widths, truths = 0, [], [], [], []
    seeds = np.repeat(np.arange(populations), data_sets)
    rngs = [np.random.default_rng([3, seed]) for seed in range(populations)]
    for seed in seeds:
        known, truth, rng = population(signal, recordings, 1, seed), true_cka(signal, recordings, seed), rngs[seed]
        stimuli = rng.choice(POPULATION, n, replace=False)
        halves = random_halves([units], n, draws, rng)
        subsets = np.concatenate([halves, leaving_each_out(units), np.ones((1, n))])
        shares = halves * (n / halves.sum(axis=1, keepdims=True))
        model = gram_sums(centred_gram(known.models[0][stimuli]), subsets, unbiased=True)
        raw, variations = [], []
        for i in rng.choice(recordings, k, replace=False):
            recorded = gram_sums(centred_gram(known.recordings[i][stimuli]), subsets, unbiased=True)
            values = cka_in_subsets(model, recorded, subsets, unbiased=True)
            raw.append(values[-1])
            variations.append(variation_of_draws(raw[-1], values[:draws], values[draws:-1], shares, units))
        influence, remainder = arrays([variations])
        spread = joint_variance(np.array([raw]), influence, remainder, n)
        low, high = correlation_interval(float(np.mean(raw)), spread, 0.95)
        hits += low <= truth <= high
        means.append(np.mean(raw) - truth)
        errors.append(spread.variance)
        widths.append(high - low)
        truths.append(truth)
    return row("unbiased CKA", (n, k, 1), float(np.mean(truths)), (len(seeds), draws), hits, means, errors, widths)


def cover_choice(
    signal: float, n: int, k: int, seeds: int, data_sets: int, kinds: int, draws: int = 300, seed: int = 0
) -> dict[str, Any]:
    """Coverage of the interval of the layer chosen on held-out stimuli, of LAYERS, averaged over seeds.

    The truth is that of the layers in the shares in which they were chosen: of one seed its own, of several that of
    all networks, of which seeds are drawn with replacement.

    Args:
        signal, n, k, seeds, data_sets, draws, seed: as elsewhere.
        kinds: 1: all layers read the same features, so that their true scores nearly tie; 2: two read one half of
            the features and two the other, so that what scores best depends on the recordings.
    """
    networks = SEEDS // 2 if seeds > 1 else 1
    known = population(signal, RECORDINGS if k > 1 else 1, networks * LAYERS // kinds, seed, kinds)
    layers = np.arange(networks * LAYERS).reshape(kinds, networks, -1).swapaxes(0, 1).reshape(networks, LAYERS)
    true, rng, units = known.truth.mean(axis=1), np.random.default_rng([4, seed]), np.arange(n)
    hits, means, errors, widths, truths = 0, [], [], [], []
    for _ in range(data_sets):
        stimuli = rng.choice(POPULATION, n, replace=False)
        own = [known.recordings[i] for i in rng.choice(len(known.recordings), k, replace=False)]
        halves = split_halves([units], n, SPLITS_OF_STIMULI, rng)
        counts = np.concatenate([bootstrap_counts([units], n, draws, rng).astype(np.float64), halves])
        members = layers[rng.integers(networks, size=seeds)]
        drawn = [_drawn(*scored([known.models[i] for i in which], own, stimuli, counts, draws), draws)
                 for which in members]  # fmt: skip
        choices = [choose_layer(one.half.mean(axis=1)) for one in drawn]
        held_out = [choice.held_out for choice in choices if choice is not None]
        shares = [dict(zip(drawn[0].layers, choice.chosen, strict=True)) for choice in choices if choice is not None]
        interval = chosen_interval(drawn, shares, Recordings("", ""), 0.95, held_out)
        if interval is None:
            raise AssertionError("a score of these data sets is undefined")
        mixed = np.mean([list(share.values()) for share in shares], axis=0)
        truth = float(mixed @ true[layers].mean(axis=0))
        hits += interval.low <= truth <= interval.high
        means.append(np.mean(held_out) - truth)
        errors.append(interval.variance)
        widths.append(interval.high - interval.low)
        truths.append(truth)
    case = f"chosen layer, layers {'of the same features' if kinds == 1 else 'of two kinds'}"
    return row(
        case, (n, k, seeds), float(np.mean(truths)), (data_sets, draws), hits, [*map(float, means)], errors, widths
    )


def _drawn(raw: Array, variations: list[list[Variation]], values: Array, draws: int) -> Drawn:
    """What a file of draws holds of one network's layers."""
    influence, remainder = arrays(variations)
    layers, recordings = raw.shape
    return Drawn(
        "", tuple(f"layer{i}" for i in range(layers)), tuple((str(i), "", "", "") for i in range(recordings)), raw,
        influence.astype(np.float32), remainder.astype(np.float32), values[..., draws:],
        np.ones((recordings, influence.shape[2]), dtype=bool),
    )  # fmt: skip


def cover_differences(n: int, k: int, seeds: int, data_sets: int, draws: int = 300, seed: int = 0) -> dict[str, Any]:
    """Coverage of the difference between two networks' scores over seeds, stimuli and recordings.

    Its complement is the rate at which the paired test finds a difference that is not there. The truth
    is that of all seeds; where there is one seed, that of this seed.
    """
    known = population(1.0, RECORDINGS if k > 1 else 1, SEEDS, seed, kinds=2)
    rng = np.random.default_rng([2, seed])
    truth = float(known.truth[:SEEDS].mean() - known.truth[SEEDS:].mean())
    hits, means, errors, widths = 0, [], [], []
    for _ in range(data_sets):
        stimuli = rng.choice(POPULATION, n, replace=False)
        own = [known.recordings[i] for i in rng.choice(len(known.recordings), k, replace=False)]
        which = [rng.choice(SEEDS, seeds, replace=False) + shift for shift in (0, SEEDS)]
        counts = bootstrap_counts([np.arange(n)], n, draws, rng).astype(np.float64)
        models = [known.models[i] for part in which for i in part]
        raw, variations, _ = scored(models, own, stimuli, counts)
        influence, remainder = arrays(variations)
        values, influence, remainder = (x[:seeds] - x[seeds:] for x in (raw, influence, remainder))
        spread = joint_variance(values, influence, remainder, n)
        own_truth = float(known.truth[which[0]].mean() - known.truth[which[1]].mean()) if seeds == 1 else truth
        low, high, p = difference_interval(float(values.mean()) - own_truth, spread, 0.95)
        hits += p is None or p > 0.05
        means.append(values.mean() - own_truth)
        errors.append(spread.variance)
        widths.append((high or 0.0) - (low or 0.0))
    return row("difference", (n, k, seeds), truth, (data_sets, draws), hits, means, errors, widths)


def cases_of_cka(quick: bool, data_sets: int) -> Iterator[dict[str, Any]]:
    """Run case after case of part cka."""
    if quick:
        yield cover_cka(1.0, 30, 2, 20, draws=50, populations=2)
        return
    for n in (92, 20):
        for k in (1, 2, 4, 7):
            for signal in (0.0, 0.5, 1.1, 2.5):
                yield cover_cka(signal, n, k, -(-data_sets // POPULATIONS))


def cases_of_choice(quick: bool, data_sets: int) -> Iterator[dict[str, Any]]:
    """Run case after case of part choice."""
    if quick:
        yield cover_choice(1.0, 30, 2, 2, 20, 2, draws=50)
        return
    for n in (92, 20):
        for k, seeds in ((1, 1), (4, 1), (1, 6), (4, 6)):
            for kinds, signal in ((1, 0.5), (1, 1.1), (2, 1.1)):
                yield cover_choice(signal, n, k, seeds, data_sets, kinds)


def cases(quick: bool, data_sets: int) -> Iterator[dict[str, Any]]:
    """Run case after case of part rdm."""
    if quick:
        yield cover_scores(1.0, 40, 1, 40, draws=100)
        yield cover_differences(30, 1, 3, 20, draws=50)
        return
    for n in (92, 20):
        for signal in (0.0, 0.5, 0.97, 1.65):
            yield cover_scores(signal, n, 1, data_sets)
        for k in (2, 3, 4, 7):
            for signal in (0.0, 0.5, 1.1, 2.5):
                yield cover_scores(signal, n, k, data_sets, draws=300)
    for k, seeds in ((1, 1), (1, 3), (1, 6), (4, 3), (4, 6)):
        yield cover_differences(92, k, seeds, data_sets, draws=200)


PARTS = {"rdm": cases, "cka": cases_of_cka, "choice": cases_of_choice}


def main(description: str, parts: Mapping[str, Callable[[bool, int], Iterator[dict[str, Any]]]]) -> None:
    """Run the cases of one part; print a line per case, write them as CSV where asked to."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", choices=list(parts), default="rdm")
    parser.add_argument("--data-sets", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    commit = git_commit()
    for found in parts[given.part](given.quick, given.data_sets):
        rows.append(found | {"git": commit})
        texts = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items())
        print(", ".join(texts), flush=True)
        write(given.out, rows, COLUMNS)  # after every case: a run may be cut


if __name__ == "__main__":
    main(__doc__, PARTS)
