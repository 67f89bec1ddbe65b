"""The study's tables: one CSV each from the files of its runs.

runs.csv fixes the order of everything: rows stand in its order, and within a run in that of the run's
own file (epochs ascending, layers from first to last). Copied cells keep their text; computed numbers
have ten significant digits. So the same files give the same bytes.
"""

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brain_eval.codes import Codebook
from brain_eval.inference.comparisons import ScoredRun, compare_rules
from brain_eval.inference.draws import Drawn
from brain_eval.inference.intervals import STUDENT, interval_code, t_interval
from brain_eval.inference.layer_choice import choose_layers
from nmnc.files.reading import check_complete
from nmnc.files.writing import replacing
from workflow.analysis.complete_tables import check_scores
from workflow.analysis.results import COLLECTED, Results, Row, Run, number
from workflow.analysis.wide_tables import mean_rows, wide_files, write_wide

#: Columns of a run's tables that runs of earlier versions lack; their cells are then empty.
NEWER = {"epochs": ("collapsed",), "alignment": ("variation", "variation_jacobian")}


@dataclass(frozen=True)
class _Files:
    """Return the tables of a run; empty for models that the study did not train."""

    run: Run
    scores: list[Row]
    draws: dict[tuple[str, str], Drawn]
    epochs: list[Row]
    alignment: list[Row]
    timing: list[Row]
    provenance: dict[str, Any]

    @property
    def scored(self) -> ScoredRun:
        """What comparisons need of it."""
        accuracy = number(self.epochs[-1], "test_accuracy") if self.epochs else None
        network, rule, _, seed = self.run.cells.values()
        return ScoredRun(network, rule, seed, accuracy, self.scores, self.draws)


def write_tables(results_folder: Path, confidence: float = 0.95) -> None:
    """Write tables/NAME.csv, each NAME of COLLECTED, and tables/wide/.

    Args:
        results_folder: results/STUDY, with tables/runs.csv and the files of every run it lists.
        confidence: coverage of the intervals over seeds.

    accuracy.csv: mean test accuracy over seeds at each epoch, Student's t interval (empty below 2
    seeds), lowest and highest seed, mean number of perturbations so far. epochs.csv: the same seed by
    seed. means.csv: see `wide_tables.mean_rows`. comparisons.csv: see `comparisons.compare_rules`.
    layers.csv: see `layers.choose_layers`. timing.csv alone holds times. wide/: the means for reading,
    see `wide_tables.wide_files`. codebook.csv: the meaning of every code in the others.

    Raises:
        UserError: a file is missing or is not what its stage writes; names the command that makes it.
    """
    results = Results(Path(results_folder))
    runs = [_read_run(results, run) for run in results.runs()]
    _check_complete(results, runs)
    trained = [files for files in runs if files.run.is_trained]
    scored = [files.scored for files in runs]
    tables: dict[str, list[dict[str, Any]]] = {
        "scores": [dict(row) for files in runs for row in files.scores],
        "means": list(mean_rows(scored, confidence)),
        "accuracy": _accuracy(trained, confidence),
        "epochs": [files.run.cells | row for files in trained for row in files.epochs],
        "alignment": [files.run.cells | row for files in trained for row in files.alignment],
        "comparisons": compare_rules([files.scored for files in trained], confidence),
        "layers": [files.run.cells | row for files in runs for row in choose_layers(files.draws)],
        "timing": _timing(trained),
    }
    codebook = Codebook(itertools.chain.from_iterable(results.meanings(files.run).items() for files in runs))
    codebook |= Codebook.of(itertools.chain.from_iterable(tables.values()))
    tables["codebook"] = list(codebook.rows)
    # Everything is computed before anything is written, so that a late error leaves the old tables intact.
    columns = {name: (*known, *NEWER.get(name, ())) for name, known in COLLECTED.items()}
    texts = {name: [_cells(row, columns[name]) for row in rows] for name, rows in tables.items()}
    accuracy, means, layers = (
        [dict(zip(columns[name], row, strict=True)) for row in texts[name]] for name in ("accuracy", "means", "layers")
    )
    wide = wide_files(scored, accuracy, means, layers, confidence, codebook)
    for name, rows in texts.items():
        with (
            replacing(results.path(name), digest=True) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns[name])
            writer.writerows(rows)
    write_wide(results.folder / "tables" / "wide", wide)


def _read_run(results: Results, run: Run) -> _Files:
    scores = results.rows("scores", run) if run.scored else []
    draws = results.draws(run) if scores else {}
    if not run.is_trained:
        return _Files(run, scores, draws, [], [], [], {})
    epochs, alignment, timing = (results.rows(name, run) for name in ("epochs", "alignment", "timing"))
    return _Files(run, scores, draws, epochs, alignment, timing, results.provenance(run))


def _check_complete(results: Results, runs: Sequence[_Files]) -> None:
    """Raise UserError for a run that is listed twice, and for scores that lack or repeat a row."""
    identities = [tuple(files.run.cells.values()) for files in runs]
    check_complete(results.path("runs"), identities, set(identities), "delete it and run: python -m nmnc runs")
    scored = [files for files in runs if files.run.scored]
    check_scores((results.path("scores", files.run), files.run.identity.network, files.scores) for files in scored)


def _cells(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    values = (row.get(column) for column in columns)
    return ["" if v is None else f"{v:.10g}" if isinstance(v, float) else str(v) for v in values]


def _accuracy(runs: Sequence[_Files], confidence: float) -> list[dict[str, Any]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for files in runs:
        for line in files.epochs:
            groups.setdefault((*files.run.identity[:3], line["epoch"]), []).append(line)
    rows: list[dict[str, Any]] = []
    for (network, rule, kind, epoch), lines in groups.items():
        values = [value for line in lines if (value := number(line, "test_accuracy")) is not None]
        counts = [value for line in lines if (value := number(line, "perturbations")) is not None]
        row = {"network": network, "rule": rule, "kind": kind, "epoch": epoch, "n_seeds": len(values)}
        if values:
            mean, low, high, _, n = t_interval(values, confidence)
            row |= {"mean": mean, "ci_low": low, "ci_high": high, "min": min(values), "max": max(values)}
            row["interval_method"] = interval_code(STUDENT, confidence, ["seeds"]) if n > 1 else None
        rows.append(row | {"perturbations": sum(counts) / len(counts) if counts else None})
    return rows


def _timing(runs: Sequence[_Files]) -> list[dict[str, Any]]:
    rows = []
    for files in runs:
        hardware = files.provenance.get("hardware") or {}
        machine: dict[str, Any] = {key: files.provenance.get(key) for key in ("device", "threads")}
        machine |= {key: hardware.get(key) for key in ("cpu", "gpu")}
        total: dict[str, Any] = {"stage": "total", "seconds": files.provenance.get("seconds")}
        rows += [{**files.run.cells, **line, **machine} for line in (*files.timing, total)]
    return rows
