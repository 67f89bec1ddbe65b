"""Read what the report shows of a study."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import Benchmark
from brain_eval.codes import Codebook
from brain_eval.files import open_netcdf, refuse_another
from brain_eval.inference.comparisons import ScoredRun
from nmnc.errors import UserError
from nmnc.files.reading import parse_yaml, read_text
from workflow.analysis.figures import ModelRdms
from workflow.analysis.report.claims import Claims, read_claims
from workflow.analysis.results import COLLECTED, IDENTITY, SCORE, Results, Run, spelled, typed

#: Tables that every study has.
TABLES = ("runs", *COLLECTED)


@dataclass(frozen=True)
class Study:
    """Everything the report shows.

    Attributes:
        name: the study's name.
        config: the text of its YAML file.
        text_tables: each table with every cell as the CSV's own text, empty where unknown.
        tables: the same with numbers as float64 (seed: int), NaN where unknown.
        benchmarks: content of benchmarks/NAME.json, for each benchmark in the scores.
        provenance: provenance.json of each run trained here.
        scored: every scored run with its rows of scores.csv, as text, and its draws where they are.
        rdms: each benchmark that has stored model RDMs, with those of every scored rule's first seed.
        codebook: of the codes in the text tables and in `scored`; the tables with numbers have the meanings instead.
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
    codebook: Codebook
    confidence: float = 0.95
    claims: Claims | None = None


def read_study(results: Path, config_path: Path, data: Path) -> Study:
    """Read results/STUDY and the study's YAML file.

    Raises:
        UserError: a file is missing, is not what it should be, or lacks a column; one line that names
            the file and the command that makes it.
    """
    if not config_path.exists():
        raise UserError(f"{config_path} is missing; give the study's YAML file with --config")
    config = read_text(config_path, "give the study's YAML file with --config")
    content = _yaml_content(config, config_path)
    evaluation = content.get("evaluation") or {}
    study = Results(results)
    names = [*TABLES, *(["sweeps"] if study.path("sweeps").exists() else [])]
    texts = {name: study.frame(name) for name in names}
    codebook = study.meanings()
    tables = {name: spelled(typed(table, study.path(name)), codebook) for name, table in texts.items()}
    _refuse_unlike(tables["scores"], tables["means"], results)
    benchmarks = list(tables["scores"]["benchmark"].unique())
    runs = study.runs()
    return Study(
        name=str(content.get("study") or results.resolve().name),
        config=config,
        text_tables=texts,
        tables=tables,
        benchmarks=[study.benchmark(name) for name in benchmarks],
        provenance=[study.provenance(run) for run in runs if run.is_trained],
        scored=[_scored_run(study, run, texts["scores"]) for run in runs if run.scored],
        rdms=_read_rdms(study, runs, benchmarks, evaluation.get("benchmark_folders") or {}, data),
        codebook=codebook,
        confidence=float(evaluation.get("confidence", 0.95)),
        claims=read_claims(study),
    )


def _refuse_unlike(scores: pd.DataFrame, means: pd.DataFrame, results: Path) -> None:
    """Raise UserError if means.csv has rows that scores.csv lacks: one of the two is outdated or edited."""
    columns = ["network", "rule", "layer", "benchmark", "session", "animal", "species", "region", "metric"]
    found, scored = (set(table[columns].itertuples(index=False, name=None)) for table in (means, scores))
    if found - scored:
        row = ", ".join(cell for cell in min(found - scored) if cell)
        raise UserError(
            f"{results / 'tables/means.csv'} has a row that scores.csv lacks ({row}); remake both with: "
            f"python -m workflow.analysis tables --results {results}"
        )


def _yaml_content(config: str, path: Path) -> dict[str, Any]:
    """Return the study's YAML as a dictionary, checked as far as the report needs it."""
    content = parse_yaml(config, str(path))
    evaluation = (content.get("evaluation") if isinstance(content, dict) else None) or {}
    folders = evaluation.get("benchmark_folders") or {} if isinstance(evaluation, dict) else None
    if not isinstance(folders, dict) or not isinstance(evaluation.get("confidence", 0.95), int | float):
        raise UserError(f"{path}: the section evaluation is wrong; fix it, see: python -m nmnc check --config {path}")
    return content if isinstance(content, dict) else {}


def _scored_run(study: Results, run: Run, scores: pd.DataFrame) -> ScoredRun:
    """Return a run with its rows of scores.csv and its draws."""
    network, rule, _, seed = run.cells.values()
    rows_of_run = scores[(scores[list(IDENTITY)] == list(run.cells.values())).all(axis=1)]
    rows = [{str(key): str(value) for key, value in row.items()} for row in rows_of_run.to_dict("records")]
    return ScoredRun(network, rule, seed, None, rows, study.draws(run))


def _read_rdms(
    study: Results, runs: list[Run], names: list[str], folders: dict[str, str], data: Path
) -> list[tuple[Benchmark, list[ModelRdms]]]:
    """Return each benchmark with the model RDMs of every scored rule's first seed."""
    found: dict[str, list[ModelRdms]] = {}
    scored: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.scored:
            scored.setdefault(run.identity[:2], []).append(run)
    for seeds in scored.values():
        first = min(seeds, key=lambda run: run.identity.seed)
        for name, model in model_rdms(study.beside_scores(first, "rdms"), first, names):
            found.setdefault(name, []).append(replace(model, n_seeds=len({run.identity.seed for run in seeds})))
    return [
        (load_benchmark(f"{name}={folders[name]}" if name in folders else name, data), found[name])
        for name in names
        if name in found
    ]


def model_rdms(path: Path, run: Run, names: list[str]) -> list[tuple[str, ModelRdms]]:
    """Return (benchmark, RDMs) of one model, from the file that `score` wrote."""
    if not path.exists():
        raise UserError(f"{path} is missing; make it with: {SCORE}")
    models = []
    with open_netcdf(path, f"delete it and run: {SCORE}") as file:
        refuse_another(file, path, run.cells, f"run: {SCORE}")
        for name in (name for name in names if name in file.variables):
            layers = tuple(str(layer) for layer in file[file[name].dimensions[0]][:])
            values = np.asarray(file[name][:], dtype=np.float64)
            models.append((name, ModelRdms(*run.identity[:2], run.identity.seed, layers, values)))
    return models
