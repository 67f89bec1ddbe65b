"""Networks by name. To add one: a new file here and one line in NETWORKS."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from nmnc.errors import UserError, did_you_mean
from nmnc.networks.convnet import convnet
from nmnc.networks.mlp import mlp
from nmnc.networks.network import Network, layer_sizes

__all__ = ["NETWORKS", "Network", "build_network", "layer_sizes"]

#: name -> function(image_shape, classes, **arguments) -> Network
NETWORKS: dict[str, Callable[..., Network]] = {"convnet": convnet, "mlp": mlp}


def build_network(kind: str, image_shape: tuple[int, int, int], classes: int, arguments: dict[str, Any]) -> Network:
    """Make a network with fresh weights from torch's current random state.

    Args:
        kind: a name of NETWORKS, or MODULE:FUNCTION. FUNCTION is called as
            FUNCTION(image_shape, classes, **arguments) and returns a Network or an nn.Sequential,
            whose direct children are then the stages.
        image_shape: (channels, height, width) of one image.
        classes: number of outputs.
        arguments: further keyword arguments.

    Raises:
        UserError: unknown name, module, function or argument, or a result without stages.
    """
    function = _imported(kind) if ":" in kind else NETWORKS.get(kind)
    if function is None:
        raise UserError(f"networks: unknown kind {kind!r}, neither MODULE:FUNCTION{did_you_mean(kind, NETWORKS)}")
    known = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        for name in arguments:
            if name not in known:
                raise UserError(f"network {kind}: unknown argument {name!r}{did_you_mean(name, list(known)[2:])}")
    try:
        network = function(image_shape, classes, **arguments)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"network {kind} with arguments {arguments} cannot be built: {message}") from error
    if isinstance(network, nn.Sequential):
        network = Network(network.named_children())
    if not isinstance(network, Network):
        raise UserError(f"network {kind} returned {type(network).__name__}; return an nn.Sequential of stages")
    return network


def _imported(kind: str) -> Callable[..., Any]:
    """The function MODULE:FUNCTION; modules of the working directory are found too."""
    module_name, _, function_name = kind.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise UserError(f"network {kind}: {error}; is the folder of {module_name} on PYTHONPATH?") from error
    except AttributeError:
        raise UserError(f"network {kind}: module {module_name} has no function {function_name}") from None
