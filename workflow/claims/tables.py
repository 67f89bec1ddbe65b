"""The tables of the claims: verdicts, effects seed by seed, and what the figures show."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from brain_eval.inference.intervals import t_interval
from nmnc.files.writing import replacing
from workflow.claims import signals
from workflow.claims.figures import draw_claims
from workflow.claims.law import LawAgreement
from workflow.claims.predictions import Predictions, load_predictions
from workflow.claims.quantities import AccuracyDifference, DimensionSlope, GapClosed, widths
from workflow.claims.runs import RECORDS, Runs
from workflow.claims.verdicts import effects, verdicts

Table: TypeAlias = Callable[[Runs, float], pd.DataFrame]


def write_claims(results: Path, predictions: Path, tier: str, confidence: float = 0.95) -> None:
    """Write tables/claims.csv, tables/claims/*.csv and figures/claims of a study.

    Args:
        results: results/STUDY; runs that are not finished count as missing seeds.
        predictions: docs/predictions.yaml.
        tier: CPU or GPU, where the runs were made.
        confidence: coverage of the intervals.

    Raises:
        UserError: predictions that do not fit the study, or tables/runs.csv missing.
    """
    runs, content = Runs(results), load_predictions(predictions)
    tables = {"claims": verdicts(runs, content, tier, confidence)}
    tables |= {f"claims/{name}": make(runs, confidence) for name, make in TABLES.items()}
    tables["claims/border"] = border(runs, content)
    tables["claims/compared"] = compared(runs, content, confidence)
    tables["claims/spent"] = spent(runs, tables["claims/accuracy"])
    drawn = {name.removeprefix("claims/"): table for name, table in tables.items()}
    draw_claims(drawn, runs.table, content, confidence, results / "figures" / "claims")
    tables["claims/effects"] = _rows(
        {(name,): found for name, found in effects(runs, content).items()}, ["prediction"], "effect"
    )
    tables |= {f"claims/runs/{name}": getattr(runs, name) for name in RECORDS}
    for name, table in tables.items():
        with replacing(results / "tables" / f"{name}.csv", digest=True) as temporary:
            table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def _rows(found: Mapping[tuple[Any, ...], "pd.Series[float]"], by: Sequence[str], value: str) -> pd.DataFrame:
    """Values per seed of several series as rows: *by, seed, value."""
    rows = [(*key, seed, number) for key, series in found.items() for seed, number in series.items()]
    return pd.DataFrame(rows, columns=[*by, "seed", value])


def summary(frame: pd.DataFrame, by: Sequence[str], value: str, confidence: float) -> pd.DataFrame:
    """Mean of a column over seeds with Student's t interval, one row per group: *by, mean, ci_low, ci_high, n."""
    columns = [*by, "mean", "ci_low", "ci_high", "n"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    rows = []
    for key, group in frame.dropna(subset=[value]).groupby(list(by), sort=False):
        mean, low, high, _, n = t_interval(group[value].to_numpy(), confidence)
        rows.append((*(key if isinstance(key, tuple) else (key,)), mean, low, high, n))
    return pd.DataFrame(rows, columns=columns)


def row_space(runs: Runs, confidence: float) -> pd.DataFrame:
    """alpha of the gradient and of the Jacobian beside d/n, per network, rule, epoch and layer."""
    rows = runs.alignment
    if rows.empty:
        return pd.DataFrame()
    rows = rows[rows["space"] == "activity"].assign(chance=lambda table: table["d"] / table["n"])
    parts = []
    for column in ("alpha_jacobian", "alpha_gradient", "chance"):
        part = summary(rows, ("network", "rule", "epoch", "layer"), column, confidence)
        parts.append(part.assign(quantity=column))
    return pd.concat(parts, ignore_index=True)


def dimension(runs: Runs, confidence: float) -> pd.DataFrame:
    """Everything `python -m nmnc diagnose` measured, mean over seeds."""
    rows = runs.manifold
    if rows.empty:
        return pd.DataFrame()
    by = ("network", "rule", "layer", "n_units", "quantity", "signal", "subspace", "d", "axis", "fraction")
    known = [column for column in by if column in rows.columns]
    return summary(rows.fillna({column: "" for column in known}), known, "value", confidence)


def angles(runs: Runs, confidence: float) -> pd.DataFrame:
    """Mean squared cosine of the principal angles with the Jacobian's leading row space, per layer and subspace."""
    if runs.manifold.empty:
        return pd.DataFrame()
    by = ["network", "rule", "layer", "subspace", "d"]
    means = signals.squared_cosines(runs.manifold).groupby([*by, "seed"], sort=False)["shared"].mean()
    return summary(means.reset_index(), by, "shared", confidence)


def accuracy(runs: Runs, confidence: float) -> pd.DataFrame:
    """Test accuracy per network, rule and epoch, with the perturbations spent."""
    by = ("network", "rule", "epoch")
    table = summary(runs.epochs, by, "test_accuracy", confidence)
    if table.empty:
        return table
    spent = runs.epochs.groupby(list(by), sort=False)[["perturbations", "forward_passes"]].mean().reset_index()
    return table.merge(spent, on=list(by))


def sweeps(runs: Runs, confidence: float) -> pd.DataFrame:
    """Test accuracy at every point of every sweep, and on networks of every width, at the last epoch that all have."""
    points = {}
    for sweep, rows in runs.sweeps.groupby("sweep", sort=False):
        until = runs.sweep_epoch(list(rows["label"]))
        for row in rows.itertuples():
            key = (sweep, str(row.values).partition("=")[0], row.rule, row.value, row.label, until)
            points[key] = runs.accuracy(str(row.label), until=until)
    kinds = runs.table.drop_duplicates("rule").set_index("rule")["kind"]
    labels = [] if runs.alignment.empty else _on_many_networks(runs)
    for label in labels:
        until = runs.sweep_epoch(labels)
        for network, width in widths(runs, [label]).items():
            points["width", "width", kinds[label], width, label, until] = runs.accuracy(label, str(network), until)
    by = ("sweep", "parameter", "rule", "value", "label", "epoch")
    return summary(_rows(points, by, "accuracy"), by, "accuracy", confidence)


def _on_many_networks(runs: Runs) -> list[str]:
    """Labels that are run on at least three networks: fewer show no slope."""
    networks = runs.table[runs.table["kind"] != "untrained"].groupby("rule", sort=False)["network"].nunique()
    return [str(label) for label in networks.index[networks >= 3]]


def slopes(runs: Runs, confidence: float) -> pd.DataFrame:
    """Log-log slope of dimension against width, for every estimator and rule that has several widths."""
    found = {}
    for label in _on_many_networks(runs):
        rows = runs.select(runs.manifold, label)
        for estimator in () if rows.empty else dict.fromkeys(rows.loc[rows["fraction"].notna(), "quantity"]):
            found[label, estimator] = DimensionSlope(rules=[label], estimator=estimator).effects(runs)
    by = ("rule", "estimator")
    return summary(_rows(found, by, "slope"), by, "slope", confidence)


def spent(runs: Runs, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `accuracy` that are points of sweeps, with the swept rule as `rule`."""
    points = runs.sweeps.assign(parameter=runs.sweeps["values"].str.partition("=")[0]).drop(columns="values")
    return points.merge(table.rename(columns={"rule": "label"}), on="label") if len(table) else table


def compared(runs: Runs, predictions: Predictions, confidence: float) -> pd.DataFrame:
    """Test accuracy of every rule that the accuracy predictions of a claim compare, per claim, network and rule."""
    found = {}
    for claim, _, prediction in predictions.items():
        measured = prediction.measured
        if isinstance(measured, AccuracyDifference | GapClosed):
            for label in measured.labels():
                found[claim, measured.network, label] = runs.accuracy(label, measured.network)
    by = ("claim", "network", "rule")
    return summary(_rows(found, by, "accuracy"), by, "accuracy", confidence)


def border(runs: Runs, predictions: Predictions) -> pd.DataFrame:
    """Where the law says which of two rules has the better signal, and where it had."""
    tables = [prediction.measured.points(runs).assign(prediction=name) for _, name, prediction in predictions.items()
              if isinstance(prediction.measured, LawAgreement)]  # fmt: skip
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def of_column(rows: Callable[[Runs], pd.DataFrame], by: Sequence[str], value: str) -> Table:
    """Make a table of the means of a column of some rows."""
    return lambda runs, confidence: summary(rows(runs), by, value, confidence)


#: Tables that follow from the runs alone.
TABLES: dict[str, Table] = {
    "alignment": of_column(lambda runs: runs.alignment, ("network", "rule", "epoch", "layer", "space"), "cosine"),
    "row_space": row_space,
    "angles": angles,
    "dimension": dimension,
    "slopes": slopes,
    "accuracy": accuracy,
    "sweeps": sweeps,
    "similarity": of_column(
        lambda runs: runs.scores, ("network", "rule", "benchmark", "species", "region", "metric", "layer"), "raw"
    ),
    "signals": of_column(signals.losses, ("network", "rule", "layer", "space", "signal"), "value"),
}
