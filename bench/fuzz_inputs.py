"""What bench/fuzz.py throws at the checks: valid studies, data, benchmarks and networks, and ways to damage them.

Each kind of input is a function (folder, random) that writes a damaged one and returns the command to try on it.
"""

import copy
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from damage import (
    FORMATS,
    ODD,
    as_yaml,
    damaged,
    odd_array,
    odd_image,
    odd_tensors,
    reshaped,
    spoil,
    text_of,
    write_responses,
)
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


def images(random: Random, n: int = 80) -> dict[str, Any]:
    """The arrays of a small data set of two classes."""
    generator = np.random.default_rng(random.randrange(100))
    x, y = generator.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8), np.arange(n) % 2
    cut = n - n // 4
    return {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}


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
