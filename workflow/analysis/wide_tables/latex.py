r"""A page as LaTeX tables in booktabs' style, each as wide as a page: \documentclass{article} and booktabs suffice."""

import re
from collections.abc import Iterator, Sequence

from workflow.analysis.wide_tables.page import CEILING, Page, Section, table_rows, whole_note

_LETTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\texttt{\char34}",
}  # fmt: skip
#: Characters of \footnotesize in the 345 points of a page of `article`, and in a column's two gaps.
LINE, GAP = 83, 1.5


def latex_text(page: Page) -> str:
    """Return a `table` environment per section; several if the columns exceed the width of a page."""
    lines = [r"% In the preamble: \usepackage{booktabs}"]
    for section in page.sections:
        rows = [([*labels, seeds], cells) for labels, seeds, cells in table_rows(page, section, "±")]
        parts = list(_parts([*page.heads, "seeds"], page.columns, rows))
        for number, part in enumerate(parts, start=1):
            lines += [r"\begin{table}", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"]
            lines += _caption(page, section, number, len(parts))
            shown = [(labels, cells[part]) for labels, cells in rows]
            lines += _tabular([*page.heads, "seeds"], page.columns[part], shown)
            lines += [r"\end{table}", ""]
    return "\n".join(lines)


def _parts(
    heads: Sequence[str], columns: Sequence[str], rows: Sequence[tuple[list[str], list[str]]]
) -> Iterator[slice]:
    """Yield slices of the columns that fit on a page together with the heads."""
    labels = [row_labels for row_labels, _ in rows if row_labels[0] != CEILING]
    head_width = sum(_width([head, *(row_labels[i] for row_labels in labels)]) for i, head in enumerate(heads))
    start, width = 0, head_width
    for place, column in enumerate(columns):
        needed = _width([column, *(cells[place] for _, cells in rows)])
        if place > start and width + needed > LINE:
            yield slice(start, place)
            start, width = place, head_width
        width += needed
    yield slice(start, len(columns))


def _width(texts: Sequence[str]) -> float:
    """Return the characters of the longest line of a column, gaps included."""
    return max(len(line) for text in texts for line in _lines(text)) + GAP


def _lines(text: str) -> tuple[str, ...]:
    """Split a cell's text in two lines before its last brackets, e.g. an interval after a number."""
    first, bracket, rest = text.partition(" (")
    return (first, f"({rest}") if bracket and rest.endswith(")") else (text,)


def _caption(page: Page, section: Section, number: int, parts: int) -> list[str]:
    """Return the lines of caption and label; only the first part has the note."""
    title = f"{page.title}, {page.section_head} {section.title}" if section.title else page.title
    label = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{page.name}-{section.title}").strip("-")
    title += f" ({number} of {parts})" if parts > 1 else ""
    caption = f"{title}. {whole_note(page)}" if number == 1 else f"{title}."
    label += f"-{number}" if number > 1 else ""
    return [rf"\caption{{{latex_escaped(caption)}}}", rf"\label{{tab:{label}}}", r"\medskip"]


def _tabular(heads: list[str], columns: Sequence[str], rows: Sequence[tuple[list[str], list[str]]]) -> list[str]:
    lines = [
        rf"\begin{{tabular}}{{{'l' * (len(heads) - 1)}{'r' * (len(columns) + 1)}}}",
        r"\toprule", _row([*heads, *columns], "b"), r"\midrule",
    ]  # fmt: skip
    for labels, cells in rows:
        if labels[0] == CEILING:
            across = rf"\multicolumn{{{len(heads)}}}{{l}}{{{CEILING}}}"
            lines += [r"\midrule", f"{across} & {_row(cells)}"]
        else:
            lines.append(_row([*labels, *cells]))
            lines += [r"\addlinespace"] if any(_lines(text)[1:] for text in cells) else []
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _row(texts: Sequence[str], place: str = "t") -> str:
    """Return the cells and the row's end; `place` aligns cells of two lines at their t(op) or b(ottom)."""
    return " & ".join(_cell(_lines(text), place) for text in texts) + r" \\"


def _cell(lines: Sequence[str], place: str) -> str:
    escaped = r" \\ ".join(latex_escaped(line) for line in lines)
    return rf"\begin{{tabular}}[{place}]{{@{{}}r@{{}}}}{escaped}\end{{tabular}}" if lines[1:] else escaped


def latex_escaped(text: str) -> str:
    """Return text escaped for LaTeX; "±" and the signs of numbers in math mode."""
    escaped = "".join(_LETTERS.get(letter, letter) for letter in " ".join(text.split()))
    escaped = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)
    # Two hyphens would be joined to a dash.
    escaped = re.sub(r"-(?=-)", "-{}", escaped)
    # A row that begins with "[" would be read as an argument of the row's end before it.
    return re.sub(r"^(?=\[)", "{}", escaped.replace("±", r"$\pm$"))
