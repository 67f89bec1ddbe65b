"""Networks by name. To add one: a new file here and one line in NETWORKS."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from nmnc.errors import UserError, did_you_mean
from nmnc.modules import import_function, running_users_code
from nmnc.networks.alexnet import alexnet
from nmnc.networks.convnet import convnet
from nmnc.networks.mlp import mlp
from nmnc.networks.network import Network, layer_sizes
from nmnc.networks.resnet import resnet
from nmnc.networks.weights import as_float32
from nmnc.validation import short

__all__ = ["NETWORKS", "Network", "Size", "build_network", "layer_sizes", "size_of"]

#: name -> function(image_shape, classes, **arguments) -> Network
NETWORKS: dict[str, Callable[..., Network]] = {"convnet": convnet, "mlp": mlp, "resnet": resnet, "alexnet": alexnet}


def build_network(kind: str, image_shape: tuple[int, int, int], classes: int, arguments: dict[str, Any]) -> Network:
    """Build a network with initial weights drawn from torch's current random state.

    Args:
        kind: a name of NETWORKS, or MODULE:FUNCTION, which is imported and run: it must come from a study or a
            command line, never from a file (see `nmnc.training.checkpoint`). FUNCTION is called as
            FUNCTION(image_shape, classes, **arguments) and returns a Network or an nn.Sequential,
            whose direct children are then the stages. Its weights are converted to float32.
        image_shape: (channels, height, width) of one image.
        classes: number of outputs.
        arguments: further keyword arguments.

    Raises:
        UserError: unknown name, module, function or argument, a function that fails or sets torch's seed, or stages
            that cannot be trained one by one.
    """
    function = import_function(kind, f"network {kind}") if ":" in kind else NETWORKS.get(kind)
    if function is None:
        raise UserError(f"networks: unknown kind {kind!r}, neither MODULE:FUNCTION{did_you_mean(kind, NETWORKS)}")
    seed = torch.initial_seed()
    with running_users_code(f"network {kind} with arguments {arguments} cannot be built"):
        _refuse_unknown(kind, function, arguments)
        if ":" not in kind:
            _check_arguments(kind, function, arguments)
        network: Any = function(image_shape, classes, **arguments)
    if torch.initial_seed() != seed:
        raise UserError(
            f"network {kind} sets torch's seed, so that every seed of a study would be the same; remove that"
        )
    return as_float32(_trainable(network, kind), f"network {kind}")


def _trainable(network: Any, kind: str) -> Network:
    """Return the network as a `Network`; UserError if it has no stages that can be trained one by one."""
    if isinstance(network, nn.Sequential):
        network = Network(network.named_children())
    if not isinstance(network, Network):
        raise UserError(f"network {kind} returned {type(network).__name__}; return an nn.Sequential of stages")
    if len(network.stages) < 2:
        raise UserError(f"network {kind} has no hidden stage; add at least one before the logits")
    for name, stage in zip(network.stage_names, network.stages, strict=True):
        if not any(weight.requires_grad for weight in stage.parameters()):
            raise UserError(f"network {kind}: stage {name} has no weights to train; merge it with the stage before it")
    return network


def _refuse_unknown(kind: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Raise UserError for an argument that the function does not take."""
    known = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in arguments:
        if name not in known:
            raise UserError(f"network {kind}: unknown argument {name!r}{did_you_mean(name, list(known)[2:])}")


def _check_arguments(kind: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Raise UserError for an argument outside the type or range in the function's signature."""
    types = get_type_hints(function, include_extras=True)
    for name, value in arguments.items():
        try:
            TypeAdapter(types[name], config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UserError(
                f"network {kind}: argument {name}: {first['msg']} (got {short(first['input'])}); fix it"
            ) from None


class Size(NamedTuple):
    """Size of a network: number of weights, and units of every stage's output for one image."""

    weights: int
    units: list[int]


def size_of(kind: str, image_shape: tuple[int, int, int], classes: int, arguments: dict[str, Any]) -> Size | None:
    """Return the size of a built-in network without allocating it; None for a user's, which may need real tensors.

    Raises:
        UserError: as `build_network`, or images of that shape do not pass through the network.
    """
    if ":" in kind:
        return None
    with torch.device("meta"):
        network = build_network(kind, image_shape, classes, arguments)
        return Size(sum(weight.numel() for weight in network.parameters()), layer_sizes(network, image_shape))
