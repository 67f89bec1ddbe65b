"""Files appear whole or not at all, and one process writes to a folder at a time."""

import csv
import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nmnc.errors import UserError
from nmnc.files import only_writer, remove_remnants, replacing, write_csv, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename within one folder is one move
        assert temporary.name.startswith(".")
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
from nmnc.files import only_writer
with only_writer(pathlib.Path(sys.argv[1]), 0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of tmp_path until its stdin is closed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
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
    (tmp_path / ".state.pt.123.part").write_bytes(b"half")
    threading.Timer(0.3, holder.send_signal, [signal.SIGKILL]).start()
    with only_writer(tmp_path, 600):
        assert holder.wait(timeout=600) == -signal.SIGKILL
        assert names(tmp_path) == ["lock"]  # what the killed process left is gone


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_writer(tmp_path, 0):
        raise KeyError
    with only_writer(tmp_path, 0):
        pass


def test_only_remnants_are_removed(tmp_path: Path) -> None:
    kept = ["a.part", ".hidden", "file.txt", "lock"]
    for name in [*kept, ".file.txt.7.part", ".network.pt.12345.part"]:
        (tmp_path / name).touch()
    remove_remnants(tmp_path)
    assert names(tmp_path) == sorted(kept)
    remove_remnants(tmp_path / "absent")
