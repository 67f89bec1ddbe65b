"""Where a network comes from: a network.pt of nmnc, torchvision, timm, the user's MODULE:FUNCTION, or the pixels."""

import importlib
import inspect
import json
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from brain_eval.stimuli import EXAMPLE, Preprocessing
from nmnc.errors import UserError, did_you_mean
from nmnc.modules import code_sha256


@dataclass(frozen=True)
class Model:
    """A network ready to be looked into.

    Attributes:
        name: who it is, without the place of any file.
        module: in evaluation mode, on the CPU; images (batch, channels, height, width) in.
        layers: layer name -> the submodule whose output is recorded, in the order asked for.
        preprocessing: how it sees an image.
        weights_sha256: hex digest over names, shapes and values of all weights and buffers.
        code_sha256: hex digest over the module's structure and the source files of its classes, so
            that activations of an edited network are not mistaken for those of the old one.
    """

    name: str
    module: nn.Module
    layers: Mapping[str, nn.Module]
    preprocessing: Preprocessing
    weights_sha256: str
    code_sha256: str


def load_model(
    source: str,
    layers: str = "",
    weights: Path | None = None,
    arguments: str = "{}",
    preprocessing: str = "",
) -> Model:
    """Build or read a model.

    Args:
        source: path of a network.pt; "MODULE:FUNCTION", called as FUNCTION(**arguments) to give an
            nn.Module (the current directory is on the path); "torchvision:NAME"; "timm:NAME" where timm
            is installed; or "pixels".
        layers: comma-separated stage names or dotted submodule names; "" means every stage of a
            nmnc network and every direct child of any other.
        weights: state dict for MODULE:FUNCTION, torchvision or timm, possibly below the key "state_dict"
            and with the prefix "module.". Without it the network keeps its initial weights, drawn
            from seed 0. Nothing is ever downloaded.
        arguments: JSON object, keyword arguments of FUNCTION.
        preprocessing: JSON object image_size, channels, mean, std, or a .json file with it; "" takes a
            network.pt's own.

    Raises:
        UserError: unknown source, module, function or layer; arguments or weights that do not fit.
    """
    if source != "pixels" and ":" not in source:
        if weights is not None or _json_object(arguments):
            raise UserError(f"{source}: a network.pt holds its weights and arguments; leave out both options")
        name, module, own, built_by = _from_checkpoint(Path(source))
    else:
        name, module, own, built_by = source, _built(source, arguments), None, source
        if weights is not None:
            _fill(module, weights, source)
    if preprocessing:
        own = Preprocessing.from_option(preprocessing, "--preprocessing")
    if own is None:
        raise UserError(f"{source}: say how it sees an image, e.g. --preprocessing '{EXAMPLE}'")
    return Model(
        name=name,
        module=module.eval(),
        layers=_chosen(module, layers, source),
        preprocessing=own,
        weights_sha256=_weights_sha256(module),
        code_sha256=code_sha256(module, built_by),
    )


def _from_checkpoint(path: Path) -> tuple[str, nn.Module, Preprocessing, str]:
    """Name NETWORK/RULE/seedN (its folders), network, preprocessing and kind of a network.pt."""
    from nmnc.checkpoint import load_network

    network, config = load_network(path)
    seen = Preprocessing.from_plain(config["preprocessing"], str(path))
    return "/".join(path.resolve().parts[-4:-1]), network, seen, config["network"]["kind"]


def _built(source: str, arguments: str) -> nn.Module:
    """The module of "pixels", "torchvision:NAME", "timm:NAME" or "MODULE:FUNCTION", its initial weights from seed 0."""
    keywords = _json_object(arguments)
    if source == "pixels":
        if keywords:
            raise UserError("pixels: takes no arguments; leave out --arguments")
        return nn.Identity()
    module_name, _, function_name = source.partition(":")
    zoos = {"torchvision": _torchvision, "timm": _timm}
    function = zoos[module_name](function_name) if module_name in zoos else _imported(module_name, function_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            module = function(**keywords)
        except Exception as error:
            raise UserError(f"{source}: building it with arguments {keywords} failed: {_one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{source}: returned {type(module).__name__}; it must return a torch.nn.Module")
    return module


def _json_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f'--arguments: not JSON ({error}); write e.g. {{"width": 64}}') from None
    if not isinstance(values, dict):
        raise UserError('--arguments: must be a JSON object, e.g. {"width": 64}')
    return values


