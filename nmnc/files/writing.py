"""Write files atomically, with one writer at a time, and remove remnants of dead processes."""

import csv
import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nmnc.errors import UserError
from nmnc.files.digests import digest_file, digest_line, is_sealed_kind, seal

#: Names of private folders, and of the file in each that its owner keeps locked while it runs.
PRIVATE, PRIVATE_NAME, OWNER = ".nmnc-", re.compile(r"\.nmnc-[a-z0-9_]{8}\.part"), ".owner"

#: Immediate retries of a lock while another process deletes its lock file.
ATTEMPTS = 100


@contextmanager
def replacing(path: Path, digest: bool = False) -> Iterator[Path]:
    """Yield a temporary path on the file system of `path`; rename it to `path` on success, delete it on error.

    The temporary file is in a `private_folder`. If `path` is a symbolic link, the link is replaced, not the
    file it points to.

    Args:
        path: the file to write; its folder is created if absent.
        digest: store the SHA-256 of the file in it, or in NAME.sha256 (see `nmnc.files.digests`).

    Raises:
        OSError: names `path` instead of no file (as for a full disk) or the temporary file.
    """
    if path.exists() and not path.is_file():
        number = errno.EISDIR if path.is_dir() else errno.EEXIST  # a device, a pipe
        raise OSError(number, os.strerror(number), str(path))
    try:
        with private_folder(path.parent) as folder:
            yield folder / path.name
            _move(folder / path.name, path, digest)
    except OSError as error:
        unnamed = error.filename is None or f"{os.sep}{PRIVATE}" in str(error.filename)
        if unnamed and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _move(temporary: Path, path: Path, digest: bool) -> None:
    """Rename `temporary` to `path`; after a kill a file may lack its digest but never have a wrong one."""
    if not digest:
        temporary.replace(path)
    elif is_sealed_kind(temporary):
        seal(temporary)
        temporary.replace(path)
    else:
        line = digest_line(path, temporary.read_bytes())
        digest_file(path).unlink(missing_ok=True)
        temporary.replace(path)
        write_text(digest_file(path), line)


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """Context manager: create a folder for temporary files in `parent` (created if absent), and delete it at the end.

    Its name is random and other users cannot enter it, so that no planted link is followed. If the process is killed,
    the folder remains until the next write to `parent`.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_remnants(parent)
    folder, owner = _owned_folder(parent)
    try:
        yield folder
    finally:
        _delete(folder)
        os.close(owner)


def _owned_folder(parent: Path) -> tuple[Path, int]:
    """Return a new private folder, and the descriptor whose lock shows that its owner is running."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PRIVATE, suffix=".part", dir=parent))
        # Another process may delete the folder as a remnant before it is locked; then try again.
        with suppress(FileNotFoundError):
            owner = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with suppress(OSError):  # no locks on this file system: remnants stay
                fcntl.flock(owner, fcntl.LOCK_EX)
            if (folder / OWNER).exists():
                return folder, owner
            os.close(owner)


def remove_remnants(parent: Path) -> None:
    """Delete the private folders in `parent` whose owner was killed; nothing else is touched."""
    for folder in parent.glob(f"{PRIVATE}*.part"):
        if not PRIVATE_NAME.fullmatch(folder.name) or folder.is_symlink():
            continue
        try:
            owner = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            with suppress(OSError):
                folder.rmdir()  # killed before it was locked, or about to be locked
            continue
        except OSError:
            continue  # of another user
        with suppress(OSError):  # locked by its owner, which is running
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _delete(folder)
        os.close(owner)


def _delete(folder: Path) -> None:
    """Delete a private folder, its owner file last."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name == OWNER:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / OWNER).unlink()
    with suppress(OSError):
        folder.rmdir()


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str, digest: bool = False) -> None:
    """Write `text` to `path` atomically (UTF-8, newlines as given); `digest`: see `replacing`."""
    with replacing(path, digest) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def csv_text(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV: floats with 10 significant digits, None as an empty cell."""

    def cell(value: Any) -> Any:
        return format(value, ".10g") if isinstance(value, float) else value

    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]], digest: bool = False) -> None:
    """Write `csv_text` to `path` atomically; `digest`: see `replacing`."""
    write_text(path, csv_text(columns, rows), digest)


@contextmanager
def only_writer(folder: Path, wait: float) -> Iterator[None]:
    """Context manager: lock `folder` (created if absent); the kernel releases the lock when the process ends.

    Remnants of killed processes in it are removed.

    Args:
        folder: the folder no second process may write to meanwhile.
        wait: seconds to wait for another holder before giving up.

    Raises:
        UserError: another process still holds the lock after `wait` seconds, or there are no locks on this disk.
    """
    with _locked(folder / "lock", wait, f"another process is training in {folder}"):
        remove_remnants(folder)
        yield


@contextmanager
def claimed(lock: Path, wait: float, target: Path) -> Iterator[None]:
    """Context manager: hold a lock file that is deleted afterwards, with its folder if that is empty.

    Args:
        lock: the lock file; its folder is made if absent.
        wait: seconds to wait for another holder before giving up.
        what: the file or folder that no second process may write to meanwhile.

    Raises:
        UserError: as `only_writer`.
    """
    new_folders = [folder for folder in lock.parents if not folder.exists()]
    try:
        with _locked(lock, wait, f"another process is writing to {target}", leave=False):
            remove_remnants(lock.parent)
            yield
    finally:
        for folder in new_folders:
            with suppress(OSError):  # not empty
                folder.rmdir()


@contextmanager
def _locked(path: Path, wait: float, busy: str, leave: bool = True) -> Iterator[None]:
    deadline = time.monotonic() + wait
    while (descriptor := _lock(path)) is None:
        if time.monotonic() >= deadline:
            raise UserError(f"{busy}; wait for it or stop it, then run again")
        time.sleep(0.2)
    try:
        yield
    finally:
        if not leave:
            with suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Lock a file (created if absent); return its descriptor, or None while another process has the lock."""
    for attempt in range(ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _open_lock(path)
        except (FileNotFoundError, FileExistsError):  # another process has just deleted the empty folder
            if attempt == ATTEMPTS - 1 or (os.path.lexists(path.parent) and not path.parent.is_dir()):
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), os.fstat(descriptor)):
                    return descriptor
            os.close(descriptor)  # another process has just deleted this file
        except BlockingIOError:
            os.close(descriptor)
            break
        except OSError as error:
            os.close(descriptor)
            raise UserError(
                f"{path}: this file system has no locks ({error.strerror}); choose a folder on another disk"
            ) from None
    return None


def _open_lock(path: Path) -> int:
    """Open a lock file without following links or changing its content."""
    try:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except PermissionError:
            if not path.exists():
                raise
            return os.open(
                path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            )  # a file of another user can be locked too
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: a symbolic link where a lock file belongs; remove it") from None
        raise
