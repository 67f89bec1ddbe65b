"""Activations of a model to every stimulus of a benchmark: hooks -> NetCDF, streamed."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from brain_eval import activation_files
from brain_eval.activation_files import Shape
from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import StimulusSet
from brain_eval.errors import UserError
from brain_eval.models import Model

#: Blank images in the pass that finds the layers' shapes; two, so that the batch axis shows.
PROBES = 2


def extract_all(
    model: Model,
    specs: Sequence[str],
    data: Path,
    out: Path,
    *,
    batch_size: int = 256,
    device: str = "auto",
    threads: int = 1,
) -> None:
    """Write OUT/NAME.nc for each benchmark, all layers from one forward pass over its stimuli.

    A file is kept as it is when its attributes say that it came from the same weights, code,
    preprocessing, stimuli, layers and versions. Memory is that of one batch or 64 MB, whichever is more,
    whatever the number of stimuli. The form of the file: see brain_eval.activation_files.

    Args:
        model: see brain_eval.models.load_model.
        specs: benchmarks, NAME or NAME=FOLDER.
        data: the data folder.
        out: folder, made if missing.
        batch_size: images in a forward pass.
        device: auto (a GPU when there is one), cpu or cuda.
        threads: torch's threads on the CPU.

    Raises:
        UserError: unknown benchmark or device, images the model does not take, a layer whose output
            cannot be recorded or is not finite, too little disk.
    """
    torch.set_num_threads(threads)
    place = _device(device)
    model.module.to(place)
    benchmarks = [load_benchmark(spec, data) for spec in specs]
    shapes = layer_shapes(model, place)
    out.mkdir(parents=True, exist_ok=True)
    todo = []
    for benchmark in benchmarks:
        stimuli, path = benchmark.stimulus_set, out / f"{benchmark.description.name}.nc"
        attributes = _attributes(model, stimuli, place)
        if not activation_files.is_current(path, attributes):
            todo.append((stimuli, path, attributes))
    sizes = [activation_files.bytes_needed(len(stimuli.stimulus_ids), shapes, batch_size) for stimuli, _, _ in todo]
    activation_files.refuse_without_room(out, sum(sizes))
    for stimuli, path, attributes in todo:
        rows, chunk = activation_files.layout(len(stimuli.stimulus_ids), shapes, batch_size)
        blocks = _blocks(model, stimuli, shapes, rows, batch_size, place)
        activation_files.write(path, stimuli.stimulus_ids, shapes, attributes, blocks, chunk)


def layer_shapes(model: Model, device: torch.device) -> dict[str, Shape]:
    """(channels, channel_x, channel_y) of each layer's output, seen in a pass of blank images.

    Raises:
        UserError: the model fails on such images, or a layer does not run exactly once, or its output
            is not one tensor of 2 to 4 dimensions (batch, channel[, channel_x[, channel_y]]).
    """
    seen = model.preprocessing
    shapes: dict[str, Shape] = {}

    def note(layer: str, output: Tensor) -> None:
        if layer in shapes:
            raise UserError(f"{model.name}: layer {layer!r} runs more than once an image; name one that runs once")
        if not 2 <= output.ndim <= 4 or len(output) != PROBES:
            form = "(batch, channel) to (batch, channel, channel_x, channel_y)"
            raise UserError(
                f"{model.name}: layer {layer!r} gives {tuple(output.shape)} for {PROBES} images, not {form}; "
                "choose another layer"
            )
        channels, rows, columns = (*output.shape[1:], 1, 1)[:3]
        shapes[layer] = (channels, rows, columns)

    images = torch.zeros(PROBES, seen.channels, seen.image_size, seen.image_size, device=device)
    try:
        _forward(model, images, note)
    except UserError:
        raise
    except Exception as error:  # the user's network may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{model.name}: fails on images as {seen.describe()}; mend --preprocessing ({reason})"
        ) from error
    for layer in model.layers:
        if layer not in shapes:
            raise UserError(f"{model.name}: layer {layer!r} never runs on an image; choose another layer")
    return {layer: shapes[layer] for layer in model.layers}


def _forward(model: Model, images: Tensor, take: Callable[[str, Tensor], None]) -> None:
    """One pass in inference mode and full float32; `take` gets each layer's output as it appears."""
    with (
        _hooked(model, take),
        torch.inference_mode(),
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


def _blocks(
    model: Model, stimuli: StimulusSet, shapes: Mapping[str, Shape], rows: int, batch_size: int, device: torch.device
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Activations (up to `rows`, neuroids) with the position of their first stimulus, in order.

    The array is used again for the next block.
    """
    n = len(stimuli.stimulus_ids)
    columns = activation_files.columns(shapes)
    block = torch.empty(min(rows, n), activation_files.neuroids(shapes))
    with tqdm(total=n, unit="image", desc=f"{model.name} {stimuli.name}", disable=None) as progress:
        for first in range(0, n, rows):
            last = min(first + rows, n)
            for start in range(first, last, batch_size):
                batch = np.arange(start, min(start + batch_size, last))
                images = model.preprocessing(stimuli.read(batch)).to(device)
                target = block[start - first : start - first + len(batch)]

                def copy(layer: str, output: Tensor, target: Tensor = target) -> None:
                    # At once: an in-place ReLU behind this layer would change what it gave.
                    target[:, columns[layer]] = output.flatten(1)

                try:
                    _forward(model, images, copy)
                except torch.OutOfMemoryError:
                    raise UserError(
                        f"{model.name}: no memory for {len(batch)} images; use a smaller --batch-size"
                    ) from None
                _refuse_not_finite(model, stimuli, target, columns, start)
                progress.update(len(batch))
            yield first, block[: last - first].numpy()


def _refuse_not_finite(
    model: Model, stimuli: StimulusSet, rows: Tensor, columns: Mapping[str, slice], start: int
) -> None:
    if torch.isfinite(rows).all():
        return
    layer = next(layer for layer, column in columns.items() if not torch.isfinite(rows[:, column]).all())
    row = int((~torch.isfinite(rows[:, columns[layer]]).all(1)).nonzero()[0])
    raise UserError(
        f"{model.name}: layer {layer!r} gives NaN or infinity for stimulus {stimuli.stimulus_ids[start + row]!r} of "
        f"{stimuli.name}; check the weights and the preprocessing"
    )


def _attributes(model: Model, stimuli: StimulusSet, device: torch.device) -> dict[str, str]:
    """Everything the values depend on, and so the key by which a file is kept or rewritten."""
    own = [Path(__file__).with_name(name) for name in ("activations.py", "activation_files.py", "stimuli.py")]
    code = hashlib.sha256(model.code_sha256.encode() + b"".join(path.read_bytes() for path in own))
    return {
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "code_sha256": code.hexdigest(),
        "preprocessing": model.preprocessing.describe(),
        "stimulus_set": stimuli.name,
        "stimulus_set_sha256": stimuli.sha256,
        "layers": ",".join(model.layers),
        "dtype": "float32",
        "device": device.type,
        "nmnc_brain_version": version("nmnc-brain"),
        "torch_version": torch.__version__,
    }


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: unknown; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
