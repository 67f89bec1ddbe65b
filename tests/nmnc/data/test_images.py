"""The decoder of pictures against files written byte by byte, and what it refuses."""

import io
import os
import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from nmnc.data.images import as_uint8, decoding, read_image
from nmnc.errors import UserError
from tests.nmnc.data.pictures import agrees, chunk, icc, on_grey, png, random_values, saved, seen, srgb, tiff


@given(
    form=st.sampled_from([(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 2), (16, 2), (8, 3), (16, 3), (8, 4), (16, 4)]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    filters=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    keyed=st.booleans(),
    interlaced=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=150)
def test_a_png_is_its_numbers_over_white_on_grey(
    form: Any, size: Any, filters: Any, keyed: Any, interlaced: Any, seed: Any
) -> None:
    depth, bands = form
    white = 2**depth - 1
    values = random_values(*size, bands, white=white, seed=seed)
    alpha, chunks = np.ones(size), []
    if bands in (2, 4):
        alpha = values[..., -1] / white
    elif keyed:  # one colour is transparent
        key = values[0, 0]
        chunks = [(b"tRNS", struct.pack(f">{bands}H", *key))]
        alpha = (values != key).any(axis=2).astype(float)
    colour = values[..., : bands - (bands in (2, 4))] / white
    content = png(values, depth, *chunks, filters=filters, interlaced=interlaced)
    agrees(content, on_grey(colour, alpha), deep=depth == 16)


def test_sixteen_bits_are_the_same_picture_as_their_eight() -> None:
    values = random_values(7, 5, 3)
    eight, sixteen = seen(png(values, 8)), seen(png(values * 257, 16))
    np.testing.assert_array_equal(sixteen, eight / np.float32(255))
    np.testing.assert_array_equal(as_uint8(sixteen), eight)
    np.testing.assert_array_equal(as_uint8(eight), values)
    np.testing.assert_array_equal(seen(tiff((values * 257).astype(np.uint16))), sixteen)
    np.testing.assert_array_equal(seen(png(values * 257, 16, (b"sBIT", b"\x0a" * 3))), sixteen)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_deep_tiff_files_keep_their_numbers(order: Any, packed: Any) -> None:
    whole, real = random_values(6, 4, 3, white=65535), np.random.default_rng(1).random((6, 4, 1), dtype=np.float32)
    cases = [(whole.astype(np.uint16), 65535), (whole[..., :1].astype(np.uint16), 65535), (real, 1)]
    for values, white in cases:
        agrees(tiff(values, None, order, packed=packed), values / white, deep=True)
    opaque = random_values(6, 4, 4, white=65535).astype(np.uint16)
    content = tiff(opaque, {338: [2]}, order, packed=packed)
    agrees(content, on_grey(opaque[..., :3] / 65535, opaque[..., 3] / 65535), deep=True)


def test_white_may_be_zero_in_a_tiff() -> None:
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535)):
        values = random_values(6, 4, 1, white=white).astype(dtype)
        agrees(tiff(values, {262: [0]}), 1 - values / white, deep=white > 255)


def test_images_of_ppm_files() -> None:
    values = random_values(5, 6, 1, white=65535)
    agrees(b"P5 6 5 65535\n" + values.astype(">u2").tobytes(), values / 65535, deep=True)
    real = np.random.default_rng(0).random((5, 6, 1), dtype=np.float32)
    agrees(b"Pf 6 5 -1.0\n" + real[::-1].astype("<f4").tobytes(), real, deep=True)
    colours = random_values(5, 6, 3)
    agrees(b"P6 6 5 255\n" + colours.astype(np.uint8).tobytes(), colours / 255, deep=False)


