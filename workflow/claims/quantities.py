"""The effects that predictions are about: each a set of arguments that gives one value per seed.

A prediction (docs/predictions.yaml) names one of these and its arguments. Differences are paired: only seeds that
both rules have count. Rules are named by their label in tables/runs.csv.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from nmnc.errors import UserError
from nmnc.settings import Section
from workflow.claims.runs import Runs

Effects: TypeAlias = "pd.Series[float]"


class Quantity(Section):
    """The arguments of a prediction, and the effect that they define."""

    def effects(self, runs: Runs) -> Effects:
        """Return the effect per seed, empty where runs are missing."""
        return self._effects(runs)

    def _effects(self, runs: Runs) -> Effects:
        raise NotImplementedError

    def labels(self) -> Iterator[str]:
        """Yield the labels of the compared rules."""
        for field in ("a", "b", "rule", "rules", "floor", "ceiling"):
            value = getattr(self, field, ())
            yield from [value] if isinstance(value, str) else value


class Pair(Quantity):
    """Two rules, a and b."""

    a: str
    b: str


class Comparison(Pair):
    """Two rules on one network."""

    network: str


class OfRule(Quantity):
    """Some layers of the networks trained by one rule."""

    network: str
    rule: str
    layers: list[str]


class _Sweep(Quantity):
    sweep: str | list[str]

    def _table(self, runs: Runs, rule: str, values: Sequence[float]) -> pd.DataFrame:
        """Test accuracy (seed x value) at some values, at the last epoch that all points of the sweep have."""
        labels = runs.points(self.sweep, rule)
        until = runs.sweep_epoch(list(labels))
        missing = [value for value in values if value not in labels.index]
        if missing:
            raise UserError(f"sweep {self.sweep} has no value {missing[0]:g} for {rule}; fix the prediction")
        chosen = labels[labels.index.isin(list(values))]
        return pd.DataFrame({value: runs.accuracy(label, until=until) for value, label in chosen.items()})


class _SweepPair(_Sweep, Pair):
    def _difference(self, runs: Runs, values: Sequence[float]) -> Effects:
        """Test accuracy of rule a minus rule b, mean over some values; seeds that have all of them."""
        return (self._table(runs, self.a, values) - self._table(runs, self.b, values)).dropna().mean(axis=1)


class AccuracyDifference(Comparison):
    """Test accuracy of rule a minus rule b."""

    def _effects(self, runs: Runs) -> Effects:
        return runs.accuracy(self.a, self.network) - runs.accuracy(self.b, self.network)


class GapClosed(Quantity):
    """Part of the gap in accuracy between two rules that a third closes: (rule - floor) / (ceiling - floor)."""

    network: str
    rule: str
    floor: str
    ceiling: str

    def _effects(self, runs: Runs) -> Effects:
        low, high = runs.accuracy(self.floor, self.network), runs.accuracy(self.ceiling, self.network)
        return (runs.accuracy(self.rule, self.network) - low) / (high - low)


class SweepDifference(_SweepPair):
    """Test accuracy of rule a minus rule b, mean over some values of a sweep; seeds that have all of them."""

    values: list[float]

    def _effects(self, runs: Runs) -> Effects:
        return self._difference(runs, self.values)


class SweepContrast(_SweepPair):
    """How much larger rule a's advantage over rule b is at some values of a sweep than at others."""

    first: list[float]
    second: list[float]

    def _effects(self, runs: Runs) -> Effects:
        first, second = (self._difference(runs, values) for values in (self.first, self.second))
        return first - second


class SweepSlope(_Sweep):
    """Slope of test accuracy against log2 of the swept value."""

    rule: str
    values: list[float]

    def _effects(self, runs: Runs) -> Effects:
        table = self._table(runs, self.rule, self.values).dropna()
        return _slopes(table, np.log2(np.array(table.columns, dtype=float)))


class SweepStep(_Sweep):
    """Test accuracy at one value of a sweep minus that at another."""

    rule: str
    first: float
    second: float

    def _effects(self, runs: Runs) -> Effects:
        table = self._table(runs, self.rule, [self.first, self.second])
        return table[self.first] - table[self.second]