def _torchvision(name: str) -> Callable[..., nn.Module]:
    from torchvision import models

    if name not in models.list_models():
        hint = did_you_mean(name, models.list_models())
        hint = hint if "?" in hint else "; torchvision.models.list_models() names them all"
        raise UserError(f"torchvision:{name}: no such model{hint}")
    # Nothing, torchvision's backbone included, may come from the network.
    backbone = "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters
    fixed = {"weights": None} | ({"weights_backbone": None} if backbone else {})
    return lambda **arguments: models.get_model(name, **(arguments | fixed))


def _timm(name: str) -> Callable[..., nn.Module]:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise UserError(
            f"timm:{name}: timm cannot be imported ({_one_line(error)}); install it into this environment"
        ) from None
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        hint = hint if "?" in hint else "; timm.list_models() names them all"
        raise UserError(f"timm:{name}: no such model{hint}")
    return lambda **arguments: timm.create_model(name, **(arguments | {"pretrained": False}))


def _imported(module_name: str, function_name: str) -> Callable[..., Any]:
    source = f"{module_name}:{function_name}"
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's file may raise anything
        advice = "mend it, or put its folder on PYTHONPATH"
        raise UserError(f"{source}: importing {module_name} failed: {_one_line(error)}; {advice}") from error
    known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(
            f"{source}: {module_name} has no function {function_name!r}{did_you_mean(function_name, known)}"
        )
    return function


def _fill(module: nn.Module, path: Path, source: str) -> None:
    """Load a state dict into `module`, every key and shape of it."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights for {source}; mend --weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = _one_line(error).split(". ")[0]
        raise UserError(f"{path}: not a state dict torch can load with weights_only=True ({reason})") from None
    weights = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f'{path}: holds no state dict; save one with torch.save({{"state_dict": m.state_dict()}}, ...)')
    if all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    expected = module.state_dict()
    for key in sorted(weights.keys() & expected.keys()):
        if weights[key].shape != expected[key].shape:
            shapes = f"{tuple(weights[key].shape)} in the file, {tuple(expected[key].shape)} in the network"
            raise UserError(f"{path}: weights do not fit {source}: {key!r} is {shapes}; mend --weights or --arguments")
    # Not the bare sets of keys: batch norm forgives old files their missing num_batches_tracked.
    result = module.load_state_dict(dict(weights), strict=False)
    wrong = [
        f"{len(keys)} {kind}, first {', '.join(repr(key) for key in keys[:2])}"
        for kind, keys in (("missing", result.missing_keys), ("unexpected", result.unexpected_keys))
        if keys
    ]
    if wrong:
        raise UserError(f"{path}: weights do not fit {source}: {'; '.join(wrong)}; mend --weights or --arguments")


def _chosen(module: nn.Module, layers: str, source: str) -> dict[str, nn.Module]:
    """The submodules of the layers asked for, by name."""
    if source == "pixels":
        default = known = {"pixels": module}
    else:
        default = _stages(module) or dict(module.named_children())
        known = dict(module.named_modules(remove_duplicate=False)) | default
        known.pop("", None)
    if not layers:
        if not default:
            raise UserError(f"{source}: has no submodules to record; give its parts names")
        return default
    names = [name.strip() for name in layers.split(",")]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"{source}: no layer {name!r}{hint if '?' in hint else did_you_mean(name, default)}")
    return {name: known[name] for name in names}


def _stages(module: nn.Module) -> dict[str, nn.Module]:
    """Stage name -> stage of a nmnc network, empty for any other module."""
    from nmnc.networks import Network

    return dict(zip(module.stage_names, module.stages, strict=True)) if isinstance(module, Network) else {}


def _weights_sha256(module: nn.Module) -> str:
    from nmnc.checkpoint import weights_sha256

    return weights_sha256(module)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
