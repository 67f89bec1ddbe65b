"""The only place that opens pictures: the bytes of a file -> sRGB pixels, upright, on a grey ground.

Each kind of pixel, and each thing that a file says about how it is to be seen, has a rule (`nmnc.data.image_pixels`);
what has none is refused in one line. docs/adding-a-benchmark.md lists the rules.
"""

import hashlib
import io
import logging
import stat
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmnc.data import image_pixels
from nmnc.data.image_pixels import EIGHT_BITS, GREY, OTHER_HALVES, Pixels, Refused, colour_and_alpha, composed, layout
from nmnc.errors import UserError, in_one_line

#: Grey level behind transparent pixels.
GROUND = 128
#: Kinds of files that are read, as Pillow names its modules for them, and the endings that people give them.
PLUGINS = ("Png", "Jpeg", "Tiff", "Bmp", "Gif", "WebP", "Ppm")
ENDINGS = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
}  # fmt: skip
#: Endings of pictures that are not read; a set of images without them would be another set.
OTHER_ENDINGS = {
    ".heic", ".heif", ".avif", ".svg", ".jp2", ".j2k", ".jpx", ".jxl", ".psd", ".tga", ".ico", ".eps", ".exr", ".hdr",
    ".dng", ".cr2", ".nef", ".arw", ".dcm", ".pcx", ".sgi", ".qoi", ".xcf", ".mpo", ".dib", ".pdf", ".fits",
}  # fmt: skip
#: More pixels are taken for a decompression bomb, more bytes for no picture.
MOST_PIXELS, MOST_BYTES = 89_478_485, 2**30
#: Primaries of sRGB: x and y of white, red, green and blue.
PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
#: First column and row, steps to the next column and row, of each pass of an interlaced PNG.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Tags of TIFF files.
BITS, PLANES, TRANSFER, WHITE, CHROMATICITIES, COLOUR_MAP, EXTRA_BANDS, SAMPLE_FORMAT = (
    258, 284, 301, 318, 319, 320, 338, 339,
)  # fmt: skip

# Pillow logs what it dislikes of damaged files; without a handler Python would print that beside our one line.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def read_image(path: Path, name: str | None = None) -> Pixels:
    """Decode the picture in a file; see `read_file` and `decode_image`."""
    return decode_image(read_file(path, name), name or str(path))


def read_file(path: Path, name: str | None = None) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: the file.
        name: what errors call it; None: its path.

    Raises:
        UserError: missing, unreadable, over 1 GiB, or a folder, pipe or device (a pipe would be waited for).
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{name or path} is not a regular file; replace or remove it")
        if found.st_size > MOST_BYTES:
            raise UserError(f"{name or path} has {found.st_size} bytes, too many for an image; replace or remove it")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name or path} cannot be read ({reason}); replace or remove it") from None


def decode_image(content: bytes, name: str) -> Pixels:
    """Decode an image file's bytes.

    Args:
        content: of the file.
        name: what errors call it.

    Returns:
        (height, width, 3): uint8 where 8 bits a band keep what the file gives, else float32 from 0 to 1.

    Raises:
        UserError: not an image, damaged, too large, of several frames, or of a kind without a rule.
    """
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have allowed it, and what is missing would be grey
    kind = ""
    try:
        with _opened(content) as image:
            kind, raw = f"{image.format}, mode {image.mode}", layout(image)[0]
            _check(image, content)
            lower = _opened(content) if raw in OTHER_HALVES else None
            return composed(*colour_and_alpha(image, raw, lower), GROUND)
    except Refused as reason:
        raise UserError(f"{name}{kind and f' ({kind})'} {reason}") from None
    except Exception as error:  # Pillow's plug-ins raise almost anything for a damaged file
        why = "; ".join(filter(None, (kind, in_one_line(error))))
        raise UserError(f"{name} cannot be read as an image ({why}); replace that file") from None


@lru_cache
def decoding() -> str:
    """What pixels depend on beside the file, in one line: for the address of whatever is computed from them."""
    from PIL import __version__

    code = hashlib.sha256(b"".join(Path(module).read_bytes() for module in (__file__, image_pixels.__file__)))
    return f"sRGB, upright, transparency on grey {GROUND}; code {code.hexdigest()[:16]}; Pillow {__version__}"


