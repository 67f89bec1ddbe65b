"""Readable tables of rule x region and rule x network, as CSV, Markdown and LaTeX: tables/wide/."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from brain_eval.codes import UNEXPLAINED, Codebook
from brain_eval.inference.comparisons import ScoredRun
from nmnc.files.writing import replacing
from workflow.analysis.wide_tables.accuracy import accuracy_page
from workflow.analysis.wide_tables.formats import ENDINGS, FORMATS
from workflow.analysis.wide_tables.means import mean_rows
from workflow.analysis.wide_tables.page import Cell, Page
from workflow.analysis.wide_tables.similarity import PREFIXES, chosen_pages, layer_pages

__all__ = ["Cell", "Page", "accuracy_page", "chosen_pages", "layer_pages", "mean_rows", "wide_files", "write_wide"]


def wide_files(
    runs: Sequence[ScoredRun],
    accuracy: Sequence[Mapping[str, str]],
    means: Sequence[Mapping[str, str]],
    layers: Sequence[Mapping[str, str]],
    confidence: float = 0.95,
    codebook: Codebook = UNEXPLAINED,
) -> dict[str, str]:
    """Return the text of every file of tables/wide, by name.

    Args:
        runs: in the order of runs.csv, with their rows of scores.csv and their draws.
        accuracy: rows of accuracy.csv.
        means: rows of means.csv.
        layers: rows of layers.csv; may be empty.
        confidence: coverage of the intervals.
        codebook: of the codes in all of them.
    """
    pages = [*layer_pages(means, runs, codebook), *chosen_pages(layers, runs, confidence, codebook)]
    if accuracy:
        pages.append(accuracy_page(accuracy, codebook))
    return {f"{page.name}.{ending}": write(page) for page in pages for ending, write in FORMATS.items()}


def write_wide(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files into `folder` and delete those of an earlier study there that are no longer made."""
    for name, text in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        ours = path.suffix in ENDINGS and path.name.startswith((*PREFIXES, "accuracy."))
        if ours and path.name not in files:
            path.unlink()
