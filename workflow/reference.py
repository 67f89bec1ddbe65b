"""Publish a finished study to results/reference: python -m workflow.reference --config FILE.

Copies tables, figures without stimuli or recorded data, and provenance; never the report, which shows both.
"""

import gzip
import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from nmnc.command_line import run_command
from nmnc.errors import UserError
from nmnc.files.reading import read_json, read_object
from nmnc.files.writing import write_text
from nmnc.runs import results_folder, trained
from nmnc.training.provenance import git_commit
from workflow.study import Study, load_study

#: Tables of more bytes than this are published as .csv.gz.
LARGEST = 900_000


def provenance(study: Study, results: Path) -> dict[str, Any]:
    """Return the provenance of a study: facts shared by all runs, facts per run, data sets and benchmarks.

    `git` is the commit that trained the networks, `git_published` that of the code that copies the tables.
    """
    files = [results / "networks" / run.folder / "provenance.json" for run in trained(study)]
    advice = "delete it and run the study again"
    fields = {"network": str, "rule": str, "kind": str, "seed": int, "study": str, "versions": dict}
    runs = [read_object(path, fields, advice) for path in files if path.exists()]
    shared = ("study", "versions", "hardware", "threads", "device", "dataset", "git")
    # `scores_from` names the network, of the same settings, that the scores are of, if it is another one.
    run_keys = (
        "network",
        "rule",
        "kind",
        "seed",
        "started",
        "finished",
        "seconds",
        "weights_sha256",
        "git",
        "scores_from",
    )
    benchmarks = [read_json(path, advice) for path in sorted((results / "benchmarks").glob("*.json"))]
    return {
        **{key: _common(key, runs) for key in shared if runs},
        "git_published": git_commit(),
        "unfinished_runs": len(files) - len(runs),
        "config": study.model_dump(mode="json"),
        "benchmarks": benchmarks,
        "runs": [{key: run[key] for key in run_keys if key in run} for run in runs],
    }


def _common(key: str, runs: list[dict[str, Any]]) -> Any:
    """Return the value shared by all runs, else the list of different values."""
    values = list({json.dumps(run.get(key), sort_keys=True): run.get(key) for run in runs}.values())
    return values[0] if len(values) == 1 else values


def publish(study: Study, target: Path) -> None:
    """Write target/{tables,figures}/* and target/provenance.json from a finished study, with dataset.json for claims.

    A search and the claims may be unfinished; provenance.json counts the missing runs.

    Raises:
        UserError: the study is not finished.
    """
    results = results_folder(study)
    ends = [results / name for name in ("report.html", "tables/claims.csv", "tables/search.csv")]
    if not any(path.exists() for path in ends):
        raise UserError(f"{ends[0]}: missing; run the study first")
    facts = provenance(study, results)  # before copying, which may change the checkout
    for part, endings in (("tables", (".csv", ".md", ".tex")), ("figures", (".png", "captions.json"))):
        shutil.rmtree(target / part, ignore_errors=True)
        for path in sorted((results / part).rglob("*")):
            place = path.relative_to(results)
            if path.name.endswith(endings) and "local" not in place.parts:
                (target / place).parent.mkdir(parents=True, exist_ok=True)
                _copy(path, target / place)
    if (results / "tables/claims.csv").exists():  # needed to recompute verdicts from published tables
        shutil.copy(results / "dataset.json", target / "dataset.json")
    write_text(target / "provenance.json", json.dumps(facts, indent=1) + "\n")


def _copy(path: Path, target: Path) -> None:
    """Copy a file; a large table is compressed reproducibly."""
    if path.suffix == ".csv" and path.stat().st_size > LARGEST:
        compressed = gzip.compress(path.read_bytes(), mtime=0)
        target.with_name(f"{target.name}.gz").write_bytes(compressed)
    else:
        shutil.copy(path, target)


def main(config: Annotated[Path, typer.Option(help="The study's YAML file.")]) -> None:
    """Copy tables, shareable figures and provenance of a finished study to results/reference/STUDY."""
    study = load_study(config)
    publish(study, study.paths.results / "reference" / study.study)


if __name__ == "__main__":
    run_command(lambda: typer.run(main), "reference")
