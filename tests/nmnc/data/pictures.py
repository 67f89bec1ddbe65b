"""Files of pictures, written byte by byte, and what must be seen of them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from nmnc.data.images import decode_image


def png(
    values: np.ndarray, depth: int, *chunks: tuple[bytes, bytes], filters: Any = (0,), palette: bool = False,
    interlaced: bool = False,
) -> bytes:  # fmt: skip
    """PNG of whole numbers (height, width, 1 to 4) of `depth` bits, with further chunks before the pixels."""
    height, width, bands = values.shape
    colour = 3 if palette else {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    passes = [values]
    if interlaced:  # each pass: its first row and column, its steps to the next ones
        order = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        passes = [values[top::down, left::right] for top, left, down, right in order]
    pixels = b"".join(rows(part, depth, filters) for part in passes if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def rows(values: np.ndarray, depth: int, filters: Any) -> bytes:
    """The pixels of a PNG before they are compressed."""
    height, _, bands = values.shape
    if depth == 16:
        lines = values.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth == 8:
        lines = values.astype(np.uint8).reshape(height, -1)
    else:
        bits = (values.reshape(height, -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        lines = np.packbits(bits.reshape(height, -1), axis=1)
    step = max(1, depth * bands // 8)
    above = np.vstack([np.zeros_like(lines[:1]), lines])
    kinds = [filters[number % len(filters)] for number in range(height)]
    done = (_filtered(kind, *pair, step) for kind, *pair in zip(kinds, lines, above[:-1], strict=True))
    return b"".join(bytes([kind]) + line.tobytes() for kind, line in zip(kinds, done, strict=True))


def chunk(name: bytes, content: bytes) -> bytes:
    """One chunk of a PNG with its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _filtered(kind: int, row: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """A row as the PNG specification's filter `kind` leaves it: none, sub, up, average, Paeth."""
    now, up = row.astype(int), above.astype(int)
    left, corner = (np.concatenate([np.zeros(step, int), line])[: len(line)] for line in (now, up))
    guess = left + up - corner
    near_left, near_up, near_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    paeth = np.where(
        (near_left <= near_up) & (near_left <= near_corner), left, np.where(near_up <= near_corner, up, corner)
    )
    return (now - [np.zeros_like(now), left, up, (left + up) // 2, paeth][kind]).astype(np.uint8)


def tiff(
    values: np.ndarray, tags: dict[int, Any] | None = None, order: str = "<", pages: int = 1, packed: bool = False
) -> bytes:
    """TIFF of numbers (height, width, bands) of any dtype, perhaps by zlib; `tags` (shorts) replace its own."""
    height, width, bands = values.shape
    strip = values.astype(values.dtype.newbyteorder(order)).tobytes()
    strip = zlib.compress(strip) if packed else strip
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries: dict[int, Any] = {
        256: [width], 257: [height], 258: [8 * values.dtype.itemsize] * bands, 259: [8 if packed else 1],
        262: [2 if bands > 2 else 1], 273: [8], 277: [bands], 278: [height], 279: [len(strip)], 339: [kind] * bands,
    } | dict(tags or {})  # fmt: skip
    content = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(strip)) + strip
    for page in range(pages):
        start, after = len(content), len(content) + 2 + 12 * len(entries) + 4
        table, long = struct.pack(order + "H", len(entries)), b""
        for tag, numbers in sorted(entries.items()):
            field = struct.pack(order + "H" * len(numbers), *numbers)
            if len(field) > 4:
                field, long = struct.pack(order + "I", after + len(long)), long + field
            table += struct.pack(order + "HHI", tag, 3, len(numbers)) + field.ljust(4, b"\0")
        following = after + len(long) if page + 1 < pages else 0
        content += table + struct.pack(order + "I", following) + long
        assert start == len(content) - len(table) - 4 - len(long)
    return content


def icc(space: bytes, gamma: float, primaries: np.ndarray | None = None) -> bytes:
    """ICC profile (version 2) of grey, or of RGB whose primaries are the columns of a matrix to XYZ (D50)."""

    def fixed(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    def curve() -> bytes:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"

    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)
    tags: list[tuple[bytes, bytes]] = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)), (b"wtpt", white)
    ]  # fmt: skip
    if primaries is None:
        tags.append((b"kTRC", curve()))
    else:
        for name, column in zip("rgb", primaries.T, strict=True):
            tags += [(f"{name}XYZ".encode(), b"XYZ \0\0\0\0" + fixed(*column)), (f"{name}TRC".encode(), curve())]
    table, data, place = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags:
        padded = content + bytes(-len(content) % 4)
        table += tag + struct.pack(">II", place + len(data), len(content))
        data += padded
    size = place + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, b"mntr", space, b"XYZ ") + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + data


def srgb(linear: Any) -> np.ndarray:
    """Linear light of 0 to 1 as sRGB encodes it (IEC 61966-2-1)."""
    light = np.clip(np.asarray(linear, float), 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def seen(content: bytes) -> np.ndarray:
    return decode_image(content, "cat.x")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def random_values(*shape: int, white: int = 255, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, white + 1, shape)


def on_grey(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours (height, width, 1 or 3) and opacity (height, width), both of 0 to 1, over the grey of 128."""
    return np.broadcast_to(colour * alpha[..., None] + 128 / 255 * (1 - alpha[..., None]), (*alpha.shape, 3))


def agrees(content: bytes, expected: np.ndarray, deep: bool) -> None:
    """The picture is `expected` (0 to 1): to float32's digits where it is deep, else rounded to 8 bits."""
    found = seen(content)
    assert found.dtype == (np.float32 if deep else np.uint8)
    assert found.shape == (*expected.shape[:2], 3)
    if deep:
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=2e-7)
    else:
        assert np.abs(found - 255 * expected).max() <= 0.5 + 1e-9
