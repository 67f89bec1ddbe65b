"""Probe a network with a first pass: form of each layer's output, number of calls, channel axis, memory."""

import copy
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from brain_eval.activations.hooks import calls_of, probe_images, unrecordable
from brain_eval.activations.layer_outputs import Computation, Output, run, times
from brain_eval.activations.models import Model
from nmnc.errors import UserError, in_one_line

#: Images of the first pass, one blank and one of noise; and of the pass at another size.
PROBES, OTHER_PROBES = 2, 3
#: Factor for the memory of operations: oneDNN copies inputs and outputs into its layout.
WORKSPACE = 2
#: Two passes over an image may differ by this much, relative to the layer's largest value, where the coarsest
#: numbers that the network computes with are of this type. Chance shows at 1e-1 and more.
ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
#: Modules of torch whose maps are documented as (batch, channel, row, column).
CHANNELS_FIRST = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LocalResponseNorm, nn.MaxPool2d,
    nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle,
)  # fmt: skip
#: Files of torch modules whose output has the shape of their input.
ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout")


@dataclass(frozen=True)
class Probe:
    """Result of a network's first passes.

    Attributes:
        outputs: form of each layer's output.
        bytes_per_image: peak memory of the tensors alive in a pass, with room for copies (WORKSPACE), without weights.
        rounding: see ROUNDING.
    """

    outputs: dict[str, Output]
    bytes_per_image: int
    rounding: float

    def with_channels(self, axis: str | None) -> "Probe":
        """Return a copy with unknown channel axes set to the "first" or "last" axis; itself if `axis` is None."""
        if axis is None:
            return self
        outputs = dict(self.outputs)
        for layer, output in outputs.items():
            if output.channel_axis is None:
                outputs[layer] = replace(output, channel_axis=0 if axis == "first" else len(output.shape) - 1)
        return replace(self, outputs=outputs)

    def describe(self) -> dict[str, str]:
        """Return attributes for a file of activations: channel axes, and layers whose values were not float32."""
        axes = {layer: output.channels for layer, output in self.outputs.items() if output.channel_axis != 0}
        attributes = {"channel_axis": json.dumps(axes, ensure_ascii=False) if axes else "first"}
        converted = self.converted()
        return attributes | ({"converted_to_float32": json.dumps(converted, ensure_ascii=False)} if converted else {})

    def converted(self) -> dict[str, str]:
        """Return layer -> type of its values, for types other than float32."""
        types = {layer: str(output.dtype).removeprefix("torch.") for layer, output in self.outputs.items()}
        return {layer: name for layer, name in types.items() if name != "float32"}


@dataclass(frozen=True)
class _Call:
    """A layer's output at one call: the result of `unrecordable`, and the form if that is empty."""

    kind: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, output: Any) -> "_Call":
        kind = unrecordable(output)
        return cls(kind) if kind else cls("", tuple(output.shape), output.dtype)


def laid_out(model: Model, device: torch.device, dtype: str, channels_last: bool | None) -> tuple[Computation, Probe]:
    """Move the module and lay out its weights, in place; return how it is computed, and its `probe`.

    Args:
        model, device, dtype: see `Computation`.
        channels_last: None: on a CPU, if the network takes it. One that flattens with `view` does not.

    Raises:
        UserError: as `probe`; with None, the error of the contiguous layout.
    """
    trials = [device.type == "cpu", False] if channels_last is None else [channels_last]
    for trial in dict.fromkeys(trials):
        computation = Computation(device, dtype, trial)
        computation.place(model.module)
        try:
            return computation, probe(model, computation)
        except UserError:
            if trial is trials[-1]:
                raise
    raise AssertionError("the last trial returns or raises")