HIDDEN = {
    "RGBA": lambda hidden: png(np.dstack([hidden, MASK]), 8),
    "LA": lambda hidden: png(np.dstack([hidden[..., :1], MASK]), 8),
    "RGBA of 16 bits": lambda hidden: png(np.dstack([hidden, MASK]) * 257, 16),
    "LA of 16 bits": lambda hidden: png(np.dstack([hidden[..., :1], MASK]) * 257, 16),
    "TIFF": lambda hidden: tiff(np.dstack([hidden, MASK]).astype(np.uint8), {338: [2]}),
    "WebP": lambda hidden: saved(
        Image.fromarray(np.dstack([hidden, MASK]).astype(np.uint8)), "WEBP", lossless=True, exact=True
    ),
    "palette": lambda hidden: png(
        np.where(MASK > 0, 1, 0), 8, (b"PLTE", bytes([*hidden[0, 0], 9, 8, 7])), (b"tRNS", b"\0"), palette=True
    ),
    "palette, half": lambda hidden: png(
        np.where(MASK > 0, 1, 0), 4, (b"PLTE", bytes([*hidden[0, 0], 9, 8, 7])), (b"tRNS", b"\0\x80"), palette=True
    ),
}  # fmt: skip
MASK = np.where(np.hypot(*np.mgrid[-3:4, -3:4]) < 2.5, 255, 0)[..., None]
SHOWN = random_values(7, 7, 3)


@pytest.mark.parametrize("kind", HIDDEN)
def test_colours_that_nobody_sees_do_not_count(kind: Any) -> None:
    hidden = (0, random_values(7, 7, 3, seed=1))
    black, left = (seen(HIDDEN[kind](np.where(MASK > 0, SHOWN, colour))) for colour in hidden)
    np.testing.assert_array_equal(black, left)
    np.testing.assert_array_equal(as_uint8(black[0, 0]), [128] * 3)


def test_what_is_opaque_stays_as_it_is() -> None:
    np.testing.assert_array_equal(seen(png(np.dstack([SHOWN, np.full((7, 7, 1), 255)]), 8)), SHOWN)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "La", "PA", "RGBA", "RGBa"])
def test_every_mode_of_eight_bits_is_pillows_rgb(mode: Any) -> None:
    pixels = Image.fromarray(random_values(6, 5, 3).astype(np.uint8))
    grey = pixels.convert("L")
    grey.putalpha(255)
    whole = {"La": grey, "PA": pixels.convert("P"), "RGBa": pixels.convert("RGBA")}.get(mode, pixels).convert(mode)
    for kind in ("PNG", "TIFF", "JPEG", "BMP", "GIF", "WEBP", "PPM"):
        with suppress(OSError, KeyError, ValueError):  # not every kind of file has every mode
            content = saved(whole, kind)
            image = Image.open(io.BytesIO(content))
            np.testing.assert_array_equal(seen(content), np.asarray(image.convert("RGB")), err_msg=kind)


def test_cmyk_without_a_profile_is_one_minus_its_inks() -> None:
    inks = random_values(6, 5, 4)
    expected = (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255)
    content = saved(Image.fromarray(inks.astype(np.uint8), mode="CMYK"), "TIFF")
    assert np.abs(seen(content) - 255 * expected).max() <= 1


#: An image and the eight ways to store it: EXIF 2.3, the tag Orientation.
UPRIGHT = random_values(16, 24, 3).astype(np.uint8)
STORED = {
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT), 7: np.rot90(UPRIGHT, 2).transpose(1, 0, 2), 8: np.rot90(UPRIGHT, -1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
def test_images_stand_upright(orientation: Any) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]:
        np.testing.assert_array_equal(seen(saved(stored, kind, exif=exif, **options)), UPRIGHT, err_msg=kind)
    block = exif.tobytes()[6:]
    deep = np.asarray(stored).astype(int) * 257
    np.testing.assert_array_equal(as_uint8(seen(png(deep, 16, (b"eXIf", block)))), UPRIGHT)
    np.testing.assert_array_equal(as_uint8(seen(tiff(deep.astype(np.uint16), {274: [orientation]}))), UPRIGHT)
    turned = seen(saved(stored, "JPEG", exif=exif, quality=100, subsampling=0)).astype(int)
    assert np.abs(turned - UPRIGHT).max() <= 4


