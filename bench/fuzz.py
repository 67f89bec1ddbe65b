"""Throw damaged studies, data sets, benchmark folders, models and checkpoints at the checks, and sort what happens.

    python bench/fuzz.py [--inputs 2000] [--seed 0] [--minutes 10] [--processes 2] [--out FILE.csv] [--only KIND]

Every input is written to a folder of its own and tried in a child forked from a process that has imported everything.
It must end in success or in one line and exit status 2, within 10 s of processor time and 2 GB of resident memory, and
leave every file as it was. Input number N of a seed is the same on every run; --keep FOLDER keeps those that fail.
One CSV row per kind and outcome; exit status 1 where an input ended in any other way.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
os.environ.pop("NMNC_DATA", None)  # the inputs bring their own data folder

#: Limits on one input: seconds of processor time and of waiting, bytes of resident memory.
SECONDS, PATIENCE, BYTES = 10, 60, 2 * 1024**3
FINE = ("success", "refused")
COLUMNS = ("kind", "outcome", "inputs", "seconds_most", "gigabytes_most", "seed", "cpu", "git")


class Outcome(NamedTuple):
    """What came of one input (success, refused, traceback, hang, ...: see `judge`), and its cost."""

    number: int
    kind: str
    outcome: str
    seconds: float
    memory: int
    said: str


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder with what it is and holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "file" if path.is_file() else "folder" if path.is_dir() else "pipe"
        found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if kind == "file" else kind
    return found


def run_command_in(folder: Path, command: list[str], said: Path) -> None:
    """In the child: run `python -m COMMAND` there, all output to `said`; never returns."""
    status = 1
    try:
        os.chdir(folder)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + 2 * BYTES, mapped + 2 * BYTES))
        package, *arguments = command
        sys.argv = [package, *arguments]
        sys.dont_write_bytecode = True
        from importlib import import_module

        import_module(f"{package}.__main__").main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Undamaged(Random):
    """Chooses the first of everything and never that something is damaged."""

    def random(self) -> float:
        """Above every share of damage."""
        return 0.999

    def choice(self, values: Any) -> Any:
        """The first."""
        return values[0]

    def randrange(self, *limits: int) -> int:  # type: ignore[override]
        """The last: not one of the parts that are damaged."""
        return limits[-1] - 1


def made(write: Callable[[Path, Random], list[str]], folder: Path, name: str, number: int) -> list[str]:
    """Write an input, in a child: nesting that even writing does not survive leaves this process as it was."""
    command = folder.with_name("command")
    for attempt in range(100):
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            try:
                random = Random(f"{name} {attempt}") if number >= 0 else Undamaged()
                command.write_bytes("\0".join(write(folder, random)).encode("utf-8", "surrogateescape"))
                os._exit(0)
            except RecursionError:
                os._exit(1)
            except BaseException:
                traceback.print_exc()
                os._exit(2)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return command.read_bytes().decode("utf-8", "surrogateescape").split("\0")
        shutil.rmtree(folder)
        if status != 1:
            break
    raise RuntimeError(f"input {name} cannot be written")


def try_input(number: int, kind: str, seed: int, keep: Path | None = None) -> Outcome:
    """Write input `number` of a seed, try it, and say what came of it."""
    from fuzz_inputs import INPUTS

    parent = Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder, said = parent / "input", parent / "said"
    command = made(INPUTS[kind], folder, f"{seed} {number} {kind}", number)
    before = snapshot(folder)
    pid = os.fork()
    if pid == 0:
        run_command_in(folder, command, said)
    ended, status, usage = wait_for(pid)
    text = said.read_text(errors="replace") if said.exists() else ""
    outcome = judge(ended, status, usage, text)
    if outcome in FINE and snapshot(folder) != before:
        outcome = "touched"
    if keep is not None and outcome not in FINE:
        shutil.copytree(
            parent, keep / f"{seed}-{number}-{kind}-{outcome}", symlinks=True, dirs_exist_ok=True, ignore=pipes
        )
    shutil.rmtree(parent, ignore_errors=True)
    return Outcome(number, kind, outcome, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, text[-300:])


def pipes(folder: str, names: list[str]) -> list[str]:
    """What copytree cannot copy."""
    return [name for name in names if (Path(folder) / name).is_fifo()]


def wait_for(pid: int) -> tuple[bool, int, resource.struct_rusage]:
    """Whether the child ended by itself, its status, what it used."""
    deadline = time.monotonic() + PATIENCE
    pause = 0.001
    while time.monotonic() < deadline:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return True, os.waitstatus_to_exitcode(status), usage
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    os.kill(pid, 9)
    _, status, usage = os.wait4(pid, 0)
    return False, os.waitstatus_to_exitcode(status), usage


def judge(ended: bool, status: int, usage: resource.struct_rusage, text: str) -> str:
    """Sort an end: see `Outcome`."""
    if not ended or status in (-24, -9):
        return "hang"
    if status < 0:
        return "crash"
    if "Traceback" in text:
        return "traceback"
    if usage.ru_maxrss * 1024 > BYTES or "memory of the machine" in text:
        return "memory"
    lines = text.splitlines()
    if status == 0:
        return "success"
    if status != 2:
        return "status"
    return (
        "refused"
        if len(lines) >= 1 and lines[-1].startswith(("nmnc: ", "brain_eval: ")) and len(lines) == 1
        else "lines"
    )


def preload() -> None:
    """Import what the checks import, so that a child costs milliseconds."""
    import netCDF4  # noqa: F401
    import sklearn.datasets
    import torch
    import torchvision  # noqa: F401
    import xarray  # noqa: F401

    import nmnc.__main__
    import nmnc.training.job  # noqa: F401

    sklearn.datasets.load_digits()
    torch.set_num_threads(1)
    list(torch.nn.Linear(2, 2)(torch.zeros(1, 2)))


def work(share: int, shares: int, options: argparse.Namespace) -> Iterator[Outcome]:
    """Outcomes of every `shares`-th input, until the time is over."""
    from fuzz_inputs import INPUTS

    kinds = [options.only] if options.only else list(INPUTS)
    deadline = time.monotonic() + 60 * options.minutes
    numbers = [options.number] if options.number is not None else range(share, options.inputs, shares)
    for number in numbers:
        if time.monotonic() > deadline:
            return
        yield try_input(number, kinds[number % len(kinds)], options.seed, options.keep)


def collect(share: int, shares: int, options: argparse.Namespace, queue: Any) -> None:
    """In a process of its own: work, and report each outcome."""
    try:
        for outcome in work(share, shares, options):
            queue.put(outcome)
    finally:
        queue.put(None)


def write(path: Path, outcomes: list[Outcome], seed: int) -> None:
    """One row per kind and outcome."""
    import torch

    from nmnc.files.writing import write_csv
    from nmnc.training.provenance import git_commit, hardware

    counts = Counter((outcome.kind, outcome.outcome) for outcome in outcomes)
    shared = {"seed": seed, "cpu": hardware(torch.device("cpu"))["cpu"], "git": git_commit()}
    rows = []
    for (kind, what), number in sorted(counts.items()):
        same = [one for one in outcomes if (one.kind, one.outcome) == (kind, what)]
        most = {
            "seconds_most": max(one.seconds for one in same),
            "gigabytes_most": max(one.memory for one in same) / 1e9,
        }
        rows.append({"kind": kind, "outcome": what, "inputs": number} | most | shared)
    write_csv(path, COLUMNS, rows)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", help="one kind of input")
    parser.add_argument("--number", type=int, help="one input")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="keep inputs that fail there")
    parser.add_argument("--serve", action="store_true", help="read [kind, number] lines of JSON, answer each (tests)")
    options = parser.parse_args()
    preload()
    if options.serve:
        for line in sys.stdin:
            kind, number = json.loads(line)
            print(json.dumps(try_input(number, kind, options.seed)._asdict()), flush=True)
        return
    started, context = time.monotonic(), get_context("fork")
    queue = context.Queue()
    shares = 1 if options.number is not None else options.processes
    workers = [context.Process(target=collect, args=(share, shares, options, queue)) for share in range(shares)]
    for worker in workers:
        worker.start()
    outcomes: list[Outcome] = []
    waiting = len(workers)
    while waiting:
        outcome = queue.get()
        if outcome is None:
            waiting -= 1
            continue
        outcomes.append(outcome)
        if outcome.outcome not in FINE or options.number is not None:
            print(
                f"{outcome.kind} {outcome.number}: {outcome.outcome}, {outcome.seconds:.1f} s: {outcome.said}",
                flush=True,
            )
    counts = Counter(outcome.outcome for outcome in outcomes)
    if options.out:
        write(options.out, outcomes, options.seed)
    most = max(outcomes, key=lambda one: one.seconds)
    print(
        f"{len(outcomes)} inputs in {time.monotonic() - started:.0f} s: "
        + ", ".join(f"{number} {what}" for what, number in counts.most_common())
        + f"; at most {most.seconds:.1f} s of processor ({most.kind} {most.number}), "
        f"{max(one.memory for one in outcomes) / 1e9:.2f} GB"
    )
    sys.exit(int(any(what not in FINE for what in counts)))


if __name__ == "__main__":
    main()
