"""stimuli.csv of a benchmark folder: its stimulus_ids, found again from file to file, and its images."""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import StimulusSet, stimuli_from_files
from brain_eval.benchmarks.folder.netcdf import checked_label
from nmnc.errors import UserError, did_you_mean
from nmnc.files.reading import read_rows

COLUMNS = ("stimulus_id", "filename", "degrees")
#: Degrees of visual angle around an eye.
WIDEST = 360.0


def composed(text: str) -> str:
    """The text with composed characters (NFC): the same on the screen, the same here."""
    return unicodedata.normalize("NFC", text)


def unique_ids(values: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the ids as they are; UserError names the file and the id that is empty or comes twice."""
    seen: dict[str, str] = {}
    for value in values:
        if not value:
            raise UserError(f"{path} has an empty stimulus_id; give every stimulus one")
        if composed(value) in seen:
            forms = "" if seen[composed(value)] == value else " (in two Unicode forms that look the same)"
            raise UserError(f"{path} has stimulus_id '{value}' twice{forms}; remove or rename one of them")
        seen[composed(value)] = value
    return tuple(values)


def places_of(ids: Sequence[str], stimulus_ids: Sequence[str], path: Path) -> NDArray[np.intp]:
    """Return the position of each id of a file in the stimulus set, (n,); Unicode forms (NFC, NFD) are equal.

    Raises:
        UserError: an id that stimuli.csv does not list; suggests a similar id that it lists.
    """
    known = {composed(stimulus_id): i for i, stimulus_id in enumerate(stimulus_ids)}
    unknown = [stimulus_id for stimulus_id in ids if composed(stimulus_id) not in known]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(
            f"{path} has stimulus_id '{unknown[0]}', which stimuli.csv does not list{more}; "
            f"{_hint(unknown[0], stimulus_ids)}"
        )
    return np.array([known[composed(stimulus_id)] for stimulus_id in ids], dtype=np.intp)


def _as_number(text: str) -> str:
    """'7' for '7', '007' and '7.0'."""
    match = re.fullmatch(r"0*(\d+)(\.0*)?", text)
    return match[1] if match else text


def _hint(unknown: str, known: Sequence[str]) -> str:
    alike: dict[str, Callable[[str], str]] = {
        "the same number: write ids as the same text in both files": _as_number,
        "small and capital letters differ": lambda text: composed(text).casefold(),
        "blanks differ": lambda text: "".join(text.split()),
        "one is without its ending": lambda text: Path(text).stem,
    }
    for why, form in alike.items():
        meant = next((listed for listed in known if form(listed) == form(unknown)), None)
        if meant is not None:
            return f"it lists '{meant}' ({why})"
    return did_you_mean(unknown, known, "add it there, or leave it out here").removeprefix("; ")


def read_stimuli(name: str, folder: Path) -> tuple[StimulusSet, list[str]]:
    """Read stimuli.csv and check that every image exists; return the stimulus set and notes on what is not used.

    Images are decoded when they are read. Blanks around cells are dropped, and lines of empty cells skipped.

    Raises:
        UserError: a column or an image is missing, an id is empty or duplicated, degrees is not a size, an image is
            outside of the folder.
    """
    path = folder / "stimuli.csv"
    header, found = read_rows(path, advice="a benchmark folder needs it (docs/adding-a-benchmark.md)")
    columns = [column.strip() for column in header]
    _refuse_other_columns(columns, path)
    rows = [{column.strip(): cell.strip() for column, cell in row.items()} for row in found]
    rows = [row for row in rows if any(row.values())]
    if not rows:
        raise UserError(f"{path} lists no stimuli; add a line for each image")
    ids = unique_ids([row["stimulus_id"] for row in rows], path)
    for stimulus_id in ids:
        checked_label(stimulus_id, f"{path}: a stimulus_id")
    images = Images(folder)
    paths = [images.find(row["filename"], row["stimulus_id"], path) for row in rows]
    degrees = tuple(_degrees(row, path) for row in rows)
    categories = tuple(row["category"] for row in rows) if "category" in columns else ()
    unused = [column for column in columns if column not in (*COLUMNS, "category")]
    notes = [f"stimuli.csv: {counted(unused, 'column')} not used"] if unused else []
    unlisted = images.unlisted(paths)
    if unlisted:
        notes.append(f"stimuli/: {counted(unlisted, 'file')} not listed in stimuli.csv")
    return stimuli_from_files(name, ids, paths, categories, degrees), notes


def _refuse_other_columns(columns: Sequence[str], path: Path) -> None:
    for column in COLUMNS:
        if column not in columns:
            marks = [mark for mark in (";", "\t") if len(columns) == 1 and mark in columns[0]]
            kind = {";": "semicolons", "\t": "tabs"}
            why = f"its cells are separated by {kind[marks[0]]}, save it with commas" if marks else "add it"
            raise UserError(f"{path} has no column '{column}', only {', '.join(columns)}; {why}")
        if columns.count(column) > 1:
            raise UserError(f"{path} has the column '{column}' twice; remove one")


def counted(names: Sequence[str], singular: str, plural: str = "") -> str:
    """'3 columns (a, b, c)'; of more than five the first five."""
    what = singular if len(names) == 1 else plural or f"{singular}s"
    return f"{len(names)} {what} ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"


class Images:
    """The files below the folder `stimuli` of a benchmark folder.

    Args:
        folder: of the benchmark.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "stimuli"
        #: Where images may lie; `stimuli` may be a link to a folder on another disk.
        self._allowed = [Path(os.path.realpath(place)) for place in (folder, self.root)]
        self._names: dict[str, list[str]] = {}
        for parent, _, files in os.walk(self.root):
            for file in files:
                name = (Path(parent) / file).relative_to(self.root).as_posix()
                self._names.setdefault(composed(name), []).append(name)

    def find(self, filename: str, stimulus_id: str, table: Path) -> Path:
        """Return the path of an image; a name in another Unicode form (NFC, NFD) is the same.

        Raises:
            UserError: no such file, outside of the folder, or two whose names look the same.
        """
        named = f"the image {self.root / filename} of stimulus_id '{stimulus_id}'"
        relative = PurePosixPath(filename)
        if relative.is_absolute() or ".." in relative.parts:
            raise UserError(f"{table}: the filename '{filename}' leaves the folder {self.root}; put the image there")
        found = self._names.get(composed(relative.as_posix()), [])
        exact = [name for name in found if name == relative.as_posix()]
        if len(found) > 1 and not exact:
            raise UserError(f"{named} may be {len(found)} files whose names look the same (Unicode forms); rename one")
        path = self.root / (exact or found or [filename])[0]
        # A disk that takes a for A would find what another one does not.
        alike = [] if found else self._alike(filename)
        if alike or not _is_file(path):
            hint = f"there is '{alike[0]}': rename it, or" if alike else "put it there or"
            raise UserError(f"{named} does not exist; {hint} fix its filename in {table}")
        if not any(Path(os.path.realpath(path)).is_relative_to(place) for place in self._allowed):
            raise UserError(f"{named} is a link to outside the folder; copy the image into the folder")
        return path

    def _alike(self, filename: str) -> list[str]:
        """Return files whose names differ from this only in case, slashes, encoding or ending."""
        folded = composed(filename.replace("\\", "/")).casefold()
        close = []
        for form, (name, *_) in self._names.items():
            latin = os.fsencode(name).decode("latin-1")
            if folded in (form.casefold(), composed(latin).casefold(), form.casefold().rpartition(".")[0]):
                close.append(printable(name))
        return close

    def unlisted(self, paths: Sequence[Path]) -> list[str]:
        """Return the names of the files that are not among these images; hidden files do not count."""
        used = {path.relative_to(self.root).as_posix() for path in paths}
        every = [name for names in self._names.values() for name in names]
        return sorted(printable(name) for name in every if name not in used and not name.startswith("."))


def printable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the disk
        return False


def _degrees(row: dict[str, str], path: Path) -> float:
    text = row["degrees"]
    if re.fullmatch(r"\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) and 0 < float(text) <= WIDEST:
        return float(text)
    comma = ", with a decimal point" if "," in text else ""
    raise UserError(
        f"{path} gives stimulus_id '{row['stimulus_id']}' degrees {text!r}; "
        f"give the image's width in degrees of visual angle{comma}, above 0 and at most {WIDEST:g}"
    )
