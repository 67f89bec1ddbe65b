"""The tables of the claims: verdicts, effects seed by seed, and per claim what its figure shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from brain_eval.inference.intervals import t_interval
from nmnc.files.writing import replacing
from workflow.claims import law, signals, verdicts
from workflow.claims.figures import draw_claims
from workflow.claims.quantities import dimension_slope, squared_cosines, widths
from workflow.claims.runs import RECORDS, Runs


def write_claims(results: Path, predictions: Path, tier: str, confidence: float = 0.95) -> None:
    """Write tables/claims.csv and tables/claims/*.csv of a study.

    Args:
        results: results/STUDY; runs that are not finished count as missing seeds.
        predictions: docs/predictions.yaml.
        tier: CPU or GPU, where the runs were made.
        confidence: coverage of the intervals.

    Raises:
        UserError: predictions that do not fit the study, or tables/runs.csv missing.
    """
    runs = Runs(results)
    claims = verdicts.load_predictions(predictions)
    rows = verdicts.verdicts(runs, claims, tier, confidence)
    tables = {"claims": pd.DataFrame(rows, columns=list(verdicts.COLUMNS))}
    tables["claims/effects"] = _effects(runs, claims)
    tables["claims/C1_alignment"] = alignment(runs, confidence)
    tables["claims/C2_row_space"] = row_space(runs, confidence)
    tables["claims/C3_dimension"] = dimension(runs, confidence)
    tables["claims/C3_slopes"] = slopes(runs, confidence)
    tables["claims/C4_accuracy"] = accuracy(runs, confidence)
    tables["claims/C4_sweeps"] = sweeps(runs, confidence)
    tables["claims/C4_border"] = law.points(runs, "nmnc", "vnc")
    tables["claims/C2_angles"] = angles(runs, confidence)
    tables["claims/C5_similarity"] = similarity(runs, confidence)
    by = ("network", "rule", "layer", "space", "signal")
    tables["claims/C6_signals"] = summary(signals.losses(runs), by, "value", confidence)
    tables["claims/C6_accuracy"] = causes(runs, claims.get("C6", {"predictions": {}}), confidence)
    draw_claims({name.removeprefix("claims/"): table for name, table in tables.items()}, results / "figures" / "claims")
    tables |= {f"claims/runs/{name}": getattr(runs, name) for name in RECORDS}
    for name, table in tables.items():
        with replacing(results / "tables" / f"{name}.csv", digest=True) as temporary:
            table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def _effects(runs: Runs, claims: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Every prediction's effect, seed by seed."""
    frames = []
    for claim in claims.values():
        for name, prediction in claim["predictions"].items():
            values = verdicts.effects(runs, name, prediction)
            frames.append(pd.DataFrame({"prediction": name, "seed": values.index, "effect": values.to_numpy()}))
    return pd.concat(frames, ignore_index=True)


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


def alignment(runs: Runs, confidence: float) -> pd.DataFrame:
    """C1: cosine with backprop's gradient per network, rule, epoch, layer and space."""
    return summary(runs.alignment, ("network", "rule", "epoch", "layer", "space"), "cosine", confidence)


def row_space(runs: Runs, confidence: float) -> pd.DataFrame:
    """C2: alpha of the gradient and of the Jacobian beside d/n, per network, rule, epoch and layer."""
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
    """C2 and C3: everything `python -m nmnc diagnose` measured, mean over seeds."""
    rows = runs.manifold
    if rows.empty:
        return pd.DataFrame()
    by = ("network", "rule", "layer", "n_units", "quantity", "signal", "subspace", "d", "axis", "fraction")
    known = [column for column in by if column in rows.columns]
    return summary(rows.fillna({column: "" for column in known}), known, "value", confidence)


def angles(runs: Runs, confidence: float) -> pd.DataFrame:
    """C2: mean squared cosine of the principal angles with the Jacobian's leading row space, per layer and subspace."""
    if runs.manifold.empty:
        return pd.DataFrame()
    rows = squared_cosines(runs.manifold)
    by = ["network", "rule", "layer", "subspace", "d"]
    means = rows.groupby([*by, "seed"], sort=False)["shared"].mean().reset_index()
    return summary(means, by, "shared", confidence)


def accuracy(runs: Runs, confidence: float) -> pd.DataFrame:
    """C4: test accuracy per network, rule and epoch, with the perturbations spent."""
    by = ("network", "rule", "epoch")
    table = summary(runs.epochs, by, "test_accuracy", confidence)
    if table.empty:
        return table
    spent = runs.epochs.groupby(list(by), sort=False)[["perturbations", "forward_passes"]].mean().reset_index()
    return table.merge(spent, on=list(by))


def sweeps(runs: Runs, confidence: float) -> pd.DataFrame:
    """C4: test accuracy at every point of every sweep, at the last epoch that all its points have."""
    frames = []
    for sweep in dict.fromkeys(runs.sweeps["sweep"]):
        rows = runs.sweeps[runs.sweeps["sweep"] == sweep]
        until = runs.sweep_epoch(list(rows["label"]))
        for rule, value, label in rows[["rule", "value", "label"]].itertuples(index=False, name=None):
            found = runs.accuracy(str(label), until=until)
            point = {"sweep": sweep, "rule": rule, "value": value, "label": label, "epoch": until}
            frames.append(pd.DataFrame({"seed": found.index, "accuracy": found.to_numpy()}).assign(**point))
    frames += _over_widths(runs)
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return summary(table, ("sweep", "rule", "value", "label", "epoch"), "accuracy", confidence)


def _over_widths(runs: Runs) -> list[pd.DataFrame]:
    """Test accuracy of every rule that is run on networks of several widths, as points of a sweep named width."""
    labels = _on_many_networks(runs)
    if not labels or runs.alignment.empty:
        return []
    until = runs.sweep_epoch(labels)
    frames = []
    for label in labels:
        for network, width in widths(runs, [label]).items():
            found = runs.accuracy(label, str(network), until)
            point: dict[str, Any] = {"sweep": "width", "rule": label.partition("-")[0], "value": width}
            point |= {"label": label, "epoch": until}
            frames.append(pd.DataFrame({"seed": found.index, "accuracy": found.to_numpy()}).assign(**point))
    return frames


def _on_many_networks(runs: Runs) -> list[str]:
    """Labels that are run on at least three networks: fewer show no slope."""
    networks = runs.table[runs.table["kind"] != "untrained"].groupby("rule", sort=False)["network"].nunique()
    return [str(label) for label in networks.index[networks >= 3]]


def slopes(runs: Runs, confidence: float) -> pd.DataFrame:
    """C3: log-log slope of dimension against width, for every estimator and rule that has several widths."""
    frames = []
    for label in _on_many_networks(runs):
        rows = runs.select(runs.manifold, label)
        estimators = [] if rows.empty else list(dict.fromkeys(rows.loc[rows["fraction"].notna(), "quantity"]))
        for estimator in estimators:
            found = dimension_slope(runs, rules=[label], estimator=estimator)
            frames.append(pd.DataFrame({"rule": label, "estimator": estimator, "slope": found.to_numpy()}))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return summary(table, ("rule", "estimator"), "slope", confidence)


def causes(runs: Runs, claim: dict[str, Any], confidence: float) -> pd.DataFrame:
    """C6: test accuracy of every rule that its predictions compare, per network and rule."""
    compared: dict[tuple[str, str], None] = {}
    for prediction in claim["predictions"].values():
        arguments = prediction["arguments"]
        if prediction["quantity"] in ("accuracy_difference", "gap_closed"):
            labels = (arguments[key] for key in ("a", "b", "rule", "floor", "ceiling") if key in arguments)
            compared |= dict.fromkeys((arguments["network"], label) for label in labels)
    frames = []
    for network, rule in compared:
        found = runs.accuracy(rule, network)
        own = pd.DataFrame({"seed": found.index, "accuracy": found.to_numpy()})
        frames.append(own.assign(network=network, rule=rule))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return summary(table, ("network", "rule"), "accuracy", confidence)


def similarity(runs: Runs, confidence: float) -> pd.DataFrame:
    """C5: raw similarity to whole regions per network, rule and layer."""
    by = ("network", "rule", "benchmark", "species", "region", "metric", "layer")
    return summary(runs.scores, by, "raw", confidence)
