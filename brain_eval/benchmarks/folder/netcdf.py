"""Read one variable of a user's NetCDF file and its labels; refuse what cannot be read as it was written."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from brain_eval.files import open_netcdf
from nmnc.errors import UserError

ADVICE = "write it again, e.g. with xarray's to_netcdf"
#: Larger values overflow when they are squared and summed.
LARGEST = 1e100
#: Longer labels are a mistake.
MOST_CHARACTERS = 1000


class Labels(NamedTuple):
    """Text along one dimension ("" for a single label of all)."""

    dimension: str
    values: list[str]


class Content(NamedTuple):
    """A variable with its labels.

    Attributes:
        name, dims: of the variable.
        values: float64, NaN where missing (_FillValue, missing_value, or never written), scaled by scale_factor.
        labels: name -> labels, for those that the file has.
        unused: names of the file's other variables.
    """

    name: str
    dims: tuple[str, ...]
    values: NDArray[np.float64]
    labels: dict[str, Labels]
    unused: list[str]


def read_content(path: Path, name: str, labels: Sequence[str]) -> Content:
    """Read the variable `name`, or the file's only other one, and those of the labels that exist.

    Raises:
        UserError: not NetCDF, no such variable, values that are not numbers, infinite or huge, a label that is missing
            or not UTF-8 (names the file, the label and its position).
    """
    _refuse_half_precision(path)
    with open_netcdf(path, ADVICE) as file:
        variable = _chosen(file, path, name, labels)
        values = _numbers(variable, path)
        found = {label: _labels(file[label], path) for label in labels if label in file.variables}
        unused = [str(other) for other in file.variables if other not in (variable.name, *labels, *file.dimensions)]
        return Content(variable.name, tuple(variable.dimensions), values, found, unused)


def _refuse_half_precision(path: Path) -> None:
    """UserError for float16, which netCDF4 takes for text and crashes on when it reads it."""
    if not (path.is_file() and h5py.is_hdf5(path)):
        return  # another format, or none: the reader reports it

    def look(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.dtype == np.float16:
            raise UserError(f"{path}: '{name}' is float16, which NetCDF does not have; write it as float32")

    try:
        with h5py.File(path) as file:
            file.visititems(look)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return  # damaged: the reader reports it


def _chosen(file: Any, path: Path, name: str, labels: Sequence[str]) -> Any:
    coordinates = {part for other in file.variables.values() for part in str(getattr(other, "coordinates", "")).split()}
    coordinates |= {str(part) for part in getattr(file, "coordinates", "").split()} | {*labels, *file.dimensions}
    found = [str(other) for other in file.variables if other not in coordinates]
    if name not in file.variables and len(found) != 1:
        raise UserError(f"{path} has no variable '{name}' (it has {', '.join(found) or 'none'}); add or rename it")
    return file[name if name in file.variables else found[0]]


def _numbers(variable: Any, path: Path) -> NDArray[np.float64]:
    """Values as float64, NaN where masked."""
    kind = variable.dtype
    several = type(variable.datatype).__name__ in ("VLType", "CompoundType")
    if several or not (isinstance(kind, np.dtype) and kind.kind in "iuf"):
        what = "text" if kind is str or kind == np.dtype("S1") else f"values of type {variable.datatype}"
        raise UserError(f"{path}: '{variable.name}' contains {what}, not real numbers; write it as float32 or float64")
    variable.set_auto_scale(True)
    # Of one byte every value may be meant, and NetCDF has no default for what was never written.
    marked = {"_FillValue", "missing_value"} & set(variable.ncattrs())
    variable.set_auto_mask(kind.itemsize > 1 or bool(marked))
    values = np.ma.filled(np.ma.asarray(variable[...]).astype(np.float64), np.nan)
    with np.errstate(invalid="ignore"):
        largest = np.nanmax(np.abs(values), initial=0.0, where=np.isfinite(values))
    if largest > LARGEST:
        raise UserError(
            f"{path}: '{variable.name}' contains {largest:.3g}, too large to square; divide all values by one number"
        )
    return np.asarray(values)


def _labels(variable: Any, path: Path) -> Labels:
    """Labels as text: blanks around them are no part of them."""
    dims, kind = tuple(variable.dimensions), variable.dtype
    if kind == np.dtype("S1") and dims and dims[-1] not in _shared_dimensions(variable):
        dims = dims[:-1]
    if len(dims) > 1:
        raise UserError(f"{path}: {variable.name} has dims {dims}; give it one dimension, as labels need")
    texts = [
        _checked(value, f"{path}: {variable.name} {position}")
        for position, value in enumerate(_raw(variable, path, len(dims)))
    ]
    return Labels(dims[0] if dims else "", texts)


def _shared_dimensions(variable: Any) -> set[str]:
    """Dimensions that also belong to a variable of numbers: of these none counts characters."""
    variables = variable.group().variables.values()
    return {dim for part in variables if part.dtype != np.dtype("S1") for dim in part.dimensions}


def _raw(variable: Any, path: Path, ndim: int) -> list[Any]:
    """One value each: str, bytes or a number; None where it is missing."""
    if variable.dtype is str:
        try:
            return np.atleast_1d(variable[...]).tolist()
        except UnicodeDecodeError:
            return [_text_at(variable, position, path) for position in range(variable.shape[0] if ndim else 1)]
    if variable.dtype == np.dtype("S1"):
        variable.set_auto_chartostring(False)
        characters = np.ascontiguousarray(np.ma.filled(variable[...], b""))
        rows = characters.reshape(-1, characters.shape[-1] if characters.ndim > ndim else 1)
        return [row.tobytes().rstrip(b"\0") for row in rows]
    if not (isinstance(variable.dtype, np.dtype) and variable.dtype.kind in "iuf"):
        raise UserError(f"{path}: {variable.name} has type {variable.dtype}, neither text nor numbers; write text")
    variable.set_auto_mask(True)
    values = np.ma.atleast_1d(np.ma.masked_invalid(variable[...])).tolist()
    if getattr(variable, "dtype", None) == np.int8 and variable.__dict__.get("dtype") == "bool":  # xarray keeps it so
        values = [None if value is None else bool(value) for value in values]
    return list(values)


def _text_at(variable: Any, position: int, path: Path) -> str:
    try:
        return str(np.atleast_1d(variable[position : position + 1] if variable.shape else variable[...])[0])
    except UnicodeDecodeError as error:
        raise _not_utf8(f"{path}: {variable.name} {position}", error) from None


def _not_utf8(where: str, error: UnicodeDecodeError) -> UserError:
    text = bytes(error.object).decode("latin-1")
    return UserError(f"{where} is not UTF-8 text but perhaps Latin-1 ({text!r}, byte {error.start}); write it as UTF-8")


def _checked(value: Any, where: str) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(where, error) from None
    text = "" if value is None else str(value).strip()
    if not text:
        raise UserError(f"{where} (counted from 0) is empty or missing; give it a label")
    return checked_label(text, where)


def checked_label(text: str, where: str) -> str:
    """The label itself; UserError where it could not be written or read back: too long, or with a NUL."""
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{where} has {len(text)} characters; shorten it to at most {MOST_CHARACTERS}")
    if "\0" in text or any(unicodedata.category(character) == "Cs" for character in text):
        raise UserError(f"{where} is {text!r}, with a control character or surrogate; remove that character")
    return text
