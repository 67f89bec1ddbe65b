"""The effects that predictions are about: each a function of the runs that gives one value per seed.

A prediction (docs/predictions.yaml) names one of these functions and its arguments. Differences are paired:
only seeds that both rules have count.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nmnc.errors import UserError
from workflow.claims.law import points as law_points
from workflow.claims.law import settings
from workflow.claims.runs import Runs
from workflow.claims.signals import estimation_loss, signal_loss_difference


def alignment_difference(
    runs: Runs, *, network: str, a: str, b: str, space: str, layers: Sequence[str]
) -> "pd.Series[float]":
    """Cosine with backprop's gradient of rule a minus rule b, mean over layers and epochs from the first on."""

    def cosine(rule: str) -> "pd.Series[float]":
        rows = runs.select(runs.alignment, rule, network)
        rows = rows[(rows["space"] == space) & rows["layer"].isin(list(layers)) & (rows["epoch"] > 0)]
        return rows.groupby("seed")["cosine"].mean()

    return cosine(a) - cosine(b)


def _alpha(runs: Runs, network: str, rule: str, column: str, layers: Sequence[str], last: bool) -> pd.DataFrame:
    rows = runs.select(runs.alignment, rule, network)
    rows = rows[(rows["space"] == "activity") & rows["layer"].isin(list(layers))]
    epoch = rows.groupby("seed")["epoch"].transform("max" if last else "min")
    rows = rows[rows["epoch"] == epoch]
    return rows.assign(alpha=rows[column], chance=rows["d"] / rows["n"])


def alpha_over_chance(runs: Runs, *, network: str, rule: str, column: str, layers: Sequence[str]) -> "pd.Series[float]":
    """log2 of alpha over d/n after training, mean over layers; 0 is what a random subspace has."""
    rows = _alpha(runs, network, rule, column, layers, last=True)
    return rows.assign(ratio=np.log2(rows["alpha"] / rows["chance"])).groupby("seed")["ratio"].mean()


def alpha_level(runs: Runs, *, network: str, rule: str, column: str, layers: Sequence[str]) -> "pd.Series[float]":
    """alpha after training, mean over layers."""
    return _alpha(runs, network, rule, column, layers, last=True).groupby("seed")["alpha"].mean()


def alpha_growth(runs: Runs, *, network: str, rule: str, column: str, layers: Sequence[str]) -> "pd.Series[float]":
    """alpha after training minus alpha before it, mean over layers."""
    after = _alpha(runs, network, rule, column, layers, last=True).groupby("seed")["alpha"].mean()
    return after - _alpha(runs, network, rule, column, layers, last=False).groupby("seed")["alpha"].mean()


def accuracy_difference(runs: Runs, *, network: str, a: str, b: str) -> "pd.Series[float]":
    """Test accuracy of rule a minus rule b."""
    return runs.accuracy(a, network) - runs.accuracy(b, network)


def gap_closed(runs: Runs, *, network: str, rule: str, floor: str, ceiling: str) -> "pd.Series[float]":
    """Part of the gap in accuracy between two rules that a third closes: (rule - floor) / (ceiling - floor)."""
    low, high = runs.accuracy(floor, network), runs.accuracy(ceiling, network)
    return (runs.accuracy(rule, network) - low) / (high - low)


def _by_value(runs: Runs, sweep: str | Sequence[str], rule: str, values: Sequence[float] | None) -> pd.DataFrame:
    """Test accuracy (seed x value) of a sweep, at the last epoch that all its points have."""
    labels = runs.points(sweep, rule)
    until = runs.sweep_epoch(list(labels))
    if values is not None:
        missing = [value for value in values if value not in labels.index]
        if missing:
            raise UserError(f"sweep {sweep} has no value {missing[0]} for {rule}; mend the prediction")
        labels = labels[labels.index.isin(list(values))]
    return pd.DataFrame({value: runs.accuracy(label, until=until) for value, label in labels.items()})


def sweep_difference(runs: Runs, *, sweep: str, a: str, b: str, values: Sequence[float]) -> "pd.Series[float]":
    """Test accuracy of rule a minus rule b, mean over some values of a sweep; seeds that have all of them."""
    difference = _by_value(runs, sweep, a, values) - _by_value(runs, sweep, b, values)
    return difference.dropna().mean(axis=1)