def probe(model: Model, computation: Computation) -> Probe:
    """Pass a blank image and noise through the network, and images of another size as far as it takes them.

    Raises:
        UserError: the model fails on such images, is in training mode, or has a layer that is called several times
            (or whose chosen call does not come), or whose output is not one dense floating-point tensor of 2 to 4
            dimensions, images first.
    """
    model.module.eval()
    refuse_training(model)
    images = probe_images(model.preprocessing, PROBES)
    images[0] = 0.0
    live = _LiveBytes(model.module)
    calls: dict[str, list[_Call]] = {layer: [] for layer in model.layers}
    try:
        with live:
            _note_calls(model, images, computation, calls)
    except (Exception, SystemExit) as error:  # the user's network may raise anything
        advice = "use --contiguous or fix --preprocessing" if computation.channels_last else "fix --preprocessing"
        raise UserError(
            f"{model.name}: fails on images as {model.preprocessing.describe()}; {advice} ({in_one_line(error)})"
        ) from error
    refuse_training(model)
    outputs = {layer: _promised(model, layer, calls[layer], computation) for layer in model.layers}
    resized = _at_other_sizes(model, computation, outputs)
    for layer, output in outputs.items():
        axis = _channel_axis(output.shape, resized[layer])
        if axis is None and len(output.shape) == 3 and _gives_channels_first(model.layers[layer]):
            axis = 0
        outputs[layer] = replace(output, channel_axis=axis)
    return Probe(outputs, WORKSPACE * live.peak // PROBES, max(ROUNDING[dtype] for dtype in live.dtypes))


def print_notes(model: Model, found: Probe) -> None:
    """Print on stderr what a user may not expect: children that are not recorded, values that are converted."""
    converted = ", ".join(f"{layer} ({name})" for layer, name in found.converted().items())
    for note in (model.note, f"{model.name}: converted to float32: {converted}" if converted else ""):
        if note:
            tqdm.write(f"brain_eval: note: {note}", file=sys.stderr)


def refuse_training(model: Model) -> None:
    """Raise UserError for a module in training mode, which would draw dropout or use batch statistics."""
    for name, part in model.module.named_modules():
        if part.training:
            place = f"module {name!r}" if name else "the network"
            raise UserError(
                f"{model.name}: {place} ({type(part).__name__}) is in training mode although eval() was called; fix "
                "its train() or forward()"
            )


def _note_calls(model: Model, images: Tensor, computation: Computation, calls: dict[str, list[_Call]]) -> None:
    """Run one pass and append each layer's output at each call, up to the point where the network may fail."""
    run(model, images, computation, lambda layer, output: calls[layer].append(_Call.of(output)))


def _promised(model: Model, layer: str, calls: Sequence[_Call], computation: Computation) -> Output:
    """Return the form of a layer's output from its calls in the first pass; raises as `probe`."""
    where, step, n = f"{model.name}: layer {layer!r}", model.steps.get(layer), len(calls)
    if not calls:
        raise UserError(
            f"{where} is never called: it does not run, or the network calls its .forward(), which hooks do not see; "
            "choose another layer"
        )
    if step is None and n > 1:
        raise UserError(
            f"{where} is called {n} times in a pass; choose one of its calls, such as {layer}@0 (the first) or "
            f"{layer}@-1 (the last), or another layer"
        )
    call = 0 if step is None else step if step >= 0 else n + step
    if not 0 <= call < n:
        raise UserError(f"{where}: its module is called {times(n)} in a pass; choose a step from 0 to {n - 1} or -1")
    given = calls[call]
    if given.kind:
        raise UserError(f"{where} gives {given.kind}; {_inside(model, layer, computation)}")
    if not 2 <= len(given.shape) <= 4 or given.shape[0] != PROBES or 0 in given.shape:
        raise _wrong_form(model, layer, given.shape, PROBES)
    return Output(given.shape[1:], given.dtype, n, call)


def _wrong_form(model: Model, layer: str, shape: tuple[int, ...], n: int) -> UserError:
    """Return the error for a layer whose output for `n` images has another first axis."""
    order = ""
    if len(axes := [axis for axis, extent in enumerate(shape) if extent == n]) == 1 and axes != [0]:
        names = ": (token, image, channel)" if len(shape) == 3 and axes == [1] else ""
        order = f", since its images lie along axis {axes[0]}, counted from 0{names}"
    return UserError(
        f"{model.name}: layer {layer!r} gives {shape} for {n} images, not (batch, channel) to "
        f"(batch, channel, channel_x, channel_y){order}; choose another layer"
    )


def _inside(model: Model, layer: str, computation: Computation) -> str:
    """Return advice on what to choose instead of a layer that cannot be recorded."""
    try:
        calls = calls_of(model.module, probe_images(model.preprocessing, PROBES).to(computation.device))
    except Exception:  # the user's network may raise anything
        calls = {}
    name = layer.rpartition("@")[0] if layer in model.steps else layer
    inside = [part for part, module in model.layers[layer].named_modules() if part and calls.get(module) == [""]]
    return f"choose a layer inside it, such as {name}.{inside[-1]}, or after it" if inside else "choose one after it"


def _at_other_sizes(
    model: Model, computation: Computation, outputs: Mapping[str, Output]
) -> dict[str, tuple[int, ...] | None]:
    """Return each layer's output shape for an image of another size; None if the network fails before that layer.

    Half the size is tried first, then twice the size for layers that fail on a small image.
    """
    found: dict[str, tuple[int, ...] | None] = dict.fromkeys(outputs)
    other = _copied(model) if any(len(output.shape) > 1 for output in outputs.values()) else model
    for factor, n in ((0.5, OTHER_PROBES), (2.0, 1)):
        unseen = [layer for layer, output in outputs.items() if len(output.shape) > 1 and found[layer] is None]
        size = round(factor * model.preprocessing.image_size)
        if not unseen or size < 1:
            continue
        images = probe_images(replace(model.preprocessing, image_size=size), n)
        seen: dict[str, list[_Call]] = {layer: [] for layer in model.layers}
        with suppress(Exception, SystemExit), _Scaled(factor), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about images of another size do not concern the user
            _note_calls(other, images, computation, seen)
        for layer in unseen:
            calls = seen[layer]
            shape = calls[outputs[layer].call].shape if outputs[layer].call < len(calls) else ()
            before = (PROBES, *outputs[layer].shape)
            if len(shape) != len(before):
                continue
            if shape[0] == n:
                found[layer] = shape[1:]
            elif (PROBES, n) in zip(before[1:], shape[1:], strict=True):  # as many tokens as there were images before
                raise _wrong_form(model, layer, shape, n)
    return found


def _copied(model: Model) -> Model:
    """Return a copy that shares the weights but not buffers and other state; the model itself if copying fails."""
    memo: dict[int, Any] = {id(weight): weight for weight in model.module.parameters()}
    try:
        module = copy.deepcopy(model.module, memo)
    except Exception:  # the user's network may contain anything
        return model
    return replace(model, module=module, layers={name: memo.get(id(part), part) for name, part in model.layers.items()})


def _channel_axis(shape: tuple[int, ...], other: tuple[int, ...] | None) -> int | None:
    """Return the axis of `shape` with the channels: the one whose size `other` shares; None if there are several."""
    same = [axis for axis in range(len(shape)) if other is None or shape[axis] == other[axis]]
    if len(same) != 1:  # an axis of length 1 is not ambiguous
        same = [axis for axis in same if shape[axis] > 1] or [0] * (set(shape) == {1})
    return same[0] if len(same) == 1 else None


def _gives_channels_first(module: nn.Module) -> bool:
    """Return whether torch documents a module's maps as (batch, channel, row, column)."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        parts = [part for part in module if type(part).__module__ not in ELEMENTWISE]
        return bool(parts) and _gives_channels_first(parts[-1])
    return type(module) in CHANNELS_FIRST


class _Scaled(TorchFunctionMode):
    """Scale the fixed sizes of adaptive pooling and interpolation with the image size."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(function, "__name__", ""), dict(kwargs or {})
        pooling = name.startswith(("adaptive_avg_pool", "adaptive_max_pool"))
        if pooling or name in ("interpolate", "upsample"):
            key = "output_size" if pooling else "size"
            if len(args) > 1:
                args = (args[0], self._scaled(args[1]), *args[2:])
            elif key in kwargs:
                kwargs[key] = self._scaled(kwargs[key])
        return function(*args, **kwargs)

    def _scaled(self, size: Any) -> Any:
        if isinstance(size, list | tuple):
            return tuple(self._scaled(extent) for extent in size)
        return max(1, round(self.factor * size)) if isinstance(size, int) and size > 1 else size


class _LiveBytes(TorchFunctionMode):
    """Count the bytes of live tensors, without a module's weights.

    A TorchFunctionMode, since a TorchDispatchMode would load torch's compiler, which takes a second and 150 MB.

    Attributes:
        peak: maximum number of bytes.
        dtypes: floating types of the tensors, always with float32.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.dtypes = {torch.float32}
        storages = map(_storage, (*module.parameters(), *module.buffers()))
        self._known = {storage._cdata for storage in storages if storage is not None}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.dtypes |= {tensor.dtype} & ROUNDING.keys()
                self._count(_storage(tensor))
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: torch.UntypedStorage | None) -> None:
        if storage is not None and storage._cdata not in self._known:
            key, size = storage._cdata, storage.nbytes()
            self._known.add(key)
            self.live += size
            finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """Return a tensor's storage; None if it has none, such as a sparse tensor."""
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError, ValueError):
        return None
