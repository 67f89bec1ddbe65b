"""Reading a study's folder for its report, and saying what is missing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import Benchmark
from brain_eval.files import open_netcdf, read_frame, refuse_another
from brain_eval.inference.comparisons import ScoredRun
from brain_eval.inference.draws import read_draws
from brain_eval.scoring.rows import REFERENCES
from nmnc.errors import UserError
from nmnc.files.reading import parse_yaml, read_object, read_text
from workflow.analysis.figures import ModelRdms
from workflow.analysis.report.claims import Claims, read_claims

_RUN = ("network", "rule", "kind", "seed")
#: Tables of a study and the columns its report needs.
COLUMNS = {
    "runs": (*_RUN, "scored"),
    "accuracy": (
        "network", "rule", "kind", "epoch", "n_seeds", "mean", "ci_low", "ci_high", "interval_method", "min",
        "max", "perturbations",
    ),
    "epochs": (*_RUN, "epoch", "test_accuracy", "perturbations", "forward_passes"),
    "alignment": (
        *_RUN, "epoch", "layer", "space", "cosine", "alpha_gradient", "alpha_jacobian", "margin", "d", "n",
    ),
    "scores": (
        *_RUN, "layer", "benchmark", "version", "session", "animal", "species", "region", "metric", "raw",
        "ci_low", "ci_high", "interval_method", "n_draws", "ceiling_lower", "ceiling_upper", "ceiled",
        "ceiling_definition", "n_stimuli", "n_neuroids",
    ),
    "means": (
        *_RUN[:3], "layer", "benchmark", "session", "animal", "species", "region", "metric", "n_seeds", "mean",
        "ci_low", "ci_high", "interval_method",
    ),
    "comparisons": (),
    "layers": (
        *_RUN, "benchmark", "species", "region", "metric", "layer", "half", "chosen", "same_images", "n_choices",
    ),
    "timing": (),
}  # fmt: skip
#: Read where they are there.
OPTIONAL = {"sweeps": ("sweep", "rule", "label", "value")}
_NUMBERS = {
    "epoch", "test_accuracy", "perturbations", "forward_passes", "mean", "min", "max", "n_seeds", "cosine",
    "alpha_gradient", "alpha_jacobian", "margin", "d", "n", "raw", "ci_low", "ci_high", "n_draws", "ceiling_lower",
    "ceiling_upper", "ceiled", "n_stimuli", "n_neuroids", "half", "chosen", "same_images", "n_choices",
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """Everything the report shows.

    Attributes:
        name: the study's name.
        config: the text of its YAML file, as it stands.
        text_tables: each table with every cell as the CSV's own text, empty where unknown.
        tables: the same with numbers as float64 (seed: int), NaN where unknown.
        benchmarks: what benchmarks/NAME.json says of each benchmark in the scores.
        provenance: provenance.json of each run trained here.
        scored: every scored run with its rows of scores.csv, as text, and its draws where they are.
        rdms: each benchmark that has stored model RDMs, with those of every scored rule's first seed.
        confidence: coverage of the study's intervals.
        claims: verdicts and their figures, None where the study has none.
    """

    name: str
    config: str
    text_tables: dict[str, pd.DataFrame]
    tables: dict[str, pd.DataFrame]
    benchmarks: list[dict[str, Any]]
    provenance: list[dict[str, Any]]
    scored: list[ScoredRun]
    rdms: list[tuple[Benchmark, list[ModelRdms]]]
    confidence: float = 0.95
    claims: Claims | None = None


def read_study(results: Path, config_path: Path, data: Path) -> Study:
    """Read results/STUDY and the study's YAML file.

    Raises:
        UserError: a file is missing, is not what it should be, or lacks a column; one line that names
            the file and the command that makes it.
    """
    config = _read_text(config_path, "give the study's YAML file with --config")
    content = _yaml_content(config, config_path)
    evaluation = content.get("evaluation") or {}
    folders = evaluation.get("benchmark_folders") or {}
    texts = {name: _read_table(results, name) for name in COLUMNS}
    if (results / "tables/sweeps.csv").exists():
        texts["sweeps"] = _read_table(results, "sweeps")
    tables = {name: _numbers(table, results / f"tables/{name}.csv") for name, table in texts.items()}
    _refuse_unlike(tables["scores"], tables["means"], results)
    names = list(tables["scores"]["benchmark"].unique())
    remedy = f"python -m brain_eval fetch --benchmark NAME --out {results / 'benchmarks'}"
    benchmarks = [_read_json(results / f"benchmarks/{name}.json", remedy.replace("NAME", name)) for name in names]
    provenance = [
        _read_json(_folder(results, "networks", run) / "provenance.json", "python -m nmnc train")
        for run in _records(tables["runs"])
        if run["kind"] not in REFERENCES
    ]
    return Study(
        name=str(content.get("study") or results.resolve().name),
        config=config,
        text_tables=texts,
        tables=tables,
        benchmarks=benchmarks,
        provenance=provenance,
        scored=_read_scored(results, tables["runs"], texts["scores"]),
        rdms=_read_rdms(results, tables["runs"], names, folders, data),
        confidence=float(evaluation.get("confidence", 0.95)),
        claims=read_claims(results),
    )


def _records(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Identity of each row of runs.csv."""
    return [dict(zip(_RUN, row, strict=True)) for row in runs[list(_RUN)].itertuples(index=False)]


