"""Writing files so that a reader never meets half of one, and one writer per folder."""

import csv
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nmnc.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on error.

    An OSError that names no file, such as that of a full disk, or the temporary one, is raised again with the
    name of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        unnamed = error.filename is None or str(error.filename) == str(temporary)
        if unnamed and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_remnants(folder: Path) -> None:
    """Delete the temporary files of `replacing` that killed processes left in `folder`."""
    for remnant in folder.glob(".*.part"):
        remnant.unlink(missing_ok=True)


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one move (UTF-8, newlines as given)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV in one move: floats with 10 significant digits, None as an empty cell."""

    def cell(value: Any) -> Any:
        return format(value, ".10g") if isinstance(value, float) else value

    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)


@contextmanager
def only_writer(folder: Path, wait: float) -> Iterator[None]:
    """Hold the lock of `folder` (made if absent); the kernel drops it when the process dies.

    What killed holders left half-written there is removed.

    Args:
        folder: the folder no second process may write to meanwhile.
        wait: seconds to wait for another holder before giving up.

    Raises:
        UserError: another process still holds the lock after `wait` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    with (folder / "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"another process is training in {folder}; wait for it or stop it, then run again"
                    ) from None
                time.sleep(0.2)
        remove_remnants(folder)
        yield
