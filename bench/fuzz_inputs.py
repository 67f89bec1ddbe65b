"""What bench/fuzz.py throws at the checks: valid studies, data, benchmarks and networks, and ways to damage them.

Each kind of input is a function (folder, random) that writes a damaged one and returns the command to try on it.
"""

import copy
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import netCDF4
import numpy as np
import torch
import yaml
from PIL import Image

#: Arguments of python -m.
Command = list[str]
SIDE = 8
NET = """
from torch import nn
class Small(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width * 64, 3)
    def forward(self, x):
        return self.out(self.conv(x).relu().flatten(1))
def small(width=4):
    return Small(width)
def stages(image_shape, classes, width=4):
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(image_shape[0] * image_shape[1] ** 2, width), nn.ReLU()),
                         nn.Sequential(nn.Linear(width, classes)))
"""
SEEN = {"image_size": SIDE, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
STUDY: dict[str, Any] = {
    "study": "small",
    "seeds": [0, 1],
    "threads": 1,
    "paths": {"data": "data", "results": "results"},
    "dataset": {"name": "toy.npz", "train_images": 60, "test_images": 20, "image_size": SIDE},
    "networks": {
        "mlp": {"kind": "mlp", "arguments": {"hidden": [8], "activation": "relu"}},
        "conv": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [8], "kernel": 3, "pool_every": 1}},
        "res": {"kind": "resnet", "arguments": {"blocks": 1, "channels": [4, 4]}},
        "own": {"kind": "net:stages", "arguments": {"width": 4}},
    },
    "rules": {
        "backprop": {"kind": "backprop"},
        "vnc": {"kind": "vnc", "noise": {"images": 4}, "networks": ["mlp"]},
        "nmnc": {"kind": "nmnc", "noise": {"dimensions": 4, "basis_images": 32}, "training": {"learning_rate": 0.1}},
        "mirror": {"kind": "weight_mirror", "seeds": [2]},
    },
    "sweeps": {"rates": {"rules": ["nmnc"], "values": {"training.learning_rate": [0.1, 0.2], "noise.rate": [0.1]}}},
    "training": {"epochs": 1, "batch_size": 16, "learning_rate": 0.05, "clip_norm": 1.0},
    "noise": {"dimensions": 4, "images": 4, "basis_images": 32, "rate": 0.2},
    "diagnostics": {"images": 16},
    "evaluation": {
        "benchmarks": ["simulated"],
        "models": {"ref": {"network": "net:small", "arguments": {"width": 4}, "preprocessing": SEEN}},
        "metrics": ["spearman"],
        "activations": {"memory_gb": 1.0, "reduction": "none"},
    },
}
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
    for _ in range(random.choice([1, 1, 1, 2, 5, 50])):
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


def images(random: Random, n: int = 80) -> dict[str, Any]:
    """The arrays of a small data set of two classes."""
    generator = np.random.default_rng(random.randrange(100))
    x, y = generator.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8), np.arange(n) % 2
    cut = n - n // 4
    return {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}


