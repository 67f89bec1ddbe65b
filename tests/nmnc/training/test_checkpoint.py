"""network.pt and the resume state: they come back as they were, and nothing else is taken for one."""

import hashlib
import io
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmnc.errors import UserError
from nmnc.networks import Network, build_network
from nmnc.training.checkpoint import (  # fmt: skip
    load_network,
    load_state,
    read_torch,
    run_key,
    save_network,
    save_state,
    weights_sha256,
)

ARGUMENTS = {"channels": [4], "hidden": [6], "batch_norm": True, "dropout": 0.5}
CONFIG = {
    "network": {"name": "net", "kind": "convnet", "image_shape": [1, 8, 8], "classes": 3, "arguments": ARGUMENTS},
    "preprocessing": {"image_size": 8, "channels": 1, "mean": [0.5], "std": [0.25]},
    "run": {"rule": "nmnc", "seed": 0},
}


def trained(seed: int = 0) -> Network:
    """A network whose batch norm has seen images."""
    torch.manual_seed(seed)
    network = build_network("convnet", (1, 8, 8), 3, ARGUMENTS)
    network.train()(images())
    return network


def images() -> Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_network(tmp_path / "network.pt", trained(), CONFIG)
    return tmp_path / "network.pt"


def test_a_network_comes_back_as_it_was(saved: Path) -> None:
    random = torch.get_rng_state()
    network, config = load_network(saved)
    torch.set_rng_state(random)
    original = trained().eval()
    assert not network.training
    assert config == CONFIG
    assert torch.equal(network(images()), original(images()))
    assert weights_sha256(network) == weights_sha256(original)
    assert [path.name for path in saved.parent.iterdir()] == ["network.pt"]


