"""What is published of a study: its tables, its shareable figures, where they come from, and nothing else."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nmnc.config import study_from
from nmnc.errors import UserError
from nmnc.runs import results_folder, trained
from nmnc.training.provenance import git_commit
from tests.places import ROOT
from workflow.reference import provenance, publish
from workflow.study import Study

CONTENT: dict[str, Any] = {
    "study": "tiny",
    "seeds": [0, 1],
    "dataset": {"name": "digits"},
    "networks": {"small": {"kind": "mlp"}},
    "rules": {"backprop": {"kind": "backprop"}},
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A finished study in the working directory, as its stages write it; two runs were made with two versions."""
    monkeypatch.chdir(tmp_path)
    study = study_from(CONTENT, "study.yaml", Study)
    results = results_folder(study)
    texts = {
        "report.html": "recorded data",
        "tables/scores.csv": "network\n",
        "tables/note.txt": "",
        "figures/accuracy.png": "png",
        "figures/captions.json": "{}",
        "figures/local/stimuli.png": "stimuli",
        "activations/small/backprop/seed0/simulated.nc": "large",
        "benchmarks/simulated.json": '{"name": "simulated"}',
    }
    for run in trained(study):
        texts[f"networks/{run.folder}/provenance.json"] = json.dumps(
            {"study": "tiny", "network": run.network, "rule": run.rule, "kind": run.kind, "seed": run.seed}
            | {"versions": {"torch": f"2.{run.seed}"}, "hardware": {"cpu": "a"}, "threads": 1, "device": "cpu"}
            | {"dataset": {"name": "digits"}, "git": None, "started": "a", "finished": "b", "seconds": 1.0}
            | {"weights_sha256": f"{run.rule}{run.seed}", "config": {}}
        )
    for name, text in texts.items():
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(text)
    return study


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_tables_and_shareable_figures_are_copied_and_nothing_else(study: Study, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for old in ("tables/older.csv", "figures/older.png"):
        (target / old).parent.mkdir(parents=True, exist_ok=True)
        (target / old).touch()
    publish(study, target)
    assert files_below(target) == [
        "figures/accuracy.png", "figures/captions.json", "provenance.json", "tables/scores.csv",
    ]  # fmt: skip
    assert (target / "figures/accuracy.png").read_text() == "png"


def test_provenance_says_once_what_is_shared_and_lists_the_rest(study: Study) -> None:
    told = provenance(study, results_folder(study))
    assert told["git_published"] == git_commit()
    assert (told["study"], told["device"], told["hardware"], told["git"]) == ("tiny", "cpu", {"cpu": "a"}, None)
    assert told["versions"] == [{"torch": "2.0"}, {"torch": "2.1"}]
    assert told["benchmarks"] == [{"name": "simulated"}]
    assert [(run["rule"], run["seed"]) for run in told["runs"]] == [
        ("backprop", 0), ("backprop", 1), ("untrained", 0), ("untrained", 1),
    ]  # fmt: skip
    assert [run["weights_sha256"] for run in told["runs"]][:2] == ["backprop0", "backprop1"]
    assert told["config"]["seeds"] == [0, 1]


def test_scores_of_another_network_keep_saying_whose_they_are(study: Study) -> None:
    path = results_folder(study) / "networks" / trained(study)[1].folder / "provenance.json"
    whose = {"study": "brain", "weights_sha256": "other"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores_from": whose}))
    told = provenance(study, results_folder(study))["runs"]
    assert [run.get("scores_from") for run in told] == [None, whose, None, None]


def test_published_scores_name_a_published_network() -> None:
    claims, brain = (
        json.loads((ROOT / "results/reference" / name / "provenance.json").read_text())["runs"]
        for name in ("claims", "brain")
    )
    known = {(run["rule"], run["seed"]): run["weights_sha256"] for run in brain}
    borrowed = [run for run in claims if "scores_from" in run]
    assert borrowed
    for run in borrowed:
        assert run["scores_from"] == {"study": "brain", "weights_sha256": known[run["rule"], run["seed"]]}


def test_an_unfinished_study_is_refused_and_the_old_reference_stays(study: Study, tmp_path: Path) -> None:
    publish(study, tmp_path / "target")
    before = files_below(tmp_path / "target")
    (results_folder(study) / "report.html").unlink()
    with pytest.raises(UserError, match=r"results/tiny/report\.html: missing; run the study first"):
        publish(study, tmp_path / "target")
    assert files_below(tmp_path / "target") == before


@pytest.mark.usefixtures("study")
def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(CONTENT))

    def call(config: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "workflow.reference", "--config", config]
        environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert call("study.yaml").returncode == 0
    assert "tables/scores.csv" in files_below(tmp_path / "results/reference/tiny")
    refused = call("nowhere.yaml")
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert line.startswith("reference: nowhere.yaml: cannot be read")


def test_large_tables_are_compressed_and_tables_in_folders_and_unfinished_claims_are_published(
    study: Study, tmp_path: Path
) -> None:
    results = results_folder(study)
    (results / "tables" / "scores.csv").write_text("network\n" * 200_000)
    for name in ("tables/wide/accuracy.tex", "tables/claims.csv", "figures/claims/claims_C1.png", "dataset.json"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("x")
    (results / "report.html").unlink()
    (results / "networks" / trained(study)[0].folder / "provenance.json").unlink()
    publish(study, tmp_path / "target")
    first = (tmp_path / "target" / "tables" / "scores.csv.gz").read_bytes()
    assert gzip.decompress(first) == b"network\n" * 200_000
    assert {"tables/wide/accuracy.tex", "tables/claims.csv", "figures/claims/claims_C1.png", "dataset.json"} <= set(
        files_below(tmp_path / "target")
    )
    assert json.loads((tmp_path / "target" / "provenance.json").read_text())["unfinished_runs"] == 1
    publish(study, tmp_path / "target")
    assert (tmp_path / "target" / "tables" / "scores.csv.gz").read_bytes() == first
