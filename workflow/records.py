"""Bring back the published runs of a study: python -m workflow.records --config FILE.

A long study is published as far as it is finished (workflow.reference), with every finished run's rows but
without its networks. This module writes these rows to the runs' folders, so that another machine only computes the
missing runs. A run is brought back only if its settings, its network and the section `dataset` equal the published
ones; neither the content of the user's data nor the code is compared.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmnc.command_line import run_command
from nmnc.config import study_from
from nmnc.errors import UserError
from nmnc.files.reading import read_object, read_rows, read_text
from nmnc.files.writing import only_writer, write_text
from nmnc.runs import Identity, results_folder, trained
from workflow.study import Study, load_study

if TYPE_CHECKING:
    import pandas as pd

#: Published table -> path of a run's rows below results/STUDY, and whether the rows contain the identity.
PLACES = {
    "epochs": ("networks/{}/epochs.csv", False),
    "alignment": ("networks/{}/alignment.csv", False),
    "manifold": ("manifold/{}.csv", False),
    "scores": ("scores/{}.csv", True),
}
IDENTITY = list(Identity._fields)
app = typer.Typer(add_completion=False)


def settings_sha256(study: Study, identity: Identity) -> str:
    """Return the hash of what decides a run's rows apart from the code: rule, network, data set, threads, device."""
    content = {
        "run": study.run(identity.rule).model_dump(mode="json"),
        "network": study.networks[identity.network].model_dump(mode="json"),
        "dataset": study.dataset.model_dump(mode="json") if study.dataset else None,
        "threads": study.threads,
        "device": study.device,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def list_of(results: Path) -> Path:
    """Return the file with the runs brought back and the hashes of their settings."""
    return results / "published_runs.json"


def brought_back(study: Study) -> dict[str, set[Identity]]:
    """Return, by table, the runs that exist only as published rows and whose settings have not changed."""
    results = results_folder(study)
    path = list_of(results)
    if not path.exists():
        return {name: set() for name in PLACES}
    listed = read_object(path, {}, "delete it and run make records again")
    runs = [run for run in trained(study) if listed.get(run.folder) == settings_sha256(study, run)]
    return {
        name: {run for run in runs if (results / place.format(run.folder)).exists()}
        for name, (place, _) in PLACES.items()
    }


def bring_back(study: Study, published: Path) -> int:
    """Write the rows of all published runs that are still in the study and not finished here.

    Args:
        study: the current study.
        published: results/reference/STUDY, with provenance.json and tables/claims/runs.

    Returns:
        Number of runs brought back.

    Raises:
        UserError: nothing is published there, or it cannot be read.
    """
    advice = "run the study instead"
    if not (published / "provenance.json").exists():
        raise UserError(f"{published}: no published runs to bring back; {advice}")
    provenance = read_object(published / "provenance.json", {"config": dict, "runs": list}, advice)
    if not all(isinstance(run, dict) and set(IDENTITY) <= run.keys() for run in provenance["runs"]):
        raise UserError(f"{published / 'provenance.json'}: a run lacks one of {', '.join(IDENTITY)}; {advice}")
    tables = {name: _table(published, name) for name in PLACES}
    codebook = published / "tables" / "claims" / "runs" / "codebook.csv"
    results = results_folder(study)
    matching = dict(_matching(study, study_from(provenance["config"], str(published), Study), provenance["runs"]))
    missing = {run: facts for run, facts in matching.items() if not _network(results, run).exists()}
    shared = {key: value for key, value in provenance.items() if key not in ("runs", "config", "benchmarks")}
    for run, facts in missing.items():
        # Training this run writes to the same folder, so its lock is taken.
        with only_writer(results / ".locks" / run.stem, 0):
            _write_rows(results, run, tables)
            if codebook.exists() and (results / PLACES["scores"][0].format(run.folder)).exists():
                codebook_copy = results / f"scores/{run.folder}_codebook.csv"
                write_text(codebook_copy, read_text(codebook, advice), digest=True)
            text = json.dumps(shared | facts, indent=1) + "\n"
            write_text(_network(results, run).with_name("provenance.json"), text, digest=True)
    listed = {run.folder: settings_sha256(study, run) for run in matching}
    write_text(list_of(results), json.dumps(listed, indent=1), digest=True)
    return len(missing)


def _write_rows(results: Path, run: Identity, tables: dict[str, "pd.DataFrame"]) -> None:
    """Write a run's rows of the published tables to its folder."""
    for name, (place, identified) in PLACES.items():
        rows = tables[name].loc[tables[name].index.isin([tuple(map(str, run))])]
        if not rows.empty:
            content = rows if identified else rows.drop(columns=IDENTITY)
            text = content.to_csv(index=False, lineterminator="\n")
            write_text(results / place.format(run.folder), text, digest=True)


def _matching(study: Study, before: Study, finished: list[dict[str, Any]]) -> Iterator[tuple[Identity, dict[str, Any]]]:
    """Yield the published runs whose settings equal the study's, with their published facts."""
    published = set(trained(before))
    rows = {tuple(run[key] for key in IDENTITY): run for run in finished}
    for run in trained(study):
        if run in published and run in rows and settings_sha256(study, run) == settings_sha256(before, run):
            yield run, rows[run]


def _table(published: Path, name: str) -> "pd.DataFrame":
    """Return a published table of all runs' rows, indexed by identity as text."""
    import pandas as pd  # Snakemake reads this file at every start

    path = published / "tables" / "claims" / "runs" / f"{name}.csv"
    file = path if path.exists() else path.with_name(f"{path.name}.gz")
    header, rows = read_rows(file, IDENTITY, "run the study instead")
    table = pd.DataFrame(rows, columns=header, dtype=str)
    table = table.replace("", pd.NA)
    table.index = pd.MultiIndex.from_frame(table[IDENTITY].astype(str))
    return table


def _network(results: Path, run: Identity) -> Path:
    return results / "networks" / run.folder / "network.pt"


@app.command()
def main(
    config: Annotated[Path, typer.Option(help="The study's YAML file.")],
    published: Annotated[
        Path | None, typer.Option(help="Folder of the published study; default: results/reference/STUDY.")
    ] = None,
) -> None:
    """Write the rows of a study's published runs to its results, so that only missing runs are computed."""
    study = load_study(config)
    number = bring_back(study, published or study.paths.results / "reference" / study.study)
    print(f"{number} published runs brought back to {results_folder(study)}; {len(trained(study))} runs in the study")


if __name__ == "__main__":
    run_command(app, "records")
