"""Rule against rule: pairing, joint variance by explicit loops, corrections, and what is said where little is known."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from brain_eval.benchmarks.whole_regions import rows_of_whole_regions, whole_regions
from brain_eval.inference.comparisons import COLUMNS, ScoredRun, _tested, compare_rules, resampled_means
from brain_eval.inference.draws import Drawn, RegionDraws
from brain_eval.inference.intervals import holm
from brain_eval.inference.variation import Spread

LABELS = (("A", "M1", "macaque", "IT"), ("B", "M2", "macaque", "IT"), ("C", "M3", "macaque", "V4"))
LAYERS = ("conv", "fc")
N, DRAWS = 30, 40
#: A unit of the draws is a group of stimuli, as for tau-a of many.
STIMULI = 70


def drawn(rng: np.random.Generator, sampling: str = "one", recordings: int = 3, shift: float = 0.0) -> Drawn:
    shape = (len(LAYERS), recordings)
    recorded = np.ones((recordings, N), dtype=bool)
    recorded[0, 20:] = False
    influence = 0.01 * rng.standard_normal((*shape, N)) * recorded
    remainder = 0.01 * rng.standard_normal((*shape, DRAWS))
    half = rng.uniform(0, 1, (*shape, 4))
    raw = 0.3 + shift + 0.05 * rng.standard_normal(shape)
    as32 = (influence.astype(np.float32), remainder.astype(np.float32))
    return Drawn(sampling, LAYERS, LABELS[:recordings], raw, *as32, half, recorded)


def score_rows(one: Drawn) -> list[dict[str, str]]:
    """Rows of scores.csv that the draws go with: each recording, and the mean where a region has several."""
    rows = []
    for layer, raws in zip(LAYERS, one.raw, strict=True):
        regions = dict.fromkeys(label[2:] for label in one.labels)
        for species, region in regions:
            own = [(label, raw) for label, raw in zip(one.labels, raws, strict=True) if label[2:] == (species, region)]
            where = {"benchmark": "bench", "species": species, "region": region, "metric": "spearman", "layer": layer}
            where["n_stimuli"] = str(STIMULI)
            rows += [where | {"session": label[0], "animal": label[1], "raw": repr(float(raw))} for label, raw in own]
            if len(own) > 1:
                mean = float(np.mean([raw for _, raw in own]))
                rows.append(where | {"session": "mean", "animal": "all", "raw": repr(mean)})
    return rows


def runs_of(
    seeds: int, rules: tuple[str, ...] = ("a", "b"), seed: int = 0, with_draws: bool = True, **options: Any
) -> list[ScoredRun]:
    rng = np.random.default_rng(seed)
    runs = []
    for rule, number in itertools.product(rules, range(seeds)):
        one = drawn(rng, shift=0.1 * (rule == "a"), **options)
        known = {("bench", "spearman"): one} if with_draws else {}
        runs.append(ScoredRun("net", rule, str(number), float(rng.uniform()), score_rows(one), known))
    return runs


def row_of(rows: list[Any], region: str, layer: str = "fc") -> dict[str, Any]:
    return next(row for row in rows if (row["region"], row["layer"]) == (region, layer))


def joint_by_loops(runs: list[ScoredRun], region: str, layer: str) -> tuple[float, float, list[tuple[float, int]]]:
    """The mean difference, its variance and that variance's parts, one pair of entries at a time."""
    chosen = [i for i, label in enumerate(LABELS) if label[3] == region]
    number, drawns = LAYERS.index(layer), [run.draws["bench", "spearman"] for run in runs]
    half = len(drawns) // 2
    pairs = list(zip(drawns[:half], drawns[half:], strict=True))

    def difference(name: Any) -> Any:
        return np.array([[getattr(a, name)[number, i] - getattr(b, name)[number, i] for i in chosen] for a, b in pairs])

    values, influence, remainder = (difference(name).astype(float) for name in ("raw", "influence", "remainder"))
    seeds, recordings = values.shape
    products = []
    for (s, k), (t, m) in itertools.product(np.ndindex(values.shape), repeat=2):
        if (s != t or seeds == 1) and (k != m or recordings == 1):
            products.append(influence[s, k] @ influence[t, m] - np.mean(remainder[s, k] * remainder[t, m]))
    shared = max(float(np.mean(products)), 0.0)
    parts = [(shared, (20 if region == "IT" else N) - 1)]
    parts.append((np.var(values.mean(axis=1), ddof=1) / seeds, seeds - 1))
    total = sum(part for part, _ in parts)
    if recordings > 1:
        parts.append((np.var(values.mean(axis=0), ddof=1) / recordings, recordings - 1))
        grand = values.mean()
        both = [
            (values[s, k] - values[s].mean() - values[:, k].mean() + grand) ** 2 for s, k in np.ndindex(values.shape)
        ]
        twice = sum(both) / ((seeds - 1) * (recordings - 1)) / (seeds * recordings)
        total = max(sum(part for part, _ in parts) - twice, *(part for part, _ in parts))
    return values.mean(), total, parts


