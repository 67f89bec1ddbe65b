"""network.pt (weights and what they mean, as plain data) and the state a killed run resumes from."""

import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from nmnc.errors import UserError
from nmnc.files import replacing
from nmnc.networks import Network, build_network

FORMAT = 1


def save_network(path: Path, network: Network, config: dict[str, Any]) -> None:
    """Write weights and config to `path`; the file loads with `weights_only=True`.

    Args:
        path: usually results/STUDY/networks/NETWORK/RULE/seedN/network.pt.
        network: its weights are stored as they are, moved to the CPU.
        config: plain data with the keys `network` (kind, image_shape, classes, arguments) and
            `preprocessing` (image_size, channels, mean, std), and whatever else describes the run.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    save_state(path, {"format": FORMAT, "config": config, "state_dict": weights})


def load_network(path: Path) -> tuple[Network, dict[str, Any]]:
    """Read a network.pt: the network in evaluation mode on the CPU, and its config.

    Raises:
        UserError: no such file, a truncated or foreign file, or weights that do not fit.
    """
    content = read_torch(path)
    complete = isinstance(content, dict) and {"format", "config", "state_dict"} <= content.keys()
    if not complete or content["format"] != FORMAT:
        raise UserError(f"{path}: not a network.pt of format {FORMAT}; train it again with python -m nmnc train")
    recipe = content["config"]["network"]
    network = build_network(recipe["kind"], tuple(recipe["image_shape"]), recipe["classes"], recipe["arguments"])
    try:
        network.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: weights do not fit network {recipe['kind']}: {reason}") from None
    return network.eval(), content["config"]


def read_torch(path: Path) -> Any:
    """`torch.load` of plain data onto the CPU; UserError when missing, truncated or not plain data."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; train the network first, or mend the path")
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch comments on a foreign file before it refuses it
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # of many kinds for a damaged file; some texts of torch advise to unpickle it
            raise UserError(
                f"{path}: truncated, or not a file of torch with plain data; delete it and run again"
            ) from None


def weights_sha256(network: torch.nn.Module) -> str:
    """Hex SHA-256 over names, shapes and bytes of all weights and buffers, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def run_key(description: dict[str, Any]) -> str:
    """Short hash of everything that decides a run's weights; names its checkpoint folder."""
    text = json.dumps(description, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Write resume state, or any tensors and plain data, in one move."""
    # Through memory: torch itself turns a full disk into a RuntimeError, and writes the file's name into the file.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any] | None:
    """Resume state, or None where there is none."""
    return read_torch(path) if path.exists() else None