#: Columns: red, green and blue of sRGB in XYZ for the white D50 (Bradford), as its published profiles have them.
SRGB_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
ADOBE_D50 = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)


@pytest.mark.parametrize("tagged", [False, True])
def test_lab_is_that_of_the_white_d50(tagged: Any) -> None:
    lightness, a, b = (axis.ravel()[:, None] for axis in np.meshgrid([40.0, 60, 80], [-20.0, 0, 30], [-10.0, 0, 20]))
    root = np.hstack([(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200])
    xyz = np.where(root > 6 / 29, root**3, 3 * (6 / 29) ** 2 * (root - 4 / 29)) * [0.9642, 1.0, 0.8249]
    stored = np.hstack([lightness * 2.55, a, b]).round().astype(int).astype(np.uint8)[None]
    content = tiff(stored, {262: [8]})
    if tagged:
        own = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        content = saved(Image.open(io.BytesIO(content)), "TIFF", icc_profile=own)
    assert np.abs(seen(content)[0] - 255 * srgb(xyz @ np.linalg.inv(SRGB_D50).T)).max() <= 1.5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_colour_profile_is_converted_to_srgb(kind: Any) -> None:
    values = random_values(8, 8, 3).astype(np.uint8)
    profile = icc(b"RGB ", 2.2, ADOBE_D50)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    plain, tagged = (saved(Image.fromarray(values), kind, icc_profile=one, **options) for one in (None, profile))
    light = (seen(plain) / 255) ** (round(2.2 * 256) / 256) @ (np.linalg.inv(SRGB_D50) @ ADOBE_D50).T
    assert np.abs(seen(tagged) - 255 * srgb(light)).max() <= 1.5
    assert np.abs(seen(tagged).astype(int) - seen(plain)).max() > 10


def test_a_grey_profile_is_converted_too() -> None:
    values = np.arange(256).reshape(16, 16, 1)
    content = saved(Image.fromarray(values[..., 0].astype(np.uint8)), "PNG", icc_profile=icc(b"GRAY", 1.0))
    assert np.abs(seen(content) - 255 * srgb(values / 255)).max() <= 1.5


def test_the_profile_of_srgb_changes_nothing() -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for pixels in (random_values(9, 9, 3), random_values(9, 9, 1)):
        image = Image.fromarray(pixels.squeeze().astype(np.uint8))
        np.testing.assert_array_equal(seen(saved(image, "PNG", icc_profile=own)), seen(saved(image, "PNG")))
    deep = png(random_values(9, 9, 3, white=65535), 16, iccp(own))
    assert seen(deep).dtype == np.float32


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"x\0\0" + zlib.compress(profile)


def test_a_gamma_is_undone_and_the_usual_one_is_srgb() -> None:
    values = random_values(6, 6, 3)
    linear = png(values, 8, (b"gAMA", struct.pack(">I", 100_000)))
    np.testing.assert_allclose(seen(linear), srgb(values / 255), atol=1e-5)
    for chunks in ([(b"gAMA", struct.pack(">I", 45_455))], [(b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")]):
        np.testing.assert_array_equal(seen(png(values, 8, *chunks)), values)


def primaries(*numbers: float) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(number * 1e5) for number in numbers))


def with_exif(tag: int, value: Any, block: int) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(block)[tag] = value
    return saved(Image.fromarray(UPRIGHT), "JPEG", exif=exif)


FLOAT, GREY8, RGB8 = np.full((3, 3, 1), 0.5, np.float32), np.zeros((3, 3, 1), np.uint8), np.zeros((3, 3, 3), np.uint8)
FRAMES = [Image.new("L", (4, 4), level) for level in (0, 100, 200)]
REFUSED = {
    "numbers over 1": (lambda: tiff(FLOAT * 300), r"\(TIFF, mode F\) has numbers from 150 to 150; scale them to 0"),
    "numbers below 0": (lambda: tiff(FLOAT - 1), r"has numbers from -0.5 to -0.5"),
    "NaN": (lambda: tiff(FLOAT * np.nan), r"has numbers from nan to nan"),
    "infinity": (lambda: tiff(FLOAT * np.inf), r"has numbers from inf to inf"),
    "float64": (lambda: tiff(FLOAT.astype(float)), r"cannot be read as an image \(.*unknown pixel mode"),
    "32 bits": (lambda: tiff(GREY8.astype(np.uint32)), r"\(TIFF, mode I\) has pixels without a rule"),
    "signed 16 bits": (lambda: tiff(GREY8.astype(np.int16)), "has signed numbers, whose white is not known"),
    "signed 8 bits": (lambda: tiff(GREY8.astype(np.int8)), "has signed numbers"),
    "signed 32 bits": (lambda: tiff(GREY8.astype(np.int32)), "has signed numbers"),
    "planes of 16 bits": (lambda: tiff(RGB8.astype(np.uint16), {284: [2]}), "16 bits a band in a layout"),
    "CMYK of 16 bits": (
        lambda: tiff(np.zeros((3, 3, 4), np.uint16), {262: [5]}), r"mode CMYK\) has 16 bits a band in a layout"
    ),
    "a fourth band": (lambda: tiff(np.zeros((3, 3, 4), np.uint8), {338: [0]}), "has 1 bands beside its colours"),
    "eight bands": (lambda: tiff(np.zeros((3, 3, 8), np.uint8)), "cannot be read as an image"),
    "a short palette": (
        lambda: tiff(GREY8, {262: [3], 320: [0, 9, 200] * 256}), r"mode P\) has a palette of 8-bit values"
    ),
    "colour PPM of 16 bits": (lambda: b"P6 3 3 65535\n" + bytes(54), r"\(PPM, mode RGB\) has more than 8 bits a band"),
    "plain PPM of 10 bits": (lambda: b"P3 1 1 1023\n1 2 3\n", r"\(PPM, mode RGB\) has more than 8 bits a band"),
    "deep with a profile": (
        lambda: png(np.zeros((3, 3, 3), int), 16, iccp(icc(b"RGB ", 2.2, ADOBE_D50))), "a colour profile that is not"
    ),
    "a damaged profile": (lambda: png(RGB8, 8, iccp(b"not a profile at all" * 9)), "has a damaged colour profile"),
    "a profile cut short": (lambda: png(RGB8, 8, (b"iCCP", b"x\0\0nothing")), "has a damaged colour profile"),
    "a profile of other pixels": (
        lambda: png(RGB8, 8, iccp(icc(b"GRAY", 1.0))), r"\(PNG, mode RGB\) has a colour profile for L pixels"
    ),
    "wide primaries": (
        lambda: png(RGB8, 8, primaries(0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046)), "has other primaries"
    ),
    "HDR": (lambda: png(RGB8, 8, (b"cICP", bytes((9, 16, 0, 1)))), "chunk cICP"),
    "no gamma": (lambda: png(RGB8, 8, (b"gAMA", bytes(4))), "has a gamma of 0"),
    "Adobe RGB": (lambda: with_exif(0xA001, 2, 0x8769), r"\(JPEG, mode RGB\) is in Adobe RGB \(EXIF\)"),
    "a GIF of 3 frames": (
        lambda: saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), r"\(GIF, mode .*\) has 3 frames; save"
    ),
    "a PNG of 3 frames": (lambda: saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "has 3 frames"),
    "a WebP of 3 frames": (lambda: saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "has 3 frames"),
    "a TIFF of 3 pages": (lambda: tiff(GREY8, pages=3), r"\(TIFF, mode L\) has 3 frames"),
    "two JPEGs in one": (lambda: saved(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:2]), "has 2 frames"),
    "fewer rows than said": (
        lambda: png(np.zeros((2, 2, 1), int), 8).replace(*(chunk(b"IDAT", zlib.compress(bytes(n), 1)) for n in (6, 3))),
        "has fewer pixels than its header says",
    ),
    "no pixels": (lambda: b"P5 0 3 255\n", "is 0 x 3 pixels|cannot be read as an image"),
    "text": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"cannot be read as an image \(it is not PNG, JPEG"),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic" + bytes(99), "cannot be read as .*convert it, or replace that file"),
    "a program": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image"),
    "nothing": (lambda: b"", "cannot be read as an image"),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_rule_is_refused_in_one_line(reason: Any) -> None:
    make, message = REFUSED[reason]
    with pytest.raises(UserError, match=message) as caught:
        seen(make())
    assert str(caught.value).startswith("cat.x ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [10_000, 13_000, 60_000])  # Pillow warns of the first two and refuses the third
def test_a_bomb_is_one_line_whatever_its_size(side: Any) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bombs = [
        b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, (b"IHDR", b"IDAT", b"IEND"), (header, bytes(9), b""))),
        f"P6 {side} {side} 255\n".encode(),
        tiff(RGB8, {256: [side], 257: [side]}),
        struct.pack("<2sIIIIiiHHIIIIII", b"BM", 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a" + struct.pack("<HHBBBsHHHHB", side, side, 0, 0, 0, b",", 0, 0, side, side, 0) + b"\2\0;",
    ]  # fmt: skip
    for bomb in bombs:
        with pytest.raises(UserError, match=rf"is {side} x {side} pixels, more than \d+; make it smaller"):
            seen(bomb)


