"""python -m nmnc as a user meets it: real processes, their exit status, their one line, their files."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nmnc.files.writing import only_writer
from nmnc.training.checkpoint import load_state

CHECK = ("check", "--config", "study.yaml")


# Mistakes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainings": 1}, ["study.yaml: trainings: unknown key; did you mean 'training'?"]),
        ({"training": {"epoch": 1}}, ["study.yaml: training.epoch: unknown key; did you mean 'epochs'?"]),
        ({"training": {"epochs": -1}}, ["study.yaml: training.epochs: ", "greater than or equal to 0 (got -1)"]),
        ({"rules": {"nmnc": {"kind": "nmcn"}}}, ["rules.nmnc.kind", "'nmcn'; did you mean 'nmnc'?"]),
        ({"networks": {"net": {"kind": "convnte"}}}, ["study.yaml: ", "'convnte'", "did you mean 'convnet'?"]),
        ({"networks": {"net": {"kind": "mlp", "arguments": {"hiden": []}}}}, ["'hiden'; did you mean 'hidden'?"]),
        ({"networks": {"net": {"kind": "none:net"}}}, ["No module named 'none'", "PYTHONPATH"]),
        (
            {"training": {"batch_size": 201}},
            ["rules.backprop: training.batch_size 201 exceeds the 200 training"],
        ),
        (
            {"networks": {"net": {"kind": "mlp", "arguments": {"hidden": [10**6, 10**6]}}}},
            [
                "weights on 32 images a step:",
                "GB of memory needed",
                "smaller network",
            ],
        ),
        (
            {"rules": {"nmnc": {"kind": "random_subspace", "noise": {"feedback": "layerwise"}}}},
            [
                "rules.nmnc on networks.net: ",
                "noise.feedback layerwise works only with the rules vnc, nmnc; set noise.feedback to factored or full "
                "for random_subspace",
            ],
        ),
        ({"dataset": {"name": "absent/toy.npz"}}, ["dataset absent/toy.npz: no such file or folder", "nor in data;"]),
        ({"dataset": {"name": "digitz"}}, ["unknown name 'digitz'; did you mean 'digits'?"]),
        ({"paths": {"data": "nowhere"}}, ["dataset toy.npz: no such file", "nor in nowhere; fix dataset.name"]),
    ],
)
def test_mistakes_in_a_study_are_found_by_check(nmnc: Any, changes: dict[str, Any], words: list[str]) -> None:
    nmnc.write_study(**changes)
    line = nmnc.fails(*CHECK)
    assert "study.yaml" in line
    assert all(word in line for word in words), line
    nmnc.fails(*nmnc.train())  # and no run starts
    assert not list(nmnc.folder.glob("results/*/networks"))


def test_settings_alone_are_checked_without_data_or_networks(nmnc: Any) -> None:
    nmnc.write_study(dataset={"name": "absent.npz"}, networks={"net": {"kind": "none:net"}})
    nmnc.succeeds(*CHECK, "--settings")
    nmnc.write_study(threads=0)
    assert "study.yaml: threads: " in nmnc.fails(*CHECK, "--settings")


def test_mistakes_on_the_command_line(nmnc: Any) -> None:
    nmnc.write_study()
    assert "absent.yaml: cannot be read (No such file" in nmnc.fails("check", "--config", "absent.yaml")
    assert "data: cannot be read (Is a directory)" in nmnc.fails("check", "--config", "data")
    assert "unknown rule 'nmcn'; did you mean 'nmnc'?" in nmnc.fails(*nmnc.train("nmcn"))
    wrong = ("train", "--config", "study.yaml", "--network", "nett", "--rule", "nmnc")
    assert "unknown network 'nett'; did you mean 'net'?" in nmnc.fails(*wrong)
    for arguments in (("trian",), nmnc.train("nmnc", "--seed", "-1"), ("train", "--config", "study.yaml"), ()):
        process = nmnc.start(*arguments)
        assert process.wait() == 2
        assert "Usage: " in (text := process.said.read_text())
        assert "Traceback" not in text
    assert sorted(path.name for path in nmnc.folder.iterdir()) == ["data", "study.yaml"]


@pytest.mark.slow
def test_an_interpreter_of_its_own_does_the_same(nmnc: Any) -> None:
    def real(*arguments: str) -> tuple[int, str, str]:
        run = subprocess.run(
            [sys.executable, "-m", "nmnc", *arguments], cwd=nmnc.folder, capture_output=True, text=True, check=False,
            env=os.environ | {"NMNC_DATA": ""},
        )  # fmt: skip
        return run.returncode, run.stdout, run.stderr

    line = "nmnc: absent.yaml: cannot be read (No such file or directory); give a YAML file of config/\n"
    assert real("check", "--config", "absent.yaml") == (2, "", line)
    nmnc.write_study()
    assert real(*nmnc.train("nmnc", "--out", "real")) == (0, "", "")
    nmnc.states()[0].unlink()
    nmnc.succeeds(*nmnc.train())
    assert nmnc.results(nmnc.out()) == nmnc.results(nmnc.folder / "real")


@pytest.mark.parametrize("length", [0, 1000, -1])
def test_a_truncated_data_file(nmnc: Any, length: int) -> None:
    nmnc.write_study()
    file = nmnc.folder / "data" / "toy.npz"
    file.write_bytes(file.read_bytes()[:length])
    for arguments in (CHECK, nmnc.train(), ("fetch", "--config", "study.yaml", "--out", "facts.json")):
        assert "data/toy.npz: truncated or not an .npz file" in nmnc.fails(*arguments)
    assert sorted(path.name for path in nmnc.folder.iterdir()) == ["data", "study.yaml"]


def test_divergence_names_step_and_layer_and_publishes_nothing(nmnc: Any) -> None:
    nmnc.write_study(training={"learning_rate": 1e30, "clip_norm": None})
    for rule in ("backprop", "nmnc"):
        line = nmnc.fails(*nmnc.train(rule))
        assert "training: the activity became NaN or infinite at step 1 in layer fc1; lower" in line
    assert not (nmnc.folder / "results" / "toy" / "networks").exists()


@pytest.mark.parametrize("place", ["results", "results/toy/networks/net/nmnc", "results/toy/.checkpoints"])
def test_a_file_where_a_folder_must_be(nmnc: Any, place: str) -> None:
    nmnc.write_study()
    (nmnc.folder / place).parent.mkdir(parents=True, exist_ok=True)
    (nmnc.folder / place).write_text("mine")
    line = nmnc.fails(*nmnc.train())
    assert place in line
    assert "fix that and run the same command again" in line
    (nmnc.folder / place).unlink()
    nmnc.succeeds(*nmnc.train())


# Two at once, full disks, kills


def test_a_second_process_is_refused_or_waits(nmnc: Any) -> None:
    nmnc.write_study()
    nmnc.succeeds(*nmnc.train("nmnc", "--out", "undisturbed"))
    (state,) = nmnc.states()
    state.unlink()
    with only_writer(state.parent, 0):
        line = nmnc.fails(*nmnc.train())
        assert f"another process is training in {state.parent.relative_to(nmnc.folder)}; wait for it" in line
        nmnc.succeeds(*nmnc.train("backprop"))  # another run is free
        patient = nmnc.start(*nmnc.train("nmnc", "--wait", "600"))
        time.sleep(0.3)
        assert not nmnc.out().exists()
    assert patient.wait() == 0
    assert nmnc.results(nmnc.out()) == nmnc.results(nmnc.folder / "undisturbed")


def test_a_disk_that_is_full_when_an_epoch_is_saved(nmnc: Any) -> None:
    nmnc.write_study(training={"epochs": 5})
    train_it = nmnc.train("backprop")
    assert "state.pt: File too large; make room there" in nmnc.fails(*train_it, limit=2000)
    assert {path.name for path in (nmnc.folder / "results").rglob("*") if path.is_file()} == {"lock"}
    nmnc.succeeds(*train_it, "--out", "undisturbed")
    (state,) = nmnc.states()
    limit = state.stat().st_size - 1  # the state grows with every epoch: only the last one does not fit
    state.unlink()
    for _ in range(2):
        assert "state.pt: File too large" in nmnc.fails(*train_it, limit=limit)
        saved = load_state(state)
        assert saved is not None
        assert saved["epochs"][-1]["epoch"] == 4  # what was finished is there, and stays
        assert {path.name for path in state.parent.iterdir()} == {"lock", "state.pt"}
        assert not nmnc.out("backprop").exists()
    nmnc.succeeds(*train_it)
    assert nmnc.results(nmnc.out("backprop")) == nmnc.results(nmnc.folder / "undisturbed")


def test_a_disk_that_is_full_when_results_are_written(nmnc: Any) -> None:
    nmnc.write_study()
    nmnc.succeeds(*nmnc.train())
    out, (state,) = nmnc.out(), nmnc.states()
    finished, sizes = nmnc.results(out), {path.name: path.stat().st_size for path in out.iterdir()}
    stamp = state.stat().st_mtime_ns
    whole = {*nmnc.digested, *(f"{name}.sha256" for name in nmnc.digested)}
    for folder, missing, left in (
        ("new", "provenance.json", set()),
        ("newer", "network.pt", whole),
        (str(out), "network.pt", whole),  # over the files of another run
    ):
        if folder == str(out):
            (out / "provenance.json").write_text("{}")
        again = nmnc.train("nmnc", "--out", folder)
        assert f"{folder}/{missing}: File too large; make room there" in nmnc.fails(*again, limit=sizes[missing] - 1)
        assert {path.name for path in (nmnc.folder / folder).glob("*")} == left  # where network.pt is, all is
        nmnc.succeeds(*again)
        assert nmnc.results(nmnc.folder / folder) == finished
    assert state.stat().st_mtime_ns == stamp  # no epoch was trained again


def test_a_folder_of_the_users_keeps_what_is_in_it(nmnc: Any) -> None:
    nmnc.write_study()
    mine = nmnc.folder / "mine"
    mine.mkdir()
    for name in (".x.part", "notes.txt", "lock"):
        (mine / name).write_text("mine")
    (mine / "epochs.csv").write_text("my own table")
    assert "mine/epochs.csv: belongs to another run, or is a file of yours" in nmnc.fails(
        *nmnc.train("nmnc", "--out", "mine")
    )
    (mine / "epochs.csv").unlink()
    nmnc.succeeds(*nmnc.train("nmnc", "--out", "mine"))
    assert {(mine / name).read_text() for name in (".x.part", "notes.txt", "lock")} == {"mine"}
    finished = {path.name: path.read_bytes() for path in mine.iterdir()}
    assert "mine/provenance.json: belongs to another run" in nmnc.fails(*nmnc.train("backprop", "--out", "mine"))
    nmnc.succeeds(*nmnc.train("nmnc", "--out", "mine"))  # the same run may be asked for again
    nmnc.write_study(training={"epochs": 3})
    assert "mine/provenance.json: belongs to another run" in nmnc.fails(*nmnc.train("nmnc", "--out", "mine"))
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == finished


def test_two_runs_never_write_to_one_folder(nmnc: Any) -> None:
    nmnc.write_study(training={"epochs": 100_000})
    first = nmnc.start(*nmnc.train("nmnc", "--out", "shared"))
    while not nmnc.states() and first.alive():
        time.sleep(0.01)
    assert "another process is writing to shared; wait for it" in nmnc.fails(*nmnc.train("backprop", "--out", "shared"))
    first.kill()
    nmnc.write_study()
    nmnc.succeeds(*nmnc.train("backprop", "--out", "shared"))


@pytest.mark.parametrize("code", ["0", "None", "3", "'words'"])
def test_a_network_that_ends_the_process_is_refused(nmnc: Any, code: str) -> None:
    ending = OWN.replace("return nn.Sequential(body", f"raise SystemExit({code})\n    return nn.Sequential(body")
    (nmnc.folder / "mine.py").write_text(ending)
    nmnc.write_study(networks={"net": {"kind": "mine:small", "arguments": {"width": 12}}})
    for arguments in (CHECK, nmnc.train()):
        nmnc.fails(*arguments)


# Your own network, your own images

OWN = """
from torch import nn

