"""Load a network: a network.pt of nmnc, torchvision, timm, the user's MODULE:FUNCTION, or the pixels."""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from brain_eval.activations.chosen_layers import Chosen, default_layers, named_layers, refuse_script
from brain_eval.activations.preprocessing import EXAMPLE, Preprocessing
from brain_eval.activations.settings import ReferenceModel
from nmnc.errors import UserError, did_you_mean
from nmnc.files.reading import parse_json
from nmnc.modules import code_sha256, import_function, running_users_code
from nmnc.networks.weights import as_float32, check_values, fill
from nmnc.sections import LIBRARIES

#: Arguments of torchvision's and timm's networks that load weights, or download them.
LOADING = re.compile(r"^(weights(_.*)?|pretrained.*|checkpoint.*|cache_dir|state_dict|.*_(url|weights|checkpoint))$")
#: Arguments that match the pattern but choose how initial weights are drawn.
DRAWING = {"init_weights"}


@dataclass(frozen=True)
class Model:
    """A network with the layers to record.

    Attributes:
        name: identifies it, without the path of any file.
        module: in evaluation mode, on the CPU; images (batch, channels, height, width) in.
        layers: layer name -> the submodule whose output is recorded, in the order asked for.
        preprocessing: how images are preprocessed for it.
        weights_sha256: hex digest over names, shapes and values of all weights and buffers.
        code_sha256: hex digest over the module's structure and the source files of its classes, so
            that activations of an edited network are not mistaken for earlier ones.
        steps, note: see `chosen_layers.Chosen`.
    """

    name: str
    module: nn.Module
    layers: Mapping[str, nn.Module]
    preprocessing: Preprocessing
    weights_sha256: str
    code_sha256: str
    steps: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


def load_model(
    source: str,
    layers: str = "",
    weights: Path | None = None,
    arguments: str = "{}",
    preprocessing: str = "",
    *,
    kind: str = "",
    weights_key: str = "",
) -> Model:
    """Build or read a model; its weights are converted to float32.

    Args:
        source: path of a network.pt; "MODULE:FUNCTION", called as FUNCTION(**arguments) to give an
            nn.Module (the current directory is on the path); "torchvision:NAME"; "timm:NAME" where timm
            is installed; or "pixels".
        layers: comma-separated stage names or dotted submodule names, LAYER@STEP for one of several calls; "" means
            every stage of a nmnc network and the direct children of any other that run on an image.
        weights: state dict for MODULE:FUNCTION, torchvision or timm, see `nmnc.networks.weights.fill`. Without it the
            network keeps its initial weights, drawn from seed 0. Nothing is ever downloaded.
        arguments: JSON object, keyword arguments of FUNCTION.
        preprocessing: JSON object image_size, channels, mean, std, or a .json file with it; "" takes a
            network.pt's.
        kind: the MODULE:FUNCTION that built a network.pt; "" for a network of nmnc's. The file alone never chooses it.
        weights_key: which state dict of the weights, where the file has several.

    Raises:
        UserError: unknown source, module, function or layer; arguments or weights that do not fit.
    """
    if source == "pixels" or ":" in source:
        if kind:
            raise UserError(f"{source}: --network {kind} is only for a network.pt; remove it")
        name, how, built_by = source, None, source
        module = as_float32(_built(source, arguments, weights is not None), source)
        if weights is not None:
            fill(module, weights, source, weights_key)
        elif weights_key:
            raise UserError(f"{source}: --weights-key {weights_key} chooses from a file; set --weights FILE too")
        check_values(module, f"{weights or source}")
    else:
        if weights is not None or weights_key or _json_object(arguments):
            raise UserError(f"{source}: a network.pt contains its weights and arguments; remove those options")
        name, module, how, built_by = _from_checkpoint(Path(source), kind)
    if preprocessing:
        how = Preprocessing.from_option(preprocessing, "--preprocessing")
    if how is None:
        raise UserError(f"{source}: preprocessing is missing; set it, e.g. --preprocessing '{EXAMPLE}'")
    with running_users_code(f"{source}: cannot be described"):  # runs its __repr__ and train
        module.eval()
        code = code_sha256(module, built_by)
    weights_sha256 = _weights_sha256(module)  # before a pass, which could change them
    chosen = _chosen(module, layers, source, how)
    return Model(
        name=name,
        module=module,
        layers=chosen.layers,
        preprocessing=how,
        weights_sha256=weights_sha256,
        code_sha256=code,
        steps=chosen.steps,
        note=chosen.note,
    )


def load_reference(model: ReferenceModel, data: Path) -> Model:
    """Build or read a reference model of a study; its file of weights lies below `data`. Raises as `load_model`."""
    weights = None if model.weights is None else data / model.weights
    seen = "" if model.preprocessing is None else model.preprocessing.model_dump_json()
    return load_model(
        model.network, ",".join(model.layers), weights, json.dumps(model.arguments), seen,
        kind=model.kind or "", weights_key=model.weights_key or "",
    )  # fmt: skip


