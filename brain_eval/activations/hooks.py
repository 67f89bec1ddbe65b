"""Forward hooks: observe the outputs of modules in a pass, which modules it calls, and what can be recorded."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brain_eval.activations.preprocessing import Preprocessing

#: Types that can be recorded as float32; others raise an error with their name.
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def run_hooked(
    module: nn.Module, images: Tensor, modules: Mapping[str, nn.Module], note: Callable[[str, Any], None]
) -> None:
    """Call `module` on images with forward hooks on `modules`, which are removed again whatever happens.

    Args:
        module: compiled parts of it run as plain Python, since compiled code calls no hooks.
        images: on the module's device; an in-place operation may change them.
        modules: by name; one module may have several names.
        note: gets the name and the output at each call, in order. What it raises ends the pass with that error, even
            where the network itself catches exceptions.

    Raises:
        Exception: the first one of `note`, else what the network raises.
    """
    faults: list[Exception] = []

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            try:
                note(name, output)
            except Exception as error:
                faults.append(error)
                raise

        return hook

    with ExitStack() as hooks, _uncompiled():
        for name, part in modules.items():
            hooks.callback(part.register_forward_hook(hook_for(name)).remove)
        try:
            module(images)
        except Exception:
            if not faults:
                raise
    if faults:
        raise faults[0]


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled modules as plain Python; nothing is compiled unless torch's compiler is loaded."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def unrecordable(output: Any) -> str:
    """Return why a module's output cannot be recorded as float32, e.g. "a list, not a tensor"; "" if it can."""
    if not isinstance(output, Tensor):
        return f"a {type(output).__name__}, not a tensor"
    if type(output) not in (Tensor, nn.Parameter):
        return f"a {type(output).__name__}, a kind of tensor whose values are not plain numbers in memory"
    if output.is_nested:
        return "a nested tensor, with images of several shapes"
    if output.is_quantized:
        return f"quantised values ({_name(output.dtype)})"
    if output.layout != torch.strided:
        return f"a tensor in the layout {_name(output.layout)}, not a dense one"
    if output.device.type == "meta":
        return "a meta tensor, which has no values"
    if output.dtype not in FLOATS:
        return f"{_name(output.dtype)} values, not floating-point numbers"
    return ""


def _name(kind: Any) -> str:
    return str(kind).removeprefix("torch.")


#: Module -> the result of `unrecordable` for each of its calls in a pass; without modules that are not called.
Calls = Mapping[nn.Module, Sequence[str]]


def calls_of(module: nn.Module, images: Tensor) -> Calls:
    """Call `module` on images in inference mode; return which of its modules were called. Raises as the network."""
    found: dict[nn.Module, list[str]] = {}
    scripts = torch.jit.ScriptModule  # has no hooks
    parts = {name: part for name, part in module.named_modules() if not isinstance(part, scripts)}

    def note(name: str, output: Any) -> None:
        found.setdefault(parts[name], []).append(unrecordable(output))

    with torch.inference_mode():
        run_hooked(module, images, parts, note)
    return found


def running_children(module: nn.Module, calls: Calls, place: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the direct children that a pass calls; in place of a child that is not called, its children that are."""
    for name, child in module.named_children():
        if child in calls:
            yield place + name, child
        else:
            yield from running_children(child, calls, f"{place}{name}.")


def probe_images(preprocessing: Preprocessing, n: int, seed: int = 0) -> Tensor:
    """Return `n` preprocessed images of noise: float32 (n, channels, image_size, image_size)."""
    size = preprocessing.image_size
    pixels = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return preprocessing(list(pixels))
