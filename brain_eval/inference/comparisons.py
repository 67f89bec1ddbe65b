"""Rule against rule, paired by seed and by the resampled stimuli, corrected for the number of comparisons."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.whole_regions import whole_regions
from brain_eval.inference.draws import Drawn, Recordings, RegionDraws, draws_of_region
from brain_eval.inference.intervals import (
    RESAMPLED_SEEDS,
    difference_interval,
    expanded_percentiles,
    holm,
    interval_code,
)
from brain_eval.inference.resampling import generator
from brain_eval.inference.variation import Spread, joint_variance

COLUMNS = (
    "network", "rule_a", "rule_b", "quantity", "benchmark", "species", "region", "metric", "layer", "n",
    "n_recordings", "n_stimuli", "mean_difference", "ci_low", "ci_high", "interval_method", "p", "p_holm",
    "family", "n_family",
)  # fmt: skip
#: Draws behind an interval over resampled seeds.
SEED_DRAWS = 2000
#: Methods of intervals, as in brain_eval.inference.intervals.
PAIRED_T = ("t-paired", "Student's t {:g} % interval of rule_a - rule_b, paired by seed,")
ONE_SEED = ("t-one-seed", "Student's t {:g} % interval of rule_a - rule_b, of one seed and valid for it alone,")
BOOTSTRAP = (
    "bootstrap-paired",
    f"bootstrap of seeds ({SEED_DRAWS} draws, expanded percentiles) {{:g}} % interval of rule_a - rule_b, paired by "
    "seed,",
)

Row = Mapping[str, str]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredRun:
    """What is compared of one run.

    Attributes:
        network, rule, seed: who it is.
        accuracy: test accuracy after the last epoch; None where nothing was trained or tested.
        scores: rows of scores.csv.
        draws: by (benchmark, metric), where the file of draws exists.
    """

    network: str
    rule: str
    seed: str
    accuracy: float | None
    scores: Sequence[Row]
    draws: Mapping[tuple[str, str], Drawn] = field(default_factory=dict)


class Quantity(NamedTuple):
    """What is compared: a name, and for scores where (empty strings where it does not apply)."""

    name: str
    benchmark: str = ""
    species: str = ""
    region: str = ""
    metric: str = ""
    layer: str = ""


def compare_rules(runs: Sequence[ScoredRun], confidence: float = 0.95) -> list[dict[str, Any]]:
    """Compare each pair of rules of one network; return rows of COLUMNS.

    Compared are the test accuracy after the last epoch and, per layer, the raw score with each region (its mean over
    all recordings, else its only recording). A difference is rule_a minus rule_b, rule_a the one that comes first,
    averaged over the seeds that both have. Its interval and p are over seeds, and for scores also over stimuli and
    recordings where their draws are known: what two rules share through the stimuli cancels (see
    variation.joint_variance). From 8 seeds on (and as many recordings, or one) the interval comes from resampled
    seeds, else from Student's t. With one seed the interval does not cover other seeds.

    p_holm is corrected within a family: all layers and pairs of rules of one network on one benchmark, species,
    region and metric (or on the accuracy); n_family is its number of tests.
    """
    networks: dict[str, dict[str, list[ScoredRun]]] = {}
    for run in runs:
        networks.setdefault(run.network, {}).setdefault(run.rule, []).append(run)
    rows: list[dict[str, Any]] = []
    for network, rules in networks.items():
        measured = {rule: _measured(runs_of_rule) for rule, runs_of_rule in rules.items()}
        values = {rule: found for rule, (found, _) in measured.items()}
        stimuli = {quantity: n for _, numbers in measured.values() for quantity, n in numbers.items()}
        quantities = dict.fromkeys(quantity for found in values.values() for quantity in found)
        families: dict[Quantity, list[Quantity]] = {}
        for quantity in quantities:
            families.setdefault(quantity._replace(layer=""), []).append(quantity)
        for members in families.values():
            rows += _family(network, rules, values, stimuli, members, confidence)
    return rows


def _measured(runs: Iterable[ScoredRun]) -> tuple[dict[Quantity, dict[str, float]], dict[Quantity, int]]:
    """Every quantity of one rule by seed: final accuracy, raw scores with whole regions; and the stimuli behind scores.

    The numbers of stimuli are those of the rows: a unit of the draws may be a group of several.
    """
    values: dict[Quantity, dict[str, float]] = {}
    stimuli: dict[Quantity, int] = {}
    for run in runs:
        if run.accuracy is not None:
            values.setdefault(Quantity("test_accuracy"), {})[run.seed] = run.accuracy
        for row in whole_regions(run.scores):
            quantity = Quantity("score", *(row[key] for key in Quantity._fields[1:]))
            if row["raw"] != "":
                values.setdefault(quantity, {})[run.seed] = float(row["raw"])
            if row.get("n_stimuli"):
                stimuli[quantity] = int(row["n_stimuli"])
    return values, stimuli


def _family(
    network: str, rules: dict[str, list[ScoredRun]], values: dict[str, dict[Quantity, dict[str, float]]],
    stimuli: Mapping[Quantity, int], members: Sequence[Quantity], confidence: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Compare all pairs of rules on the members of one family and correct their p values together."""
    first = members[0]
    about = f"{first.benchmark}, {first.species} {first.region}, {first.metric}, all layers" if first.benchmark else ""
    rows: list[dict[str, Any]] = []
    for quantity, (rule_a, rule_b) in itertools.product(members, itertools.combinations(rules, 2)):
        row: dict[str, Any] = {"network": network, "rule_a": rule_a, "rule_b": rule_b, "quantity": quantity.name}
        row |= {key: getattr(quantity, key) for key in Quantity._fields[1:]}
        a, b = (values[rule].get(quantity, {}) for rule in (rule_a, rule_b))
        seeds = [seed for seed in a if seed in b]
        row |= {"n": len(seeds), "p": None, "interval_method": ""}
        if seeds:
            differences = np.array([a[seed] - b[seed] for seed in seeds])
            both = _draws_of_both(rules[rule_a], rules[rule_b], seeds, quantity)
            row |= _tested(differences, both, confidence, f"{network}, {rule_a}, {rule_b}, {quantity}")
            if both is not None:
                row["n_stimuli"] = stimuli.get(quantity)
        rows.append(row)
    tests = sum(row["p"] is not None for row in rows)
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": adjusted, "n_family": tests}
        row["family"] = f"{network}, {about or 'final test accuracy'}, all pairs of rules"
    return rows