def _from_checkpoint(path: Path, kind: str) -> tuple[str, nn.Module, Preprocessing, str]:
    """Name NETWORK/RULE/seedN (its folders), network, preprocessing and kind of a network.pt."""
    from nmnc.training.checkpoint import load_network

    network, config = load_network(path, [kind])
    found = config["network"]["kind"]
    if kind and kind != found:
        raise UserError(f"{path}: built by {found}, not by {kind}; fix or remove --network")
    seen = Preprocessing.from_plain(config["preprocessing"], str(path))
    return "/".join(path.resolve().parts[-4:-1]), network, seen, found


def _built(source: str, arguments: str, filled: bool) -> nn.Module:
    """The module of "pixels", "torchvision:NAME", "timm:NAME" or "MODULE:FUNCTION", its initial weights from seed 0.

    Args:
        source: see `load_model`.
        arguments: JSON object.
        filled: whether weights from a file will replace the initial ones.
    """
    keywords = _json_object(arguments)
    if source == "pixels":
        if keywords or filled:
            raise UserError("pixels: takes no arguments and no weights; remove --arguments and --weights")
        return nn.Identity()
    library, _, name = source.partition(":")
    if library in LIBRARIES:
        function = _torchvision(name) if library == "torchvision" else _timm(name, filled)
        keywords = _without_loading(source, keywords)
    else:
        function = import_function(source, source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with running_users_code(f"{source}: building it with arguments {keywords} failed"):
            module = function(**keywords)
    if not isinstance(module, nn.Module):
        raise UserError(f"{source}: returned {type(module).__name__}; fix it to return a torch.nn.Module")
    return module


def _without_loading(source: str, keywords: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without those that disable loading; UserError for one that would load weights."""
    loading = {name: value for name, value in keywords.items() if LOADING.match(name) and name not in DRAWING}
    for name, value in loading.items():
        if value:
            raise UserError(
                f"{source}: the argument {name!r} asks for trained weights, and nothing is downloaded; remove it and "
                "set --weights FILE (in a study: weights)"
            )
    return {name: value for name, value in keywords.items() if name not in loading}


def _json_object(text: str) -> dict[str, Any]:
    values = parse_json(text, "--arguments", 'write e.g. {"width": 64}')
    if not isinstance(values, dict):
        raise UserError('--arguments: not a JSON object; write e.g. {"width": 64}')
    return values


def _torchvision(name: str) -> Callable[..., nn.Module]:
    from torchvision import models

    if name not in models.list_models():
        hint = did_you_mean(name, models.list_models(), "torchvision.models.list_models() names them all")
        raise UserError(f"torchvision:{name}: no such model{hint}")
    # Nothing may be downloaded, including weights of the backbone.
    backbone = "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters
    fixed = {"weights": None} | ({"weights_backbone": None} if backbone else {})
    return lambda **arguments: models.get_model(name, **(arguments | fixed))


def _timm(name: str, filled: bool) -> Callable[..., nn.Module]:
    try:
        with running_users_code("timm"):
            timm = importlib.import_module("timm")
    except UserError as error:
        raise UserError(f"timm:{name}: timm cannot be imported ({error}); install it into this environment") from None
    if ":" in name or not timm.is_model(name):  # local-dir:FOLDER and the like name files
        hint = did_you_mean(name, timm.list_models(), "timm.list_models() names them all")
        raise UserError(f"timm:{name}: no such model{hint}")
    architecture, _, tag = name.partition(".")
    if tag and not filled:
        raise UserError(
            f"timm:{name}: .{tag} names trained weights, and nothing is downloaded; set --weights FILE (in a study: "
            f"weights), or choose timm:{architecture} for initial weights"
        )
    return lambda **arguments: timm.create_model(name, **(arguments | {"pretrained": False}))


def _chosen(module: nn.Module, layers: str, source: str, preprocessing: Preprocessing) -> Chosen:
    """Return the named layers, or the default ones."""
    refuse_script(module, source)
    stages = {"pixels": module} if source == "pixels" else _stages(module)
    if layers:
        return named_layers(module, layers, source, stages)
    return Chosen(stages) if stages else default_layers(module, source, preprocessing)


def _stages(module: nn.Module) -> dict[str, nn.Module]:
    """Stage name -> stage of a nmnc network, empty for any other module."""
    from nmnc.networks import Network

    return dict(zip(module.stage_names, module.stages, strict=True)) if isinstance(module, Network) else {}


def _weights_sha256(module: nn.Module) -> str:
    from nmnc.training.checkpoint import weights_sha256

    return weights_sha256(module)
