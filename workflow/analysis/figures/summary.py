"""Summaries of scores over seeds and recordings, as tables and text for figures and report."""

from collections.abc import Iterator

import pandas as pd

from brain_eval.benchmarks.whole_regions import MEAN
from brain_eval.inference.layer_choice import CHOSEN


def groups(frame: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Yield (values, rows) for each combination of some text columns, in order of appearance."""
    for values, rows in frame.groupby(keys, sort=False):
        yield tuple(str(value) for value in values), rows


def over_seeds(frame: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Return mean, lowest and highest seed and number of seeds of a column for each group, without empty cells.

    Returns:
        frame with the columns of `by` and mean, low, high (in the value's unit) and n.
    """
    known = frame.dropna(subset=[value])
    grouped = known.groupby(by, sort=False)[value]
    return grouped.agg(mean="mean", low="min", high="max", n="count").reset_index()


def count_text(frame: pd.DataFrame) -> str:
    """Return how many seeds each rule has: "n = 3 seeds per rule", or rule by rule."""
    counts = frame.groupby("rule", sort=False)["seed"].nunique()
    if counts.empty:
        return "n = 0 seeds"
    if counts.nunique() == 1:
        n = int(counts.iloc[0])
        return f"n = {n} seed{'s' if n != 1 else ''} per rule"
    return "seeds per rule: " + ", ".join(f"{rule} {n}" for rule, n in counts.items())


def distinct(values: pd.Series) -> list[str]:
    """Return the distinct non-empty values as text, in order of appearance; numbers without ".0"."""
    known = values.dropna().unique()
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in known if value != ""]


def unit_text(frame: pd.DataFrame) -> str:
    """Return the numbers of stimuli and neuroids of some rows of scores, e.g. "92 stimuli, 674 neuroids"."""
    parts = []
    for column, unit in (("n_stimuli", "stimuli"), ("n_neuroids", "neuroids")):
        known = frame[column].dropna()
        if known.empty:
            parts.append(f"unknown number of {unit}")
        elif known.min() == known.max():
            parts.append(f"{known.min():.0f} {unit}")
        else:
            parts.append(f"{known.min():.0f} to {known.max():.0f} {unit}")
    return ", ".join(parts)


def recorded_text(scores: pd.DataFrame, whole: pd.DataFrame) -> str:
    """Return what a region's scores are based on: recordings, and stimuli and neuroids of each and in all.

    Args:
        scores: rows of the region's recordings.
        whole: rows of the whole region.
    """
    single = scores[scores["session"].ne(MEAN)]
    names = single[["session", "animal"]].drop_duplicates()
    if len(names) == 1:
        session, animal = names.iloc[0]
        return f"1 recording ({session}, {animal}), {unit_text(whole)}"
    few = "; with two recordings the interval's width is itself unreliable" if len(names) == 2 else ""
    return f"{recordings_text(scores)} of {unit_text(single)}, in all {unit_text(whole)}{few}"


def recordings_text(scores: pd.DataFrame) -> str:
    """Return the number of recordings of some rows of scores, e.g. "7 recordings"."""
    single = scores[scores["session"].ne(MEAN)]
    n = len(single[["session", "animal"]].drop_duplicates())
    return f"{n} recording{'s' if n != 1 else ''}"


def chosen_layers(layers: pd.DataFrame, benchmark: str) -> dict[tuple[str, str], str]:
    """Return (network, rule) -> the layer chosen most often on held-out images, over seeds and regions.

    Args:
        layers: tables/layers.csv; the benchmark's first metric counts.
        benchmark: name.
    """
    chosen = layers[layers["benchmark"].eq(benchmark) & layers["layer"].ne(CHOSEN)]
    chosen = chosen[chosen["metric"].eq(next(iter(chosen["metric"]), ""))].dropna(subset=["chosen"])
    shares = chosen.groupby(["network", "rule", "layer"], sort=False)["chosen"].mean().reset_index()
    best = shares.loc[shares.groupby(["network", "rule"], sort=False)["chosen"].idxmax()] if len(shares) else shares
    return {(str(row.network), str(row.rule)): str(row.layer) for row in best.itertuples()}