def _draws_of_both(
    a: Sequence[ScoredRun], b: Sequence[ScoredRun], seeds: Sequence[str], quantity: Quantity
) -> RegionDraws | None:
    """Scores of one rule minus those of the other on the same draws, seed by seed; None where they are not known."""
    key = (quantity.benchmark, quantity.metric)
    drawn = []
    for runs in (a, b):
        by_seed = {run.seed: run.draws.get(key) for run in runs}
        drawn += [by_seed[seed] for seed in seeds]
    which = Recordings(quantity.species, quantity.region)
    joint = draws_of_region(drawn, [{quantity.layer: 1.0}] * len(drawn), which)
    return None if joint is None else joint.paired_differences()


def _tested(differences: Array, both: RegionDraws | None, confidence: float, name: str) -> dict[str, Any]:
    """Cells of one comparison: its interval, p and how they were made."""
    n, mean = len(differences), float(differences.mean())
    cells: dict[str, Any] = {"mean_difference": mean}
    over, values = ["seeds"], differences[:, None]
    spread = Spread.of_sample(float(differences.var(ddof=1)) / n, n - 1) if n > 1 else None
    if both is not None:
        over, values = both.factors, both.values
        spread = joint_variance(both.values, both.influence, both.remainder, both.smallest)
        cells |= {"n_recordings": values.shape[1]}
    if spread is None:
        return cells
    low, high, p = difference_interval(mean, spread, confidence)
    method = PAIRED_T if n > 1 else ONE_SEED
    # Few recordings can be resampled no more than few seeds: of two there are three samples.
    if n >= RESAMPLED_SEEDS and (values.shape[1] == 1 or values.shape[1] >= RESAMPLED_SEEDS):
        low, high = expanded_percentiles(resampled_means(values, spread, name), spread, confidence)
        method = BOOTSTRAP
    return cells | {"ci_low": low, "ci_high": high, "p": p, "interval_method": interval_code(method, confidence, over)}


def resampled_means(values: Array, spread: Spread, name: str) -> Array:
    """Draw seeds, recordings and stimuli jointly and return the mean of every draw, (SEED_DRAWS,).

    Seeds and recordings are drawn with replacement, the stimuli's part is normal; the whole is scaled to the variance
    that joint_variance found.

    Args:
        values: (seeds, recordings) scores or differences.
        spread: of their mean.
        name: seeds the draws.
    """
    rng = generator(0, "seeds", name)
    middle, total, variance = float(values.mean()), np.zeros(SEED_DRAWS), 0.0
    for means in (values.mean(axis=1), values.mean(axis=0)):
        k = len(means)
        if k > 1:
            picks = rng.integers(k, size=(SEED_DRAWS, k))
            total += (means[picks].mean(axis=1) - middle) * np.sqrt(k / (k - 1))
            variance += float(means.var(ddof=1)) / k
    stimuli = max(spread.variance - variance, 0.0)
    total += np.sqrt(stimuli) * rng.standard_normal(SEED_DRAWS)
    scale = np.sqrt(spread.variance / (variance + stimuli)) if variance + stimuli > 0 else 0.0
    return np.asarray(middle + scale * total)
