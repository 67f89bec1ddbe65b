"""SHA-256 of finished files, so that damaged or edited files are refused.

Files of torch and HDF5 contain theirs in a last line that both formats ignore. Text files, which other programs read to
the end, have it in NAME.sha256 in the same folder, in the format of sha256sum. Files without a digest are accepted.
"""

import hashlib
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from nmnc.errors import UserError

#: First bytes of files that end with their digest: zip archives, which torch writes, and HDF5.
SEALED = (b"PK\3\4", b"\x89HDF")
#: Bytes per read.
BLOCK = 2**20
#: The last line: digest, the ranges it leaves out (START+BYTES,..., or -), and its own length.
SEAL = re.compile(rb"\nsha256 ([0-9a-f]{64}) (-|\d{1,18}\+\d{1,18}(?:,\d{1,18}\+\d{1,18})*) \d{8} nmnc\n")
BEGINNING, END = b"\nsha256 ", re.compile(rb" (\d{8}) nmnc\n\Z")
BYTES_OF_END, BYTES_OF_SEAL = 15, 90

#: (first byte, number of bytes) of a part of a file.
Range = tuple[int, int]


def is_sealed_kind(path: Path) -> bool:
    """Return whether a file contains its digest in a last line; else the digest is in a separate file."""
    with path.open("rb") as file:
        return file.read(4) in SEALED


def seal(path: Path, without: Sequence[Range] = ()) -> None:
    """Append the digest of all bytes to a file.

    Args:
        path: a file of torch or HDF5.
        without: ranges left out of the digest because something else protects them.
    """
    parts = ",".join(f"{start}+{size}" for start, size in _joined(without)) or "-"
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        line = _line("0" * 64, parts)
        file.seek(max(size - 22, 0))
        if file.read(4) == b"PK\5\6":  # the end of a zip archive, which gives the length of what follows
            file.seek(size - 2)
            file.write(struct.pack("<H", len(line)))
        line = _line(_digest(file, size, parts), parts)
        file.seek(size)
        file.write(line)


def check_seal(path: Path) -> None:
    """Check a file against the digest in its last line, if there is one.

    Raises:
        UserError: the digest differs.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - BYTES_OF_SEAL, 0))
        last = file.read()
        end = END.search(last)
        if end is None and BEGINNING not in last:
            return
        body = max(size - int(end[1]), 0) if end else size
        file.seek(body)
        line = SEAL.fullmatch(file.read())
        if line is None or _digest(file, body, line[2].decode()) != line[1].decode():
            raise UserError(f"{path}: damaged, its SHA-256 is not the one it was written with; delete it and rerun")


def digest_file(path: Path) -> Path:
    """Return the path of a text file's digest."""
    return path.with_name(f"{path.name}.sha256")


def digest_line(path: Path, content: bytes) -> str:
    """Return the content of the digest file of `path`, in the format of sha256sum."""
    return f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"


def check_content(path: Path, content: bytes) -> None:
    """Check the content of `path` against its digest file, if there is one.

    Raises:
        UserError: the digest differs or is not a digest.
    """
    digest_path = digest_file(path)
    if not digest_path.is_file():
        return
    with digest_path.open("rb") as file:
        fields = file.read(BLOCK).split()
    if not fields or fields[0].decode("latin-1") != hashlib.sha256(content).hexdigest():
        raise UserError(
            f"{path}: damaged or edited, its SHA-256 is not the one in {digest_path.name}; delete it and rerun "
            f"(or delete {digest_path.name}, if you edited it)"
        )


def _line(digest: str, parts: str) -> bytes:
    text = f"\nsha256 {digest} {parts} "
    return f"{text}{len(text) + BYTES_OF_END - 1:08d} nmnc\n".encode()


def _joined(ranges: Sequence[Range]) -> list[Range]:
    """Return the ranges in ascending order, adjacent ones merged."""
    joined: list[Range] = []
    for start, size in sorted(ranges):
        if joined and sum(joined[-1]) == start:
            joined[-1] = joined[-1][0], joined[-1][1] + size
        else:
            joined.append((start, size))
    return joined


def _digest(file: BinaryIO, size: int, parts: str) -> str:
    """Return the hex SHA-256 of the first `size` bytes without `parts`, and of `parts` and `size` themselves."""
    digest = hashlib.sha256(f"{size} {parts}".encode())
    position = 0
    skipped = [tuple(map(int, part.split("+"))) for part in parts.split(",") if part != "-"]
    for start, length in [*skipped, (size, 0)]:
        file.seek(position)
        while position < min(start, size) and (block := file.read(min(BLOCK, min(start, size) - position))):
            digest.update(block)
            position += len(block)
        position = max(position, start + length)
    return digest.hexdigest()
