"""network.pt and the resume state: they come back as they were, and nothing else is taken for one."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmnc.checkpoint import (
    load_network,
    load_state,
    read_torch,
    run_key,
    save_network,
    save_state,
    weights_sha256,
)  # fmt: skip
from nmnc.errors import UserError
from nmnc.networks import Network, build_network

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
            refused(saved, "truncated, or not a file of torch with plain data; delete it and run again", read)
    saved.write_bytes(whole[:60] + bytes(300) + whole[360:])
    refused(saved, "truncated, or not a file of torch")


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
    refused(tmp_path / "network.pt", "truncated, or not a file of torch")
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
    refused(tmp_path / "network.pt", "no such file; train the network first, or mend the path")
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
