"""python -m nmnc as a user meets it: real processes, their exit status, their one line, their files.

Importing torch takes seconds, so one server process imports it once and forks a process for every command.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from nmnc.checkpoint import load_state
from nmnc.files import only_writer

FILES = {"network.pt", "epochs.csv", "alignment.csv", "timing.csv", "provenance.json"}
SERVER = """
import json, os, resource, runpy, sys, traceback
import nmnc.job, typer.core, yaml, torch._dynamo  # the last: torch.optim imports it when it is first used
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        os.chdir(request["folder"])
        said = os.open(request["said"], os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        if request["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"],) * 2)
        sys.argv = ["nmnc", *request["arguments"]]
        status = 0
        try:
            runpy.run_module("nmnc", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            status = traceback.print_exc() or 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # the interpreter's own end takes a second once torch is in it
    print(pid, flush=True)
"""


@dataclass
class Process:
    """A command on its way; the file `said` receives stdout and stderr."""

    pid: int
    said: Path
    ask: Callable[[dict[str, Any]], str]
    running: bool = True

    def wait(self) -> int:
        self.running = False
        return int(self.ask({"wait": self.pid}))

    def kill(self) -> int:
        os.kill(self.pid, signal.SIGKILL)  # until it is waited for, its id stays its own
        return self.wait()


class Nmnc:
    """Starts commands in the folder of one test."""

    def __init__(self, folder: Path, ask: Callable[[dict[str, Any]], str]) -> None:
        self.folder, self.ask = folder, ask
        self.started: list[Process] = []

    def start(self, *arguments: str, limit: int = 0) -> Process:
        """Start `python -m nmnc ARGUMENTS`; `limit`: bytes that a file may have, as on a disk that is nearly full."""
        said = self.folder.parent / f"{self.folder.name}.{len(self.started)}"
        request = {"folder": str(self.folder), "arguments": arguments, "limit": limit, "said": str(said)}
        self.started.append(Process(int(self.ask(request)), said, self.ask))
        return self.started[-1]

    def succeeds(self, *arguments: str) -> None:
        """Run a command that must end well and silently."""
        process = self.start(*arguments)
        assert (process.wait(), process.said.read_text()) == (0, "")

    def fails(self, *arguments: str, limit: int = 0) -> str:
        """Run a command that must fail with status 2 and one line, which is returned."""
        process = self.start(*arguments, limit=limit)
        status, line = process.wait(), process.said.read_text()
        assert status == 2, line
        assert line.startswith("nmnc: ")
        assert line.find("\n") == len(line) - 1
        return line


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[dict[str, Any]], str]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "NMNC_DATA": ""}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def ask(request: dict[str, Any]) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps(request), file=process.stdin, flush=True)
            return process.stdout.readline()

        yield ask


@pytest.fixture
def nmnc(tmp_path: Path, server: Callable[[dict[str, Any]], str]) -> Iterator[Nmnc]:
    commands = Nmnc(tmp_path, server)
    yield commands
    for process in commands.started:
        if process.running:
            process.kill()


def images() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (264, 8, 8), dtype=np.uint8)
    y = (x[:, :4].mean((1, 2)) > x[:, 4:].mean((1, 2))).astype(int)
    return {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}


def write_study(folder: Path, **changes: Any) -> None:
    """study.yaml and data/toy.npz in `folder`; changes lie over the sections."""
    (folder / "data").mkdir(exist_ok=True)
    np.savez(folder / "data" / "toy.npz", **images())
    content: dict[str, Any] = {
        "study": "toy",
        "device": "cpu",
        "dataset": {"name": "toy.npz"},
        "networks": {"net": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [8]}}},
        "rules": {kind: {"kind": kind} for kind in ("backprop", "nmnc")},
        "training": {"epochs": 2, "batch_size": 32},
        "noise": {"dimensions": 4, "images": 4, "basis_images": 48, "basis_every": 4},
        "diagnostics": {"images": 32},
    }
    for section, values in changes.items():
        content[section] = content.get(section, {}) | values if isinstance(values, dict) else values
    (folder / "study.yaml").write_text(yaml.safe_dump(content))


CHECK = ("check", "--config", "study.yaml")


def train(rule: str = "nmnc", *more: str) -> tuple[str, ...]:
    return "train", "--config", "study.yaml", "--network", "net", "--rule", rule, *more


def out_of(folder: Path, rule: str = "nmnc") -> Path:
    return folder / "results" / "toy" / "networks" / "net" / rule / "seed0"


def results(out: Path) -> list[Any]:
    """What must be the same, whatever happened on the way: both tables and the weights."""
    assert {path.name for path in out.iterdir()} == FILES
    tables = [(out / name).read_bytes() for name in ("epochs.csv", "alignment.csv")]
    return [*tables, json.loads((out / "provenance.json").read_text())["weights_sha256"]]


def state_files(folder: Path) -> list[Path]:
    return list((folder / "results" / "toy" / ".checkpoints").glob("*/state.pt"))


def last_epoch(folder: Path) -> int:
    """When the last state was saved, in ns."""
    return max((path.stat().st_mtime_ns for path in state_files(folder)), default=0)


# Mistakes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainings": 1}, ["study.yaml: trainings: unknown key; did you mean 'training'?"]),
        ({"training": {"epoch": 1}}, ["study.yaml: training.epoch: unknown key; did you mean 'epochs'?"]),
        ({"training": {"epochs": -1}}, ["study.yaml: training.epochs: ", "greater than or equal to 0 (got -1)"]),
        ({"rules": {"nmnc": {"kind": "nmcn"}}}, ["rules.nmnc on networks.net", "'nmcn'; did you mean 'nmnc'?"]),
        ({"networks": {"net": {"kind": "convnte"}}}, ["study.yaml: ", "'convnte'", "did you mean 'convnet'?"]),
        ({"networks": {"net": {"kind": "mlp", "arguments": {"hiden": []}}}}, ["'hiden'; did you mean 'hidden'?"]),
        ({"networks": {"net": {"kind": "none:net"}}}, ["No module named 'none'", "PYTHONPATH"]),
        ({"noise": {"dimensions": 9}}, ["rules.nmnc on networks.net", "noise.dimensions 9 exceeds the 8 units", "fc1"]),
        ({"dataset": {"name": "absent/toy.npz"}}, ["dataset absent/toy.npz: no such file or folder", "nor in data;"]),
        ({"dataset": {"name": "digitz"}}, ["unknown name 'digitz'; did you mean 'digits'?"]),
        ({"paths": {"data": "nowhere"}}, ["dataset toy.npz: no such file", "nor in nowhere; mend dataset.name"]),
    ],
)
def test_mistakes_in_a_study_are_found_by_check(nmnc: Nmnc, changes: dict[str, Any], words: list[str]) -> None:
    write_study(nmnc.folder, **changes)
    line = nmnc.fails(*CHECK)
    assert "study.yaml" in line
    assert all(word in line for word in words), line
    nmnc.fails(*train())  # and no run starts
    assert not list(nmnc.folder.glob("results/*/networks"))


def test_mistakes_on_the_command_line(nmnc: Nmnc) -> None:
    write_study(nmnc.folder)
    assert "absent.yaml: cannot be read (No such file" in nmnc.fails("check", "--config", "absent.yaml")
    assert "data: cannot be read (Is a directory)" in nmnc.fails("check", "--config", "data")
    assert "unknown rule 'nmcn'; did you mean 'nmnc'?" in nmnc.fails(*train("nmcn"))
    wrong = ("train", "--config", "study.yaml", "--network", "nett", "--rule", "nmnc")
    assert "unknown network 'nett'; did you mean 'net'?" in nmnc.fails(*wrong)
    for arguments in (("trian",), train("nmnc", "--seed", "-1"), ("train", "--config", "study.yaml"), ()):
        process = nmnc.start(*arguments)
        assert process.wait() == 2
        assert "Usage: " in (text := process.said.read_text())
        assert "Traceback" not in text
    assert sorted(path.name for path in nmnc.folder.iterdir()) == ["data", "study.yaml"]


def test_an_interpreter_of_its_own_does_the_same(nmnc: Nmnc) -> None:
    def real(*arguments: str) -> tuple[int, str, str]:
        run = subprocess.run(
            [sys.executable, "-m", "nmnc", *arguments], cwd=nmnc.folder, capture_output=True, text=True, check=False,
            env=os.environ | {"NMNC_DATA": ""},
        )  # fmt: skip
        return run.returncode, run.stdout, run.stderr

    line = "nmnc: absent.yaml: cannot be read (No such file or directory); give a YAML file of config/\n"
    assert real("check", "--config", "absent.yaml") == (2, "", line)
    write_study(nmnc.folder)
    assert real(*train("nmnc", "--out", "real")) == (0, "", "")
    state_files(nmnc.folder)[0].unlink()
    nmnc.succeeds(*train())
    assert results(out_of(nmnc.folder)) == results(nmnc.folder / "real")


@pytest.mark.parametrize("length", [0, 1000, -1])
def test_a_truncated_data_file(nmnc: Nmnc, length: int) -> None:
    write_study(nmnc.folder)
    file = nmnc.folder / "data" / "toy.npz"
    file.write_bytes(file.read_bytes()[:length])
    for arguments in (CHECK, train(), ("fetch", "--config", "study.yaml", "--out", "facts.json")):
        assert "data/toy.npz: truncated or not an .npz file" in nmnc.fails(*arguments)
    assert sorted(path.name for path in nmnc.folder.iterdir()) == ["data", "study.yaml"]


def test_divergence_names_step_and_layer_and_publishes_nothing(nmnc: Nmnc) -> None:
    write_study(nmnc.folder, training={"learning_rate": 1e30, "clip_norm": None})
    for rule in ("backprop", "nmnc"):
        line = nmnc.fails(*train(rule))
        assert "training: the gradient became NaN or infinite at step 1 in layer conv1; lower" in line
    assert not (nmnc.folder / "results" / "toy" / "networks").exists()


@pytest.mark.parametrize("place", ["results", "results/toy/networks/net/nmnc", "results/toy/.checkpoints"])
def test_a_file_where_a_folder_must_be(nmnc: Nmnc, place: str) -> None:
    write_study(nmnc.folder)
    (nmnc.folder / place).parent.mkdir(parents=True, exist_ok=True)
    (nmnc.folder / place).write_text("mine")
    line = nmnc.fails(*train())
    assert place in line
    assert "mend that and run the same command again" in line
    (nmnc.folder / place).unlink()
    nmnc.succeeds(*train())


# Two at once, full disks, kills


def test_a_second_process_is_refused_or_waits(nmnc: Nmnc) -> None:
    write_study(nmnc.folder)
    nmnc.succeeds(*train("nmnc", "--out", "undisturbed"))
    (state,) = state_files(nmnc.folder)
    state.unlink()
    with only_writer(state.parent, 0):
        line = nmnc.fails(*train())
        assert f"another process is training in {state.parent.relative_to(nmnc.folder)}; wait for it" in line
        nmnc.succeeds(*train("backprop"))  # another run is free
        patient = nmnc.start(*train("nmnc", "--wait", "60"))
        time.sleep(0.3)
        assert not out_of(nmnc.folder).exists()
    assert patient.wait() == 0
    assert results(out_of(nmnc.folder)) == results(nmnc.folder / "undisturbed")


def test_a_disk_that_is_full_when_an_epoch_is_saved(nmnc: Nmnc) -> None:
    write_study(nmnc.folder, training={"epochs": 5})
    train_it = train("backprop")
    assert "state.pt: File too large; mend that and run the same command again" in nmnc.fails(*train_it, limit=2000)
    assert {path.name for path in (nmnc.folder / "results").rglob("*") if path.is_file()} == {"lock"}
    nmnc.succeeds(*train_it, "--out", "undisturbed")
    (state,) = state_files(nmnc.folder)
    limit = state.stat().st_size - 1  # the state grows with every epoch: only the last one does not fit
    state.unlink()
    for _ in range(2):
        assert "state.pt: File too large" in nmnc.fails(*train_it, limit=limit)
        saved = load_state(state)
        assert saved is not None
        assert saved["epochs"][-1]["epoch"] == 4  # what was finished is there, and stays
        assert {path.name for path in state.parent.iterdir()} == {"lock", "state.pt"}
        assert not out_of(nmnc.folder, "backprop").exists()
    nmnc.succeeds(*train_it)
    assert results(out_of(nmnc.folder, "backprop")) == results(nmnc.folder / "undisturbed")


def test_a_disk_that_is_full_when_results_are_written(nmnc: Nmnc) -> None:
    write_study(nmnc.folder)
    nmnc.succeeds(*train())
    out, (state,) = out_of(nmnc.folder), state_files(nmnc.folder)
    finished, sizes = results(out), {path.name: path.stat().st_size for path in out.iterdir()}
    stamp = state.stat().st_mtime_ns
    assert sizes["alignment.csv"] < sizes["provenance.json"] < sizes["network.pt"]
    for folder, missing, left in (
        ("new", "alignment.csv", {"epochs.csv"}),
        ("newer", "network.pt", FILES - {"network.pt"}),
        (str(out), "alignment.csv", FILES - {"network.pt"}),  # a finished run is written again
    ):
        again = train("nmnc", "--out", folder)
        assert f"{folder}/{missing}: File too large; mend that" in nmnc.fails(*again, limit=sizes[missing] - 1)
        assert {path.name for path in (nmnc.folder / folder).iterdir()} == left  # where network.pt is, all is
        nmnc.succeeds(*again)
        assert results(nmnc.folder / folder) == finished
    assert state.stat().st_mtime_ns == stamp  # no epoch was trained again


@pytest.mark.parametrize("rule", ["nmnc", "backprop"])
def test_a_run_killed_again_and_again_ends_in_the_same_bytes(nmnc: Nmnc, rule: str) -> None:
    arguments = {"channels": [4], "hidden": [8], "batch_norm": True, "dropout": 0.2}
    write_study(nmnc.folder, networks={"net": {"kind": "convnet", "arguments": arguments}}, training={"epochs": 40})
    nmnc.succeeds(*train(rule, "--out", "undisturbed"))
    pace = json.loads((nmnc.folder / "undisturbed" / "provenance.json").read_text())["seconds"] / 40
    (state,) = state_files(nmnc.folder)
    state.unlink()
    moments, killed = random.Random(rule), 0
    for _ in range(6):
        before, process = last_epoch(nmnc.folder), nmnc.start(*train(rule))
        while last_epoch(nmnc.folder) == before and not (out_of(nmnc.folder, rule) / "network.pt").exists():
            time.sleep(0.002)  # one more epoch, so that the end is reached
        time.sleep(moments.uniform(0, 2 * pace))
        killed += process.kill() == -signal.SIGKILL
    assert killed >= 3
    nmnc.succeeds(*train(rule))
    assert results(out_of(nmnc.folder, rule)) == results(nmnc.folder / "undisturbed")
    assert {path.name for path in state.parent.iterdir()} == {"lock", "state.pt"}


# Your own network, your own images

OWN = """
from torch import nn

def seven(shape, classes):
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), nn.Linear(6, 7))

