"""Table of rule x network: test accuracy after the last epoch."""

from collections.abc import Mapping, Sequence

from brain_eval.codes import UNEXPLAINED, Codebook
from workflow.analysis.wide_tables.page import Cell, Page, Section, methods_of


def accuracy_page(accuracy: Sequence[Mapping[str, str]], codebook: Codebook = UNEXPLAINED) -> Page:
    """Return the table of the accuracy after each rule's last epoch.

    Args:
        accuracy: rows of accuracy.csv, epochs ascending; not empty.
        codebook: of their codes.
    """
    last: dict[tuple[str, str], Mapping[str, str]] = {}
    for row in accuracy:
        last[row["rule"], row["network"]] = row
    networks = tuple(dict.fromkeys(row["network"] for row in accuracy))
    rules = list(dict.fromkeys(row["rule"] for row in accuracy))
    cells = {rule: tuple(_cell(last.get((rule, network)), codebook) for network in networks) for rule in rules}
    methods = methods_of(cell for row in cells.values() for cell in row)
    note = (
        "Fraction of the test images classified correctly after the last epoch, mean over seeds. "
        + f"Interval: {methods}. " * bool(methods)
        + "An accuracy has no noise ceiling."
    )
    rows = tuple(((rule,), cells[rule]) for rule in rules)
    return Page("accuracy", "Test accuracy", note, "", ("rule",), networks, (Section("", rows),))


def _cell(row: Mapping[str, str] | None, codebook: Codebook) -> Cell | None:
    if row is None or row["mean"] == "":
        return None
    low, high = (float(row[key]) if row[key] != "" else None for key in ("ci_low", "ci_high"))
    return Cell(
        float(row["mean"]), low, high, int(row["n_seeds"]), codebook.find("interval_method", row["interval_method"])
    )