class PerturbationsRatio(_SweepPair):
    """log2 of the perturbations rule a needs to reach an accuracy over those rule b needs.

    What a rule needs is the least over the points of a sweep (how many images are perturbed) and over epochs. A
    rule that never reaches the accuracy counts with the most perturbations any of its runs spent: a lower bound.
    Seeds count once all points of the sweep are finished.
    """

    accuracy: float

    def _needed(self, runs: Runs, rule: str) -> Effects:
        labels = list(runs.points(self.sweep, rule))
        rows = runs.select(runs.epochs, labels)
        rows = rows[rows["epoch"] > 0]
        rows = rows[rows.groupby("seed")["rule"].transform("nunique") == len(set(labels))]
        most = rows.groupby("seed")["perturbations"].max()
        reached = rows[rows["test_accuracy"] >= self.accuracy].groupby("seed")["perturbations"].min()
        return floats(reached.reindex(most.index).fillna(most))

    def _effects(self, runs: Runs) -> Effects:
        ratio = self._needed(runs, self.a) / self._needed(runs, self.b)
        return pd.Series(np.log2(ratio.to_numpy()), index=ratio.index)


class WidthSlope(Quantity):
    """Slope of (accuracy of a minus b) against log2 of the network's width; a, b: a rule's labels."""

    a: list[str]
    b: list[str]

    def _effects(self, runs: Runs) -> Effects:
        labels = [*self.a, *self.b]
        until = runs.sweep_epoch(labels)
        columns = {}
        for name, width in widths(runs, labels).items():
            of_a, of_b = (pd.concat([runs.accuracy(label, str(name), until) for label in s]) for s in (self.a, self.b))
            columns[width] = of_a - of_b
        table = _all_networks(runs, labels, pd.DataFrame(columns))
        return _slopes(table, np.log2(np.array(table.columns, dtype=float)))


class DimensionSlope(Quantity):
    """Slope of log dimension against log width: per seed, dimensions averaged (in logarithms) over layers."""

    rules: list[str]
    estimator: str

    def _effects(self, runs: Runs) -> Effects:
        rows = runs.select(runs.manifold, self.rules)
        if rows.empty:
            return pd.Series(dtype=float)
        rows = rows[(rows["quantity"] == self.estimator) & (rows["fraction"] == 1.0)]
        width = widths(runs, self.rules)
        rows = rows.assign(width=rows["network"].map(width), dimension=np.log(rows["value"]))
        table = _all_networks(runs, self.rules, rows.groupby(["seed", "width"])["dimension"].mean().unstack())
        return _slopes(table, np.log(np.array(table.columns, dtype=float)))


class SimilarityDifference(Comparison):
    """Raw similarity to recordings of rule a minus rule b, mean over the network's layers."""

    benchmark: str
    species: str
    region: str
    metric: str = "spearman"

    def _effects(self, runs: Runs) -> Effects:
        scores = runs.scores
        if scores.empty:
            return pd.Series(dtype=float)
        for column in ("benchmark", "species", "region", "metric"):
            scores = scores[scores[column] == getattr(self, column)]
        rows = (runs.select(scores, rule, self.network) for rule in (self.a, self.b))
        of_a, of_b = (floats(table.groupby("seed")["raw"].mean()) for table in rows)
        return of_a - of_b


def networks(runs: Runs, labels: Sequence[str]) -> list[str]:
    """Networks that the study trains by these rules, finished or not."""
    return list(dict.fromkeys(runs.table.loc[runs.table["rule"].isin(list(labels)), "network"]))


def _all_networks(runs: Runs, labels: Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """Rows (seeds) of a table seed x width that have every network the study asks for; none while one is missing."""
    complete = table.dropna()
    return complete if len(complete.columns) == len(networks(runs, labels)) else complete.iloc[:0]


def _slopes(table: pd.DataFrame, x: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Effects:
    """Least-squares slope of every row of `table` against `x`; empty where there are fewer than 2 columns."""
    if table.empty or len(x) < 2:
        return pd.Series(dtype=float)
    centred = x - x.mean()
    return pd.Series(table.to_numpy() @ centred / (centred @ centred), index=table.index)


def widths(runs: Runs, labels: Sequence[str]) -> Effects:
    """Units of the first layer by network: in proportion to width within one family."""
    rows = runs.select(runs.alignment, labels)
    first = rows[rows["layer"] == rows.groupby("network")["layer"].transform("first")]
    return floats(first.groupby("network")["n"].first())


def floats(values: Any) -> Effects:
    """A series of numbers as floats."""
    return pd.Series(values.to_numpy(dtype=float), index=values.index)
