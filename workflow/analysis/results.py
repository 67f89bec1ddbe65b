"""Read results/STUDY: paths and required columns of its tables, and the command that makes each."""

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from brain_eval.codes import CODEBOOK, CODED, Codebook
from brain_eval.inference.comparisons import COLUMNS as COMPARISONS
from brain_eval.inference.draws import Drawn, read_draws
from brain_eval.inference.layer_choice import COLUMNS as LAYERS
from brain_eval.scoring.rows import COLUMNS as SCORES
from nmnc.errors import UserError
from nmnc.files.digests import digest_file
from nmnc.files.reading import read_object, read_rows
from nmnc.runs import Identity
from workflow.analysis.complete_tables import check_epochs, check_scores
from workflow.study import REFERENCES

#: Columns that name a run, in every table of runs.
IDENTITY = Identity._fields
EPOCHS = ("epoch", "train_loss", "test_accuracy", "perturbations", "forward_passes")
ALIGNMENT = (
    "epoch", "layer", "space", "cosine", "cosine_batch", "alpha_gradient", "alpha_jacobian", "margin", "d", "n",
)  # fmt: skip
ACCURACY = (
    "network", "rule", "kind", "epoch", "n_seeds", "mean", "ci_low", "ci_high", "interval_method", "min", "max",
    "perturbations",
)  # fmt: skip
#: Columns that identify a score, apart from the model and the layer.
WHERE = ("benchmark", "session", "animal", "species", "region", "metric")
MEANS = ("network", "rule", "kind", "layer", *WHERE, "n_seeds", "mean", "ci_low", "ci_high", "interval_method")
TIMING = (*IDENTITY, "stage", "seconds", "device", "threads", "cpu", "gpu")
CLAIMS = (
    "prediction", "claim", "says", "side", "threshold", "effect", "ci_low", "ci_high", "n", "n_missing",
    "interval_method", "p_holm", "verdict", "tier",
)  # fmt: skip

#: Columns of labels: text as it was written, even if it looks like a number or like NaN.
LABELS = frozenset({
    "network", "rule", "kind", "label", "sweep", "layer", "space", "subspace", "quantity", "benchmark", "version",
    "session", "animal", "species", "region", "metric", *CODED, *CODEBOOK,
})  # fmt: skip
#: Columns whose cells must be numbers, or empty. Other columns are numbers wherever all of their cells are.
NUMBERS = frozenset({
    "seed", "epoch", "test_accuracy", "perturbations", "forward_passes", "mean", "min", "max", "n_seeds", "cosine",
    "alpha_gradient", "alpha_jacobian", "margin", "d", "n", "raw", "ci_low", "ci_high", "n_draws", "ceiling_lower",
    "ceiling_upper", "ceiled", "n_stimuli", "n_neuroids", "half", "chosen", "same_images", "n_choices",
})  # fmt: skip

Row = dict[str, str]


class Table(NamedTuple):
    """A table of a study, or of each of its runs.

    Attributes:
        place: below results/STUDY; {}: NETWORK/RULE/seedN of a run.
        columns: that it must have.
        command: that makes it.
    """

    place: str
    columns: tuple[str, ...]
    command: str


def _summary(name: str, columns: tuple[str, ...]) -> Table:
    return Table(f"tables/{name}.csv", columns, "python -m workflow.analysis tables --results {results}")


#: What `workflow.analysis tables` collects.
COLLECTED = {
    "accuracy": ACCURACY,
    "epochs": (*IDENTITY, *EPOCHS),
    "alignment": (*IDENTITY, *ALIGNMENT),
    "scores": SCORES,
    "means": MEANS,
    "comparisons": COMPARISONS,
    "layers": LAYERS,
    "timing": TIMING,
    "codebook": CODEBOOK,
}
TABLES = {
    "runs": Table("tables/runs.csv", (*IDENTITY, "scored"), "python -m nmnc runs"),
    "sweeps": Table("tables/sweeps.csv", ("sweep", "rule", "label", "value"), "python -m nmnc runs"),
    "claims": Table("tables/claims.csv", CLAIMS, "python -m workflow.analysis claims"),
    **{name: _summary(name, columns) for name, columns in COLLECTED.items()},
}
TRAIN, SCORE = "python -m nmnc train", "python -m brain_eval score"
#: Tables of one run.
RUN_TABLES = {
    "epochs": Table("networks/{}/epochs.csv", EPOCHS, TRAIN),
    "alignment": Table("networks/{}/alignment.csv", ALIGNMENT, TRAIN),
    "timing": Table("networks/{}/timing.csv", ("stage", "seconds"), TRAIN),
    "scores": Table("scores/{}.csv", SCORES, SCORE),
    "codebook": Table("scores/{}_codebook.csv", CODEBOOK, SCORE),
    "manifold": Table("manifold/{}.csv", ("layer", "quantity", "value"), "python -m nmnc diagnose"),
}


