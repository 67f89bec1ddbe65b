"""Published runs that are brought back: their rows, byte for byte in meaning, only where the settings are the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nmnc.config import study_from
from nmnc.errors import UserError
from nmnc.runs import Identity, results_folder, trained
from workflow.records import app, bring_back, brought_back, settings_sha256
from workflow.reference import publish
from workflow.study import Study

CONTENT: dict[str, Any] = {
    "study": "tiny",
    "seeds": [0, 1],
    "dataset": {"name": "digits"},
    "networks": {"small": {"kind": "mlp"}},
    "rules": {"vnc": {"kind": "vnc"}, "backprop": {"kind": "backprop"}, "untrained": {"kind": "untrained"}},
    "evaluation": {"benchmarks": ["simulated"]},
}


def study(**changes: Any) -> Study:
    return study_from(CONTENT | changes, "study.yaml", Study)


def rows_of(run: Identity) -> dict[str, pd.DataFrame]:
    """A run's own files; an untrained network has no loss."""
    losses = [np.nan] if run.kind == "untrained" else [np.nan, 0.25 + run.seed]
    epochs = pd.DataFrame({"epoch": range(len(losses)), "train_loss": losses, "test_accuracy": 0.5})
    alignment = pd.DataFrame({"epoch": [0, 0], "layer": ["fc1", "fc1"], "space": ["activity", "weight"], "d": [8, 8]})
    scores = pd.DataFrame([run._asdict() | {"layer": "fc1", "raw": 0.125, "session": "mean", "animal": "all"}])
    manifold = pd.DataFrame({"layer": ["fc1"], "quantity": ["two_nn"], "value": [3.5]})
    return {"epochs": epochs, "alignment": alignment, "scores": scores, "manifold": manifold}


PLACES = {"epochs": "networks/{}/epochs.csv", "alignment": "networks/{}/alignment.csv", "scores": "scores/{}.csv",
          "manifold": "manifold/{}.csv"}  # fmt: skip


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """results/reference/tiny of a study whose last run is not finished; results/tiny itself is gone."""
    monkeypatch.chdir(tmp_path)
    one, results, target = study(), results_folder(study()), tmp_path / "results" / "reference" / "tiny"
    collected: dict[str, list[Any]] = {name: [] for name in PLACES}
    for run in trained(one)[:-1]:
        about = run._asdict() | {"started": "a", "finished": "b", "seconds": 1.0, "weights_sha256": "c", "git": "d"}
        about |= {"study": "tiny", "versions": {}, "hardware": {}, "threads": 1, "device": "cpu", "dataset": {}}
        file = results / "networks" / run.folder / "provenance.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(about))
        for name, rows in rows_of(run).items():
            collected[name] += rows.assign(**run._asdict()).to_dict("records")
    (results / "dataset.json").write_text("{}")
    (results / "tables" / "claims" / "runs").mkdir(parents=True)
    (results / "tables" / "claims.csv").write_text("prediction\n")
    for name, rows_of_all in collected.items():
        pd.DataFrame(rows_of_all).to_csv(results / "tables" / "claims" / "runs" / f"{name}.csv", index=False)
    (results / "tables" / "claims" / "runs" / "codebook.csv").write_text("column,code,meaning\n")
    publish(one, target)
    shutil.rmtree(results)
    return target


def test_the_rows_of_every_finished_run_come_back(published: Path) -> None:
    one = study()
    finished = trained(one)[:-1]
    assert bring_back(one, published) == len(finished) == 5
    for run in finished:
        for name, rows in rows_of(run).items():
            read = pd.read_csv(results_folder(one) / PLACES[name].format(run.folder))
            pd.testing.assert_frame_equal(read, rows, check_dtype=False)
        assert (results_folder(one) / f"scores/{run.folder}_codebook.csv").read_text() == "column,code,meaning\n"
        provenance = json.loads((results_folder(one) / "networks" / run.folder / "provenance.json").read_text())
        assert (provenance["git"], provenance["seed"], provenance["study"]) == ("d", run.seed, "tiny")
    assert brought_back(one) == {name: set(finished) for name in PLACES}
    publish_again = published.parent / "again"
    (results_folder(one) / "report.html").touch()
    publish(one, publish_again)
    again, first = (json.loads((folder / "provenance.json").read_text()) for folder in (publish_again, published))
    assert again["runs"] == first["runs"]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"rules": {**CONTENT["rules"], "vnc": {"kind": "vnc", "noise": {"rate": 0.5}}}}, {"backprop", "untrained"}),
        ({"rules": {**CONTENT["rules"], "new": {"kind": "dfa"}}}, {"vnc", "backprop", "untrained"}),
        ({"networks": {"small": {"kind": "mlp", "arguments": {"hidden": [3]}}}}, set()),
        ({"dataset": {"name": "digits", "train_images": 100}}, set()),
        ({"threads": 2}, set()),
    ],
)
def test_only_runs_with_the_same_settings_come_back(published: Path, changes: dict[str, Any], left: set[str]) -> None:
    now = study(**changes)
    bring_back(now, published)
    assert {run.rule for run in brought_back(now)["epochs"]} == left
    # What came back under other settings does not count any more either.
    bring_back(study(), published)
    assert {run.rule for run in brought_back(now)["epochs"]} == left


def test_a_run_finished_here_is_left_as_it_is(published: Path) -> None:
    one = study()
    run = trained(one)[0]
    here = results_folder(one) / "networks" / run.folder
    here.mkdir(parents=True)
    for name in ("network.pt", "epochs.csv"):
        (here / name).write_text("mine")
    assert bring_back(one, published) == 4
    assert (here / "epochs.csv").read_text() == "mine"


def test_settings_are_told_apart_by_everything_that_decides_a_run() -> None:
    one = study()
    hashes = {settings_sha256(one, run) for run in trained(one)}
    assert len(hashes) == 3  # the seed is in the run's name
    assert settings_sha256(study(study="other", seeds=[0]), trained(one)[0]) == settings_sha256(one, trained(one)[0])


def test_nothing_published_is_one_line(published: Path, tmp_path: Path) -> None:
    assert brought_back(study()) == {name: set() for name in PLACES}
    with pytest.raises(UserError, match=r"nowhere: no published runs to bring back; run the study instead"):
        bring_back(study(), tmp_path / "nowhere")
    config = tmp_path / "study.yaml"
    config.write_text(json.dumps(CONTENT))
    run = CliRunner().invoke(app, ["--config", str(config), "--published", "nowhere"])
    assert isinstance(run.exception, UserError)
    run = CliRunner().invoke(app, ["--config", str(config)])
    assert (run.exit_code, run.output) == (0, "5 published runs brought back to results/tiny; 6 runs in the study\n")
