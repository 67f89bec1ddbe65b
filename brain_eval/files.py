"""Reading NetCDF files so that a damaged one, or a full disk, is one line that can be acted on."""

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nmnc.errors import UserError, in_one_line
from nmnc.files.digests import check_seal

if TYPE_CHECKING:
    import netCDF4

#: What readers of a damaged or foreign file raise, from a truncated header to a variable that is not there.
READING_ERRORS = (
    OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError, OverflowError,
)  # fmt: skip
#: A variable of more than SMALL bytes and than so many for each byte of its file (zlib makes at most 1,032 of one) was
#: never written.
MOST_EXPANDED, SMALL = 1100, 2**28


@contextmanager
def netcdf_errors(path: Path) -> Iterator[None]:
    """Turn HDF5's "NetCDF: HDF error" for a full disk into one line that can be acted on.

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
            "free disk space or fix the permissions, then rerun"
        ) from error


@contextmanager
def reading_netcdf(path: Path, advice: str) -> Iterator[None]:
    """Context manager: whatever a damaged or foreign file makes its reader raise becomes one line.

    Use it around a reader other than netCDF4 (xarray's, say); see `open_netcdf`.

    Args:
        path: the file, named in the error.
        advice: what to do, e.g. "delete it and run: python -m brain_eval score".

    Raises:
        UserError: any error of reading in the block, or a UserError of the block as it is.
    """
    if not path.is_file():  # a FIFO or a device would wait for ever
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {advice}")
    try:
        check_seal(path)  # before HDF5, which damaged tables may hang or crash, opens it
        yield
    except READING_ERRORS as error:
        reason = " ".join((getattr(error, "strerror", None) or in_one_line(error)).split())
        raise UserError(f"{path}: damaged, or not the NetCDF file it should be ({reason}); {advice}") from None


@contextmanager
def open_netcdf(path: Path, advice: str) -> Iterator["netCDF4.Dataset"]:
    """Open a NetCDF file for reading, masks off; every error of reading in the block becomes one line.

    Args:
        path: the file.
        advice: what to do about a damaged or foreign file.

    Raises:
        UserError: no such file, damaged, not NetCDF, a variable far larger than its file can fill, or whatever the
            block finds missing.
    """
    import netCDF4

    with reading_netcdf(path, advice), netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        _refuse_unwritten(file, path, advice)
        yield file


def refuse_another(file: "netCDF4.Dataset", path: Path, who: Mapping[str, object], again: str) -> None:
    """UserError where the file's attributes name another model than `who` does; files may lack these attributes."""
    found = {name: str(getattr(file, name, value)) for name, value in who.items()}
    if found != {name: str(value) for name, value in who.items()}:
        raise UserError(f"{path}: of another run, {', '.join(found.values())}; delete it and {again}")


def _refuse_unwritten(group: "netCDF4.Dataset | netCDF4.Group", path: Path, advice: str) -> None:
    """Refuse variables that would fill the memory although next to nothing of them is in the file."""
    room = max(MOST_EXPANDED * path.stat().st_size, SMALL)
    for name, variable in group.variables.items():
        size = math.prod(variable.shape) * getattr(variable.dtype, "itemsize", 1)
        if size > room:
            raise UserError(f"{path}: {name} would take {size / 1e9:.3g} GB, more than the file can contain; {advice}")
    for inner in group.groups.values():
        _refuse_unwritten(inner, path, advice)