WHOLE = {
    "PNG": png(random_values(20, 20, 3), 8), "deep PNG": png(random_values(20, 20, 3, white=65535), 16),
    "TIFF": tiff(UPRIGHT), "PPM": b"P6 24 16 255\n" + UPRIGHT.tobytes(),
    **{kind: saved(Image.fromarray(UPRIGHT), kind) for kind in ("JPEG", "BMP", "GIF", "WEBP")},
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_cut_anywhere_is_refused_or_whole(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some libraries set it
    whole = WHOLE[kind]
    expected = seen(whole)
    for length in (*range(0, len(whole), 1 + len(whole) // 40), len(whole) - 1):
        try:
            found = seen(whole[:length])
        except UserError:
            continue
        np.testing.assert_array_equal(found, expected)  # only what follows the pixels may be missing
        assert length > 0.9 * len(whole)


def test_a_flipped_bit_in_a_png_is_found() -> None:
    whole, random = WHOLE["PNG"], np.random.default_rng(0)
    for place in random.integers(8, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        with pytest.raises(UserError, match=r"cat\.x .*(damaged|cannot be read)"):
            seen(bytes(damaged))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait forever
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nothing.png")
    for name in ("pipe", "folder", "loop", "gone", "absent"):
        with pytest.raises(UserError, match=rf"{name}\.png (is not a regular file|cannot be read \(.+\)); replace or"):
            read_image(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"is not a regular file"):
        read_image(Path(os.devnull))
    (tmp_path / "linked.png").symlink_to(tmp_path / "here.txt")
    (tmp_path / "here.txt").write_bytes(WHOLE["JPEG"])  # the content decides, not the ending
    assert read_image(tmp_path / "linked.png").shape == UPRIGHT.shape
    with pytest.raises(UserError, match=r"^the first picture cannot be read"):
        read_image(tmp_path / "absent.png", "the first picture")


def test_the_rules_are_part_of_an_address() -> None:
    assert re.fullmatch(r"sRGB, upright, transparency on grey 128; code [0-9a-f]{16}; Pillow \S+", decoding())
