"""The report's tables as plain rows for the template; the only place where numbers are rounded."""

import re
from typing import Any

import numpy as np
import pandas as pd

from brain_eval.benchmarks.whole_regions import rows_of_whole_regions
from brain_eval.metrics.labels import metric_name
from workflow.analysis.figures.ceilings import ceiling_of
from workflow.analysis.figures.similarity import means_text
from workflow.analysis.figures.summary import distinct, groups, unit_text
from workflow.analysis.report.claims import Claims
from workflow.analysis.report.study import Study
from workflow.analysis.wide_tables import chosen_pages
from workflow.analysis.wide_tables.page import Cell, count_of

#: Maximum number of rows in a listing; the report points to the CSV for the rest.
MOST_ROWS = 1200
UNKNOWN = "unknown"
_DECIMAL = re.compile(r"-?\d*\.\d+([eE][-+]?\d+)?|-?\d+[eE][-+]?\d+")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed decimals; "unknown" if it is missing."""
    return UNKNOWN if value is None or np.isnan(value) else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """Return a whole number with separators; "unknown" if it is missing."""
    return UNKNOWN if value is None or np.isnan(value) else f"{value:,.0f}"


def interval(low: float | None, high: float | None) -> str:
    """Return "[low, high]"; "unknown" if it is missing."""
    ends = number(low), number(high)
    return UNKNOWN if UNKNOWN in ends else f"[{ends[0]}, {ends[1]}]"


def accuracy_rows(study: Study) -> list[dict[str, Any]]:
    """Accuracy after the last epoch, a row per network and rule: mean, interval and n of accuracy.csv.

    Forward passes are the mean over seeds of epochs.csv; n are the seeds and the test images.
    """
    passes = study.tables["epochs"].groupby(["network", "rule", "epoch"])["forward_passes"].mean()
    images = {(run["network"], run["rule"]): (run.get("dataset") or {}).get("n_test") for run in study.provenance}
    rows = []
    for (network, rule), epochs in groups(study.tables["accuracy"], ["network", "rule"]):
        last = epochs.sort_values("epoch").iloc[-1]
        rows.append(
            {
                "network": network,
                "rule": rule,
                "kind": last["kind"],
                "same": last["kind"] == rule,
                "epoch": f"{last['epoch']:.0f}",
                "mean": number(last["mean"]),
                "interval": interval(last["ci_low"], last["ci_high"]),
                "range": f"{number(last['min'])} to {number(last['max'])}",
                "seeds": f"{last['n_seeds']:.0f}",
                "images": images.get((network, rule)) or UNKNOWN,
                "perturbations": count(last["perturbations"]),
                "passes": count(passes.get((network, rule, last["epoch"]))),
            }
        )
    return rows


def accuracy_interval(accuracy: pd.DataFrame) -> str:
    """Return how the intervals of accuracy.csv were made, as the table states it."""
    return " / ".join(distinct(accuracy["interval_method"])) or "interval"


def readable_tables(study: Study) -> list[dict[str, Any]]:
    """Rule x region at the layer chosen on held-out images, a table per metric (tables/wide/chosen_METRIC)."""
    layers = _records(study.text_tables["layers"])
    tables = []
    for page in chosen_pages(layers, study.scored, study.confidence, study.codebook):
        [section] = page.sections
        rows = [
            {
                "network": network,
                "rule": rule,
                "seeds": count_of(cells),
                "cells": [_chosen_cell(cell) for cell in cells],
            }
            for (network, rule), cells in section.rows
        ]
        ceilings = [
            UNKNOWN if low is None and high is None else f"{number(low)} to {number(high)}"
            for low, high in section.ceilings
        ]
        about = {"name": page.name, "title": page.title, "note": page.note, "columns": page.columns}
        tables.append(about | {"rows": rows, "ceilings": ceilings})
    return tables


def _records(table: pd.DataFrame) -> list[dict[str, str]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False, name=None)]


def _chosen_cell(cell: Cell | None) -> dict[str, str] | None:
    if cell is None:
        return None
    return {"raw": number(cell.mean), "interval": interval(cell.low, cell.high), "layer": cell.note}


def claim_rows(claims: Claims | None) -> list[dict[str, Any]]:
    """Return a row per prediction: statement, effect, threshold, n and verdict; empty without verdicts."""
    rows = []
    for row in claims.table.to_dict("records") if claims else []:
        effect, low, high = (float(row[key]) if row[key] else None for key in ("effect", "ci_low", "ci_high"))
        rows.append(
            {str(key): value for key, value in row.items()}
            | {
                "effect": number(effect),
                "interval": interval(low, high),
                "threshold": f"{row['side']} {shown(row['threshold'])}",
                "p_holm": shown(row["p_holm"]) or UNKNOWN,
                "missing": int(row["n_missing"] or 0),
            }
        )
    return rows


def similarity_tables(scores: pd.DataFrame, means: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table per benchmark, metric, region and network: a row per rule, a column per layer, and pixels.

    Args:
        scores: scores.csv, for ceilings and numbers of stimuli and neuroids.
        means: means.csv.
    """
    shown = rows_of_whole_regions(means)
    trained, pixels = shown[shown["kind"].ne("pixels")], shown[shown["kind"].eq("pixels")]
    keys = ["benchmark", "metric", "species", "region"]
    scored = {key: rows for key, rows in groups(rows_of_whole_regions(scores), [*keys, "network"])}
    tables = []
    for key, rows in groups(trained, [*keys, "network"]):
        benchmark, metric, species, region, network = key
        here, beside = scored[key], pixels[pixels[keys].eq(key[:4]).all(axis=1)]
        low, high = ceiling_of(here)
        layers = list(rows["layer"].unique())
        tables.append(
            {
                "benchmark": benchmark,
                "version": here["version"].iloc[0],
                "metric": metric,
                "metric_name": metric_name(metric),
                "network": network,
                "region": f"{species} {region}",
                "simulated": species == "simulated",
                "layers": layers,
                "rows": [
                    {
                        "rule": rule,
                        "seeds": f"{group['n_seeds'].max():.0f}",
                        "cells": [_cell(group[group["layer"].eq(layer)]) for layer in layers],
                    }
                    for rule, group in rows.groupby("rule", sort=False)
                ],
                "pixels": [{"rule": rule, "cell": _cell(group)} for rule, group in beside.groupby("rule", sort=False)],
                "ceiling": UNKNOWN if np.isnan([low, high]).all() else f"{number(low)} to {number(high)}",
                "ceiling_definition": " / ".join(distinct(here["ceiling_definition"])),
                "interval": means_text(rows),
                "n": unit_text(here),
            }
        )
    return tables


