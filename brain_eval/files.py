"""What HDF5 says when a NetCDF file cannot be written, in words that can be acted on."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nmnc.errors import UserError


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