def errors_to(upper: float, parts: list[tuple[float, int]]) -> float:
    """Cochran and Cox' quantile: Student's of the parts' degrees of freedom, weighted by the parts."""
    return np.average([stats.t.isf(upper, freedom) for _, freedom in parts], weights=[part for part, _ in parts])


@pytest.mark.parametrize("region", ["IT", "V4"])
@pytest.mark.parametrize("layer", LAYERS)
def test_scores_are_tested_over_seeds_stimuli_and_recordings_jointly(region: str, layer: str) -> None:
    runs = runs_of(4)
    row = row_of(compare_rules(runs), region, layer)
    mean, variance, parts = joint_by_loops(runs, region, layer)
    half = errors_to(0.025, parts) * np.sqrt(variance)
    found = [row[key] for key in ("mean_difference", "ci_low", "ci_high")]
    assert found == pytest.approx([mean, mean - half, mean + half], rel=1e-6)  # kept in float32
    assert errors_to(row["p"] / 2, parts) * np.sqrt(variance) == pytest.approx(abs(mean), rel=1e-6)
    assert (row["n"], row["n_recordings"], row["n_stimuli"]) == (4, 2 if region == "IT" else 1, STIMULI)
    over = "over seeds, stimuli and recordings" if region == "IT" else "over seeds and stimuli"
    assert row["interval_method"].meaning == f"Student's t 95 % interval of rule_a - rule_b, paired by seed, {over}"


def test_without_draws_rules_are_compared_over_seeds_by_students_t() -> None:
    runs = runs_of(5, with_draws=False)
    row = row_of(compare_rules(runs, 0.9), "V4")
    a, b = ([run.draws or run for run in runs if run.rule == rule] for rule in "ab")
    raws = [[float(row_of(run.scores, "V4")["raw"]) for run in own] for own in (a, b)]
    oracle = stats.ttest_rel(*raws)
    interval = oracle.confidence_interval(0.9)
    found = [row[key] for key in ("ci_low", "ci_high", "p")]
    assert found == pytest.approx([interval.low, interval.high, oracle.pvalue])
    assert row["interval_method"].meaning == "Student's t 90 % interval of rule_a - rule_b, paired by seed, over seeds"
    assert "n_stimuli" not in row


def test_draws_of_another_seed_or_benchmark_version_are_not_paired() -> None:
    rng = np.random.default_rng(0)
    runs = runs_of(3)
    other = drawn(rng, sampling="another")
    runs[-1] = ScoredRun("net", "b", "2", 0.5, score_rows(other), {("bench", "spearman"): other})
    assert row_of(compare_rules(runs), "IT")["interval_method"].meaning.endswith("over seeds")


def test_one_seed_is_tested_over_stimuli_and_says_so() -> None:
    row = row_of(compare_rules(runs_of(1)), "V4")
    assert row["n"] == 1
    assert row["p"] is not None
    assert row["interval_method"].meaning.endswith("of one seed and valid for it alone, over stimuli")
    assert next(row for row in compare_rules(runs_of(1)) if row["quantity"] == "test_accuracy")["p"] is None


def test_from_eight_seeds_on_seeds_are_resampled() -> None:
    few, many = (row_of(compare_rules(runs_of(seeds)), "V4") for seeds in (7, 8))
    assert few["interval_method"].meaning.startswith("Student's t")
    assert many["interval_method"].meaning.startswith("bootstrap of seeds (2000 draws, expanded percentiles) 95 %")
    runs = runs_of(8)
    mean, variance, parts = joint_by_loops(runs, "V4", "fc")
    half = errors_to(0.025, parts) * np.sqrt(variance)
    assert (many["ci_low"], many["ci_high"]) == pytest.approx((mean - half, mean + half), abs=0.35 * half)
    assert compare_rules(runs) == compare_rules(runs)


def test_two_recordings_are_never_resampled() -> None:
    """Of two there are three samples, whose extremes lie within one standard error."""
    runs = runs_of(8)
    row = row_of(compare_rules(runs), "IT")
    mean, variance, parts = joint_by_loops(runs, "IT", "fc")
    half = errors_to(0.025, parts) * np.sqrt(variance)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((mean - half, mean + half), rel=1e-6)
    assert row["interval_method"].meaning.startswith("Student's t 95 %")


