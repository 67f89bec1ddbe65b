"""What tests of training share: a toy study in this process, and real processes of python -m nmnc."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nmnc.config import Study
from nmnc.data.dataset import Dataset, load_dataset
from nmnc.rule_kinds import RULES
from nmnc.settings import Dataset as DatasetConfig
from nmnc.training.trainer import Trainer

KINDS = sorted(set(RULES) - {"untrained"})
# Importing torch takes seconds, so one server process imports it once and forks a process for every command.
SERVER = """
import json, os, resource, runpy, sys, traceback
import nmnc.training.job, typer.core, yaml, torch._dynamo  # the last: torch.optim imports it when it is first used
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
        continue
    if "alive" in request:
        ended = os.waitid(os.P_PID, request["alive"], os.WEXITED | os.WNOHANG | os.WNOWAIT)
        print(int(ended is None), flush=True)
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

    def alive(self) -> bool:
        return self.ask({"alive": self.pid}).strip() == "1"

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        os.kill(self.pid, number)  # until it is waited for, its id stays its own
        return self.wait()


class Nmnc:
    """Starts commands in the folder of one test."""

    digested = frozenset({"epochs.csv", "alignment.csv", "timing.csv", "provenance.json"})
    files = digested | {"network.pt"}

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

    def write_study(self, **changes: Any) -> None:
        """study.yaml and data/toy.npz; changes lie over the sections."""
        (self.folder / "data").mkdir(exist_ok=True)
        np.savez(self.folder / "data" / "toy.npz", **self.images())
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
        (self.folder / "study.yaml").write_text(yaml.safe_dump(content))

    @staticmethod
    def images() -> dict[str, Any]:
        """Two classes, told by which half is brighter."""
        generator = np.random.default_rng(0)
        x = generator.integers(0, 256, (264, 8, 8), dtype=np.uint8)
        y = (x[:, :4].mean((1, 2)) > x[:, 4:].mean((1, 2))).astype(int)
        return {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}

    @staticmethod
    def train(rule: str = "nmnc", *more: str) -> tuple[str, ...]:
        """Arguments of a training."""
        return "train", "--config", "study.yaml", "--network", "net", "--rule", rule, *more

    def out(self, rule: str = "nmnc") -> Path:
        """Where a run writes to unless it is told otherwise."""
        return self.folder / "results" / "toy" / "networks" / "net" / rule / "seed0"

    @classmethod
    def results(cls, out: Path) -> list[Any]:
        """What must be the same, whatever happened on the way: both tables and the weights."""
        assert {path.name for path in out.iterdir()} == cls.files | {f"{name}.sha256" for name in cls.digested}
        tables = [(out / name).read_bytes() for name in ("epochs.csv", "alignment.csv")]
        return [*tables, json.loads((out / "provenance.json").read_text())["weights_sha256"]]

    def states(self) -> list[Path]:
        """The files that runs go on from."""
        return list((self.folder / "results" / "toy" / ".checkpoints").glob("*/state.pt"))

    def last_saved(self) -> int:
        """When the last state was saved, in ns."""
        return max((path.stat().st_mtime_ns for path in self.states()), default=0)


@pytest.fixture(scope="session")
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


class Toy:
    """A study of four noisy patterns of 8 x 8 pixels, trained in this process."""

    batch, n_images, epochs = 32, 200, 2
    steps_per_epoch = n_images // batch

    def __init__(self, data: Path) -> None:
        generator = np.random.default_rng(0)
        patterns = generator.integers(40, 216, (4, 8, 8))
        labels = generator.integers(0, 4, 264)
        images = (patterns[labels] + generator.normal(0, 30, (264, 8, 8))).clip(0, 255).astype(np.uint8)
        np.savez(
            data / "toy.npz", x_train=images[: self.n_images], y_train=labels[: self.n_images],
            x_test=images[self.n_images :], y_test=labels[self.n_images :],
        )  # fmt: skip
        self.data = data
        self.dataset: Dataset = load_dataset(DatasetConfig(name="toy.npz"), data)

    def study(self, results: Path = Path("absent"), **changes: Any) -> Study:
        """A study with every rule; `changes` replace whole sections or values within training and noise."""
        content: dict[str, Any] = {
            "study": "toy",
            "device": "cpu",
            "paths": {"data": self.data, "results": results},
            "dataset": {"name": "toy.npz"},
            "networks": {"net": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [8]}}},
            "rules": {kind: {"kind": kind} for kind in KINDS},
            "training": {"epochs": self.epochs, "batch_size": self.batch},
            "noise": {"dimensions": 4, "images": 4, "basis_images": 48, "basis_every": 5},
            "diagnostics": {"images": 32},
        }
        for section, value in changes.items():
            content[section] = content[section] | value if section in ("training", "noise") else value
        return Study(**content)

    def trainer(self, kind: str, seed: int = 0, **changes: Any) -> Trainer:
        """A run of that study on the CPU."""
        settings = self.study(**changes)
        return Trainer(self.dataset, settings.networks["net"], settings.run(kind), seed, torch.device("cpu"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))
