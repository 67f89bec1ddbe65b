"""Write a page of tables as CSV, Markdown and LaTeX; the same page gives the same bytes."""

import csv
import io
import re
from collections.abc import Callable, Iterator

from workflow.analysis.wide_tables.latex import latex_text
from workflow.analysis.wide_tables.page import Cell, Page, table_rows, whole_note

_CSV_CELL = ("mean", "ci_low", "ci_high", "n_seeds", "interval_method")


def csv_text(page: Page) -> str:
    """Numbers with ten significant digits; per column its mean, interval, seeds and ceilings."""
    noted = any(cell and cell.note for section in page.sections for _, cells in section.rows for cell in cells)
    ceilings = ("ceiling_lower", "ceiling_upper") if any(section.ceilings for section in page.sections) else ()
    parts = (*_CSV_CELL, *(("note",) if noted else ()), *ceilings)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    first = (page.section_head,) if page.section_head else ()
    writer.writerow([*first, *page.heads, *(f"{column}: {part}" for column in page.columns for part in parts)])
    for section in page.sections:
        known = section.ceilings or (((None, None),) * len(page.columns))
        for labels, cells in section.rows:
            row: list[object] = [section.title, *labels] if first else [*labels]
            for cell, ceiling in zip(cells, known, strict=True):
                row += [_plain(value) for value in _csv_values(cell)]
                row += [cell.note if cell else ""] if noted else []
                row += [_plain(value) for value in ceiling] if ceilings else []
            writer.writerow(row)
    return file.getvalue()


def _csv_values(cell: Cell | None) -> tuple[object, ...]:
    return (None,) * len(_CSV_CELL) if cell is None else (cell.mean, cell.low, cell.high, cell.n, cell.method)


def _plain(value: object) -> str:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def markdown_text(page: Page) -> str:
    """A heading, the tables (GitHub's pipe tables), the note."""
    lines = [f"# {markdown_escaped(page.title)}", ""]
    for section in page.sections:
        lines += [f"## {markdown_escaped(section.title)}", ""] if section.title else []
        heads = [*page.heads, "seeds", *page.columns]
        lines.append(_piped(markdown_escaped(head) for head in heads))
        lines.append(_piped(["---"] * len(page.heads) + ["---:"] * (len(heads) - len(page.heads))))
        for labels, seeds, cells in table_rows(page, section, " ± "):
            lines.append(_piped(markdown_escaped(text) for text in (*labels, seeds, *cells)))
        lines.append("")
    return "\n".join([*lines, markdown_escaped(whole_note(page)), ""])


def _piped(cells: Iterator[str] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown_escaped(text: str) -> str:
    """Return text escaped for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", " ".join(text.split()))


#: Ending of the file -> what writes it.
FORMATS: dict[str, Callable[[Page], str]] = {"csv": csv_text, "md": markdown_text, "tex": latex_text}
ENDINGS = tuple(f".{ending}" for ending in FORMATS)
