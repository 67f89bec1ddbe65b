"""Writing files so that a reader never meets half of one."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from brain_eval.errors import UserError

#: No space left, quota exceeded, and the limit of a file's size.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on error.

    An OSError that names no file, such as that of a full disk, or the temporary one, is raised again
    with the name of `path`.
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


@contextmanager
def netcdf_errors(path: Path) -> Iterator[None]:
    """HDF5 says "NetCDF: HDF error" for a full disk: make it one line that can be acted on.

    Raises:
        UserError: the file that will be called `path` cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        free = shutil.disk_usage(path.parent).free / 1e9
        raise UserError(
            f"{path}: cannot be written ({reason}), {free:.2f} GB are available; "
            "make room or rights there and run it again"
        ) from error


def in_one_line(error: OSError) -> str:
    """What the system refused: the file, the reason, what to do."""
    if error.strerror is None:
        return f"{' '.join(str(error).split())}; mend that and run the same command again"
    where = f"{error.filename}: " if error.filename else ""
    advice = "make room there" if error.errno in FULL else "mend that"
    return f"{where}{error.strerror}; {advice} and run the same command again"


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
