"""Ways to damage data, text, bytes, arrays, images, state dicts and recordings, for bench/fuzz_inputs.py."""

import copy
import io
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import netCDF4
import numpy as np
import torch
import yaml
from PIL import Image

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e300, -1e300, float("inf"), float("nan"), 1e-320, 2**31, 2**63, 2**64,
    10**12, 10**30, "", " ", "x" * 300, "\0", "é", "ﷺ" * 100, "../..", "/", "{x}", "%s", "'", '"', "a\nb", "nan", "1e5",
    "NO", "a,b", "a=b", ":", "os:system", "net:absent", "torchvision:resnet18", [], {}, [[]], [1, 2], {"a": 1},
    ["x", None],
]  # fmt: skip


def reshaped(content: Any, random: Random) -> Any:
    """Plain data with one value replaced, removed, renamed, doubled, wrapped or scaled."""
    places: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys if isinstance(node[key], dict | list) and node[key]]
    if not places:
        return random.choice(ODD)
    node, key = random.choice(places)
    match random.randrange(9):
        case 0 | 1 | 2:
            node[key] = copy.deepcopy(random.choice(ODD))
        case 3:
            del node[key]
        case 4 if isinstance(node, dict):
            name = str(key)
            place = random.randrange(len(name) + 1)
            node[random.choice([name[:place] + "x" + name[place:], name[:-1], name * 60, f"{name} ", 7, None])] = (
                node.pop(key)
            )
        case 4:
            node.extend([node[key]] * random.choice([1, 1000]))
        case 5:
            other, place = random.choice(places)
            node[key] = copy.deepcopy(other[place]) if other is not node or place in other else None
        case 6:
            node[key] = random.choice([[node[key]], {"a": node[key]}, [node[key]] * 3])
        case 7:
            value = node[key]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            node[key] = (
                value * random.choice([-1, 0, 1000, 10**9, 0.5]) if number else str(value) * random.choice([1, 50])
            )
        case _:
            for _ in range(random.choice([3, 60, 2000])):
                node[key] = [node[key]]
    return content