def small(shape, classes, width):
    body = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.ReLU())
    return nn.Sequential(body, nn.Linear(width, classes))
"""


def write_image_folder(folder: Path) -> None:
    for part in ("train", "test"):
        arrays = images()
        for number, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            place = folder / part / ("dark", "light")[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number}.png")


@pytest.mark.parametrize("dataset", ["toy.npz", "pictures"])
def test_train_on_your_own(nmnc: Nmnc, dataset: str) -> None:
    (nmnc.folder / "mine.py").write_text(OWN)
    own = {"networks": {"net": {"kind": "mine:small", "arguments": {"width": 12}}}, "dataset": {"name": dataset}}
    write_image_folder(nmnc.folder / "data" / "pictures")
    write_study(nmnc.folder, networks={"net": {"kind": "mine:seven"}})
    assert all("7 outputs for 2 classes; mend" in nmnc.fails(*arguments) for arguments in (CHECK, train()))
    write_study(nmnc.folder, **own)
    nmnc.succeeds(*CHECK)
    nmnc.succeeds("fetch", "--config", "study.yaml", "--out", "facts.json")
    facts = json.loads((nmnc.folder / "facts.json").read_text())
    assert (facts["n_train"], facts["n_test"], facts["classes"]) == (200, 64, 2)
    assert facts["preprocessing"]["channels"] == (1 if dataset == "toy.npz" else 3)
    for rule in ("nmnc", "untrained"):
        nmnc.succeeds(*train(rule))
        results(out_of(nmnc.folder, rule))
    with (out_of(nmnc.folder) / "alignment.csv").open() as file:
        assert {(row["layer"], row["n"]) for row in csv.DictReader(file)} == {("0", "12")}
    provenance = json.loads((out_of(nmnc.folder) / "provenance.json").read_text())
    assert provenance["dataset"]["sha256"] == facts["sha256"]
    nmnc.succeeds("runs", "--config", "study.yaml", "--out", "tables/runs.csv")
    with (nmnc.folder / "tables" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rule"] for row in rows if row["network"] == "net"] == ["backprop", "nmnc", "untrained"]