def sweep_contrast(
    runs: Runs, *, sweep: str, a: str, b: str, first: Sequence[float], second: Sequence[float]
) -> "pd.Series[float]":
    """How much larger rule a's advantage over rule b is at some values of a sweep than at others."""
    return sweep_difference(runs, sweep=sweep, a=a, b=b, values=first) - sweep_difference(
        runs, sweep=sweep, a=a, b=b, values=second
    )


def sweep_slope(runs: Runs, *, sweep: str | Sequence[str], rule: str, values: Sequence[float]) -> "pd.Series[float]":
    """Slope of test accuracy against log2 of the swept value."""
    table = _by_value(runs, sweep, rule, values).dropna()
    return _slopes(table, np.log2(np.array(table.columns, dtype=float)))


def sweep_step(runs: Runs, *, sweep: str | Sequence[str], rule: str, first: float, second: float) -> "pd.Series[float]":
    """Test accuracy at one value of a sweep minus that at another."""
    table = _by_value(runs, sweep, rule, [first, second])
    return table[float(first)] - table[float(second)]


def width_slope(runs: Runs, *, a: Sequence[str], b: Sequence[str]) -> "pd.Series[float]":
    """Slope of (accuracy of a minus b) against log2 of the network's width; a, b: a rule's labels."""
    labels = [*a, *b]
    until = runs.sweep_epoch(labels)
    columns = {}
    for name, width in widths(runs, labels).items():
        of_a, of_b = (pd.concat([runs.accuracy(label, str(name), until) for label in own]) for own in (a, b))
        columns[width] = of_a - of_b
    table = _all_networks(runs, labels, pd.DataFrame(columns))
    return _slopes(table, np.log2(np.array(table.columns, dtype=float)))


def dimension_slope(runs: Runs, *, rules: Sequence[str], estimator: str) -> "pd.Series[float]":
    """Slope of log dimension against log width: per seed, dimensions averaged (in logarithms) over layers."""
    rows = runs.select(runs.manifold, rules)
    if rows.empty:
        return pd.Series(dtype=float)
    rows = rows[(rows["quantity"] == estimator) & (rows["fraction"] == 1.0)]
    width = widths(runs, list(rules))
    rows = rows.assign(width=rows["network"].map(width), dimension=np.log(rows["value"]))
    table = _all_networks(runs, rules, rows.groupby(["seed", "width"])["dimension"].mean().unstack())
    return _slopes(table, np.log(np.array(table.columns, dtype=float)))


def squared_cosines(manifold: pd.DataFrame) -> pd.DataFrame:
    """Rows of `manifold` that are principal angles (degrees), with their squared cosine as the column `shared`."""
    rows = manifold[manifold["quantity"] == "principal_angle"]
    return rows.assign(shared=np.cos(np.radians(rows["value"].to_numpy(dtype=float))) ** 2)


def angle_difference(runs: Runs, *, network: str, rule: str, layers: Sequence[str], d: int) -> "pd.Series[float]":
    """Mean squared cosine of principal angles with the Jacobian's leading row space, manifold minus random subspace.

    Both subspaces have `d` dimensions; the mean is over angles and layers.
    """
    rows = runs.select(runs.manifold, rule, network)
    if rows.empty:
        return pd.Series(dtype=float)
    rows = squared_cosines(rows[rows["layer"].isin(list(layers)) & (rows["d"] == d)])
    table = rows.groupby(["seed", "subspace"])["shared"].mean().unstack()
    return _floats(table["principal"] - table["random"])


def perturbations_ratio(runs: Runs, *, sweep: str, a: str, b: str, accuracy: float) -> "pd.Series[float]":
    """log2 of the perturbations rule a needs to reach an accuracy over those rule b needs.

    What a rule needs is the least over the points of a sweep (how many images are perturbed) and over epochs. A
    rule that never reaches the accuracy counts with the most perturbations any of its runs spent: a lower bound.
    Seeds count once all points of the sweep are finished.
    """
    ratio = _needed(runs, sweep, a, accuracy) / _needed(runs, sweep, b, accuracy)
    return pd.Series(np.log2(ratio.to_numpy()), index=ratio.index)


