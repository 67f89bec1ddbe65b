"""What the figures of the claims share: a rule's style, bands and bars of intervals, legends."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workflow.analysis.figures.style import KNOWN, RuleStyle, legend_below, rule_handles

INTERVAL = "mean over seeds with Student's t 95 % interval"
UNKNOWN = RuleStyle("#7F7F7F", "o")


def style_of(rule: str) -> RuleStyle:
    """A known rule's style, a label RULE-...'s that of its rule; grey for others."""
    return KNOWN.get(rule, KNOWN.get(rule.partition("-")[0], UNKNOWN))


def band(axis: Axes, rows: pd.DataFrame, x: str, rule: str, dashes: str = "-") -> None:
    """Mean and interval of one rule against a column."""
    style, rows = style_of(rule), rows.sort_values(x)
    at = rows[x].astype(float)
    axis.plot(at, rows["mean"], dashes, color=style.color, marker=style.marker, markersize=3.5)
    low, high = (rows[column].astype(float) for column in ("ci_low", "ci_high"))
    axis.fill_between(at, low, high, color=style.color, alpha=0.15, linewidth=0)


def logarithmic(axis: Axes, values: "pd.Series[float]") -> None:
    """A logarithmic x axis with a tick at every value."""
    ticks = sorted({float(value) for value in values})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)


def bars(rows: pd.DataFrame) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Lengths of the interval below and above the mean, (2, rows), 0 where there is none."""
    below, above = rows["mean"] - rows["ci_low"], rows["ci_high"] - rows["mean"]
    return np.nan_to_num(np.stack([below.to_numpy(dtype=float), above.to_numpy(dtype=float)]))


def rule_legend(figure: Figure, rules: Sequence[str], further: Sequence[Line2D] = ()) -> None:
    """One legend below the panels: the rules, then further entries."""
    styles = {rule: style_of(rule) for rule in dict.fromkeys(rules)}
    legend_below(figure, [*rule_handles(styles, list(styles)), *further])


def number_of_seeds(rows: pd.DataFrame) -> str:
    """Words for a caption: n = 6 seeds, or the least and the most."""
    low, high = int(rows["n"].min()), int(rows["n"].max())
    return f"n = {low} seeds" if low == high else f"n = {low} to {high} seeds"
