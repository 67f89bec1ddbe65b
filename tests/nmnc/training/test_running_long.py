"""Runs that are ended at any moment, by a signal, by kill -9 or by a full memory: the same command ends the same."""

import io
import itertools
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmnc.errors import UserError
from nmnc.files.writing import only_writer
from nmnc.interruption import Interrupted, Interruption, interruptible
from nmnc.rule_kinds import RULES
from nmnc.training.checkpoint import load_state
from nmnc.training.trainer import Trainer

KINDS = sorted(set(RULES) - {"untrained"})
HARD = {
    "networks": {
        "net": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [8], "batch_norm": True, "dropout": 0.2}}
    },
    "training": {"optimiser": "adam", "learning_rate": 0.01, "schedule": "cosine", "augmentation": "crop_flip"},
}
VARIANTS = [
    *((kind, {}) for kind in KINDS),
    ("nmnc", {"feedback": "full"}),
    ("nmnc", {"feedback": "layerwise"}),
    ("vnc", {"feedback": "layerwise", "learning": "prediction_error"}),
    *(
        (kind, {"learning": "prediction_error", "draws": draws})
        for kind, draws in (
            ("nmnc", "orthogonal"),
            ("vnc", "orthogonal"),
            ("spectral", "orthogonal"),
            ("weight_mirror", "independent"),
        )
    ),
    ("nmnc", {"mean_direction": True, "estimator": "one_sided", "refresh_every": 3}),
]


def end_of(run: Trainer) -> tuple[list[Tensor], Any, Any]:
    return [tensor.clone() for tensor in run.network.state_dict().values()], run.epochs, run.alignment


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(map(torch.equal, one[0], other[0])) and one[1:] == other[1:]


def interrupted_after(run: Trainer, steps: int, file: Path) -> None:
    """Train until so many steps are made over all, then be interrupted as by SIGTERM."""
    interruption, step = Interruption(), run._step

    def spy(*batch: Tensor) -> Tensor:
        loss = step(*batch)
        if run.step == steps:
            interruption.number = signal.SIGTERM
        return loss

    run._step = spy  # type: ignore[assignment, method-assign]
    with pytest.raises(
        Interrupted, match=rf"stopped by SIGTERM at step {steps} of {run.steps}; run the same"
    ) as caught:
        run.train(file, interruption)
    assert caught.value.status == 143
    assert run.step == steps  # the step was finished, and none begun


# In one process: every step


@pytest.mark.parametrize(("kind", "noise"), VARIANTS)
def test_a_run_interrupted_after_any_step_ends_in_the_same_bits(
    toy: Any, tmp_path: Path, kind: str, noise: dict[str, Any]
) -> None:
    def trainer() -> Trainer:
        return toy.trainer(kind, noise=noise, **HARD)

    whole = trainer()
    whole.train(tmp_path / "whole.pt")
    total, moments = toy.epochs * toy.steps_per_epoch, random.Random(f"{kind}{noise}")
    for moment in {*moments.sample(range(1, total), 4), toy.steps_per_epoch, total}:
        file = tmp_path / f"{moment}.pt"
        interrupted_after(trainer(), moment, file)
        torch.manual_seed(moment)  # whatever the new process has drawn before
        rest = trainer()
        rest.train(file)
        assert same(end_of(rest), end_of(whole)), moment


@pytest.mark.parametrize("kind", ["backprop", "nmnc"])
def test_a_state_after_every_step_changes_nothing(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    written: list[int] = []
    monkeypatch.setattr("nmnc.training.resume.save_state", lambda path, state: written.append(state["step"]))
    rare, often = toy.trainer(kind), toy.trainer(kind, training={"checkpoint_minutes": 1e-9})
    rare.train(tmp_path / "rare.pt")
    assert written == [6, 12]  # the ends of the epochs
    written.clear()
    often.train(tmp_path / "often.pt")
    assert written == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]
    assert same(end_of(rare), end_of(often))
    never = toy.trainer(kind, training={"checkpoint_minutes": None})
    written.clear()
    never.train(tmp_path / "never.pt")
    assert written == [6, 12]


