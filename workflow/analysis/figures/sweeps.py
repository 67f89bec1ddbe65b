"""Figures of sweeps: accuracy against a parameter of a rule."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from workflow.analysis.figures.style import (
    CaptionedFigure,
    RuleStyle,
    legend_below,
    panel_grid,
    plain,
    rule_handles,
    styled,
)
from workflow.analysis.figures.summary import distinct

#: From this ratio of largest to smallest value the axis is logarithmic.
LOGARITHMIC = 10


def points_of(sweeps: pd.DataFrame) -> set[str]:
    """Return labels of the runs that are points of a sweep and not also rules of the study.

    Args:
        sweeps: tables/sweeps.csv.
    """
    return set(sweeps["label"]) - set(sweeps["rule"])


def swept_accuracy(accuracy: pd.DataFrame, sweeps: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy after the last epoch of every point of every sweep.

    Args:
        accuracy: tables/accuracy.csv.
        sweeps: tables/sweeps.csv; columns sweep, rule (whose values are swept), label (the run's rule), value.

    Returns:
        accuracy's rows with the columns sweep, base (the swept rule), value, in the order of the sweeps.
    """
    last = accuracy.sort_values("epoch", kind="stable").drop_duplicates(["network", "rule"], keep="last")
    points = sweeps.rename(columns={"rule": "base", "label": "rule"})[["sweep", "base", "rule", "value"]]
    return points.merge(last, on="rule", how="inner")


def _places(values: pd.Series) -> tuple[pd.Series, bool]:
    """Return the values' places on the axis, and whether they are numbers; else in order of appearance."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all():
        return numbers, True
    return values.map({value: place for place, value in enumerate(dict.fromkeys(values))}), False


def _draw(axis: Axes, rows: pd.DataFrame, styles: dict[str, RuleStyle]) -> None:
    places, numeric = _places(rows["value"])
    rows = rows.assign(place=places)
    for (rule, _), line in rows.groupby(["base", "network"], sort=False):
        line, style = line.sort_values("place"), styles[str(rule)]
        reach = np.abs(line[["ci_low", "ci_high"]].to_numpy().T - line["mean"].to_numpy())
        axis.errorbar(line["place"], line["mean"], yerr=reach, color=style.color, marker=style.marker, markersize=4,
                      elinewidth=1.0)  # fmt: skip
    if not numeric:
        axis.set_xticks(places.unique(), [plain(str(value)) for value in rows["value"].unique()])
    elif places.min() > 0 and places.max() >= LOGARITHMIC * places.min():
        axis.set_xscale("log")


@styled
def sweeps_figure(accuracy: pd.DataFrame, sweeps: pd.DataFrame, styles: dict[str, RuleStyle]) -> CaptionedFigure | None:
    """Draw accuracy after the last epoch against the swept value, a panel per sweep; None without finished points.

    Args:
        accuracy: tables/accuracy.csv.
        sweeps: tables/sweeps.csv.
        styles: of every rule; a swept rule's points have its style.
    """
    rows = swept_accuracy(accuracy, sweeps)
    rows = rows[rows["base"].isin(styles)].dropna(subset=["mean"])
    if rows.empty:
        return None
    names = list(rows["sweep"].unique())
    figure, axes = panel_grid(len(names), 3, (3.6, 2.9))
    for axis, name in zip(axes, names, strict=True):
        part = rows[rows["sweep"].eq(name)]
        _draw(axis, part, styles)
        axis.set(title=plain(f"{name} ({', '.join(part['network'].unique())})"), xlabel=plain(name))
        axis.set_ylabel("test accuracy (fraction)")
    legend_below(figure, rule_handles(styles, list(rows["base"].unique())))
    seeds, methods = " or ".join(distinct(rows["n_seeds"])), " / ".join(distinct(rows["interval_method"]))
    caption = (
        "Fraction of test images classified correctly after the last epoch, against the value that each sweep varies. "
        "Values whose bars overlap strongly are not distinguished by these seeds. "
        f"Marks: mean over seeds (n = {seeds}); bars: {methods or 'no interval of one seed'}."
    )
    alt = f"Test accuracy along the sweeps {', '.join(names)}."
    return CaptionedFigure("sweeps", "Test accuracy along the sweeps", caption, alt, figure)