def _cell(means: pd.DataFrame) -> dict[str, str] | None:
    """Return score and interval of a row of means.csv; None if the rule has no such layer."""
    if means.empty:
        return None
    mean = means.iloc[0]
    return {"raw": number(mean["mean"]), "interval": interval(mean["ci_low"], mean["ci_high"])}


def shown(text: str) -> str:
    """Return a cell of a CSV for the page: decimals with four significant digits, everything else unchanged."""
    return f"{float(text):.4g}" if _DECIMAL.fullmatch(text) else text


def listing(table: pd.DataFrame, title: str = "") -> dict[str, Any]:
    """Return a CSV table for the page; columns with a single value are shown once above it.

    Args:
        table: every cell as text, empty where unknown.
        title: heading of the listing.
    """
    constant = [c for c in table.columns if len(table) > 1 and table[c].nunique() == 1]
    varying = table.drop(columns=constant)
    ceilings = [c for c in varying.columns if c.startswith("ceil") and c != "ceiling_definition"]
    cells = varying.head(MOST_ROWS).apply(lambda column: column.map(shown))
    for column in ceilings:
        cells[column] = cells[column].replace("", UNKNOWN)
    common = {c: shown(table[c].iloc[0]) or UNKNOWN for c in constant}
    return {
        "title": title,
        "simulated": False,
        "columns": list(varying.columns),
        "numeric": [bool(len(cells)) and _is_numeric(varying[c]) for c in varying.columns],
        "rows": cells.to_numpy().tolist(),
        "total": len(table),
        "common": {c: text for c, text in common.items() if text != UNKNOWN or c.startswith("ceil")},
    }


def _is_numeric(column: pd.Series) -> bool:
    """Return whether every non-empty cell of a text column is a number."""
    return bool(pd.to_numeric(column[column.ne("")], errors="coerce").notna().all())


def score_listings(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Return scores.csv (cells as text) as one listing per benchmark and metric."""
    return [
        listing(rows, f"{benchmark}, {metric}") | {"simulated": rows["species"].eq("simulated").any()}
        for (benchmark, metric), rows in groups(scores, ["benchmark", "metric"])
    ]