def _needed(runs: Runs, sweep: str, rule: str, accuracy: float) -> "pd.Series[float]":
    labels = list(runs.points(sweep, rule))
    rows = runs.select(runs.epochs, labels)
    rows = rows[rows["epoch"] > 0]
    rows = rows[rows.groupby("seed")["rule"].transform("nunique") == len(set(labels))]
    most = rows.groupby("seed")["perturbations"].max()
    reached = rows[rows["test_accuracy"] >= accuracy].groupby("seed")["perturbations"].min()
    return _floats(reached.reindex(most.index).fillna(most))


def law_agreement(runs: Runs, *, a: str, b: str) -> "pd.Series[float]":
    """Part of the points (layer x setting) where the law's sign is that of the difference of the cosines.

    Seeds count once all settings are finished.
    """
    table = law_points(runs, a, b)
    asked = {(name, label) for _, label, _ in settings(runs, a, b) for name in _networks(runs, [label])}
    settings_of_seed = (table["network"] + " " + table["setting"]).groupby(table["seed"]).transform("nunique")
    table = table[settings_of_seed == len(asked)]
    right = (table["law"] > 0) == (table["cosine_difference"] > 0)
    return _floats(table.assign(right=right).groupby("seed")["right"].mean())


def similarity_difference(
    runs: Runs, *, network: str, a: str, b: str, benchmark: str, species: str, region: str, metric: str = "spearman"
) -> "pd.Series[float]":
    """Raw similarity to recordings of rule a minus rule b, mean over the network's layers."""
    scores = runs.scores
    if scores.empty:
        return pd.Series(dtype=float)
    wanted = {"benchmark": benchmark, "species": species, "region": region, "metric": metric}
    for column, value in wanted.items():
        scores = scores[scores[column] == value]
    of_a, of_b = (_floats(runs.select(scores, rule, network).groupby("seed")["raw"].mean()) for rule in (a, b))
    return of_a - of_b


def _networks(runs: Runs, labels: Sequence[str]) -> list[str]:
    """Networks that the study trains by these rules, finished or not."""
    table = runs.table
    return list(dict.fromkeys(table.loc[table["rule"].isin(list(labels)), "network"]))


def _all_networks(runs: Runs, labels: Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """Rows (seeds) of a table seed x width that have every network the study asks for; none while one is missing."""
    complete = table.dropna()
    return complete if len(complete.columns) == len(_networks(runs, labels)) else complete.iloc[:0]


def _slopes(table: pd.DataFrame, x: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "pd.Series[float]":
    """Least-squares slope of every row of `table` against `x`; empty where there are fewer than 2 columns."""
    if table.empty or len(x) < 2:
        return pd.Series(dtype=float)
    centred = x - x.mean()
    return pd.Series(table.to_numpy() @ centred / (centred @ centred), index=table.index)


def widths(runs: Runs, labels: Sequence[str]) -> "pd.Series[float]":
    """Units of the first layer by network: in proportion to width within one family."""
    rows = runs.select(runs.alignment, labels)
    first = rows[rows["layer"] == rows.groupby("network")["layer"].transform("first")]
    return _floats(first.groupby("network")["n"].first())


def _floats(values: Any) -> "pd.Series[float]":
    """A series of numbers as floats."""
    return pd.Series(values.to_numpy(dtype=float), index=values.index)


#: What a prediction may name.
QUANTITIES: dict[str, Callable[..., "pd.Series[float]"]] = {
    function.__name__: function
    for function in (
        alignment_difference,
        alpha_over_chance,
        alpha_level,
        alpha_growth,
        angle_difference,
        dimension_slope,
        accuracy_difference,
        gap_closed,
        perturbations_ratio,
        sweep_difference,
        sweep_contrast,
        sweep_slope,
        sweep_step,
        width_slope,
        law_agreement,
        similarity_difference,
        signal_loss_difference,
        estimation_loss,
    )
}
