"""Files appear whole or not at all, and one process writes to a folder at a time."""

import csv
import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from nmnc.errors import UserError
from nmnc.files.writing import claimed, only_writer, remove_remnants, replacing, write_csv, write_text
from tests.places import ROOT


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent.parent == path.parent  # a rename within one file system is one move
        assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700  # nobody else can plant a link there
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), UserError("no"), SystemExit(1)])
@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, error: BaseException, before: str | None
) -> None:
    path = tmp_path / "file.txt"
    if before:
        path.write_text(before)

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert names(tmp_path) == (["file.txt"] if before else [])
    assert not before or path.read_text() == "old"


def test_a_failed_write_names_the_file(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what write() raises: without a name
    other = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "elsewhere")
    for given, name in ((full, str(tmp_path / "file.txt")), (other, "elsewhere")):
        with pytest.raises(OSError, match=r"\[Errno") as caught, replacing(tmp_path / "file.txt"):
            raise given
        assert (caught.value.errno, caught.value.filename) == (given.errno, name)
    assert names(tmp_path) == []


def test_text_and_tables_are_written_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "é\r\nsecond\n")
    assert (tmp_path / "text").read_bytes() == "é\r\nsecond\n".encode()
    rows = [{"b": 1 / 3, "a": 2}, {"a": None, "b": 1e-20}, {"a": 'x,"y"', "b": 0.1}, {"b": 5e5}]
    write_csv(tmp_path / "table.csv", ("a", "b"), rows)
    assert (tmp_path / "table.csv").read_text() == 'a,b\n2,0.3333333333\n,1e-20\n"x,""y""",0.1\n,500000\n'
    with (tmp_path / "table.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["a"] for row in read] == ["2", "", 'x,"y"', ""]
    assert [float(row["b"]) for row in read] == pytest.approx([row["b"] for row in rows], rel=1e-9)


def test_a_row_with_an_unknown_column_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown"):
        write_csv(tmp_path / "table.csv", ("a",), [{"a": 1}, {"unknown": 2}])
    assert names(tmp_path) == []


HOLDER = """
import pathlib, sys
from nmnc.files.writing import only_writer
with only_writer(pathlib.Path(sys.argv[1]), 0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of tmp_path until its stdin is closed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_another_folder_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"another process is training in .*; wait for it or stop it"):
        only_writer(tmp_path, 0).__enter__()
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        only_writer(tmp_path, 0.3).__enter__()
    assert time.monotonic() - started >= 0.3
    with only_writer(tmp_path / "another", 0):
        pass
    holder.communicate(timeout=600)  # closes its stdin: it leaves the lock and ends
    with only_writer(tmp_path, 0):
        pass


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    killed_while_writing(tmp_path)
    threading.Timer(0.3, holder.send_signal, [signal.SIGKILL]).start()
    with only_writer(tmp_path, 600):
        assert holder.wait(timeout=600) == -signal.SIGKILL
        assert names(tmp_path) == ["lock"]  # what the killed process left is gone


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_writer(tmp_path, 0):
        raise KeyError
    with only_writer(tmp_path, 0):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("nmnc.files.writing.fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"lock: this file system has no locks \(.*\); choose a folder on another"):
        only_writer(tmp_path, 0).__enter__()
    write_text(tmp_path / "text", "a file can be written all the same")
    assert names(tmp_path) == ["lock", "text"]


def test_a_lock_file_is_neither_followed_nor_emptied(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"linked/lock: a symbolic link where a lock file belongs; remove it"):
        only_writer(tmp_path / "linked", 0).__enter__()
    (tmp_path / "lock").write_text("the user's own notes")
    with only_writer(tmp_path, 0):
        pass
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "lock").read_text() == "the user's own notes"


def test_a_claim_excludes_others_and_leaves_no_trace(tmp_path: Path) -> None:
    lock, what = tmp_path / "deep" / "down" / ".nmnc.lock", tmp_path / "deep" / "down"
    with claimed(lock, 0, what):
        with pytest.raises(UserError, match=r"another process is writing to .*deep/down; wait for it or stop it"):
            claimed(lock, 0.3, what).__enter__()
        assert lock.exists()
    assert names(tmp_path) == []
    with claimed(lock, 0, what):
        (what / "file").touch()
    assert names(what) == ["file"]


def test_many_claims_follow_one_another(tmp_path: Path) -> None:
    inside: list[int] = []

    def work() -> None:
        for _ in range(20):
            with claimed(tmp_path / "folder" / ".lock", 60, tmp_path):
                inside.append(1)
                assert len(inside) == 1
                inside.clear()

    with monkey_sleep(), ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert not list(tmp_path.rglob(".lock"))


@contextmanager
def monkey_sleep() -> Iterator[None]:
    """Wait for locks in short steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nmnc.files.writing.time.sleep", lambda _: os.sched_yield())
        yield


# Remnants

KILLED = """
import os, pathlib, signal, sys
from nmnc.files.writing import replacing
with replacing(pathlib.Path(sys.argv[1]) / "state.pt") as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(folder: Path) -> None:
    """Leave what a process leaves that is killed while it writes to `folder`."""
    run = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=ROOT, check=False)
    assert run.returncode == -signal.SIGKILL
    assert any(".nmnc-" in name for name in names(folder))


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    killed_while_writing(tmp_path)
    write_text(tmp_path / "other", "x")
    assert names(tmp_path) == ["other"]


def test_what_others_own_is_no_remnant(tmp_path: Path) -> None:
    for name in ("a.part", ".x.part", ".file.txt.7.part", ".network.pt.12345.part", ".nmnc-abcdefgh.part"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".nmnc-mine.part").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".owner").touch()
    (tmp_path / ".nmnc-linklink.part").symlink_to(tmp_path / "elsewhere")
    with replacing(tmp_path / "file") as living:  # another writer, which lives
        before = names(tmp_path)
        remove_remnants(tmp_path)
        write_text(tmp_path / "new", "x")
        assert names(tmp_path) == sorted([*before, "new"])
        living.write_text("x")
    assert (tmp_path / "elsewhere" / ".owner").exists()
    remove_remnants(tmp_path / "absent")


def test_a_half_deleted_remnant_is_deleted(tmp_path: Path) -> None:
    (tmp_path / ".nmnc-aaaaaaaa.part").mkdir()
    (tmp_path / ".nmnc-bbbbbbbb.part" / "deep").mkdir(parents=True)
    for name in (".owner", "half", "deep/half"):
        (tmp_path / ".nmnc-bbbbbbbb.part" / name).touch()
    remove_remnants(tmp_path)
    assert names(tmp_path) == []


# Targets


def test_a_link_is_replaced_and_not_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()


def test_a_pipe_or_a_folder_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        with pytest.raises(OSError, match=r"exists|directory") as caught:
            write_text(tmp_path / name, "x")
        assert caught.value.filename == str(tmp_path / name)
    assert names(tmp_path) == ["folder", "link", "pipe"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_csv(tmp_path / "table.csv", ("a",), [{"a": 1}], digest=True)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("table.csv", "table.csv.sha256")}
    assert modes == {0o666 & ~mask}