def _folder(results: Path, stage: str, run: dict[str, Any]) -> Path:
    """results/STUDY/STAGE/NETWORK/RULE/seedN of one row of runs.csv."""
    return results / stage / run["network"] / run["rule"] / f"seed{run['seed']}"


def _read_text(path: Path, remedy: str) -> str:
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy}")
    return read_text(path, remedy)


def _read_json(path: Path, command: str) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path} is missing; make it with: {command}")
    return read_object(path, {}, f"delete it and make it with: {command}")


def _read_table(results: Path, name: str) -> pd.DataFrame:
    """A table as text; empty cells are empty strings."""
    path = results / "tables" / f"{name}.csv"
    command = (
        "python -m nmnc runs"
        if name in ("runs", "sweeps")
        else f"python -m workflow.analysis tables --results {results}"
    )
    if not path.exists():
        raise UserError(f"{path} is missing; make it with: {command}")
    table = read_frame(path, (), f"delete it and make it with: {command}", text=True)
    missing = [column for column in (COLUMNS | OPTIONAL)[name] if column not in table]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]}; delete it and make it anew with: {command}")
    return table


def _numbers(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table with its numeric columns as float64, NaN where empty, and seeds as int64."""
    table = table.copy()
    try:
        for column in _NUMBERS & set(table.columns):
            table[column] = pd.to_numeric(table[column].replace("", np.nan)).astype(np.float64)
        if "seed" in table:
            table["seed"] = table["seed"].astype(np.int64)
    except ValueError as error:
        raise UserError(f"{path} has text where a number belongs ({error}); delete it and rerun") from None
    return table


def _refuse_unlike(scores: pd.DataFrame, means: pd.DataFrame, results: Path) -> None:
    """UserError where means.csv has what scores.csv lacks: one of the two is of an earlier run, or edited."""
    columns = ["network", "rule", "layer", "benchmark", "session", "animal", "species", "region", "metric"]
    found, scored = (set(table[columns].itertuples(index=False, name=None)) for table in (means, scores))
    if found - scored:
        row = ", ".join(cell for cell in min(found - scored) if cell)
        raise UserError(
            f"{results / 'tables/means.csv'} has what scores.csv lacks ({row}); make both anew with: "
            f"python -m workflow.analysis tables --results {results}"
        )


def _yaml_content(config: str, path: Path) -> dict[str, Any]:
    """The study's YAML as a dictionary, as far as the report needs it checked."""
    content = parse_yaml(config, str(path))
    evaluation = (content.get("evaluation") if isinstance(content, dict) else None) or {}
    folders = evaluation.get("benchmark_folders") or {} if isinstance(evaluation, dict) else None
    if not isinstance(folders, dict) or not isinstance(evaluation.get("confidence", 0.95), int | float):
        raise UserError(
            f"{path}: evaluation is not what a study has; check it with: python -m nmnc check --config {path}"
        )
    return content if isinstance(content, dict) else {}


def _read_scored(results: Path, runs: pd.DataFrame, scores: pd.DataFrame) -> list[ScoredRun]:
    """The scored runs in the order of runs.csv."""
    scored = []
    for run in _records(runs[runs["scored"].eq("yes")]):
        own = scores[(scores[list(_RUN)] == [str(run[column]) for column in _RUN]).all(axis=1)]
        rows = [{str(key): str(value) for key, value in row.items()} for row in own.to_dict("records")]
        folder = _folder(results, "scores", run)
        path = folder.with_name(f"{folder.name}_draws.nc")
        # Scores made by hand may lack it: their intervals then hold seeds alone, and say so.
        draws = read_draws(path, run) if path.exists() else {}
        scored.append(ScoredRun(run["network"], run["rule"], str(run["seed"]), None, rows, draws))
    return scored


def _read_rdms(
    results: Path, runs: pd.DataFrame, names: list[str], folders: dict[str, str], data: Path
) -> list[tuple[Benchmark, list[ModelRdms]]]:
    """Model RDMs of every scored rule's first seed, by benchmark, with the benchmark (recorded RDMs, categories)."""
    found: dict[str, list[ModelRdms]] = {}
    scored = runs[runs["scored"].eq("yes")]
    first_seeds = scored.sort_values("seed", kind="stable").drop_duplicates(["network", "rule"])
    n_seeds = scored.groupby(["network", "rule"])["seed"].nunique()
    for run in _records(first_seeds.sort_index()):
        folder = _folder(results, "scores", run)
        for name, model in _model_rdms(folder.with_name(f"{folder.name}_rdms.nc"), run, names):
            found.setdefault(name, []).append(replace(model, n_seeds=int(n_seeds[run["network"], run["rule"]])))
    return [
        (load_benchmark(f"{name}={folders[name]}" if name in folders else name, data), found[name])
        for name in names
        if name in found
    ]


def _model_rdms(path: Path, run: dict[str, Any], names: list[str]) -> list[tuple[str, ModelRdms]]:
    """(benchmark, RDMs) of one model, from the file that `score` wrote."""
    if not path.exists():
        raise UserError(f"{path} is missing; make it with: python -m brain_eval score")
    models = []
    again = "run: python -m brain_eval score"
    with open_netcdf(path, f"delete it and {again}") as file:
        refuse_another(file, path, run, again)
        for name in (name for name in names if name in file.variables):
            layers = tuple(str(layer) for layer in file[file[name].dimensions[0]][:])
            values = np.asarray(file[name][:], dtype=np.float64)
            models.append((name, ModelRdms(run["network"], run["rule"], run["seed"], layers, values)))
    return models
