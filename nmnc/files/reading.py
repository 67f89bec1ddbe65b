"""Read YAML, JSON and CSV written by people and other programs, with one-line errors.

Reading never runs code, uses unbounded memory, or raises an exception other than UserError.
"""

import csv
import gzip
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from nmnc.errors import UserError, in_one_line
from nmnc.files.digests import check_content

#: Limits on one text file: bytes (of YAML: characters, and nodes as written), nested levels, values (an alias counts
#: each time it is used), characters of a cell.
MOST_BYTES, MOST_YAML, MOST_NODES = 128 * 1024**2, 1024**2, 20_000
MOST_LEVELS, MOST_VALUES, MOST_CELL = 50, 200_000, 10_000_000
#: Larger than any setting; Python refuses to print numbers of many thousand digits.
LARGEST_NUMBER = 2**64


def read_text(path: Path, advice: str = "check the path") -> str:
    """Return a UTF-8 text file, with or without a byte-order mark; a .gz file is decompressed.

    Args:
        path: the file.
        advice: what to do if the file cannot be read.

    Raises:
        UserError: missing, unreadable, not a regular file, not UTF-8, over 128 MiB, or different from its digest
            (see `nmnc.files.digests`).
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # reading could block or never end
            raise UserError(f"{path}: cannot be read (a pipe or device, not a file); {advice}")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path}: over {MOST_BYTES} bytes; at most so many are read, check the path")
        check_content(path, content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError, EOFError, zlib.error) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); {advice}") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys (in YAML the last one wins), deep nesting and too many values."""

    depth = nodes = merged = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.depth > MOST_LEVELS + 1:
            raise UserError(f": nested over {MOST_LEVELS} levels; flatten it")
        if self.nodes > MOST_NODES:
            raise UserError(f": over {MOST_NODES} values; shorten it")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                line = key.start_mark.line + 1
                raise UserError(f" line {line}: the key {key.value!r} is given twice; remove one")
            seen.add(name)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MOST_VALUES:
            raise UserError(f": over {MOST_VALUES} values, aliases expanded; shorten it")


class _VerbatimLoader(_Loader):
    """Loader that keeps every scalar as the text in the file, e.g. 010124, NO and 1.10."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


def parse_yaml(text: str, place: str, *, verbatim: bool = False) -> Any:
    """Return the content of a YAML document as plain data.

    Args:
        text: the document.
        place: name of the document in errors, usually the file's path.
        verbatim: keep every scalar as text, so that labels arrive as written.

    Raises:
        UserError: not YAML, a repeated key, NaN or infinity, nested over 50 levels, over 1 MiB, over 200,000
            values with aliases expanded, or a tag that asks for anything but plain data.
    """
    if len(text) > MOST_YAML:
        raise UserError(f"{place}: {len(text)} characters; at most {MOST_YAML} are read, check the path")
    try:
        content = yaml.load(text, Loader=_VerbatimLoader if verbatim else _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{place}{line}: not valid YAML ({problem}); fix it") from None
    except UserError as error:
        raise UserError(f"{place}{error}") from None
    except RecursionError:
        raise UserError(f"{place}: nested over {MOST_LEVELS} levels; flatten it") from None
    except (
        ValueError,
        OverflowError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # e.g. `!!bool x`, a 13th month
        raise UserError(f"{place}: not valid YAML ({in_one_line(error)}); fix it") from None
    check_plain(content, place)
    return content


def read_yaml(path: Path, advice: str = "check the path", *, verbatim: bool = False) -> Any:
    """Return the content of a YAML file; see `read_text` and `parse_yaml` for what is refused."""
    return parse_yaml(read_text(path, advice), str(path), verbatim=verbatim)


def parse_json(text: str, place: str, advice: str = "fix it") -> Any:
    """Return the content of a JSON text.

    Raises:
        UserError: not JSON, a repeated key, NaN or infinity, nested over 50 levels or over 200,000 values.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            repeated = next(key for key in content if sum(key == name for name, _ in pairs) > 1)
            raise UserError(f"{place}: the key {repeated!r} is given twice; remove one")
        return content

    def no_number(constant: str) -> Any:
        raise UserError(f"{place}: {constant} is not a number; {advice}")

    try:
        content = json.loads(text, object_pairs_hook=unique, parse_constant=no_number)
    except RecursionError:
        raise UserError(f"{place}: nested over {MOST_LEVELS} levels; flatten it") from None
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({str(error).splitlines()[0]}); {advice}") from None
    check_plain(content, place)
    return content


