"""Noise ceilings in figures: a band if both ends are known, a line if one is, and text."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from brain_eval.benchmarks.whole_regions import MEAN
from workflow.analysis.figures.summary import distinct

BAND_COLOR, LINE_COLOR = "#dcdcdc", "#a0a0a0"
#: Which ends of a ceiling are known -> its legend, and the dashes of a line.
KINDS: dict[str, tuple[str, Literal["", "--", "-"]]] = {
    "both": ("noise ceiling", ""),
    "lower": ("lower ceiling", "--"),
    "upper": ("upper ceiling", "-"),
}


def ceiling_of(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the lower and upper ceiling of some rows of scores; NaN where unknown."""
    # The mean of an empty column is NaN, so an unknown end stays unknown.
    return float(rows["ceiling_lower"].mean()), float(rows["ceiling_upper"].mean())


def kind_of(low: float, high: float) -> str | None:
    """Return which of KINDS a ceiling is; None if it is unknown."""
    if np.isnan(low) and np.isnan(high):
        return None
    return "upper" if np.isnan(low) else "lower" if np.isnan(high) else "both"


def known_of(recorded: pd.DataFrame) -> str:
    """Return text on how many of a region's recordings have a ceiling; empty if all or none.

    Args:
        recorded: rows of scores of the region's recordings.
    """
    single = recorded[recorded["session"].ne(MEAN)]
    ends = single[["ceiling_lower", "ceiling_upper"]].notna().any(axis=1)
    known = ends.groupby([single["session"], single["animal"]]).any()
    return f"ceiling of {known.sum()} of {len(known)} recordings" if 0 < known.sum() < len(known) else ""


def draw_across(axis: Axes, rows: pd.DataFrame, known: str = "") -> str | None:
    """Draw the ceiling of some rows across a panel whose scores go upwards; returns its kind (see KINDS).

    Args:
        axis: the panel.
        rows: of scores.
        known: from `known_of`.
    """
    low, high = ceiling_of(rows)
    kind = kind_of(low, high)
    if text := "ceiling unknown" if kind is None else known:
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # legible across a ceiling that is a line
        axis.text(0.99, 0.98, text, transform=axis.transAxes, ha="right", va="top", color="#666666", fontsize=7.5,
                  bbox=paper)  # fmt: skip
    if kind is None:
        return None
    if kind == "both":
        axis.axhspan(low, high, color=BAND_COLOR, zorder=0)
    else:
        axis.axhline(np.nanmax([low, high]), color=LINE_COLOR, linewidth=2.5, linestyle=KINDS[kind][1], zorder=0)
    return kind


def draw_on_line(axis: Axes, rows: pd.DataFrame, place: float) -> str | None:
    """Draw the ceiling of some rows on the line at `place` of a panel whose scores go right; returns its kind."""
    low, high = ceiling_of(rows)
    kind = kind_of(low, high)
    if kind == "both":
        axis.plot([low, high], [place, place], color=BAND_COLOR, linewidth=6, solid_capstyle="butt", zorder=0)
    elif kind is not None:
        at = np.nanmax([low, high])
        axis.vlines(at, place - 0.4, place + 0.4, color=LINE_COLOR, linewidth=2.5, linestyle=KINDS[kind][1], zorder=0)
    return kind


def ceiling_handles(kinds: Iterable[str | None]) -> list[Artist]:
    """Return the legend entries of what was drawn."""
    drawn = set(kinds)
    return [
        Line2D([], [], color=LINE_COLOR, linewidth=2.5, linestyle=dashes, label=label)
        if dashes
        else Patch(color=BAND_COLOR, label=label)
        for kind, (label, dashes) in KINDS.items()
        if kind in drawn
    ]


def ceiling_text(rows: pd.DataFrame) -> str:
    """Return how the ceilings of some rows were made; "unknown" if they are empty."""
    known = rows[rows[["ceiling_lower", "ceiling_upper"]].notna().any(axis=1)]
    definitions = distinct(known["ceiling_definition"])
    if not definitions:
        return "Noise ceiling: unknown."
    return f"Grey: noise ceiling (a line if only one end is known), {' / '.join(definitions).rstrip('.')}."
