"""Backward passes that replace the gradient of a layer with respect to its input.

The forward pass and the gradients of the weights stay exact, and non-linearities, pooling and batch norm keep their
derivatives.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.nn.modules.dropout import _DropoutNd

from nmnc.errors import UserError

#: (gradient with respect to a layer's output, shape of its input) -> gradient with respect to its input.
BackwardMap = Callable[[Tensor, torch.Size], Tensor]
Carrier = nn.Linear | nn.Conv2d


class _Replaced(torch.autograd.Function):
    """Identity on a layer's output; in the backward pass, `backward_map` gives the gradient of the input x."""

    @staticmethod
    def forward(context: Any, x: Tensor, output: Tensor, backward_map: BackwardMap) -> Tensor:
        context.backward_map, context.shape = backward_map, x.shape
        if output._is_view():
            return output.clone()
        context.mark_dirty(output)  # no copy; unlike a view, it may be changed in place, e.g. by ReLU(inplace=True)
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return context.backward_map(gradient, context.shape), gradient, None


def _forward(module: nn.Module, backward_map: BackwardMap, shapes: dict[nn.Module, torch.Size], x: Tensor) -> Tensor:
    # The module gets a detached input, so that autograd computes its weights' gradients but not its input's.
    detached_output = type(module).forward(module, x.detach())
    if not x.requires_grad:
        return detached_output
    shapes[module] = x.shape
    return _Replaced.apply(x, detached_output, backward_map)


@contextmanager
def replacing_backward(maps: Mapping[nn.Module, BackwardMap]) -> Iterator[dict[nn.Module, torch.Size]]:
    """Context manager: forward passes record these backward maps instead of the layers' own gradients.

    Yields:
        The input shapes of the layers in the latest forward pass, for layers whose input needs a gradient.
    """
    shapes: dict[nn.Module, torch.Size] = {}
    for module, backward_map in maps.items():
        module.forward = partial(_forward, module, backward_map, shapes)
    try:
        yield shapes
    finally:
        for module in maps:
            del module.forward


def first_layer(stage: nn.Module) -> Carrier | None:
    """Return the Linear or Conv2d that alone receives a stage's input, or None; Flatten and dropout may precede it."""
    if isinstance(stage, nn.Linear | nn.Conv2d):
        return stage
    if type(stage).forward is nn.Sequential.forward:
        for module in stage.children():
            if not isinstance(module, nn.Flatten | nn.Identity | _DropoutNd):
                return first_layer(module)
    return None


def carriers(stages: nn.ModuleList) -> list[Carrier]:
    """Return the Linear and Conv2d layers that pass an error back, in order.

    The layer that receives the images is left out if `first_layer` finds it: no error is needed at the images.

    Raises:
        UserError: another kind of layer with a weight matrix, or a convolution with unsupported padding.
    """
    found: list[Carrier] = []
    for module in stages.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            check_layer(module)
            if module is not first_layer(stages[0]):
                found.append(module)
        elif any(weight.ndim > 1 for weight in module.parameters(recurse=False)):
            raise UserError(
                f"{type(module).__name__} cannot pass an error back through other weights; "
                "use Linear and Conv2d, or another rule"
            )
    return found


def check_layer(module: Carrier) -> None:
    """Raise UserError for a layer that is not a plain linear map: non-zero padding, or an overridden forward."""
    kind = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
    if type(module).forward is not kind.forward:
        raise UserError(
            f"{type(module).__name__} overrides forward, so its error cannot be passed back; use {kind.__name__}"
        )
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros":
            raise UserError(
                f"a convolution has padding_mode {module.padding_mode!r}, so its error cannot be passed back; "
                "set it to zeros"
            )
        padding(module)


def padding(module: nn.Conv2d) -> tuple[int, int]:
    """Return the rows and columns of zeros on each side of a convolution's input; UserError if the sides differ."""
    if not isinstance(module.padding, str):
        return module.padding[0], module.padding[1]
    reach = zip(module.dilation, module.kernel_size, strict=True)
    height, width = ([0, 0] if module.padding == "valid" else [step * (side - 1) for step, side in reach])[:2]
    if height % 2 or width % 2:
        raise UserError(
            "a convolution pads its two sides unequally, so its error cannot be passed back; choose an odd kernel"
        )
    return height // 2, width // 2


def response(module: Carrier, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return a layer's output for x (images, ...) without its bias, with another weight if given."""
    weight = module.weight.detach() if weight is None else weight
    if isinstance(module, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, module.stride, module.padding, module.dilation, module.groups)


def through(module: Carrier, weight: Tensor, gradient: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient with respect to a layer's input, as if its weight were `weight`.

    Args:
        module: a Linear or Conv2d.
        weight: of the same shape as the module's weight.
        gradient: with respect to the layer's output, (images, ...).
        shape: shape of the layer's input.
    """
    weight = weight.to(gradient.dtype)
    if isinstance(module, nn.Linear):
        return gradient @ weight
    return conv2d_input(shape, weight, gradient, module.stride, padding(module), module.dilation, module.groups)