class Run(NamedTuple):
    """A row of runs.csv.

    Attributes:
        identity: whose run it is.
        scored: whether it is compared with benchmarks.
        last_epoch: the epoch that its tables end with; empty where that is not known.
    """

    identity: Identity
    scored: bool
    last_epoch: str

    @property
    def is_trained(self) -> bool:
        """Whether the study itself trained it, or left it untrained."""
        return self.identity.kind not in REFERENCES

    @property
    def cells(self) -> Row:
        """Its identity as text, by column."""
        return {column: str(value) for column, value in self.identity._asdict().items()}


@dataclass(frozen=True)
class Results:
    """The folder results/STUDY; every mistake in it is a UserError of one line that names the file and the remedy."""

    folder: Path

    def path(self, name: str, run: Run | None = None) -> Path:
        """Return where a table of the study, or of a run, lies."""
        table = TABLES[name] if run is None else RUN_TABLES[name]
        return self.folder / table.place.format(run.identity.folder if run else "")

    def rows(self, name: str, run: Run | None = None) -> list[Row]:
        """Return a table's rows, every cell as the text that was written.

        Raises:
            UserError: the table is missing or lacks a column; a run's has text for a number, lacks an epoch, or is of
                another run.
        """
        return self._read(name, run)[1]

    def frame(self, name: str, run: Run | None = None) -> pd.DataFrame:
        """Return `rows` as a data frame of text; empty cells are empty strings."""
        header, rows = self._read(name, run)
        return pd.DataFrame(rows, columns=header, dtype=str)

    def numbers(self, name: str, run: Run | None = None) -> pd.DataFrame:
        """Return `frame` with numbers where they are (see `typed`)."""
        return typed(self.frame(name, run), self.path(name, run))

    def _read(self, name: str, run: Run | None) -> tuple[list[str], list[Row]]:
        table, path = (TABLES if run is None else RUN_TABLES)[name], self.path(name, run)
        command = table.command.format(results=self.folder)
        if not path.exists():
            raise UserError(f"{path} is missing; make it with: {command}")
        header, rows = read_rows(path, (), f"delete it and run: {command}")
        missing = [column for column in table.columns if column not in header]
        if missing:
            raise UserError(f"{path} lacks the column {missing[0]}; delete it and run: {command}")
        if name != "claims" and any(" " in row.get("interval_method", "") for row in rows):
            raise UserError(f"{path}: of an earlier version, without codes in interval_method; rerun: {command}")
        if run is not None:
            _check_run_table(name, run, rows, path)
        return header, rows

    def runs(self) -> list[Run]:
        """Return the runs of runs.csv, in its order."""
        rows = self.rows("runs")
        check_numbers(rows, ("seed",), self.path("runs"))
        return [
            Run(
                Identity(row["network"], row["rule"], row["kind"], int(row["seed"])),
                row["scored"] == "yes",
                # An untrained network stays at epoch 0.
                "" if row["kind"] == "untrained" else row.get("training.epochs", "").removesuffix(".0"),
            )
            for row in rows
        ]

    def draws(self, run: Run) -> dict[tuple[str, str], Drawn]:
        """Return the draws of a run's scores; empty if the file is absent, as for scores made by hand."""
        path = self.beside_scores(run, "draws")
        return read_draws(path, run.cells) if path.exists() else {}

    def meanings(self, run: Run | None = None) -> Codebook:
        """Return the codebook of the study's tables, or of a run's scores; empty for scores made by hand."""
        if run is not None and not self.path("codebook", run).exists():
            return Codebook()
        return Codebook({(row["column"], row["code"]): row["meaning"] for row in self.rows("codebook", run)})

    def beside_scores(self, run: Run, name: str) -> Path:
        """Return the path of a NetCDF file next to a run's scores: draws or rdms."""
        path = self.path("scores", run)
        return path.with_name(f"{path.stem}_{name}.nc")

    def provenance(self, run: Run) -> dict[str, Any]:
        """Return the provenance.json of a run that the study trained.

        Raises:
            UserError: missing, damaged, or of another run than its folder or the tables in it.
        """
        path = self.folder / "networks" / run.identity.folder / "provenance.json"
        content = self.json(path, TRAIN)
        if not isinstance(content.get("hardware"), dict | None):
            raise UserError(f"{path}: the field 'hardware' is not an object; delete it and run: {TRAIN}")
        if any(str(content.get(column, value)) != value for column, value in run.cells.items()):
            raise UserError(f"{path}: of another run; delete its folder and run: {TRAIN}")
        tables = content.get("tables_sha256")
        for name, digest in tables.items() if isinstance(tables, dict) else ():
            beside = digest_file(path.with_name(name))
            if beside.is_file() and beside.read_text(encoding="utf-8").split()[:1] != [digest]:
                raise UserError(f"{path.with_name(name)}: of another run than {path.name}; delete it and run: {TRAIN}")
        return content

    def benchmark(self, name: str) -> dict[str, Any]:
        """Return the content of benchmarks/NAME.json."""
        command = f"python -m brain_eval fetch --benchmark {name} --out {self.folder / 'benchmarks'}"
        return self.json(self.folder / f"benchmarks/{name}.json", command)

    def json(self, path: Path, command: str) -> dict[str, Any]:
        """Return the object of a JSON file that `command` makes."""
        if not path.exists():
            raise UserError(f"{path} is missing; make it with: {command}")
        return read_object(path, {}, f"delete it and run: {command}")

    def collected(self, name: str) -> pd.DataFrame:
        """Return a table of every run that has it as one frame with the columns of IDENTITY, numbers where they are.

        Where the study's own networks/ are not there, the rows come from tables/claims/runs, as they are published.
        """
        runs = self.runs()
        if not (self.folder / "networks").is_dir():
            return self._published(name)
        frames = [self._identified(name, run) for run in runs if self.path(name, run).exists()]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(IDENTITY))

    def _identified(self, name: str, run: Run) -> pd.DataFrame:
        table = self.numbers(name, run)
        return table if "network" in table else table.assign(**run.identity._asdict())

    def _published(self, name: str) -> pd.DataFrame:
        path = self.folder / "tables" / "claims" / "runs" / f"{name}.csv"
        for candidate in (path, path.with_name(f"{path.name}.gz")):
            if candidate.exists():
                columns = CODEBOOK if name == "codebook" else IDENTITY
                header, rows = read_rows(candidate, columns, "restore it with git, or run the study")
                return typed(pd.DataFrame(rows, columns=header, dtype=str), candidate)
        raise UserError(f"{self.folder} has neither networks/ nor {path.relative_to(self.folder)}; run the study first")


