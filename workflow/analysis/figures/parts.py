"""Figures of studies with many rules, split in readable parts."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pandas as pd

from workflow.analysis.figures.style import CaptionedFigure

#: Rules in one figure; more make a figure in parts.
MOST_RULES = 10


def chunks(rules: Sequence[str]) -> list[list[str]]:
    """Return the rules in order, in the fewest parts of about equal size with at most MOST_RULES each."""
    n = -(-len(rules) // MOST_RULES)
    ends = [len(rules) * part // n for part in range(n + 1)] if n else [0]
    return [list(rules[start:end]) for start, end in itertools.pairwise(ends)]


def in_parts(frame: pd.DataFrame, draw: Callable[[pd.DataFrame], CaptionedFigure]) -> Iterator[CaptionedFigure]:
    """Yield the figures that `draw` makes of at most MOST_RULES rules each, numbered if there are several.

    Args:
        frame: with a column rule.
        draw: rows -> figure.
    """
    parts = chunks(list(frame["rule"].unique()))
    for number, part in enumerate(parts, start=1):
        figure = draw(frame[frame["rule"].isin(part)])
        yield numbered(figure, number, len(parts))


def numbered(figure: CaptionedFigure, number: int, total: int) -> CaptionedFigure:
    """Return the figure as part `number` of `total`; unchanged if it is the only one."""
    if total == 1:
        return figure
    title = f"{figure.title} (part {number} of {total})"
    return replace(figure, name=f"{figure.name}_part{number}", title=title)
