"""Content of a readable table, independent of the format."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from brain_eval.codes import Code


@dataclass(frozen=True)
class Cell:
    """A mean and its interval.

    Attributes:
        mean: over seeds.
        low, high: ends of the interval, None where there is none.
        n: seeds behind it.
        method: how the interval was made; None without one.
        note: text next to the number, e.g. a layer.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    method: Code | None = None
    note: str = ""

    @property
    def reach(self) -> float | None:
        """The larger distance from the mean to an end of its interval: the number after the ± sign."""
        return None if self.low is None or self.high is None else max(self.high - self.mean, self.mean - self.low)


#: Label of the row of ceilings.
CEILING = "noise ceiling"
#: Lower and upper noise ceiling, None where unknown.
Ceiling = tuple[float | None, float | None]


@dataclass(frozen=True)
class Section:
    """One table of a page.

    Attributes:
        title: distinguishes it from other sections, e.g. a layer; empty for a single one.
        rows: per row its labels, as many as the page has heads, and a cell per column (None: no such number).
        ceilings: one per column; empty where the quantity has none.
    """

    title: str
    rows: tuple[tuple[tuple[str, ...], tuple[Cell | None, ...]], ...]
    ceilings: tuple[Ceiling, ...] = ()


@dataclass(frozen=True)
class Page:
    """One file of tables with the same heads and columns.

    Attributes:
        name: of the file, without ending.
        title: one line.
        note: what is shown, n, and how the intervals were made, in sentences.
        section_head: what the sections are, e.g. "layer"; empty where there is one only.
        heads: of the row labels, e.g. ("rule",).
        columns: titles.
    """

    name: str
    title: str
    note: str
    section_head: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    sections: tuple[Section, ...]


def file_stem(*parts: str) -> str:
    """The parts joined by "_", fit for a file name on any system."""
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part) for part in parts)


def listed(texts: Iterable[str], separator: str = "; ") -> str:
    """The different non-empty texts, in order of appearance."""
    return separator.join(dict.fromkeys(text for text in texts if text))


def methods_of(cells: Iterable[Cell | None]) -> str:
    """Return how the intervals of some cells were made, as text."""
    return listed(cell.method.meaning for cell in cells if cell and cell.method)


def count_of(cells: Iterable[Cell | None]) -> str:
    """ "3", or "2 to 3" where the cells of a row come from different numbers of seeds; "-" without any."""
    counts = [cell.n for cell in cells if cell is not None]
    if not counts:
        return "-"
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def whole_note(page: Page) -> str:
    """The page's note and what the sign ± means."""
    any_interval = any(
        cell and cell.reach is not None for section in page.sections for _, cells in section.rows for cell in cells
    )
    sign = f" ±: the larger distance from the mean to an end of the interval; both ends stand in {page.name}.csv."
    return page.note + sign * any_interval


def table_rows(page: Page, section: Section, sign: str) -> Iterator[tuple[tuple[str, ...], str, list[str]]]:
    """Labels, seeds and rounded cells of every row, and of the ceilings."""
    for labels, cells in section.rows:
        yield labels, count_of(cells), [rounded(cell, sign) for cell in cells]
    if section.ceilings:
        yield (CEILING, *[""] * (len(page.heads) - 1)), "", [_ceiling_text(ceiling) for ceiling in section.ceilings]


def rounded(cell: Cell | None, sign: str = " ± ") -> str:
    """Mean and reach of its interval with three decimals, and the note; "-" where there is no number."""
    if cell is None:
        return "-"
    reach = "" if cell.reach is None else f"{sign}{cell.reach:.3f}"
    return f"{cell.mean:.3f}{reach}" + (f" ({cell.note})" if cell.note else "")


def _ceiling_text(ceiling: Ceiling) -> str:
    low, high = ceiling
    if low is None and high is None:
        return "unknown"
    ends = ["unknown" if end is None else f"{end:.3f}" for end in ceiling]
    return f"{ends[0]} to {ends[1]}"
