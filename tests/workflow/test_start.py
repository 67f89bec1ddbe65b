"""What happens before the first job: mistakes in one line, and stale locks cleared, living ones kept."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.places import ROOT
from workflow import owners, start

RESULTS = Path("results/tiny")
STUDY: dict[str, Any] = {
    "study": "tiny",
    "dataset": {"name": "digits"},
    "networks": {"small": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [16]}}},
    "noise": {"dimensions": 8, "images": 4},
    "rules": {"nmnc": {"kind": "nmnc"}},
    "evaluation": {"benchmarks": ["simulated"]},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with Snakemake's locks of the study and of another one."""
    monkeypatch.chdir(tmp_path)
    lock("0.output", "results/tiny/report.html", "results/tiny/tables/runs.csv")
    lock("1.output", "results/other/report.html")
    return tmp_path


def lock(name: str, *files: str) -> None:
    """Write a lock as Snakemake does: one path per line."""
    locks = Path(".snakemake/locks")
    locks.mkdir(parents=True, exist_ok=True)
    (locks / f"{name}.lock").write_text("\n".join(files) + "\n")


def locks_left() -> set[str]:
    return {path.name for path in Path(".snakemake/locks").iterdir()}


def owned_by(owner: dict[str, Any]) -> None:
    path = owners.owner_file(RESULTS)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(owner))