def damaged(content: bytes, random: Random) -> bytes:
    """Bytes with some flipped, cut, doubled, zeroed or inserted."""
    data = bytearray(content)
    for _ in range(random.choice([0, 1, 1, 1, 2, 5, 50])):
        if not data:
            break
        first = random.randrange(len(data))
        length = random.choice([1, 2, 8, len(data) // 3])
        match random.randrange(7):
            case 0:
                data[first] ^= 1 << random.randrange(8)
            case 1:
                del data[first:]
            case 2:
                del data[first : first + length]
            case 3:
                data[first:first] = data[first : first + length]
            case 4:
                data[first : first + length] = bytes(len(data[first : first + length]))
            case 5:
                data[first : first + length] = random.randbytes(length)
            case _:
                data[first:first] = random.choice(
                    [b"\xff", b"\0", b"\t", b"\n", b"\xef\xbb\xbf", b"{", b"- ", b'"', b"&a *a", b": "]
                )
    return bytes(data)


def text_of(content: Any, random: Random, dump: Callable[[Any], str]) -> bytes:
    """Plain data as a file; now and then with damage to the text."""
    try:
        for _ in range(random.choice([0, 1, 1, 1, 2, 4])):
            content = reshaped(content, random)
        text = dump(content).encode("utf-8", "surrogateescape")
    except (RecursionError, TypeError, ValueError):
        text = b"[" * 3000
    return damaged(text, random) if random.random() < 0.25 else text


def as_yaml(content: Any) -> str:
    """YAML text, in the order of the keys."""
    return yaml.safe_dump(content, sort_keys=False)


def odd_file(path: Path, random: Random) -> None:
    """Something else in place of a file: nothing, a folder, a pipe, a link to nowhere, another file."""
    path.unlink(missing_ok=True)
    match random.randrange(6):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to("nowhere")
        case 3:
            path.symlink_to(path.name)
        case 4:
            path.write_bytes(random.choice([b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"GIF89a", b"a,b\n"]))
        case _:
            pass


def spoil(folder: Path, random: Random, share: float = 0.5) -> None:
    """Damage the bytes of a file below `folder`, or replace it; mostly leaves text as it was written."""
    if random.random() > share:
        return
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "net.py")
    if files:
        path = random.choice(files)
        if random.random() < 0.3:
            odd_file(path, random)
        else:
            path.write_bytes(damaged(path.read_bytes(), random))


DTYPES = ("u1", "i1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "?", "S3", "U3", "O", "M8[s]", "V4")


def odd_array(values: Any, random: Random) -> Any:
    """An array of another shape, dtype or with values that do not belong."""
    values = np.atleast_1d(values)
    match random.randrange(8):
        case 0 | 1:
            with np.errstate(all="ignore"):
                try:
                    return values.astype(random.choice(DTYPES))
                except (TypeError, ValueError):
                    return values.astype(object)
        case 2:
            return values[: random.choice([0, 1, 2, 5])]
        case 3:
            return random.choice([values[0], values[..., None], values[None], values.ravel(), np.array(3), values.T])
        case 4:
            axis = random.randrange(values.ndim)
            return values.take(range(random.choice([0, 1, min(3, values.shape[axis])])), axis=axis)
        case 5:
            odd = values.astype(float)
            odd.flat[: random.choice([1, odd.size])] = random.choice([np.nan, np.inf, -1, 1e18, 0.5, 255, 1e9])
            return odd
        case 6:
            return np.zeros_like(values)
        case _:
            return values.repeat(random.choice([1, 2]), axis=0)


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
FORMATS = (".png", ".jpg", ".tif", ".bmp", ".gif", ".webp", ".PNG", ".txt", "")


def odd_image(path: Path, random: Random) -> None:
    """An image of a random mode, size and format; now and then damaged."""
    size = random.choice([(8, 8), (8, 8), (9, 7), (1, 1), (1, 3000), (300, 200)])
    image = Image.effect_noise(size, 80)
    try:
        image = image.convert(random.choice(MODES))
    except ValueError:
        image = image.convert("RGB")
    kind = {".jpg": "JPEG", ".tif": "TIFF", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP"}.get(
        path.suffix.lower(), "PNG"
    )
    stream = io.BytesIO()
    try:
        image.save(stream, kind)
    except (OSError, ValueError, KeyError):
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "PNG")
    content = stream.getvalue()
    if random.random() < 0.15:
        content = damaged(content, random)
    if random.random() < 0.05:  # a bomb: the header of a PNG promises so many pixels
        content = content[:16] + random.choice([100_000, 2**31 - 1]).to_bytes(4, "big") * 2 + content[24:]
    path.write_bytes(content)


def write_responses(path: Path, ids: list[str], random: Random, odd: bool) -> None:
    """responses.nc or rdm.nc, now and then of odd dims, dtypes, names or values."""
    generator = np.random.default_rng(random.randrange(100))
    if path.name == "rdm.nc":
        half = generator.random((len(ids), len(ids)))
        values, dims = (half + half.T) * (1 - np.eye(len(ids))), ["presentation", "presentation2"]
    else:
        values, dims = generator.standard_normal((3, len(ids), 5)), ["repetition", "presentation", "neuroid"]
    labels, coordinates = list(ids), {"animal": ["a"] * 5}
    attributes: dict[str, Any] = {}
    if odd:
        for _ in range(random.choice([1, 1, 2])):
            match random.randrange(8):
                case 0:
                    values = odd_array(values, random)
                    values = (
                        values
                        if values.dtype.kind in "fiu"
                        else values.astype("f4", casting="unsafe", copy=True)
                        if values.dtype.kind == "b"
                        else generator.random(values.shape)
                    )
                case 1:
                    labels = random.choice(
                        [
                            labels[:-1],
                            labels[::-1],
                            ["x"] * len(labels),
                            [""] * len(labels),
                            ["é"] * len(labels),
                            labels[:1] * len(labels),
                        ]
                    )
                case 2:
                    dims = random.choice([dims[::-1], ["a", "b", "c"][: len(dims)], dims[:1] * len(dims)])
                case 3:
                    values = np.array(values, dtype=float)
                    values.flat[random.randrange(max(values.size, 1)) : None if random.random() < 0.3 else 1] = (
                        random.choice([np.nan, np.inf, -1, 0])
                    )
                case 4:
                    attributes = random.choice(
                        [
                            {"scale_factor": "x"},
                            {"scale_factor": np.nan},
                            {"_FillValue_": "x"},
                            {"units": "days since x"},
                            {"dtype": "bool"},
                            {"add_offset": 1e308},
                            {"coordinates": "no such"},
                            {"calendar": 3},
                        ]
                    )
                case 5:
                    coordinates = {
                        random.choice(["animal", "session", "stimulus_id", "presentation"]): [
                            random.choice(["", "mean", "all", "é", "x" * 300])
                        ]
                        * 5
                    }
                case 6:
                    values = np.zeros_like(np.array(values, dtype=float))
                case _:
                    labels = [random.choice([0, 7, -1])] * len(labels)  # type: ignore[list-item]
    with netCDF4.Dataset(path, "w", format=random.choice(["NETCDF4", "NETCDF4", "NETCDF3_CLASSIC"])) as file:
        values = np.asarray(values)
        dims = [*dims, "d0", "d1", "d2"][: values.ndim]
        for name, size in zip(dims, values.shape, strict=True):
            if name not in file.dimensions:
                file.createDimension(name, size or None)
        kind = values.dtype.str[1:] if values.dtype.str[1:] in ("f4", "f8", "i2", "i4") else "f8"
        name = path.stem if not odd or random.random() < 0.9 else random.choice(["other", "stimulus_id"])
        try:
            variable = file.createVariable(name, kind, dims)
            variable[:] = values
            variable.setncatts(attributes)
        except (ValueError, IndexError, RuntimeError, TypeError):
            pass
        text = file.data_model == "NETCDF4"
        for key, words, dim in [
            ("stimulus_id", labels, "presentation"),
            *((k, v, "neuroid") for k, v in coordinates.items()),
        ]:
            if dim not in file.dimensions or key in file.variables:
                continue
            try:
                if text and words and isinstance(words[0], str):
                    file.createVariable(key, str, (dim,))[:] = np.array(words, dtype=object)
                elif words and isinstance(words[0], str):
                    file.createDimension(f"{key}_characters", 8)
                    characters = np.array([word[:8].encode() for word in words], dtype="S8").view("S1").reshape(-1, 8)
                    file.createVariable(key, "S1", (dim, f"{key}_characters"))[:] = characters
                else:
                    file.createVariable(key, "i4", (dim,))[:] = words
            except (ValueError, IndexError, RuntimeError, TypeError):
                continue


def odd_tensors(state: dict[str, Any], random: Random) -> dict[Any, Any]:
    """A state dict with one entry of another shape, dtype, name or kind."""
    name = random.choice(list(state))
    tensor = state[name]
    match random.randrange(6):
        case 0:
            state[name] = tensor.to(
                random.choice([torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int8, torch.bool])
            )
        case 1:
            state[name] = random.choice(
                [tensor[:1], tensor[None], tensor.new_zeros(0), tensor.to_sparse(), torch.tensor(1.0)]
            )
        case 2:
            key: Any = random.choice(["other", 3, "", "module." + name])
            state[key] = state.pop(name)
        case 3:
            state[name] = random.choice([None, 1, "x", [1.0], {}])
        case 4:
            state[name] = tensor * random.choice([float("nan"), float("inf"), 0])
        case _:
            state = {f"module._orig_mod.{key}": value for key, value in state.items()}
    return state
