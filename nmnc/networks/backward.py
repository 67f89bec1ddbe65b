"""Another way back: layers whose error travels through something else than their own weights.

The forward pass and the weights' own gradients stay exact; only the gradient with respect to a layer's input
is replaced, so non-linearities, pooling and batch norm on the way keep their own derivatives.
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

#: Gradient with respect to a layer's output, and the shape of its input -> gradient with respect to that input.
WayBack = Callable[[Tensor, torch.Size], Tensor]
Carrier = nn.Linear | nn.Conv2d


class _Replaced(torch.autograd.Function):
    """A linear map of x that is exact forward; backward x's gradient comes from `back`."""

    @staticmethod
    def forward(context: Any, x: Tensor, silent: Tensor, back: WayBack) -> Tensor:
        context.back, context.shape = back, x.shape
        if silent._is_view():
            return silent.clone()
        context.mark_dirty(silent)  # no copy, and unlike a view it may be changed in place, as by ReLU(inplace=True)
        return silent

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return context.back(gradient, context.shape), gradient, None


def _forward(module: nn.Module, back: WayBack, shapes: dict[nn.Module, torch.Size], x: Tensor) -> Tensor:
    # The module sees a detached input: its weights get their own gradient, its input gets the replaced one.
    silent = type(module).forward(module, x.detach())
    if not x.requires_grad:
        return silent
    shapes[module] = x.shape
    return _Replaced.apply(x, silent, back)


@contextmanager
def ways_back(ways: Mapping[nn.Module, WayBack]) -> Iterator[dict[nn.Module, torch.Size]]:
    """Within: a forward pass lays down these ways back instead of the layers' own.

    Yields:
        The shapes of the layers' inputs in the newest forward pass, for the layers that have an error to carry.
    """
    shapes: dict[nn.Module, torch.Size] = {}
    for module, back in ways.items():
        module.forward = partial(_forward, module, back, shapes)
    try:
        yield shapes
    finally:
        for module in ways:
            del module.forward


def first_layer(stage: nn.Module) -> Carrier | None:
    """The Linear or Conv2d that alone takes a stage's input, or None; Flatten and dropout may come before it."""
    if isinstance(stage, nn.Linear | nn.Conv2d):
        return stage
    if type(stage).forward is nn.Sequential.forward:
        for module in stage.children():
            if not isinstance(module, nn.Flatten | nn.Identity | _DropoutNd):
                return first_layer(module)
    return None


def carriers(stages: nn.ModuleList) -> list[Carrier]:
    """The layers with weights that carry an error back, in order: Linear and Conv2d.

    The one that takes the images is left out where it can be told: nothing is sent back to the images.

    Raises:
        UserError: another layer with a weight matrix, or a convolution whose padding cannot be undone.
    """
    found: list[Carrier] = []
    for module in stages.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            check_layer(module)
            if module is not first_layer(stages[0]):
                found.append(module)
        elif any(weight.ndim > 1 for weight in module.parameters(recurse=False)):
            raise UserError(
                f"{type(module).__name__} cannot carry an error back through other weights; "
                "use Linear and Conv2d, or another rule"
            )
    return found


def check_layer(module: Carrier) -> None:
    """UserError for a layer that is no plain linear map: padding other than zeros, or a forward of its own."""
    kind = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
    if type(module).forward is not kind.forward:
        raise UserError(
            f"{type(module).__name__} has a forward of its own; its error cannot be carried back, use {kind.__name__}"
        )
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros":
            raise UserError(
                "a convolution pads with other than zeros; its error cannot be carried back, pad with zeros"
            )
        padding(module)


def padding(module: nn.Conv2d) -> tuple[int, int]:
    """Rows and columns of zeros on each side of a convolution's input; UserError where the sides differ."""
    if not isinstance(module.padding, str):
        return module.padding[0], module.padding[1]
    reach = zip(module.dilation, module.kernel_size, strict=True)
    height, width = ([0, 0] if module.padding == "valid" else [step * (side - 1) for step, side in reach])[:2]
    if height % 2 or width % 2:
        raise UserError(
            "a convolution pads its two sides unequally; its error cannot be carried back, give it an odd kernel"
        )
    return height // 2, width // 2


def response(module: Carrier, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """What a layer's linear map makes of x (images, ...): its output less its bias; with another weight, if given."""
    weight = module.weight.detach() if weight is None else weight
    if isinstance(module, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, module.stride, module.padding, module.dilation, module.groups)


def through(module: Carrier, weight: Tensor, gradient: Tensor, shape: torch.Size) -> Tensor:
    """Gradient with respect to a layer's input, as if its weight were `weight`.

    Args:
        module: a Linear or Conv2d.
        weight: of the shape of its own.
        gradient: with respect to its output.
        shape: of its input.
    """
    weight = weight.to(gradient.dtype)
    if isinstance(module, nn.Linear):
        return gradient @ weight
    return conv2d_input(shape, weight, gradient, module.stride, padding(module), module.dilation, module.groups)