@pytest.mark.parametrize("recordings", [1, 2, 4, 8])
def test_intervals_from_eight_seeds_on_cover_and_agree_with_p(recordings: int) -> None:
    """No difference, 300 data sets of 8 seeds whose seeds and recordings vary: 92 % or more of the intervals hold 0."""
    rng, held, agreed = np.random.default_rng(0), 0, 0
    for number in range(300):
        values = 0.1 * rng.standard_normal((8, 1)) + 0.1 * rng.standard_normal((8, recordings))
        values += 0.1 * rng.standard_normal((1, recordings)) * (recordings > 1)
        both = RegionDraws(values, np.zeros((8, recordings, 30)), np.zeros((8, recordings, 5)), 30)
        cells = _tested(values.mean(axis=1), both, 0.95, str(number))
        holds = cells["ci_low"] <= 0 <= cells["ci_high"]
        held += holds
        agreed += holds == (cells["p"] > 0.05)
    assert held >= 276
    assert agreed >= 285


def test_a_run_that_lacks_a_recordings_draws_is_compared_over_seeds_alone() -> None:
    for broken in ("recorded", "influence"):
        runs = runs_of(3)
        one = runs[-1].draws["bench", "spearman"]
        getattr(one, broken)[..., 1, :] = False if broken == "recorded" else np.nan
        rows = compare_rules(runs)
        assert row_of(rows, "IT")["interval_method"].meaning.endswith("over seeds")
        assert row_of(rows, "V4")["interval_method"].meaning.endswith("over seeds and stimuli")


def test_resampled_means_have_the_variance_asked_for() -> None:
    values = np.random.default_rng(0).standard_normal((9, 4))
    spread = Spread.of_sample(0.3, 12.0)
    draws = resampled_means(values, spread, "test")
    assert draws.mean() == pytest.approx(values.mean(), abs=0.05)
    assert draws.var() == pytest.approx(0.3, rel=0.1)
    assert np.array_equal(draws, resampled_means(values, spread, "test"))
    assert not np.array_equal(draws, resampled_means(values, spread, "other"))


def test_what_two_rules_share_through_the_stimuli_cancels() -> None:
    """Both rules' scores move alike with the stimuli: the difference is known better than either score."""
    runs = runs_of(3)
    common = 0.2 * np.random.default_rng(1).standard_normal(N).astype(np.float32)
    for run in runs:
        run.draws["bench", "spearman"].influence[...] += common
    moved = row_of(compare_rules(runs), "V4")
    plain = row_of(compare_rules(runs_of(3)), "V4")
    assert moved["ci_high"] - moved["ci_low"] == pytest.approx(plain["ci_high"] - plain["ci_low"], rel=1e-4)


def test_p_values_are_corrected_for_all_layers_and_pairs_of_a_family() -> None:
    rows = compare_rules(runs_of(3, rules=("a", "b", "c")))
    assert all(set(row) <= set(COLUMNS) for row in rows)
    families = dict.fromkeys(row["family"] for row in rows)
    assert len(families) == 3
    for family in families:
        own = [row for row in rows if row["family"] == family]
        assert [row["p_holm"] for row in own] == holm([row["p"] for row in own])
        assert {row["n_family"] for row in own} == {3 if "accuracy" in family else 6}


def test_an_undefined_score_leaves_its_seed_out_of_both_rules() -> None:
    runs = runs_of(4)
    one = runs[2].draws["bench", "spearman"]
    one.raw[1, 2] = np.nan
    scores = [row | {"raw": ""} if row["layer"] == "fc" and row["region"] == "V4" else row for row in runs[2].scores]
    runs[2] = ScoredRun("net", "a", "2", 0.5, scores, runs[2].draws)
    rows = compare_rules(runs)
    assert (row_of(rows, "V4")["n"], row_of(rows, "V4", "conv")["n"]) == (3, 4)
    assert row_of(rows, "V4")["n_recordings"] == 1


def test_whole_regions_are_means_over_all_recordings_or_the_only_one() -> None:
    rows = score_rows(drawn(np.random.default_rng(0)))
    found = [(row["layer"], row["region"], row["session"]) for row in whole_regions(rows)]
    assert found == [(layer, *rest) for layer in LAYERS for rest in (("IT", "mean"), ("V4", "C"))]
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)  # an index that is not the position
    chosen = rows_of_whole_regions(table)
    assert sorted(zip(chosen["layer"], chosen["region"], chosen["session"], strict=True)) == sorted(found)
    assert chosen.index.isin(table.index).all()


def test_networks_are_compared_apart_and_in_the_order_of_the_runs() -> None:
    runs = runs_of(2)
    others = [ScoredRun("wide", run.rule, run.seed, run.accuracy, run.scores, run.draws) for run in runs]
    rows = compare_rules([*runs, *others])
    assert list(dict.fromkeys(row["network"] for row in rows)) == ["net", "wide"]
    assert {(row["rule_a"], row["rule_b"]) for row in rows} == {("a", "b")}