def seven(shape, classes):
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), nn.Linear(6, 7))

def small(shape, classes, width):
    body = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.ReLU())
    return nn.Sequential(body, nn.Linear(width, classes))
"""


def write_image_folder(nmnc: Any, folder: Path) -> None:
    for part in ("train", "test"):
        arrays = nmnc.images()
        for number, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            place = folder / part / ("dark", "light")[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number}.png")


@pytest.mark.parametrize("dataset", ["toy.npz", "pictures"])
def test_train_on_your_own(nmnc: Any, dataset: str) -> None:
    (nmnc.folder / "mine.py").write_text(OWN)
    own = {"networks": {"net": {"kind": "mine:small", "arguments": {"width": 12}}}, "dataset": {"name": dataset}}
    write_image_folder(nmnc, nmnc.folder / "data" / "pictures")
    nmnc.write_study(networks={"net": {"kind": "mine:seven"}})
    assert all("7 outputs for 2 classes; fix" in nmnc.fails(*arguments) for arguments in (CHECK, nmnc.train()))
    nmnc.write_study(**own)
    nmnc.succeeds(*CHECK)
    nmnc.succeeds("fetch", "--config", "study.yaml", "--out", "facts.json")
    facts = json.loads((nmnc.folder / "facts.json").read_text())
    assert (facts["n_train"], facts["n_test"], facts["classes"]) == (200, 64, 2)
    assert facts["preprocessing"]["channels"] == (1 if dataset == "toy.npz" else 3)
    for rule in ("nmnc", "untrained"):
        nmnc.succeeds(*nmnc.train(rule))
        nmnc.results(nmnc.out(rule))
    with (nmnc.out() / "alignment.csv").open() as file:
        assert {(row["layer"], row["n"]) for row in csv.DictReader(file)} == {("0", "12")}
    provenance = json.loads((nmnc.out() / "provenance.json").read_text())
    assert provenance["dataset"]["sha256"] == facts["sha256"]
    nmnc.succeeds("runs", "--config", "study.yaml", "--out", "tables/runs.csv")
    with (nmnc.folder / "tables" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rule"] for row in rows if row["network"] == "net"] == ["backprop", "nmnc", "untrained"]
