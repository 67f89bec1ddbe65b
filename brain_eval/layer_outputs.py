"""The outputs of a model's layers: one forward pass with hooks, the layers' shapes, the memory it takes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from brain_eval.models import Model
from nmnc.errors import UserError

#: Blank images in the pass that finds the layers' shapes; two, so that the batch axis shows.
PROBES = 2
#: What an operation takes beside its inputs and outputs: oneDNN keeps copies of both in its own layout.
WORKSPACE = 2


@dataclass(frozen=True)
class Computation:
    """How the forward pass is computed; what is kept is float32 in any case.

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
            raise UserError(f"--dtype {self.dtype}: unknown; use float32 or bfloat16")

    @property
    def memory_format(self) -> torch.memory_format:
        """Of torch's four-dimensional tensors."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, module: nn.Module) -> None:
        """Move a module where it is computed and lay out its weights, in place."""
        module.to(self.device)
        module.to(memory_format=self.memory_format)

    def describe(self) -> dict[str, str]:
        """Attributes of a file of activations."""
        dtype = "float32" if self.dtype == "float32" else "bfloat16 by torch.autocast, kept as float32"
        return {
            "device": self.device.type,
            "dtype": dtype,
            "memory_format": "channels last" if self.channels_last else "contiguous",
        }


def forward(model: Model, images: Tensor, computation: Computation, take: Callable[[str, Tensor], None]) -> None:
    """One pass in inference mode.

    Args:
        model: its module lies where the computation asks.
        images: float32 (images, channels, height, width), on the CPU.
        computation: where and how.
        take: gets each layer's name and output as it appears. What it keeps it must copy at once: an
            in-place operation behind a layer changes what the layer gave.

    Raises:
        UserError: a layer's output is not a tensor.
    """
    images = images.to(computation.device, memory_format=computation.memory_format)
    with (
        _hooked(model, take),
        torch.inference_mode(),
        torch.autocast(computation.device.type, torch.bfloat16, enabled=computation.dtype == "bfloat16"),
        torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False),
    ):
        model.module(images)


@contextmanager
def _hooked(model: Model, take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Forward hooks on all layers, gone afterwards whatever happens."""

    def hook_for(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                kind = type(output).__name__
                raise UserError(
                    f"{model.name}: layer {layer!r} gives a {kind}, not a tensor; choose a layer inside or after it"
                )
            take(layer, output)

        return hook

    with ExitStack() as hooks:
        for layer, module in model.layers.items():
            hooks.callback(module.register_forward_hook(hook_for(layer)).remove)
        yield


def laid_out(
    model: Model, device: torch.device, dtype: str, channels_last: bool | None
) -> tuple[Computation, dict[str, tuple[int, ...]], int]:
    """Move the module and lay out its weights; returns how it is computed from now on, and its `output_shapes`.

    Args:
        model: its module is changed in place.
        device, dtype: see `Computation`.
        channels_last: None: on a CPU, if the network takes it. One that flattens with `view` does not.

    Raises:
        UserError: as `output_shapes`; with None, what it says of the contiguous layout.
    """
    trials = [device.type == "cpu", False] if channels_last is None else [channels_last]
    for trial in dict.fromkeys(trials):
        computation = Computation(device, dtype, trial)
        computation.place(model.module)
        try:
            return computation, *output_shapes(model, computation)
        except UserError:
            if trial is trials[-1]:
                raise
    raise AssertionError("the last trial returns or raises")


def output_shapes(model: Model, computation: Computation) -> tuple[dict[str, tuple[int, ...]], int]:
    """Each layer's output for one image, without the batch axis, and the bytes a pass takes per image.

    Found in a pass of blank images. The bytes are those of the tensors alive at its worst moment, with
    room for the operations' own copies (WORKSPACE); weights are not counted.

    Raises:
        UserError: the model fails on such images, or a layer does not run exactly once, or its output
            is not one tensor of 2 to 4 dimensions (batch, channel[, channel_x[, channel_y]]).
    """
    seen = model.preprocessing
    shapes: dict[str, tuple[int, ...]] = {}

    def note(layer: str, output: Tensor) -> None:
        if layer in shapes:
            raise UserError(f"{model.name}: layer {layer!r} runs more than once an image; name one that runs once")
        if not 2 <= output.ndim <= 4 or len(output) != PROBES:
            form = "(batch, channel) to (batch, channel, channel_x, channel_y)"
            raise UserError(
                f"{model.name}: layer {layer!r} gives {tuple(output.shape)} for {PROBES} images, not {form}; "
                "choose another layer"
            )
        shapes[layer] = tuple(output.shape[1:])

    images = torch.zeros(PROBES, seen.channels, seen.image_size, seen.image_size)
    live = _LiveBytes(model.module)
    try:
        with live:
            forward(model, images, computation, note)
    except UserError:
        raise
    except Exception as error:  # the user's network may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        mend = "use --contiguous or mend --preprocessing" if computation.channels_last else "mend --preprocessing"
        raise UserError(f"{model.name}: fails on images as {seen.describe()}; {mend} ({reason})") from error
    for layer in model.layers:
        if layer not in shapes:
            raise UserError(f"{model.name}: layer {layer!r} never runs on an image; choose another layer")
    per_image = WORKSPACE * live.peak // PROBES
    return {layer: shapes[layer] for layer in model.layers}, per_image


class _LiveBytes(TorchFunctionMode):
    """Counts the bytes of tensors that are alive, but for a module's weights; `peak` is the most there were.

    By torch's functions and not by its operators below them: a TorchDispatchMode would load torch's
    compiler, which takes a second and 150 MB.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        state = [*module.parameters(), *module.buffers()]
        self._known = {tensor.untyped_storage()._cdata for tensor in state}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