def _check_run_table(name: str, run: Run, rows: Sequence[Row], path: Path) -> None:
    """UserError for a run's table that has text for a number, lacks an epoch, or is of another run."""
    if name == "scores":
        if any({column: row[column] for column in IDENTITY} != run.cells for row in rows):
            raise UserError(f"{path} has scores of another run; delete it and run: {SCORE}")
        check_numbers(rows, ("raw",), path)
        check_scores([(path, run.identity.network, rows)])
    elif name == "epochs":
        check_numbers(rows, ("test_accuracy", "perturbations"), path)
    if name in ("epochs", "alignment"):
        check_epochs(path, run.last_epoch, rows)


def check_numbers(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    """UserError for a cell of these columns that is neither empty nor a finite number, or NaN."""
    for row, column in itertools.product(rows, columns):
        try:
            value = number(row, column)
        except ValueError:
            value = math.inf
        if value is not None and math.isinf(value):
            raise UserError(
                f"{path}: '{row[column]}' in column {column} is not a number; delete the file and rerun that stage"
            ) from None


def number(row: Row, column: str) -> float | None:
    """Return a cell as a number, None where it is empty."""
    return None if row[column] == "" else float(row[column])


def spelled(table: pd.DataFrame, codebook: Codebook) -> pd.DataFrame:
    """Return a table with the meaning of each code in place of the code."""
    columns = [column for column in CODED if column in table]
    return table.assign(
        **{
            column: table[column].map(lambda code, column=column: codebook.get((column, code), code))
            for column in columns
        }
    )


def typed(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a table of text with numbers: in NUMBERS, and in any column but LABELS whose cells all are; NaN: empty.

    Raises:
        UserError: text in a column of NUMBERS; `path` is named.
    """
    content = io.StringIO(table.to_csv(index=False, lineterminator="\n"))
    empty = {str(name): ["", "nan"] for name in table if name not in LABELS}
    labels = dict.fromkeys(LABELS.intersection(table), str)
    found = pd.read_csv(content, dtype=labels, keep_default_na=False, na_values=empty)
    for column in NUMBERS.intersection(found):
        if found.empty:
            found[column] = found[column].astype("float64")
        elif not pd.api.types.is_numeric_dtype(found[column]):
            cells = found.loc[pd.to_numeric(found[column], errors="coerce").isna(), column].dropna()
            raise UserError(f"{path}: {cells.iloc[0]} in column {column} is not a number; delete the file and rerun")
    return found
