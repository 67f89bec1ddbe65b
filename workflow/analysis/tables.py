"""The study's tables: one CSV each from the files of its runs.

runs.csv fixes the order of everything: rows stand in its order, and within a run in that of the run's
own file (epochs ascending, layers from first to last). Copied cells keep their text; computed numbers
have ten significant digits. So the same files give the same bytes.
"""

import csv
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brain_eval.inference.comparisons import COLUMNS as COMPARISONS
from brain_eval.inference.comparisons import ScoredRun, compare_rules
from brain_eval.inference.draws import Drawn, read_draws
from brain_eval.inference.intervals import t_interval
from brain_eval.inference.layer_choice import COLUMNS as LAYERS
from brain_eval.inference.layer_choice import choose_layers
from brain_eval.scoring.rows import COLUMNS as SCORE_COLUMNS
from brain_eval.scoring.rows import REFERENCES
from nmnc.errors import UserError
from nmnc.files.digests import digest_file
from nmnc.files.reading import check_complete, read_object, read_rows
from nmnc.files.writing import replacing
from workflow.analysis.complete_tables import check_epochs, check_scores
from workflow.analysis.wide_tables import mean_rows, wide_files, write_wide
from workflow.analysis.wide_tables.means import COLUMNS as MEANS

RUN = ("network", "rule", "kind", "seed")
EPOCHS = ("epoch", "train_loss", "test_accuracy", "perturbations", "forward_passes")
ALIGNMENT = (
    "epoch", "layer", "space", "cosine", "cosine_batch", "alpha_gradient", "alpha_jacobian", "margin", "d", "n",
)  # fmt: skip
#: Columns of a run's tables that runs of earlier versions lack; their cells are then empty.
NEWER = {"epochs": ("collapsed",), "alignment": ("variation", "variation_jacobian")}
ACCURACY = (
    "network", "rule", "kind", "epoch", "n_seeds", "mean", "ci_low", "ci_high", "interval_method", "min", "max",
    "perturbations",
)  # fmt: skip
TIMING = (*RUN, "stage", "seconds", "device", "threads", "cpu", "gpu")

Row = dict[str, str]


@dataclass(frozen=True)
class _Run:
    """A row of runs.csv with the rows of its files; lists are empty for models not trained here."""

    identity: Row
    scored: bool
    last_epoch: str
    scores: list[Row]
    epochs: list[Row]
    alignment: list[Row]
    timing: list[Row]
    provenance: dict[str, Any]
    draws: dict[tuple[str, str], Drawn]


