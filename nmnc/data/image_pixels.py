"""An opened picture -> its colours in sRGB and its opacity: a rule for every mode, bit depth and colour profile."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: uint8, or float32 from 0 to 1 where eight bits would not keep what the file gives.
Pixels = NDArray[np.uint8] | NDArray[np.float32]

#: Layouts of 16 bits a band of which Pillow keeps the upper 8, each with the one that gives the lower 8.
OTHER_HALVES = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA")
    for order, other in ("BL", "LB", ("N", "B" if np.little_endian else "L"))
}
#: The same of grey with opacity: Pillow gives its four bytes as they are, when they are called RGBA.
OTHER_HALVES["LA;16B"] = "RGBA"
#: Modes of 8 bits a band or fewer.
EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
#: Modes to whose pixels the primaries of a colour space mean nothing.
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
#: Levels by which colours may differ for a profile to count as sRGB: what rounding and longer tables make.
SAME = 2
#: The gamma of a PNG that means sRGB, and the share by which it may differ.
GAMMA, GAMMA_SHARE = 1 / 2.2, 0.05


class Refused(Exception):
    """Why a picture is not used, and what to do; who catches it puts the picture's name in front."""


def layout(image: Any) -> tuple[Any, ...]:
    """What Pillow knows, before it loads them, of the pixels in the file: its raw mode, then what its decoder needs."""
    arguments = image.tile[0].args if image.tile else ""
    return arguments if isinstance(arguments, tuple) and arguments else (arguments,)


def colour_and_alpha(image: Any, raw: str, lower: Any) -> tuple[Pixels, Pixels | None]:
    """Return the colours in sRGB, (height, width, 3), and the opacity, (height, width), of one dtype.

    Args:
        image: a PIL.ImageFile.ImageFile.
        raw: the raw mode that it had before it was loaded; see `layout`.
        lower: the same opened a second time, not loaded, where the raw mode is one of OTHER_HALVES; else None.

    Raises:
        Refused: a mode, a profile or values without a rule.
    """
    from PIL import ImageOps

    white_is_zero = image.format == "TIFF" and image.tag_v2.get(262) == 0
    if lower is not None:
        lower.tile = [tile._replace(args=_renamed(tile.args, OTHER_HALVES[raw])) for tile in lower.tile]
        ImageOps.exif_transpose(lower, in_place=True)
    ImageOps.exif_transpose(image, in_place=True)  # loads it
    colour: Pixels
    alpha: Pixels | None
    if lower is None and image.mode in EIGHT_BITS:
        colour, alpha = _of_eight_bits(image, raw)
    else:
        colour, alpha = _of_more_bits(image, lower, raw, white_is_zero)
    gamma = image.info.get("gamma", GAMMA)
    if "icc_profile" in image.info or "srgb" in image.info or abs(gamma / GAMMA - 1) <= GAMMA_SHARE:
        return colour, alpha
    return _encoded(_scaled(colour) ** np.float32(1 / gamma)), None if alpha is None else _scaled(alpha)