def test_the_file_is_plain_data(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert set(content) == {"format", "config", "state_dict"}
    assert content["config"] == CONFIG
    assert all(isinstance(weight, Tensor) and not weight.requires_grad for weight in content["state_dict"].values())


def test_equal_networks_are_equal_files(saved: Path, tmp_path: Path) -> None:
    save_network(tmp_path / "elsewhere" / "other-name.pt", trained(), CONFIG)
    assert (tmp_path / "elsewhere" / "other-name.pt").read_bytes() == saved.read_bytes()


def test_the_hash_of_the_weights_sees_every_value_and_name() -> None:
    network = trained()
    known = {weights_sha256(network)}
    for tensor in network.state_dict().values():  # weights, and running statistics too
        tensor.view(-1)[-1] += 1
        known.add(weights_sha256(network))
    known.add(weights_sha256(torch.nn.Linear(2, 3)))
    assert len(known) == 2 + len(network.state_dict())
    assert weights_sha256(trained()) == weights_sha256(trained())


def refused(path: Path, words: str, read: Callable[[Path], Any] = load_network) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert "False" not in message  # torch's own text advises weights_only=False


def test_a_file_cut_or_damaged_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    random = np.random.default_rng(0)
    for length in {0, 1, 2, 100, len(whole) - 1, *random.integers(3, len(whole), 20).tolist()}:
        saved.write_bytes(whole[:length])
        for read in (load_network, read_torch, load_state):
            refused(saved, r"(truncated, or not a file of|damaged, its SHA-256 is not) .*; delete it and", read)
    saved.write_bytes(whole[:60] + bytes(300) + whole[360:])
    refused(saved, "damaged, its SHA-256 is not the one it was written with; delete it and rerun")


class Evil:
    """Unpickled carelessly, this makes a folder named `bitten`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bitten",)


def torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


FOREIGN = {
    "text": b"hello\n" * 50,
    "pickle": pickle.dumps({"format": 1}),
    "evil pickle": pickle.dumps(Evil()),
    "evil torch": torch_bytes({"format": 1, "config": Evil(), "state_dict": {}}),
    "module": torch_bytes(torch.nn.Linear(2, 2)),
    "npz": npz_bytes(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.pt").write_bytes(FOREIGN[kind])
    refused(tmp_path / "network.pt", r"truncated, or not a file of torch with plain data \(.+\)")
    assert not Path("bitten").exists()


@pytest.mark.parametrize(
    "content",
    [[1, 2], trained().state_dict(), {"format": 1}, {"format": 2, "config": CONFIG, "state_dict": {}}, None],
    ids=["list", "state dict", "incomplete", "newer", "nothing"],
)
def test_other_files_of_torch_are_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "network.pt").write_bytes(torch_bytes(content))
    refused(tmp_path / "network.pt", "not a network.pt of format 1; train it again with python -m nmnc train")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    wider = CONFIG | {"network": CONFIG["network"] | {"arguments": ARGUMENTS | {"channels": [5]}}}
    save_network(tmp_path / "network.pt", trained(), wider)
    refused(tmp_path / "network.pt", "weights do not fit network convnet: .*size mismatch")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "network.pt", "no such file; train the network first, or fix the path")
    refused(tmp_path, "no such file")
    assert load_state(tmp_path / "state.pt") is None


def test_resume_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"step": 3, "rows": [{"loss": 0.1, "empty": None}], "rng": torch.get_rng_state(), "list": [torch.ones(2)]}
    save_state(tmp_path / "state.pt", state)
    back = load_state(tmp_path / "state.pt")
    assert back is not None
    assert (back["step"], back["rows"]) == (3, [{"loss": 0.1, "empty": None}])
    assert torch.equal(back["rng"], state["rng"])
    assert torch.equal(back["list"][0], torch.ones(2))


def test_a_run_is_known_by_every_value_that_decides_its_weights() -> None:
    one = {"network": {"a": 1, "b": [1, 2]}, "seed": 0}
    assert run_key({"seed": 0, "network": {"b": [1, 2], "a": 1}}) == run_key(one)
    others = [{"network": {"a": 1, "b": [2, 1]}, "seed": 0}, {"network": {"a": 1, "b": [1, 2]}, "seed": 1}]
    assert len({run_key(one), *map(run_key, others)}) == 3


def changed(path: Path, *keys: str, value: Any) -> Path:
    """`path` with one field of the file replaced, or added."""
    content = torch.load(path, weights_only=True)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "kind",
    ["subprocess:run", "os:mkdir", "trap:network", "builtins:exec", "trap.inner:network", "nmnc.networks:NETWORKS"],
)
def test_a_file_never_chooses_code(saved: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(saved.parent)
    (saved.parent / "trap.py").write_text("open('bitten', 'w')")
    refused(changed(saved, "config", "network", "kind", value=kind), f"asks to run the code {kind}, which no file may")
    with pytest.raises(UserError, match="no file may choose"):
        load_network(saved, ["mine:network"])
    assert not Path("bitten").exists()


def test_code_that_the_caller_names_is_run(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(saved.parent)
    monkeypatch.delitem(sys.modules, "net_named_by_caller", raising=False)
    text = "from nmnc.networks.convnet import convnet\ndef network(*args, **kwargs): return convnet(*args, **kwargs)\n"
    (saved.parent / "net_named_by_caller.py").write_text(text)
    changed(saved, "config", "network", "kind", value="net_named_by_caller:network")
    network, _ = load_network(saved, ["net_named_by_caller:network"])
    assert weights_sha256(network) == weights_sha256(trained())


RECIPE, SEEN = ("config", "network"), ("config", "preprocessing")


FIELDS: list[tuple[tuple[str, ...], Any, str]] = [
    ((*RECIPE, "kind"), 3, "network.kind: .*string"),
    ((*RECIPE, "kind"), "conv\x1b[31mnet", "network.kind: "),
    ((*RECIPE, "kind"), "a" * 10**6, "network.kind: .{,400}$"),
    ((*RECIPE, "kind"), "../x:net", "network.kind: "),
    ((*RECIPE, "kind"), "vgg", "unknown kind 'vgg'"),
    ((*RECIPE, "image_shape"), [1, 8], "network.image_shape"),
    ((*RECIPE, "image_shape"), "188", "network.image_shape"),
    ((*RECIPE, "image_shape"), [1, 8, 10**9], "network.image_shape.2: .*less than"),
    ((*RECIPE, "image_shape"), [1, 8.0, 8], "network.image_shape.1"),
    ((*RECIPE, "image_shape"), [True, 8, 8], "network.image_shape.0"),
    ((*RECIPE, "classes"), 0, "network.classes: .*greater than"),
    ((*RECIPE, "classes"), 10**500, "a number is beyond 2..64"),
    ((*RECIPE, "classes"), torch.tensor(3), "network.classes: "),
    ((*RECIPE, "classes"), torch.ones(2, 3), "network.classes: "),
    ((*RECIPE, "two\nlines"), 3, "network.two lines: unknown key"),
    ((*RECIPE, "arguments"), [4], "network.arguments: "),
    ((*RECIPE, "arguments"), {"channels": torch.ones(2)}, "network.arguments.channels"),
    ((*RECIPE, "arguments"), {"channels": [1] * 10**5}, "network.arguments: a list of over 1000 values"),
    (
        (*RECIPE, "arguments"),
        {"channels": [10**9, 10**9]},
        "argument channels: Input should be less",
    ),
    (
        (*RECIPE, "arguments"),
        ARGUMENTS | {"hidden": [10**9]},
        "argument hidden: Input should be less",
    ),
    ((*RECIPE, "arguments"), {"blocks": float("nan")}, "nan is not a finite number"),
    ((*RECIPE, "arguments"), {"lambda x": 1}, "network.arguments"),
    ((*RECIPE, "extra"), 1, "network.extra: unknown key"),
    ((*SEEN, "image_size"), "8", "preprocessing.image_size"),
    ((*SEEN, "image_size"), 10**6, "preprocessing.image_size"),
    ((*SEEN, "mean"), [0.5, 0.5], "one value for each of the 1 channels"),
    ((*SEEN, "mean"), [float("inf")], "inf is not a finite number"),
    ((*SEEN, "std"), [0.0], "preprocessing.std.0"),
    ((*SEEN, "std"), None, "preprocessing.std"),
    (("config",), [1], "not a network.pt: "),
    (("config", "run"), {"rule": torch.ones(1)}, "not a network.pt: run"),
    (("format",), torch.ones(2), "not a network.pt of format 1"),
    (("format",), True, "not a network.pt of format 1"),
    (("state_dict",), [torch.ones(1)], "its state_dict does not map names to tensors"),
    (("state_dict",), {3: torch.ones(1)}, "its state_dict does not map names to tensors"),
]


@pytest.mark.parametrize(
    ("keys", "value", "words"), FIELDS, ids=[f"{number}-{keys[-1]}" for number, (keys, *_) in enumerate(FIELDS)]
)
def test_every_field_is_checked_before_anything_is_built(
    saved: Path, keys: tuple[str, ...], value: Any, words: str
) -> None:
    refused(changed(saved, *keys, value=value), words)


BIAS = "stages.1.1.bias"


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (3, "is a int, not a tensor"),
        (torch.ones(6).half(), r"size mismatch: .* is \(6,\) float16 in the file, \(6,\) float32 in the network"),
        (torch.ones(6).to(torch.complex64), "complex64 in the file"),
        (torch.ones(6).int(), "int32 in the file"),
        (torch.ones(()).expand(10**12), r"is \(1000000000000,\) float32 in the file"),
        (torch.ones(6).to_sparse(), "is sparse or nested"),
        (torch.ones(6, device="meta"), r"is without values \(device meta\)"),
        (torch.full((6,), torch.nan), "'stages.1.1.bias' contains NaN or infinity"),
        (torch.full((6,), -torch.inf), "'stages.1.1.bias' contains NaN or infinity"),
    ],
)  # fmt: skip
def test_weights_that_are_no_plain_finite_tensors_are_refused(saved: Path, tensor: Any, words: str) -> None:
    refused(changed(saved, "state_dict", BIAS, value=tensor), words)


def test_an_alias_bomb_and_a_circle_are_refused(saved: Path) -> None:
    bomb: list[Any] = [1]
    for _ in range(40):
        bomb = [bomb, bomb]
    refused(changed(saved, "config", "network", "arguments", value={"channels": bomb}), "over 200000 values")
    changed(saved, "config", "network", "arguments", value={})
    circle: list[Any] = []
    circle.append(circle)
    refused(changed(saved, "config", "run", value=circle), "nested over 50 levels")


def test_the_hash_of_weights_takes_every_number_format() -> None:
    """For what numpy has it is the hash of numpy's bytes, as published ones are."""
    layer = torch.nn.Linear(3, 2)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        layer.to(dtype)
        digest = hashlib.sha256()
        for name, tensor in sorted(layer.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            view = tensor.view(torch.int16) if dtype == torch.bfloat16 else tensor
            digest.update(view.numpy().tobytes())
        assert weights_sha256(layer) == digest.hexdigest()


def test_the_network_of_another_run_is_refused_by_its_folder(tmp_path: Path) -> None:
    for place, right in (("net/nmnc/seed0", True), ("net/nmnc/seed1", False), ("net/vnc/seed0", False)):
        path = tmp_path / "networks" / place / "network.pt"
        save_network(path, trained(), CONFIG)
        if right:
            load_network(path)
        else:
            refused(path, "the network of another run, net/nmnc/seed0; delete it and rerun")
    save_network(tmp_path / "elsewhere" / "mine.pt", trained(), CONFIG)
    load_network(tmp_path / "elsewhere" / "mine.pt")