def test_minutes_are_counted_from_the_last_state(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = [0.0], []
    monkeypatch.setattr("nmnc.training.resume.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("nmnc.training.resume.save_state", lambda path, state: written.append(state["step"]))
    run = toy.trainer("backprop", training={"checkpoint_minutes": 2})
    step = run._step

    def slow(*batch: Tensor) -> Tensor:
        clock[0] += 50  # seconds
        return step(*batch)

    monkeypatch.setattr(run, "_step", slow)
    run.train(tmp_path / "state.pt")
    assert written == [3, 6, 6, 9, 12, 12]


def test_a_bad_state_is_never_written(toy: Any, tmp_path: Path) -> None:
    run = toy.trainer("backprop", training={"checkpoint_minutes": 1e-9, "learning_rate": 1e30, "clip_norm": None})
    with pytest.raises(UserError, match="NaN or infinite"):
        run.train(tmp_path / "state.pt")
    state = load_state(tmp_path / "state.pt")
    assert state is None or all(value.isfinite().all() for value in state["network"].values())


# Signals


def test_the_first_signal_is_remembered_and_the_second_one_ends() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with interruptible() as interruption:
        assert interruption.number is None
        signal.raise_signal(signal.SIGINT)
        assert interruption.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


LINE = r"nmnc: training: stopped by {} at step \d+ of \d+; run the same command to resume\n"


def wait_for_training(nmnc: Any, process: Any, before: int) -> None:
    """Wait until a process has written a state later than `before`, or has ended."""
    while nmnc.last_saved() == before and process.alive():
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_its_status_and_one_line(nmnc: Any, number: signal.Signals) -> None:
    nmnc.write_study(training={"epochs": 100_000})
    process = nmnc.start(*nmnc.train("backprop"))
    wait_for_training(nmnc, process, 0)
    assert process.kill(number) == 128 + number
    assert re.fullmatch(LINE.format(number.name), process.said.read_text())
    (file,) = nmnc.states()
    assert {path.name for path in file.parent.iterdir()} == {"lock", "state.pt"}
    assert not (nmnc.folder / "results" / "toy" / "networks").exists()


def test_a_process_that_waits_for_another_is_ended_at_once(nmnc: Any) -> None:
    nmnc.write_study()
    nmnc.succeeds(*nmnc.train())
    (file,) = nmnc.states()
    with only_writer(file.parent, 0):
        process = nmnc.start(*nmnc.train("nmnc", "--wait", "600"))
        time.sleep(0.5)
        assert process.kill(signal.SIGTERM) == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["nmnc", "backprop"])
def test_a_run_ended_again_and_again_ends_in_the_same_bytes(nmnc: Any, rule: str) -> None:
    training = HARD["training"] | {"epochs": 25, "checkpoint_minutes": 1e-4}
    nmnc.write_study(networks=HARD["networks"], training=training)
    nmnc.succeeds(*nmnc.train(rule, "--out", "undisturbed"))
    (file,) = nmnc.states()
    file.unlink()
    moments, ended, within = random.Random(rule), 0, 0
    for number in itertools.islice(itertools.cycle([signal.SIGKILL, signal.SIGTERM]), 100):
        if ended >= 3 and within >= 1:
            break
        if nmnc.out(rule).exists():  # a busy machine: the signal came after the end
            assert nmnc.results(nmnc.out(rule)) == nmnc.results(nmnc.folder / "undisturbed")
            shutil.rmtree(nmnc.out(rule))
            file.unlink()
        process = nmnc.start(*nmnc.train(rule))
        wait_for_training(nmnc, process, nmnc.last_saved())  # so that the end is reached
        time.sleep(moments.uniform(0, 0.05))
        status = process.kill(number)
        ended += status == (-number if number == signal.SIGKILL else 128 + number)
        assert status in (0, -signal.SIGKILL, 128 + signal.SIGTERM), process.said.read_text()
        state = load_state(file)
        within += state is not None and state["step"] % 6 != 0
    assert ended >= 3
    assert within >= 1  # epochs have 6 steps: some states are from the middle of one
    nmnc.succeeds(*nmnc.train(rule))
    assert nmnc.results(nmnc.out(rule)) == nmnc.results(nmnc.folder / "undisturbed")
    assert {path.name for path in file.parent.iterdir()} == {"lock", "state.pt"}


# Never two writers


def test_of_many_equal_commands_one_trains(nmnc: Any) -> None:
    nmnc.write_study(training={"epochs": 15})
    started = [nmnc.start(*nmnc.train()) for _ in range(4)]
    statuses = [process.wait() for process in started]
    assert 0 in statuses
    for process, status in zip(started, statuses, strict=True):
        said = process.said.read_text()
        assert (status, said) == (0, "") or (status == 2 and "another process is training in" in said)
    one = nmnc.results(nmnc.out())
    nmnc.succeeds(*nmnc.train("nmnc", "--out", "again"))
    assert nmnc.results(nmnc.folder / "again") == one


def test_an_edited_study_waits_for_the_run_it_was_edited_under(nmnc: Any) -> None:
    nmnc.write_study(training={"epochs": 100_000})
    old = nmnc.start(*nmnc.train())
    wait_for_training(nmnc, old, 0)
    nmnc.write_study()
    assert "another process is training in" in nmnc.fails(*nmnc.train())
    patient = nmnc.start(*nmnc.train("nmnc", "--wait", "600"))
    time.sleep(0.3)
    assert not nmnc.out().exists()
    assert old.kill() == -signal.SIGKILL
    assert patient.wait() == 0
    nmnc.results(nmnc.out())


def test_a_second_trainer_leaves_finished_files_alone_and_writes_what_is_missing(nmnc: Any) -> None:
    nmnc.write_study()
    nmnc.succeeds(*nmnc.train())
    finished, stamps = nmnc.results(nmnc.out()), [path.stat().st_mtime_ns for path in sorted(nmnc.out().iterdir())]
    nmnc.succeeds(*nmnc.train())
    assert [path.stat().st_mtime_ns for path in sorted(nmnc.out().iterdir())] == stamps
    for name in nmnc.files:
        (nmnc.out() / name).unlink()
        nmnc.succeeds(*nmnc.train())
        assert nmnc.results(nmnc.out()) == finished


def test_how_often_the_state_is_written_makes_no_other_run(nmnc: Any) -> None:
    nmnc.write_study()
    nmnc.succeeds(*nmnc.train())
    (file,) = nmnc.states()
    before, one = file.stat().st_mtime_ns, nmnc.results(nmnc.out())
    nmnc.write_study(training={"checkpoint_minutes": 3})
    nmnc.succeeds(*nmnc.train())
    assert nmnc.states() == [file]
    assert file.stat().st_mtime_ns == before
    assert nmnc.results(nmnc.out()) == one


# Memory

HUNGRY = """
import torch
from torch import nn

class Hungry(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += self.training
        if self.calls > {calls}:
            torch.empty(2**55)
        return super().forward(x)

def net(shape, classes):
    return nn.Sequential(nn.Sequential(nn.Flatten(), Hungry(64, 6)), nn.Linear(6, classes))

def huge(shape, classes):
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 2**44)), nn.Linear(2**44, classes))
"""


def test_memory_that_runs_out_is_one_line(nmnc: Any) -> None:
    (nmnc.folder / "hungry.py").write_text(HUNGRY.format(calls=5))
    nmnc.write_study(networks={"net": {"kind": "hungry:net"}})
    line = nmnc.fails(*nmnc.train("backprop"))
    assert re.search(r"training: step \d on cpu: the memory of the machine is exhausted; lower training\.batch", line)
    assert not (nmnc.folder / "results" / "toy" / "networks").exists()
    nmnc.write_study(networks={"net": {"kind": "hungry:huge"}})
    assert re.search(r"network hungry:huge .*memory", nmnc.fails(*nmnc.train("backprop")))


# Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", ["nmnc", "backprop"])
def test_a_terminal_shows_rate_and_time_left_and_a_file_nothing(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    screen, file = Terminal(), io.StringIO()
    for number, stream in enumerate((screen, file)):
        monkeypatch.setattr(sys, "stderr", stream)
        run = toy.trainer(kind, training={"epochs": 3})
        run.train(tmp_path / f"{number}.pt")
    assert file.getvalue() == ""
    shown = screen.getvalue()
    assert re.search(r"18/18 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+(step/s|s/step)", shown), shown
    assert "accuracy=" in shown
    assert bool(re.search(r"perturbations/s=\d", shown)) == (kind == "nmnc")