def read_json(path: Path, advice: str = "check the path") -> Any:
    """Return the content of a JSON file; see `read_text` and `parse_json` for what is refused."""
    return parse_json(read_text(path, advice), str(path), advice)


def read_object(path: Path, fields: Mapping[str, type | tuple[type, ...]], advice: str) -> dict[str, Any]:
    """Return the object of a JSON file after checking that these fields exist and have these types.

    Raises:
        UserError: as `read_json`; a field is missing or has another type.
    """
    content = read_json(path, advice)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; {advice}")
    for name, kinds in fields.items():
        if name not in content:
            raise UserError(f"{path}: the field {name!r} is missing; {advice}")
        value = content[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
            raise UserError(f"{path}: the field {name!r} is of the type {type(value).__name__}; {advice}")
    return content


def check_plain(content: Any, place: str) -> None:
    """Refuse deep nesting, too many values and unusable numbers; iterative, so that nesting cannot exhaust the stack.

    Raises:
        UserError: NaN or infinity, nested over 50 levels, or over 200,000 values with aliases expanded.
    """
    level, count = [content], 0
    for _ in range(MOST_LEVELS):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{place}: {value} is not a finite number; set a finite one")
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise UserError(f"{place}: a number is beyond 2**64; set a smaller one")
            if isinstance(value, dict):
                inner += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | set):
                inner += value
            if count + len(inner) > MOST_VALUES:
                raise UserError(f"{place}: over {MOST_VALUES} values, aliases expanded; shorten it")
        if not inner:
            return
        level, count = inner, count + len(inner)
    raise UserError(f"{place}: nested over {MOST_LEVELS} levels; flatten it")


def read_rows(
    path: Path, columns: Collection[str] = (), advice: str = "check the path"
) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header and the rows of a CSV file, every cell as the text in the file.

    Args:
        path: a UTF-8 file with a header and commas; empty lines are skipped.
        columns: required columns.
        advice: what to do if the file or a column is missing.

    Raises:
        UserError: unreadable, no header, a missing or repeated column, or a row with more or fewer cells than
            the header (its line number is named).
    """
    reader = csv.reader(io.StringIO(read_text(path, advice), newline=""), strict=True)
    limit = csv.field_size_limit(MOST_CELL)
    try:
        lines = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not CSV ({error}); fix that line") from None
    finally:
        csv.field_size_limit(limit)
    if not lines:
        raise UserError(f"{path}: empty; it needs a header line")
    header = lines[0][1]
    _check_header(header, columns, path, advice)
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise UserError(f"{path} line {number}: {len(row)} cells, but the header has {len(header)}; fix that line")
    return header, [dict(zip(header, row, strict=True)) for _, row in lines[1:]]


def _check_header(header: Sequence[str], columns: Collection[str], path: Path, advice: str) -> None:
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"{path}: the column {name!r} is given twice; remove one")
    for name in columns:
        if name not in header:
            separator = next((mark for mark in (";", "\t") if len(header) == 1 and mark in header[0]), None)
            why = f"; its cells are separated by {separator!r}, save it with commas" if separator else f"; {advice}"
            raise UserError(f"{path}: no column {name!r}, only {', '.join(header)}{why}")


def check_complete(
    path: Path, found: Iterable[tuple[str, ...]], expected: Collection[tuple[str, ...]], advice: str
) -> None:
    """Refuse a table with missing, repeated or unexpected rows.

    Args:
        path: the table, named in the error.
        found: key of every row.
        expected: keys that must occur exactly once.
        advice: what to do.

    Raises:
        UserError: names the first repeated, missing or unexpected row.
    """
    counts = Counter(found)
    repeated = (key for key, number in counts.items() if number > 1)
    missing = (key for key in expected if key not in counts)
    surplus = (key for key in counts if key not in expected)
    for keys, problem in ((repeated, "is there twice"), (missing, "is missing"), (surplus, "does not belong there")):
        for key in keys:
            raise UserError(f"{path}: the row of {', '.join(filter(None, key))} {problem}; {advice}")
