"""A figure of means with intervals, drawn from any table of the claims as docs/predictions.yaml says."""

import re
from itertools import cycle
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from workflow.analysis.figures.style import KNOWN, OTHERS, RuleStyle, legend_below, panel_grid, plain
from workflow.claims.predictions import FigureEntry, Names, shown

#: Width of a panel in inches where so many stand side by side on a page of 17 cm.
PANEL_WIDTHS = {1: 6.1, 2: 3.05, 3: 2.03, 4: 1.52}
LineStyle = Literal["-", "--", ":", "-."]
DASHES: tuple[LineStyle, ...] = ("-", "--", ":", "-.")
MARKERS = "os^Dv"


class Request(NamedTuple):
    """A figure of a claim, and what it is drawn from: the claims' tables, and tables/runs.csv with labels as index."""

    claim: str
    entry: FigureEntry
    tables: dict[str, pd.DataFrame]
    runs: pd.DataFrame
    names: Names

    def rows(self) -> pd.DataFrame:
        """Return the rows of the figure's table that it shows, in the order in which the entry lists their values."""
        rows = self.tables[self.entry.table]
        for column, values in reversed(self.entry.where.items()) if not rows.empty else ():
            rows = rows[rows[column].isin(values)].sort_values(column, kind="stable", key=lambda s: s.map(values.index))
        return rows

    def kind(self, label: object) -> str:
        """Return the kind of a rule; a kind as it is."""
        return str(self.runs["kind"].get(label, label))

    def label(self, value: object, column: str = "") -> str:
        """Return the paper's words for a value of a table's column: for a rule those of its kind."""
        return plain(self.names.label(self.kind(value) if column == "rule" else value))

    def style(self, value: object, column: str = "rule", number: int = 0) -> RuleStyle:
        """Return the colour and marker of a rule's kind, or of the number-th value of another column."""
        other = RuleStyle(OTHERS[number % len(OTHERS)], MARKERS[number % len(MARKERS)])
        return KNOWN.get(self.kind(value), other) if column == "rule" else other

    def caption(self, rows: pd.DataFrame) -> str:
        """Return the entry's caption with the runs' parameters."""
        first = next((label for label in (*self.entry.bases, *rows.get("rule", ())) if label in self.runs.index), None)

        def value(found: re.Match[str]) -> str:
            label, parameter = found[1] or first, found[2]
            known = label in self.runs.index and parameter in self.runs
            return shown(self.runs.at[label, parameter]) if known else "unknown"

        return re.sub(r"\{(?:([^{}:]+):)?([^{}:]+)\}", value, self.entry.caption)

    def settings(self, points: pd.DataFrame) -> str:
        """Return after how many epochs a sweep's points are compared, and how their settings differ from the rule's."""
        points = points[points["label"].ne(points["rule"])]
        found: dict[str, list[str]] = {f"{epochs} epochs": [] for epochs in points["epoch"].unique()}
        for row in points[points["rule"].isin(self.runs.index)].to_dict("records"):
            settings = self.runs.drop(columns=[row["parameter"], "training.epochs"], errors="ignore")
            for setting in self.names.differences(settings, row["label"], row["rule"]):
                found.setdefault(setting, []).append(shown(row["value"]))
        everywhere = (0, len(points))
        return ", ".join(s if len(at) in everywhere else f"{s} at {' and '.join(at)}" for s, at in found.items())


def page(count: int, columns: int, height: float, sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """Make a figure as wide as a page, with `count` panels of a height in inches."""
    columns = min(columns, count)
    return panel_grid(count, columns, (PANEL_WIDTHS[columns], height), sharey=sharey)


def bars(rows: pd.DataFrame) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Return the lengths of the interval below and above the mean, (2, rows), 0 where there is none."""
    below, above = rows["mean"] - rows["ci_low"], rows["ci_high"] - rows["mean"]
    return np.nan_to_num(np.stack([below.to_numpy(dtype=float), above.to_numpy(dtype=float)]))


def draw_panels(request: Request) -> tuple[Figure, pd.DataFrame] | None:
    """Draw a panel per combination of the entry's `panels` with a line per colour and dash; return it with its rows."""
    entry, rows = request.entry, request.rows()
    if rows.empty:
        return None
    parts = list(rows.groupby(entry.panels, sort=False))
    figure, axes = page(len(parts), entry.columns, entry.height, entry.sharey)
    colours = rows[entry.colours].unique()
    styles = {value: request.style(value, entry.colours, number) for number, value in enumerate(colours)}
    dashes = dict(zip(rows[entry.dashes].unique() if entry.dashes else [""], cycle(DASHES), strict=False))
    for number, (axis, (values, part)) in enumerate(zip(axes, parts, strict=True)):
        _draw(axis, part, entry, styles, dashes)
        title, x = ", ".join(map(request.label, values, entry.panels)), request.label(entry.x)
        if entry.x == "value":
            title, x = plain(request.settings(part)), title
        axis.set(title=title, xlabel=x)
        if number % entry.columns == 0:
            axis.set_ylabel(plain(entry.y))
    named = {request.label(value, entry.colours): style for value, style in styles.items()}
    handles = [Line2D([], [], color=style.color, marker=style.marker, label=label) for label, style in named.items()]
    if entry.dashes:
        handles += [Line2D([], [], color="black", linestyle=dash, label=request.label(v)) for v, dash in dashes.items()]
    legend_below(figure, handles)
    return figure, rows


def _draw(
    axis: Axes, rows: pd.DataFrame, entry: FigureEntry, styles: dict[Any, RuleStyle], dashes: dict[Any, LineStyle]
) -> None:
    """Draw the lines of a panel; where x is text, marks side by side at its values."""
    places, numbers = list(dict.fromkeys(rows[entry.x])), pd.to_numeric(rows[entry.x], errors="coerce")
    text = bool(numbers.isna().any())
    if entry.logarithmic:
        rows = rows[numbers > 0]
    lines = [column for column in (entry.colours, entry.dashes, entry.lines) if column]
    for values, line in rows.groupby(lines, sort=False):
        style, x = styles[values[0]], line[entry.x]
        if text:
            x = x.map(places.index) + 0.7 / len(styles) * (list(styles).index(values[0]) - (len(styles) - 1) / 2)
        x = x.astype(float).sort_values()
        line = line.loc[x.index]
        axis.errorbar(
            x, line["mean"], yerr=bars(line), linestyle="" if text else dashes[values[1] if entry.dashes else ""],
            color=style.color, marker=style.marker, markersize=3.5, linewidth=1.2, elinewidth=0.8,
        )  # fmt: skip
    if text:
        axis.set_xticks(range(len(places)), [plain(str(place)) for place in places])
    elif not entry.logarithmic:
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for name in entry.logarithmic:
        axis.set(**{f"{name}scale": "log"})
        scale = getattr(axis, f"{name}axis")
        low, high = scale.get_view_interval()
        scale.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        scale.set_major_formatter("{x:g}")
        scale.set_minor_formatter(NullFormatter())