DTYPES = ("u1", "i1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "?", "S3", "U3", "O", "M8[s]", "V4")


def odd_array(values: Any, random: Random) -> Any:
    """An array of another shape, dtype or with values that do not belong."""
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


def write_npz(path: Path, arrays: dict[str, Any], random: Random) -> None:
    """An .npz, now and then compressed, with names or shapes that are not there."""
    save = random.choice([np.savez, np.savez_compressed])
    save(path, **arrays)
    if random.random() < 0.1:  # a header that promises more than there is
        head = io.BytesIO()
        shape = random.choice([(10**6, 1000, 1000, 3), (2**62,), (-1, 3), (10**5, 224, 224, 3)])
        np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(random.choice(["x_train.npy", "y_train.npy"]), head.getvalue() + bytes(1000))


def study(folder: Path, random: Random) -> Command:
    """A study with wrong values, keys or text."""
    base(folder, random)
    content = copy.deepcopy(STUDY)
    (folder / "study.yaml").write_bytes(text_of(content, random, as_yaml))
    spoil(folder, random, 0.05)
    return ["nmnc", "check", "--config", "study.yaml"]


def base(folder: Path, random: Random) -> None:
    """The files that a study needs."""
    (folder / "data").mkdir()
    np.savez(folder / "data" / "toy.npz", **images(random))
    (folder / "net.py").write_text(NET)
    (folder / "study.yaml").write_text(as_yaml(STUDY))


def data_npz(folder: Path, random: Random) -> Command:
    """A data set of odd arrays."""
    base(folder, random)
    arrays = images(random)
    for _ in range(random.choice([0, 1, 1, 2])):
        name = random.choice(list(arrays))
        if random.random() < 0.1:
            arrays["other"] = arrays.pop(name)
        else:
            arrays[name] = odd_array(arrays[name], random)
    write_npz(folder / "data" / "toy.npz", arrays, random)
    content = copy.deepcopy(STUDY)
    if random.random() < 0.5:
        content["dataset"] = {"name": "toy.npz"} | random.choice(
            [{}, {"train_images": 10**6}, {"test_images": 1}, {"validation_images": 60}]
        )
    (folder / "study.yaml").write_text(as_yaml(content))
    spoil(folder / "data", random, 0.3)
    return ["nmnc", "check", "--config", "study.yaml"]


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


def data_folder(folder: Path, random: Random) -> Command:
    """A folder train/CLASS/*, test/CLASS/* of odd images."""
    base(folder, random)
    odd = random.random() < 0.7
    for part in ("train", "test"):
        for name in ("a", "b", *random.choice([(), (), (".ipynb_checkpoints",), ("é",), ("c" * 200,)])):
            place = folder / "data" / "images" / part / name
            place.mkdir(parents=True)
            for number in range(random.choice([0, 1, 20]) if odd and random.random() < 0.3 else 20):
                path = place / f"{number}{random.choice(FORMATS) if odd and random.random() < 0.1 else '.png'}"
                if odd and random.random() < 0.05:
                    odd_image(path, random)
                else:
                    Image.effect_noise((8, 8), 80).convert("RGB").save(path, "PNG")
    content = copy.deepcopy(STUDY)
    content["dataset"] = {"name": "images"} | random.choice([{}, {"image_size": 8}])
    (folder / "study.yaml").write_text(as_yaml(content))
    spoil(folder / "data" / "images", random, 0.3)
    return ["nmnc", "check", "--config", "study.yaml"]


ABOUT = {"name": "mine", "species": "macaque", "region": "IT", "citation": "Somebody 2024", "licence": "none"}


def benchmark(folder: Path, random: Random) -> Command:
    """A benchmark folder with odd tables, images, responses or RDMs."""
    mine, ids = folder / "mine", [f"s{number}" for number in range(8)]
    (mine / "stimuli").mkdir(parents=True)
    for name in ids:
        path = mine / "stimuli" / f"{name}.png"
        Image.effect_noise((8, 8), 80).convert("RGB").save(path)
        if random.random() < 0.06:
            odd_image(path, random)
    part = random.randrange(4)
    about = text_of(dict(ABOUT), random, as_yaml) if part == 0 else as_yaml(ABOUT).encode()
    (mine / "benchmark.yaml").write_bytes(about)
    rows = [["stimulus_id", "filename", "degrees", "category"], *([name, f"{name}.png", "8", "x"] for name in ids)]
    if part == 1:
        for _ in range(random.choice([1, 2])):
            row = random.choice(rows)
            if row and random.random() < 0.8:
                row[random.randrange(len(row))] = str(random.choice([*ODD, "x" * 200_000, "a;b"])).replace("\udc00", "")
            else:
                row.append("more")
    lines = random.choice([",", ",", ",", ";", "\t"] if part == 1 else [","])
    table = "\n".join(lines.join(row) for row in rows).encode() + b"\n"
    (mine / "stimuli.csv").write_bytes(damaged(table, random) if part == 1 and random.random() < 0.5 else table)
    write_responses(mine / random.choice(["responses.nc", "rdm.nc"]), ids, random, odd=part == 2)
    if part == 3:
        spoil(mine, random, 1.0)
    return ["brain_eval", "check", "--benchmark", "mine=mine"]


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
                    labels = [random.choice([0, 7, -1])] * len(labels)
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


def spec(**more: Any) -> dict[str, Any]:
    """What `brain_eval check` is given of a reference model."""
    return {"network": "net:small", "name": "ref", "arguments": {"width": 4}, "preprocessing": dict(SEEN)} | more


def model(folder: Path, random: Random) -> Command:
    """A reference model with wrong settings."""
    base(folder, random)
    text = text_of(spec(layers=["conv"]), random, json.dumps).decode("utf-8", "surrogateescape").replace("\0", "")
    return ["brain_eval", "check", f"--model-spec={text}"]


def weights(folder: Path, random: Random) -> Command:
    """Weights of a reference model in odd forms."""
    base(folder, random)
    scope: dict[str, Any] = {}
    exec(NET, scope)
    state: Any = dict(scope["small"]().state_dict())
    if random.random() < 0.6:
        state = odd_tensors(state, random)
    if random.random() < 0.4:
        state = random.choice(
            [
                {"state_dict": state},
                {"model": state, "ema": state},
                [state],
                {"epoch": 3},
                state and next(iter(state.values())),
            ]
        )
    torch.save(state, folder / "data" / "weights.pt")
    spoil(folder / "data", random, 0.5)
    return ["brain_eval", "check", f"--model-spec={json.dumps(spec(weights='weights.pt'))}", "--data=data"]


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
            state[random.choice(["other", 3, "", "module." + name])] = state.pop(name)
        case 3:
            state[name] = random.choice([None, 1, "x", [1.0], {}])
        case 4:
            state[name] = tensor * random.choice([float("nan"), float("inf"), 0])
        case _:
            state = {f"module._orig_mod.{key}": value for key, value in state.items()}
    return state


def checkpoint(folder: Path, random: Random) -> Command:
    """A network.pt whose fields or weights were changed."""
    from nmnc.networks import build_network

    base(folder, random)
    kind, arguments = random.choice([("mlp", {"hidden": [8]}), ("convnet", {"channels": [4], "hidden": [8]})])
    network = build_network(kind, (3, SIDE, SIDE), 2, arguments)
    recipe = {"name": "net", "kind": kind, "image_shape": [3, SIDE, SIDE], "classes": 2, "arguments": arguments}
    config: Any = {"network": recipe, "preprocessing": dict(SEEN), "run": {"rule": "backprop", "seed": 0}}
    content: Any = {"format": 1, "config": config, "state_dict": dict(network.state_dict())}
    if random.random() < 0.6:
        content["config"] = reshaped(config, random)
    if random.random() < 0.2:
        content["state_dict"] = odd_tensors(content["state_dict"], random)
    if random.random() < 0.1:
        content = random.choice([content["config"], [content], {**content, "format": 2}, {**content, "state_dict": []}])
    try:
        torch.save(content, folder / "network.pt")
    except (RecursionError, RuntimeError):
        torch.save([], folder / "network.pt")
    if random.random() < 0.3:
        (folder / "network.pt").write_bytes(damaged((folder / "network.pt").read_bytes(), random))
    return ["brain_eval", "check", f"--model-spec={json.dumps({'network': 'network.pt'})}"]


MODULES = (
    "def small(width=4): import sys; sys.exit(0)", "raise SystemExit(0)", "def small(", "1/0",
    "def small(width=4): return None", "def small(width=4): return [1][width]", "import absent", "small = 3", "\0", "",
    "def small(width=4):\n  from torch import nn\n  return nn.Sequential(nn.ReLU())",
    "def small(width=4):\n  from torch import nn\n  return nn.ModuleList([nn.ReLU()])",
    "def small(width=4):\n  import torch\n  torch.zeros(10**15)",
    "def small(width=4): return small(width)",
    "def stages(*a, **k): return object()", "def stages(image_shape, classes): raise Exception", "def stages(): pass",
    "def stages(image_shape, classes, width=4):\n  from torch import nn\n  return nn.Sequential()",
    "stages = property()",
    "import os; os.chdir('/')", "print('noise')\n" + NET, "import sys; sys.path.clear()\n" + NET,
    "small = stages = lambda *a, **k: exit()",
)  # fmt: skip


def module(folder: Path, random: Random) -> Command:
    """A user's module that fails in odd ways."""
    base(folder, random)
    text = random.choice(MODULES).encode() if random.random() < 0.7 else damaged(NET.encode(), random)
    (folder / "net.py").write_bytes(text)
    if random.random() < 0.5:
        return ["nmnc", "check", "--config", "study.yaml"]
    return ["brain_eval", "check", f"--model-spec={json.dumps(spec())}"]


INPUTS: dict[str, Callable[[Path, Random], Command]] = {
    function.__name__: function
    for function in (study, data_npz, data_folder, benchmark, model, weights, checkpoint, module)
}
