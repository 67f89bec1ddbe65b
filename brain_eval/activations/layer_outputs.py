"""Outputs of a model's layers: a forward pass with hooks, checked against the probe of the network."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from brain_eval.activations.hooks import run_hooked, unrecordable
from brain_eval.activations.models import Model
from nmnc.errors import UserError, in_one_line


@dataclass(frozen=True)
class Computation:
    """How the forward pass is computed; recorded values are always float32.

    Attributes:
        device: where.
        dtype: "float32" (TF32 off), or "bfloat16": torch.autocast, matrix products and convolutions in bfloat16.
        channels_last: images and weights in the channels-last layout, in which a CPU's convolutions are faster.
    """

    device: torch.device
    dtype: str = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"--dtype {self.dtype}: unknown; choose float32 or bfloat16")

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of four-dimensional tensors."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, module: nn.Module) -> None:
        """Move a module to the device and lay out its weights, in place."""
        module.to(self.device)
        module.to(memory_format=self.memory_format)
        for part in module.modules():
            if isinstance(part, nn.DataParallel):
                part.device_ids = []  # its copies would each see a part of the images

    def describe(self) -> dict[str, str]:
        """Return attributes for a file of activations."""
        dtype = "float32" if self.dtype == "float32" else "bfloat16 by torch.autocast, kept as float32"
        return {
            "device": self.device.type,
            "dtype": dtype,
            "memory_format": "channels last" if self.channels_last else "contiguous",
        }


@dataclass(frozen=True)
class Output:
    """Form of a layer's output, the same in every pass; see `layer_probe.probe`.

    Attributes:
        shape: for one image, without the batch axis.
        dtype: before conversion to float32.
        calls: how often a pass calls its module.
        call: which of the calls is recorded, from 0.
        channel_axis: the axis of `shape` along which the channels lie; None if unknown.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    calls: int = 1
    call: int = 0
    channel_axis: int | None = 0

    @property
    def channels(self) -> str:
        """Where the channels lie: "first", "middle", "last", or "unknown: ..."."""
        if self.channel_axis is None:
            return "unknown: coordinates follow the order of the axes"
        return {0: "first", len(self.shape) - 1: "last"}.get(self.channel_axis, "middle")

    def difference(self, output: Any, n: int) -> str:
        """Return how an output for `n` images differs from this form; "" if it does not."""
        kind = unrecordable(output)
        if kind:
            return f"gives {kind}"
        if output.shape != (n, *self.shape):
            return f"gives {tuple(output.shape)} for {n} images, not {(n, *self.shape)}"
        return "" if output.dtype == self.dtype else f"gives {output.dtype} values, not {self.dtype}"


def forward(
    model: Model,
    images: Tensor,
    computation: Computation,
    outputs: Mapping[str, Output],
    take: Callable[[str, Tensor], None],
    where: str,
) -> None:
    """Run one pass in inference mode and check that every layer's output has the probed form.

    Args:
        model: its module is on the computation's device.
        images: float32 (images, channels, height, width), on the CPU; in-place operations may change them.
        computation: where and how.
        outputs: of the model's layers.
        take: gets each layer's name and output as it appears, and must copy it at once: an in-place operation behind a
            layer changes the layer's output.
        where: for errors, which images these are, such as "in the batch that begins with stimulus 's1'".

    Raises:
        UserError: the network fails, or a layer's output or its number of calls differs from `outputs`.
    """
    counts: Counter[str] = Counter()

    def note(layer: str, output: Any) -> None:
        counts[layer] += 1
        if counts[layer] - 1 == outputs[layer].call:
            difference = outputs[layer].difference(output, len(images))
            if difference:
                raise UserError(
                    f"{model.name}: layer {layer!r} {difference}, {where}: its shape depends on the images; "
                    "choose layers whose shape is the same for all images"
                )
            take(layer, output)

    try:
        run(model, images, computation, note)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # the user's network may raise anything
        raise UserError(
            f"{model.name}: fails {where} ({in_one_line(error)}); fix the network or these images"
        ) from error
    for layer, promised in outputs.items():
        if counts[layer] != promised.calls:
            raise UserError(
                f"{model.name}: layer {layer!r} is called {times(counts[layer])} {where}, and "
                f"{times(promised.calls)} for other images: whether it runs depends on the images (an early exit?); "
                "choose layers that run for every image"
            )


def run(model: Model, images: Tensor, computation: Computation, note: Callable[[str, Any], None]) -> None:
    """Run one pass in inference mode; arguments and errors as `forward` and `hooks.run_hooked`."""
    images = images.to(computation.device, memory_format=computation.memory_format)
    with (
        torch.inference_mode(),
        torch.autocast(computation.device.type, torch.bfloat16, enabled=computation.dtype == "bfloat16"),
        torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False),
    ):
        run_hooked(model.module, images, model.layers, note)


def times(number: int) -> str:
    """Return a number of calls as text."""
    return "once" if number == 1 else f"{number} times"