def finished_process() -> dict[str, Any]:
    """What was written down of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = owners.owner_of(process.pid)
        process.communicate(b"\n")
    return owner


def cleared() -> bool:
    """Whether the lock of the study is taken for one that a dead process left; that of another study never is."""
    owners.clear_stale_lock(RESULTS)
    assert "1.output.lock" in locks_left()
    return "0.output.lock" not in locks_left()


@pytest.mark.usefixtures("folder")
def test_the_lock_of_a_dead_process_is_cleared() -> None:
    owned_by(finished_process())
    assert cleared()


@pytest.mark.usefixtures("folder")
def test_a_process_that_nobody_has_waited_for_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owned_by(owners.owner_of(process.pid))
        process.kill()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert cleared()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux only")
@pytest.mark.parametrize("change", [{"ticks": 1}, {"boot": "another"}, {"boot": "another", "namespace": "another"}])
@pytest.mark.usefixtures("folder")
def test_the_lock_of_a_reused_process_id_is_cleared(change: dict[str, Any]) -> None:
    # This process lives, but it is not the one that had the lock: that started at another time, or before the boot.
    owned_by(owners.owner_of(os.getpid()) | change)
    assert cleared()


@pytest.mark.usefixtures("folder")
def test_a_living_process_keeps_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    owners.remember_owner(RESULTS)
    assert not cleared()
    # The clock is set back by an hour, from which psutil computes when the system was booted.
    if Path("/proc/self/stat").exists():
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() - 3600)
        assert not cleared()


@pytest.mark.parametrize("change", [{"host": "another.machine"}, {"namespace": "pid:[1]"}])
@pytest.mark.usefixtures("folder")
def test_a_process_of_another_machine_or_container_keeps_its_lock(change: dict[str, Any]) -> None:
    owned_by(finished_process() | change)
    assert not cleared()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 40, b"{", b"[]", b"null", b"\xff\xfe", b'{"host": 1, "pid": 2}', b'{"host": "HOST"}',
     b'{"host": "HOST", "pid": "7"}', b'{"host": "HOST", "pid": -1}', b'{"host": "HOST", "pid": 99999999999}',
     b'{"host": "HOST", "pid": 0}', b'{"host": "HOST", "pid": true}'],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_an_owner_that_cannot_be_read_keeps_the_lock(content: bytes) -> None:
    owned_by({})
    owners.owner_file(RESULTS).write_bytes(content.replace(b"HOST", platform.node().encode()))
    assert not cleared()


@pytest.mark.usefixtures("folder")
def test_what_an_earlier_version_wrote_is_understood() -> None:
    owned_by({"host": platform.node(), "pid": os.getpid(), "started": 1.0})
    assert not cleared()
    owned_by({"host": platform.node(), "pid": finished_process()["pid"], "started": 1.0})
    assert cleared()


def test_the_owner_of_results_with_a_long_path_is_remembered(folder: Path) -> None:
    results = Path("/".join(["deep" * 10] * 20))
    owners.remember_owner(results)
    assert json.loads(owners.owner_file(results).read_text())["pid"] == os.getpid()
    assert owners.owner_file(results) != owners.owner_file(results / "x")


def test_a_lock_that_is_no_text_is_of_nobody(folder: Path) -> None:
    (folder / ".snakemake/locks/2.output.lock").write_bytes(b"\xff\0")
    owned_by(finished_process())
    assert cleared()


@pytest.mark.usefixtures("folder")
def test_a_lock_of_nobody_known_is_kept() -> None:
    owners.clear_stale_lock(RESULTS)
    assert locks_left() == {"0.output.lock", "1.output.lock"}


@pytest.mark.usefixtures("folder")
def test_a_study_whose_name_begins_alike_keeps_its_lock() -> None:
    lock("2.output", "results/tiny2/report.html")
    owned_by(finished_process())
    owners.clear_stale_lock(RESULTS)
    assert locks_left() == {"1.output.lock", "2.output.lock"}


def begin(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Call `begin` on a study, its check replaced by one that passes; the commands of the checks."""
    commands: list[list[str]] = []

    def check(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(start.subprocess, "run", check)
    Path("study.yaml").write_text(yaml.safe_dump(content))
    start.begin(["study.yaml"], {})
    return commands


def test_networks_are_checked_once_per_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(begin(STUDY, monkeypatch)) == 1
    assert begin(STUDY, monkeypatch) == []
    assert len(begin(STUDY | {"seeds": [1]}, monkeypatch)) == 1


CODE = "from torch import nn\n\ndef small():\n    return nn.Sequential(nn.Flatten())\n"


@pytest.fixture
def evaluated(folder: Path) -> dict[str, Any]:
    """A study that scores a network of the user's on a benchmark of the user's."""
    (folder / "package").mkdir()
    (folder / "package/__init__.py").touch()
    (folder / "package/net.py").write_text(CODE)
    (folder / "data").mkdir()
    (folder / "data/weights.pt").write_bytes(b"weights")
    (folder / "mine/stimuli").mkdir(parents=True)
    (folder / "mine/stimuli/a.png").write_bytes(b"image")
    model: dict[str, Any] = {"network": "package.net:small", "weights": "weights.pt", "layers": ["0"]}
    model |= {"preprocessing": {"image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}}
    evaluation = {"benchmarks": ["simulated", "mine"], "benchmark_folders": {"mine": "mine"}, "models": {"ref": model}}
    return STUDY | {"evaluation": evaluation}


def test_models_and_benchmark_folders_are_checked_too(
    evaluated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NMNC_DATA", raising=False)
    first, (_, _, package, command, *options) = begin(evaluated, monkeypatch)
    assert first[2:4] == ["nmnc", "check"]
    assert [package, command] == ["brain_eval", "check"]
    assert options == ["--config", "study.yaml", "--data", "data"]
    assert begin(evaluated, monkeypatch) == []


@pytest.mark.parametrize(
    "file", ["package/net.py", "package/__init__.py", "data/weights.pt", "mine/stimuli/a.png", "mine/new.png"]
)
def test_a_changed_file_of_the_users_is_checked_again(
    file: str, evaluated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NMNC_DATA", raising=False)
    begin(evaluated, monkeypatch)
    with Path(file).open("ab") as appended:
        appended.write(b"#")
    assert len(begin(evaluated, monkeypatch)) == 2
    assert begin(evaluated, monkeypatch) == []


def test_a_free_folder_is_claimed_before_snakemake_locks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begin(STUDY, monkeypatch)
    assert json.loads(owners.owner_file(RESULTS).read_text())["pid"] == os.getpid()


def test_the_holder_of_a_living_lock_is_not_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned_by(owners.owner_of(os.getppid()))
    begin(STUDY, monkeypatch)
    assert json.loads(owners.owner_file(RESULTS).read_text())["pid"] == os.getppid()
    assert "0.output.lock" in locks_left()


def test_a_path_below_the_working_directory_is_made_relative(folder: Path) -> None:
    assert start.shortest(folder / "config" / "a.yaml") == Path("config/a.yaml")
    assert start.shortest(Path("/elsewhere/a.yaml")) == Path("/elsewhere/a.yaml")


SEEN = {"preprocessing": {"image_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3}}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt key": ({"sedes": [0]}, "study.yaml: sedes: unknown key; did you mean 'seeds'?"),
    "misspelt key in a section": ({"noise": {"rat": 0.1}}, "study.yaml: noise.rat: unknown key; did you mean 'rate'?"),
    "unknown rule": ({"rules": {"mine": {"kind": "nmcn"}}}, "unknown kind 'nmcn'; did you mean 'nmnc'?"),
    "unknown benchmark": ({"evaluation": {"benchmarks": ["simulatd"]}}, "unknown benchmark 'simulatd'; did you mean"),
    "misspelt layer": (
        {"evaluation": {"models": {"ref": {"network": "torchvision:alexnet", "layers": ["featurs"], **SEEN}}}},
        "study.yaml: model ref: torchvision:alexnet: no layer 'featurs'; did you mean 'features'?",
    ),
    "missing benchmark folder": (
        {"evaluation": {"benchmarks": ["mine"], "benchmark_folders": {"mine": "nowhere"}}},
        "study.yaml: the folder nowhere of benchmark 'mine' does not exist",
    ),
    "a setting of another rule": (
        {"rules": {"mine": {"kind": "vnc", "noise": {"adaptive": True}}}},
        "rules.mine on networks.small: noise.adaptive works only with the rule nmnc; remove it for vnc",
    ),
}


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A dry run without a profile, so that nothing of Snakemake's own is on stderr."""
    command = [Path(sys.executable).with_name("snakemake"), "--snakefile", ROOT / "Snakefile", "--cores", "1", "-n"]
    command += ["--workflow-profile", "none", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def refused(run: subprocess.CompletedProcess[str], words: str, folder: Path) -> None:
    """Status 2, one line on stderr, no job."""
    assert run.returncode == 2, run.stderr
    [line] = run.stderr.splitlines()
    assert line.startswith("nmnc-brain: ")
    assert words in line
    assert not (folder / "results").exists()


#: Found before torch is imported; what the others need is checked in test_cli.py and test_check.py too.
QUICK = {"misspelt key", "misspelt key in a section", "unknown benchmark"}


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "mistake", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MISTAKES]
)
def test_a_wrong_study_is_refused_in_one_line(mistake: str, tmp_path: Path) -> None:
    change, words = MISTAKES[mistake]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | change))
    refused(snakemake(tmp_path, "--configfile", "study.yaml"), words, tmp_path)


@pytest.mark.end_to_end
def test_two_files_are_not_one_study(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    run = snakemake(tmp_path, "--configfile", "study.yaml", str(ROOT / "config" / "default.yaml"))
    refused(run, "set one --configfile and no --config", tmp_path)


@pytest.mark.end_to_end
def test_single_values_are_not_overridden(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    run = snakemake(tmp_path, "--configfile", "study.yaml", "--config", "threads=2")
    refused(run, "set one --configfile and no --config", tmp_path)