def write_tables(results_folder: Path, confidence: float = 0.95) -> None:
    """Write tables/NAME.csv (scores, means, accuracy, epochs, alignment, comparisons, layers, timing) and tables/wide/.

    Args:
        results_folder: results/STUDY, with tables/runs.csv and the files of every run it lists.
        confidence: coverage of the intervals over seeds.

    accuracy.csv: mean test accuracy over seeds at each epoch, Student's t interval (empty below 2
    seeds), lowest and highest seed, mean number of perturbations so far. epochs.csv: the same seed by
    seed. means.csv: see `wide_tables.mean_rows`. comparisons.csv: see `comparisons.compare_rules`.
    layers.csv: see `layers.choose_layers`. timing.csv alone holds times. wide/: the means for reading,
    see `wide_tables.wide_files`.

    Raises:
        UserError: a file is missing or is not what its stage writes; names the command that makes it.
    """
    folder = Path(results_folder) / "tables"
    runs = [
        _read_run(Path(results_folder), row)
        for row in _read(folder / "runs.csv", (*RUN, "scored"), "python -m nmnc runs")
    ]
    _check_complete(Path(results_folder), runs)
    trained = [run for run in runs if run.identity["kind"] not in REFERENCES]
    scored = [_scored(run) for run in runs]
    scores = [row for run in runs for row in run.scores]
    tables: dict[str, tuple[Sequence[str], Iterable[dict[str, Any]]]] = {
        "scores": (SCORE_COLUMNS, scores),
        "accuracy": (ACCURACY, _accuracy(trained, confidence)),
        "epochs": ((*RUN, *EPOCHS, *NEWER["epochs"]), [run.identity | row for run in trained for row in run.epochs]),
        "alignment": (
            (*RUN, *ALIGNMENT, *NEWER["alignment"]),
            [run.identity | row for run in trained for row in run.alignment],
        ),
        "comparisons": (COMPARISONS, compare_rules([_scored(run) for run in trained], confidence)),
        "means": (MEANS, mean_rows(scored, confidence)),
        "layers": (LAYERS, [row for run in runs for row in _layers(run)]),
        "timing": (TIMING, _timing(trained)),
    }
    # All is computed before anything is written: a mistake found late leaves the old tables whole.
    texts = {name: (columns, [_cells(row, columns) for row in rows]) for name, (columns, rows) in tables.items()}
    accuracy, means, layers = (
        [dict(zip(columns, row, strict=True)) for row in rows]
        for columns, rows in (texts[name] for name in ("accuracy", "means", "layers"))
    )
    wide = wide_files(scored, accuracy, means, layers, confidence)
    for name, (columns, rows) in texts.items():
        path = folder / f"{name}.csv"
        with replacing(path, digest=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
    write_wide(folder / "wide", wide)


def _check_complete(results: Path, runs: Sequence[_Run]) -> None:
    """UserError for a run that is listed twice, and for a run's table that lacks a row or has one twice."""
    identities = [tuple(run.identity.values()) for run in runs]
    check_complete(results / "tables/runs.csv", identities, set(identities), "delete it and run: python -m nmnc runs")
    for run in runs:
        if run.identity["kind"] not in REFERENCES:
            folder = results / "networks" / _below(run.identity)
            check_epochs(folder / "epochs.csv", run.last_epoch, run.epochs)
            check_epochs(folder / "alignment.csv", run.last_epoch, run.alignment)
    scored = [(_scores_path(results, run.identity), run.identity["network"], run.scores) for run in runs if run.scored]
    check_scores(scored)


def _below(identity: Row) -> Path:
    """NETWORK/RULE/seedN."""
    return Path(identity["network"]) / identity["rule"] / f"seed{identity['seed']}"


def _scores_path(results: Path, identity: Row) -> Path:
    return results / "scores" / _below(identity).with_suffix(".csv")


def _cells(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    values = (row.get(column) for column in columns)
    return ["" if v is None else f"{v:.10g}" if isinstance(v, float) else str(v) for v in values]


def _read(path: Path, columns: Sequence[str], command: str) -> list[Row]:
    """Read a CSV as text; UserError where it is missing or lacks a column."""
    if not path.exists():
        raise UserError(f"{path} is missing; make it with: {command}")
    header, rows = read_rows(path, (), f"delete it and run: {command}")
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]}; delete it and run: {command}")
    return rows


def _read_run(results: Path, row: Row) -> _Run:
    identity = {column: row[column] for column in RUN}
    scores_path = _scores_path(results, identity)
    scored = row["scored"] == "yes"
    scores = _read(scores_path, SCORE_COLUMNS, "python -m brain_eval score") if scored else []
    if any(score[column] != identity[column] for score in scores for column in RUN):
        raise UserError(f"{scores_path} holds scores of another run; delete it and run: python -m brain_eval score")
    _check_numbers(scores, ("raw",), scores_path)
    draws_path = scores_path.with_name(f"{scores_path.stem}_draws.nc")
    # Scores made by hand may lack it: then their rules are compared over seeds alone, and the method says so.
    draws = read_draws(draws_path, identity) if scores and draws_path.exists() else {}
    last = "" if identity["kind"] == "untrained" else row.get("training.epochs", "")  # that stays at epoch 0
    if identity["kind"] in REFERENCES:
        return _Run(identity, scored, last, scores, [], [], [], {}, draws)
    folder, command = results / "networks" / _below(identity), "python -m nmnc train"
    epochs = _read(folder / "epochs.csv", EPOCHS, command)
    _check_numbers(epochs, ("test_accuracy", "perturbations"), folder / "epochs.csv")
    return _Run(
        identity,
        scored,
        last,
        scores,
        epochs,
        _read(folder / "alignment.csv", ALIGNMENT, command),
        _read(folder / "timing.csv", ("stage", "seconds"), command),
        _read_provenance(folder / "provenance.json", identity, command),
        draws,
    )