def as_uint8(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Round pixels from 0 to 1 to the nearest of 256 levels; return uint8 as it is."""
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def _opened(content: bytes) -> Any:
    """The PIL.ImageFile.ImageFile of one of PLUGINS, of which only the header is read."""
    from PIL import Image

    for kind in PLUGINS:  # each enters its kind of file in Image.OPEN
        import_module(f"PIL.{kind}ImagePlugin")

    if content.startswith(b"\x89PNG"):
        for name, settings in _chunks(content):
            if name == b"cICP" and settings != bytes((1, 13, 0, 1)):  # Pillow skips it
                raise Refused("has other colours than sRGB (PNG, chunk cICP); convert it to sRGB")
    # Not Image.open: it warns of large pictures, and a warning cannot be caught while other threads run.
    for kind in PLUGINS:
        factory, accept = Image.OPEN[kind.upper()]
        if accept is not None and accept(content[:16]) is True:
            return factory(io.BytesIO(content), "")
    raise Refused(
        f"cannot be read as an image (it is not {', '.join(PLUGINS).upper()}); convert it, or replace that file"
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each chunk of a PNG; Refused where it is damaged anywhere, before its end too."""
    place, name = 8, b""
    while name != b"IEND":
        (length,) = struct.unpack(">I", png[place : place + 4].rjust(4, b"\xff"))
        body, check = png[place + 4 : place + 8 + length], png[place + 8 + length : place + 12 + length]
        if zlib.crc32(body).to_bytes(4, "big") != check:
            raise Refused("cannot be read as an image (PNG, truncated or damaged); replace that file")
        name = body[:4]
        yield name, body[4:]
        place += 12 + length


def _check_pixels(png: bytes) -> None:
    """Refuse a PNG with fewer rows than its header says: Pillow would leave the others black."""
    stream, found, needed = zlib.decompressobj(), 0, 0
    for name, content in _chunks(png):
        if name == b"IHDR":
            needed = _bytes_of_rows(*struct.unpack(">IIBBxxB", content))
        while name == b"IDAT" and content and found < needed:
            found += len(stream.decompress(content, 2**20))
            content = stream.unconsumed_tail
    if found + len(stream.flush()) < needed:
        raise Refused("has fewer pixels than its header says; replace that file")


def _bytes_of_rows(width: int, height: int, bits: int, colour: int, interlaced: int) -> int:
    """Bytes of a PNG's unpacked pixels: each row begins with the byte of its filter."""
    bits *= {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    sizes = [
        (len(range(left, width, right)), len(range(top, height, down)))
        for left, top, right, down in (ADAM7 if interlaced else [(0, 0, 1, 1)])
    ]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns)


def _check(image: Any, content: bytes) -> None:
    """Refuse what is no single picture of a usable size, or in colours or numbers without a rule."""
    width, height = image.size
    if min(width, height) < 1:
        raise Refused(f"is {width} x {height} pixels; replace that file")
    if width * height > MOST_PIXELS:
        raise Refused(f"is {width} x {height} pixels, more than {MOST_PIXELS}; make it smaller")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise Refused(f"has {frames} frames; save the one that is meant as a file of its own")
    if image.format == "PNG":
        _check_pixels(content)
    if image.format == "TIFF":
        _check_tiff(image)
    if image.format == "PPM" and image.mode == "RGB" and layout(image)[-1] not in ("RGB", *range(256)):
        raise Refused("has more than 8 bits a band, which are not read in colour PPM files; save it as PNG or TIFF")
    if image.format == "BMP" and content[14] >= 108 and content[70:74] in (b"DEBM", b"KNIL"):
        raise Refused("has a colour profile, which is not read in BMP files; save it as PNG")
    _check_colours(image)


def _check_colours(image: Any) -> None:
    """Refuse colours that a file calls other than sRGB without a profile to convert them by."""
    if "icc_profile" in image.info:
        if not image.info["icc_profile"]:
            raise Refused("has a damaged colour profile; convert it to sRGB, or remove the profile")
        return
    if "srgb" in image.info:
        return
    if image.info.get("gamma", 1) <= 0:
        raise Refused("has a gamma of 0; remove its chunk gAMA")
    primaries = image.info.get("chromaticity")
    if image.format == "TIFF" and CHROMATICITIES in image.tag_v2:
        primaries = (*image.tag_v2.get(WHITE, PRIMARIES[:2]), *image.tag_v2[CHROMATICITIES])
    if primaries and image.mode not in GREY and not np.allclose(np.array(primaries, float), PRIMARIES, atol=0.005):
        raise Refused("has other primaries than sRGB and no colour profile; convert it to sRGB")
    exif = image.getexif()
    # What DCF calls the option file R03 is Adobe RGB; some cameras say 2 instead.
    if exif.get_ifd(0x8769).get(0xA001) == 2 or str(exif.get_ifd(0xA005).get(1, "")).startswith("R03"):
        raise Refused("is in Adobe RGB (EXIF) without a colour profile; convert it to sRGB")


def _check_tiff(image: Any) -> None:
    """Refuse TIFF files that Pillow would read wrongly without a word."""
    tags, raw = image.tag_v2, layout(image)[0]
    bits = max(tags.get(BITS, (1,)))
    if 2 in tags.get(SAMPLE_FORMAT, ()):
        raise Refused("has signed numbers, whose white is not known; save it as whole numbers from 0, or as 0 to 1")
    if 0 in tags.get(EXTRA_BANDS, ()):
        raise Refused(f"has {len(tags[EXTRA_BANDS])} bands beside its colours; save the colours alone")
    if bits > 8 and (tags.get(PLANES) == 2 or (image.mode in EIGHT_BITS and raw not in OTHER_HALVES)):
        raise Refused(f"has {bits} bits a band in a layout that is not read; save it as interleaved RGB, or as grey")
    if 0 < max(tags.get(COLOUR_MAP, (0,))) < 256:
        raise Refused("has a palette of 8-bit values where 16 bits are due, so all is black; save it as RGB")
    if TRANSFER in tags and "icc_profile" not in image.info:
        raise Refused("has a transfer function and no colour profile; convert it to sRGB")
    if raw == "F;32BF" and image.tile[0].codec_name == "libtiff":
        # libtiff gives numbers in the machine's byte order, and Pillow would turn them round.
        image.tile = [tile._replace(args=("F;32NF", *tile.args[1:])) for tile in image.tile]