def composed(colour: Pixels, alpha: Pixels | None, ground: int) -> Pixels:
    """Lay a picture on a ground of one grey level (0 to 255); uint8 stays uint8, rounded."""
    if alpha is None:
        return colour
    if colour.dtype == np.uint8:
        front, share = colour.astype(np.uint32), alpha[..., None].astype(np.uint32)
        return ((front * share + ground * (255 - share) + 127) // 255).astype(np.uint8)
    opaque = alpha[..., None]
    return (colour * opaque + np.float32(ground / 255) * (1 - opaque)).astype(np.float32)


def _renamed(arguments: Any, raw: str) -> Any:
    """The arguments of Pillow's decoder with another raw mode."""
    return (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw


def _scaled(pixels: Pixels) -> NDArray[np.float32]:
    """Pixels as float32 from 0 to 1."""
    return pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels.astype(np.float32)


def _encoded(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light, 0 to 1 -> sRGB (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def _opaque_but(values: NDArray[Any], key: Any) -> NDArray[np.bool_]:
    """Where the pixels (height, width[, bands]) are not of the one value that is not to be seen."""
    return (values.reshape(*values.shape[:2], -1) != np.atleast_1d(key)).any(axis=2)


def _of_eight_bits(image: Any, raw: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """uint8 colours and opacity of a picture with 8 bits a band or fewer."""
    alpha: NDArray[np.uint8] | None = None
    profile = image.info.get("icc_profile")
    if image.mode in ("1", "L", "RGB") and "transparency" in image.info:
        # Pillow keeps the value as it is in the file, of 2 or 4 bits too.
        key = np.multiply(image.info["transparency"], {"L;2": 85, "L;4": 17}.get(raw, 1))
        values = np.asarray(image.convert("L") if image.mode == "1" else image)
        alpha = np.where(_opaque_but(values, key), np.uint8(255), np.uint8(0))
    elif image.has_transparency_data:
        whole = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
        alpha = np.asarray(whole.getchannel("A"))
        image = whole.convert(whole.mode[:-1])
    return np.asarray(_in_srgb(image, profile)), alpha


def _in_srgb(image: Any, profile: bytes | None) -> Any:
    """An opaque picture of mode RGB: converted by its profile, or by Pillow's formula where it has none."""
    if profile is None and image.mode == "LAB":
        profile = _lab_profile()
    if profile is None:
        return image.convert("RGB")
    wanted = _mode_of(profile)
    image = image.convert("L") if image.mode == "1" else image
    if wanted == "RGB" and image.mode not in ("CMYK", "LAB"):
        image = image.convert("RGB")
    if image.mode != wanted:
        raise Refused(f"has a colour profile for {wanted or 'other'} pixels; convert it to sRGB")
    transform = _to_srgb(profile, wanted)
    return image.convert("RGB") if transform is None else transform.apply(image)


def _profile(content: bytes) -> Any:
    from PIL import ImageCms

    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(content))
    except (OSError, ImageCms.PyCMSError):
        raise Refused("has a damaged colour profile; convert it to sRGB, or remove the profile") from None


@lru_cache
def _lab_profile() -> bytes:
    """CIELAB for the white D50, as TIFF has it."""
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _mode_of(profile: bytes) -> str:
    """Pillow's mode for the pixels that a profile describes; '' for colours without a rule."""
    space = _profile(profile).profile.xcolor_space.strip()
    return {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(space, "")


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """The transform of a profile's colours to sRGB; None where they are sRGB already."""
    from PIL import Image, ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        # Not optimised: lcms would take dark greys from a coarse table, ten levels off.
        transform = ImageCms.ImageCmsTransform(
            _profile(profile), srgb, mode, "RGB", flags=ImageCms.Flags.NOOPTIMIZE | ImageCms.Flags.NOCACHE
        )
    except (OSError, ImageCms.PyCMSError):
        raise Refused("has a colour profile that gives no sRGB; convert it to sRGB") from None
    if mode not in ("L", "RGB"):
        return transform
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    shades = np.arange(256, dtype=np.uint8)[None]
    probe = shades if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(probe)
    change = np.asarray(transform.apply(image)).astype(int) - np.asarray(image.convert("RGB"))
    return None if np.abs(change).max() <= SAME else transform


def _of_more_bits(
    image: Any, lower: Any, raw: str, white_is_zero: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """float32 colours and opacity of a picture with more than 8 bits a band, never rounded to 8."""
    values, white = _whole_values(image, lower, raw)
    key, alpha = image.info.get("transparency"), None
    if key is not None:
        alpha = _opaque_but(values, key).astype(np.float32)
    scaled = values.astype(np.float32) / np.float32(white)
    if scaled.shape[2] in (2, 4):
        scaled, alpha = scaled[..., :-1], scaled[..., -1]
    profile = image.info.get("icc_profile")
    if profile is not None:
        mode = _mode_of(profile)
        if mode not in ("L", "RGB") or (mode == "L") != (scaled.shape[2] == 1) or _to_srgb(profile, mode) is not None:
            raise Refused("has more than 8 bits a band and a colour profile that is not sRGB; convert it to sRGB")
    scaled = 1 - scaled if white_is_zero else scaled
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3)).copy(), alpha


def _whole_values(image: Any, lower: Any, raw: str) -> tuple[NDArray[Any], int]:
    """The file's own numbers, (height, width, bands), and the one that is white."""
    if raw == "LA;16B":
        halves = np.asarray(lower).astype(np.uint16)
        return halves[..., ::2] * 256 + halves[..., 1::2], 65535
    if lower is not None:
        return np.asarray(image).astype(np.uint16) * 256 + np.asarray(lower), 65535
    values = np.asarray(image)[..., None]
    if image.mode.startswith("I;16"):
        return values, 4095 if raw == "I;12" else 65535
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return values, 65535
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):  # NaN is not either
            raise Refused(f"has numbers from {low:.6g} to {high:.6g}; scale them to 0 (black) to 1 (white)")
        return values.clip(0, 1), 1
    raise Refused("has pixels without a rule, their white is not known; save it with 8 or 16 bits a band, or as 0 to 1")