def _scored(run: _Run) -> ScoredRun:
    """What comparisons need of a run."""
    accuracy = _number(run.epochs[-1], "test_accuracy") if run.epochs else None
    identity = run.identity
    return ScoredRun(identity["network"], identity["rule"], identity["seed"], accuracy, run.scores, run.draws)


def _layers(run: _Run) -> list[dict[str, Any]]:
    return [run.identity | row for row in choose_layers(run.draws)]


def _read_provenance(path: Path, identity: Row, command: str) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path} is missing; make it with: {command}")
    content = read_object(path, {}, f"delete it and run: {command}")
    if not isinstance(content.get("hardware"), dict | None):
        raise UserError(f"{path}: the field 'hardware' is not an object; delete it and run: {command}")
    if any(str(content.get(column, value)) != value for column, value in identity.items()):
        raise UserError(f"{path}: of another run; delete its folder and run: {command}")
    tables = content.get("tables_sha256")
    for name, digest in tables.items() if isinstance(tables, dict) else ():
        beside = digest_file(path.with_name(name))
        if beside.is_file() and beside.read_text(encoding="utf-8").split()[:1] != [digest]:
            raise UserError(f"{path.with_name(name)}: of another run than {path.name}; delete it and run: {command}")
    return content


def _check_numbers(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    for row, column in itertools.product(rows, columns):
        try:
            value = _number(row, column)
        except ValueError:
            value = math.inf
        if value is not None and math.isinf(value):
            raise UserError(
                f"{path}: '{row[column]}' in column {column} is no number; delete the file and run that stage again"
            ) from None


def _number(row: Row, column: str) -> float | None:
    return None if row[column] == "" else float(row[column])


def _accuracy(runs: Sequence[_Run], confidence: float) -> list[dict[str, Any]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for run in runs:
        for line in run.epochs:
            key = (*(run.identity[column] for column in RUN[:3]), line["epoch"])
            groups.setdefault(key, []).append(line)
    rows: list[dict[str, Any]] = []
    for (network, rule, kind, epoch), lines in groups.items():
        values = [value for line in lines if (value := _number(line, "test_accuracy")) is not None]
        counts = [value for line in lines if (value := _number(line, "perturbations")) is not None]
        row = {"network": network, "rule": rule, "kind": kind, "epoch": epoch, "n_seeds": len(values)}
        if values:
            mean, low, high, _, n = t_interval(values, confidence)
            row |= {"mean": mean, "ci_low": low, "ci_high": high, "min": min(values), "max": max(values)}
            row["interval_method"] = _words(confidence, "over seeds") if n > 1 else ""
        rows.append(row | {"perturbations": sum(counts) / len(counts) if counts else None})
    return rows


def _timing(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        hardware = run.provenance.get("hardware") or {}
        machine: dict[str, Any] = {key: run.provenance.get(key) for key in ("device", "threads")}
        machine |= {key: hardware.get(key) for key in ("cpu", "gpu")}
        total: dict[str, Any] = {"stage": "total", "seconds": run.provenance.get("seconds")}
        rows += [{**run.identity, **line, **machine} for line in (*run.timing, total)]
    return rows


def _words(confidence: float, what: str) -> str:
    return f"Student's t {100 * confidence:g} % interval {what}"
