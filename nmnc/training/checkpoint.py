"""network.pt (weights and what they mean, as plain data) and the state a killed run resumes from."""

import hashlib
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator
from torch import Tensor

from nmnc.errors import UserError
from nmnc.files.digests import check_seal
from nmnc.files.reading import check_plain, read_json
from nmnc.files.writing import replacing
from nmnc.networks import Network, build_network
from nmnc.networks.weights import check_stored, check_values, load_plain
from nmnc.validation import one_line

FORMAT = 1
#: Most values in one argument of a network.
MOST_LAYERS = 1000
#: Pixels along one side.
Size = Annotated[int, Field(strict=True, ge=1, le=4096)]


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


def load_network(path: Path, allowed: Collection[str] = ()) -> tuple[Network, dict[str, Any]]:
    """Return the network of a network.pt, in evaluation mode on the CPU, and its config.

    A file never chooses code: it may name a built-in kind, or a MODULE:FUNCTION that the caller allows. Every field
    is checked before anything is built, and nothing larger than the file's own weights is allocated.

    Args:
        path: the file.
        allowed: MODULE:FUNCTION that the study or the command line names.

    Raises:
        UserError: a missing, truncated or foreign file, fields of a wrong type or range, code that is not
            allowed, or weights that do not fit.
    """
    content = read_torch(path)
    complete = isinstance(content, dict) and {"format", "config", "state_dict"} <= content.keys()
    if not complete or type(content["format"]) is not int or content["format"] != FORMAT:
        raise UserError(f"{path}: not a network.pt of format {FORMAT}; train it again with python -m nmnc train")
    check_plain(content["config"], str(path))
    try:
        recipe = _Config.model_validate(content["config"]).network
    except ValidationError as error:
        raise UserError(f"{path}: not a network.pt: {one_line(error, _Config)}; train it again") from None
    if ":" in recipe.kind and recipe.kind not in allowed:
        raise UserError(
            f"{path}: asks to run the code {recipe.kind}, which no file may choose; if you trust that code, name it: "
            f"--network {recipe.kind} (diagnose: --kind; in a study: kind: {recipe.kind})"
        )
    weights = _checked_weights(content["state_dict"], path)

    def build() -> Network:
        try:
            return build_network(recipe.kind, recipe.image_shape, recipe.classes, recipe.arguments)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    if ":" not in recipe.kind:
        with torch.device("meta"):  # takes no memory, so the sizes in the file are checked before any is allocated
            _refuse_unlike(build().state_dict(), weights, path, recipe.kind)
    network = build()
    _refuse_unlike(network.state_dict(), weights, path, recipe.kind)
    network.load_state_dict(weights)
    check_values(network, str(path))
    _refuse_swapped(path, network, content["config"])
    return network.eval(), content["config"]


def _refuse_swapped(path: Path, network: Network, config: dict[str, Any]) -> None:
    """Raise UserError if the folder, or the provenance.json in it, belongs to another network."""
    recorded_name, run = config["network"].get("name"), config.get("run")
    *_, stage, name, rule, seed, _ = [""] * 4 + list(path.absolute().parts)
    if stage == "networks" and recorded_name and isinstance(run, dict) and {"rule", "seed"} <= run.keys():
        recorded = (recorded_name, run["rule"], f"seed{run['seed']}")
        if recorded != (name, rule, seed):
            raise UserError(f"{path}: the network of another run, {'/'.join(map(str, recorded))}; delete it and rerun")
    provenance_file = path.with_name("provenance.json")
    if path.name != "network.pt" or not provenance_file.is_file():
        return
    provenance = read_json(provenance_file)
    expected = provenance.get("weights_sha256") if isinstance(provenance, dict) else None
    if expected is not None and expected != weights_sha256(network):
        raise UserError(
            f"{path}: not the network that {provenance_file.name} in its folder describes; delete it and rerun"
        )


class _Part(BaseModel):
    """Base of the plain data in a network.pt: unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Recipe(_Part):
    """How a network is built; see `nmnc.networks.build_network`."""

    kind: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*(:[A-Za-z_][A-Za-z0-9_]*)?$", max_length=200)]
    image_shape: tuple[Size, Size, Size]
    classes: Annotated[int, Field(strict=True, ge=1, le=100_000)]
    arguments: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)], JsonValue]
    name: Annotated[str, Field(max_length=200)] = ""

    @field_validator("arguments", mode="before")
    @classmethod
    def _lists(cls, arguments: Any) -> Any:
        """Turn tuples into lists, as YAML gives them; raise ValueError for more values than any network has layers."""
        if isinstance(arguments, dict):
            arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
            if any(isinstance(value, list) and len(value) > MOST_LAYERS for value in arguments.values()):
                raise ValueError(f"a list of over {MOST_LAYERS} values")
        return arguments


class _Preprocessing(_Part):
    """How the network sees an image; see `nmnc.data.dataset.Dataset.preprocessing`."""

    image_size: Size
    channels: Annotated[int, Field(strict=True, ge=1, le=16)]
    mean: list[Annotated[float, Field(strict=True, ge=-1000, le=1000)]]
    std: list[Annotated[float, Field(strict=True, gt=0, le=1000)]]

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> "_Preprocessing":
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need one value for each of the {self.channels} channels")
        return self


class _Config(_Part):
    """The config of a network.pt: two checked parts; further keys describe the run as plain data."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    network: _Recipe
    preprocessing: _Preprocessing


def _checked_weights(weights: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict after checking its names and entries; shapes are compared in `_refuse_unlike`."""
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError(f"{path}: its state_dict does not map names to tensors; train the network again")
    for name, tensor in weights.items():
        check_stored(f"{path}: {name!r}", tensor)
    return weights


def _refuse_unlike(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path, kind: str) -> None:
    """Raise UserError if names, shapes or dtypes of the file's weights differ from the network's."""
    place = f"{path}: weights do not fit network {kind}"
    for name in [*expected, *weights]:
        if name not in expected or name not in weights:
            raise UserError(f"{place}: {name!r} is only in the {'file' if name in weights else 'network'}")
        required, stored = expected[name], weights[name]
        if (required.shape, required.dtype) != (stored.shape, stored.dtype):
            stored_form, required_form = (
                f"{tuple(tensor.shape)} {str(tensor.dtype)[6:]}" for tensor in (stored, required)
            )
            raise UserError(
                f"{place}: size mismatch: {name!r} is {stored_form} in the file, {required_form} in the network"
            )


def read_torch(path: Path) -> Any:
    """Return the plain data of a torch file, on the CPU.

    Raises:
        UserError: the file is missing, damaged, truncated or not plain data.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; train the network first, or fix the path")
    check_seal(path)
    return load_plain(path, "truncated, or not a file of torch with plain data", "delete it and run again")


def weights_sha256(network: torch.nn.Module) -> str:
    """Return the hex SHA-256 over names, shapes and bytes of all weights and buffers, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # The tensor is viewed as bytes because numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def run_key(description: dict[str, Any]) -> str:
    """Return a short hash of everything that decides a run's weights; it names the checkpoint folder."""
    text = json.dumps(description, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain data to `path` atomically: under a temporary name, then renamed."""
    # torch writes to memory first: on disk it turns a full disk into a RuntimeError and stores the file's name.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path, digest=True) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any] | None:
    """Return the resume state in `path`, or None if there is no such file."""
    return read_torch(path) if path.exists() else None
