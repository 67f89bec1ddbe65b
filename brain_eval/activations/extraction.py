"""Stream a model's activations to every stimulus of a benchmark into NetCDF files."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from brain_eval.activations import writer as activation_files
from brain_eval.activations.layer_outputs import Computation, Output, forward
from brain_eval.activations.layer_probe import Probe, laid_out, print_notes, probe
from brain_eval.activations.memory_budget import memory_plan, refuse_without_memory
from brain_eval.activations.models import Model
from brain_eval.activations.reductions import REDUCTIONS
from brain_eval.activations.reductions.reduction import WHOLE, Kept, Reduction, notes, reduce_layer
from brain_eval.activations.repeats import Repeats, Sample, refuse_changes, rows_to_repeat, state_of
from brain_eval.activations.settings import Activations
from brain_eval.activations.writer import Shape
from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import Benchmark, StimulusSet
from nmnc.data.images import decoding
from nmnc.errors import UserError
from nmnc.files.sources import code_digest
from nmnc.files.writing import claimed, private_folder

#: Seconds to wait for another process that extracts to the same folder.
WAIT = 604_800.0
#: Memory of an image while it is resized, in bytes per value: float32, and the resizer's copies.
RESIZING = 16
#: The first pass of a file is over this part of a batch.
FIRST_PART = 8


DEFAULT = Activations()


def extract_all(
    model: Model,
    specs: Sequence[str],
    data: Path,
    out: Path,
    *,
    batch_size: int = 256,
    device: str = "auto",
    threads: int = 1,
    settings: Activations = DEFAULT,
) -> None:
    """Load the benchmarks and write OUT/NAME.nc for each; see `extract`.

    Args:
        model: see brain_eval.activations.models.load_model.
        specs: benchmarks, NAME or NAME=FOLDER.
        data: the data folder.
        out, batch_size, device, threads, settings: see `extract`.

    Raises:
        UserError: unknown benchmark, and as `extract`.
    """
    _device(device)
    benchmarks = [load_benchmark(spec, data) for spec in specs]
    # A second process waits, and then finds the files written.
    with claimed(out / ".nmnc.lock", WAIT, out):
        extract(model, benchmarks, out, batch_size=batch_size, device=device, threads=threads, settings=settings)


def extract(
    model: Model,
    benchmarks: Sequence[Benchmark],
    out: Path,
    *,
    batch_size: int = 256,
    device: str = "auto",
    threads: int = 1,
    settings: Activations = DEFAULT,
) -> None:
    """Write OUT/NAME.nc for each benchmark, all layers from one forward pass over its stimuli.

    A file is kept if its attributes match: the same weights, code, preprocessing, stimuli, layers,
    reduction, number format and versions. Memory is bounded by
    `settings.memory_gb`, whatever the number of stimuli. The form of the file: see
    brain_eval.activations.writer. While a batch passes the network, the next one is read and the last
    block is written. In every batch each layer must be called as often as in the first pass and give the same form; a
    few images of the first and the last batch are shown twice, see brain_eval.activations.repeats.

    Args:
        model: its module is moved and laid out in place.
        benchmarks: their stimuli are shown.
        out: folder, made if missing.
        batch_size: most images in a forward pass.
        device: auto (a GPU when there is one), cpu or cuda.
        threads: torch's threads on the CPU.
        settings: what is recorded, and how it is computed.

    Raises:
        UserError: unknown device, images the model does not take, a layer whose output
            cannot be recorded, is not finite or depends on more than the image, too little disk or memory.
    """
    torch.set_num_threads(threads)
    computation, found = laid_out(model, _device(device), settings.dtype, settings.channels_last)
    found = found.with_channels(settings.channel_axis)
    print_notes(model, found)
    out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for benchmark in benchmarks:
        stimuli, path = benchmark.stimulus_set, out / f"{benchmark.description.name}.nc"
        job = _Job(model, stimuli, path, computation, settings, found, batch_size)
        if not activation_files.is_current(path, job.attributes):
            jobs.append(job)
    for job in jobs:
        job.refuse_without_memory()
    sizes = [job.bytes_on_disk() for job in jobs] or [(0, 0)]
    activation_files.refuse_without_room(out, sum(kept for kept, _ in sizes) + max(scratch for _, scratch in sizes))
    for job in jobs:
        job.run()


def reduction_of(settings: Activations) -> Reduction:
    """Return the reduction of a section."""
    return Reduction(settings.reduction, settings.reduction_dimensions, settings.reduction_seed)


def layer_shapes(model: Model, device: torch.device) -> dict[str, Shape]:
    """Return the shape of each layer's output, padded with 1 to three axes; raises as `layer_probe.probe`."""
    outputs = probe(model, Computation(device)).outputs
    return {layer: record.shape for layer, record in kept_layers(model, outputs, WHOLE, 1, device).items()}


def kept_layers(
    model: Model, outputs: Mapping[str, Output], reduction: Reduction, n: int, device: torch.device
) -> dict[str, Kept]:
    """Return what is recorded of each layer; raises as `reductions.reduction.reduce_layer`, with the model's name."""
    try:
        return {
            layer: reduce_layer(layer, output.shape, output.channel_axis, reduction, n, device)
            for layer, output in outputs.items()
        }
    except UserError as error:
        raise UserError(f"{model.name}: {error}") from None


class _Job:
    """One model on one stimulus set."""

    def __init__(
        self,
        model: Model,
        stimuli: StimulusSet,
        path: Path,
        computation: Computation,
        settings: Activations,
        found: Probe,
        batch_size: int,
    ) -> None:
        self.model, self.stimuli, self.path = model, stimuli, path
        self.computation, self.settings = computation, settings
        self.n, self.reduction = len(stimuli.stimulus_ids), reduction_of(settings)
        self.fitted = self.reduction.method.fitted
        self.kept = kept_layers(model, found.outputs, self.reduction, self.n, computation.device)
        self.repeats = Repeats(model, computation, found, self.kept)
        self.shapes = {layer: record.shape for layer, record in self.kept.items()}
        seen, row = model.preprocessing, 4 * activation_files.neuroids(self.shapes)
        image = 4 * seen.channels * seen.image_size**2
        self.plan = memory_plan(model.name, settings.memory_gb, batch_size, image, found.bytes_per_image, row)
        self.attributes = _attributes(model, stimuli, computation, settings) | found.describe()

    def refuse_without_memory(self) -> None:
        where = f"{self.model.name} on {self.stimuli.name}"
        refuse_without_memory(where, self.plan.needed)
        if self.fitted is not None:
            needed = self.fitted.memory(self.n, self.shapes, self.reduction.dimensions)
            refuse_without_memory(f"{where}: {self.reduction.name.upper()}", needed, self.settings.memory_gb)

    def bytes_on_disk(self) -> tuple[int, int]:
        """Return upper bounds in bytes on the file and on the temporary file next to it."""
        batch, block = self.plan.batch_size, self.plan.block_bytes
        whole = activation_files.bytes_needed(self.n, self.shapes, batch, block)
        if self.fitted is None:
            return whole, 0
        fewer = {layer: (self.reduction.dimensions, 1, 1) for layer in self.shapes}
        return activation_files.bytes_needed(self.n, fewer, batch, block), whole

    def run(self) -> None:
        """Write the file."""
        if self.fitted is None:
            self._record(self.path, self.attributes | _notes_attribute(notes(self.kept)), self.settings.compression)
            return
        with private_folder(self.path.parent) as folder:
            everything = folder / "whole.nc"
            self._record(everything, {}, compression=False)
            self.fitted.rewrite(
                everything, self.path, self.stimuli.stimulus_ids, self.shapes, self.reduction.dimensions,
                lambda layer_notes: self.attributes | _notes_attribute(layer_notes), self.settings.compression,
            )  # fmt: skip

    def _record(self, path: Path, attributes: Mapping[str, str], compression: bool) -> None:
        """Pass all stimuli through the network and write the recorded values."""
        rows, chunk = activation_files.layout(self.n, self.shapes, self.plan.batch_size, self.plan.block_bytes)
        columns = activation_files.columns(self.shapes)
        activation_files.write(
            path, self.stimuli.stimulus_ids, self.shapes, attributes, self._blocks(rows, columns), chunk,
            unplaced=[layer for layer, record in self.kept.items() if not record.placed],
            channel_axes={layer: record.channel_axis for layer, record in self.kept.items()},
            compression=compression,
            check=lambda first, block: _refuse_not_finite(self.model, self.stimuli, block, columns, first),
        )  # fmt: skip

    def _blocks(self, rows: int, columns: Mapping[str, slice]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield activations (up to `rows`, neuroids) with the position of their first stimulus, in order.

        Two arrays alternate, so a block is valid until the next but one.
        """
        n, width = self.n, activation_files.neuroids(self.shapes)
        blocks = [torch.empty(min(rows, n), width, dtype=torch.float32) for _ in range(1 + (n > rows))]
        planned = list(_batches(n, rows, self.plan.batch_size))
        batches = [part for _, parts in planned for part in parts]
        reading = _read_ahead(self.model, self.stimuli, batches, self.plan.images)
        before, samples = state_of(self.model.module), list[Sample]()
        with tqdm(total=n, unit="image", desc=f"{self.model.name} {self.stimuli.name}", disable=None) as progress:
            for first, parts in planned:
                block = blocks[first // rows % 2]
                for part in parts:
                    images, target = next(reading), block[part.start - first : part.stop - first]
                    again = rows_to_repeat(len(part), n)
                    shown = images[again].clone()  # the network may change its images in place
                    self._show(images, part, target, columns)
                    if part in (batches[0], batches[-1]):
                        values = {layer: target[again, column].clone() for layer, column in columns.items()}
                        samples.append(Sample(self.stimuli.stimulus_ids[part.start : part.stop][again], shown, values))
                        self._repeat(samples, len(part))
                    progress.update(len(images))
                if part is batches[-1]:
                    refuse_changes(self.model, before)
                yield first, block[: parts[-1].stop - first].numpy()

    def _show(self, images: Tensor, part: range, target: Tensor, columns: Mapping[str, slice]) -> None:
        """Pass a batch through the network and write the recorded values to `target` (images, neuroids)."""
        target.fill_(torch.nan)  # a value that no layer writes stays NaN and is refused

        def record(layer: str, output: Tensor) -> None:
            taken = self.kept[layer].take(output)
            target[:, columns[layer]].unflatten(1, taken.shape[1:]).copy_(taken)

        begin = self.stimuli.stimulus_ids[part.start]
        where = f"in the batch that begins with stimulus {begin!r} of {self.stimuli.name}"
        try:
            forward(self.model, images, self.computation, self.repeats.probe.outputs, record, where)
        except torch.OutOfMemoryError:
            raise UserError(
                f"{self.model.name}: out of memory with {len(images)} images; choose a smaller --batch-size"
            ) from None

    def _repeat(self, samples: Sequence[Sample], before: int) -> None:
        """Show images of the first batch again and, after the last batch, some images of both."""
        if len(samples) == 2:
            samples = [sample[: (1 + len(sample.ids)) // 2] for sample in samples]
        self.repeats.check(samples, before)


def _batches(n: int, rows: int, batch_size: int) -> Iterator[tuple[int, list[range]]]:
    """Yield the first stimulus of every block of `rows`, and its batches; the very first batch is cut in two.

    Later batches are read while the network runs; only the first one makes it wait, so that one is small.
    """
    for first in range(0, n, rows):
        last = min(first + rows, n)
        parts = [range(start, min(start + batch_size, last)) for start in range(first, last, batch_size)]
        if first == 0 and len(parts[0]) >= FIRST_PART:
            few = len(parts[0]) // FIRST_PART
            parts[:1] = [parts[0][:few], parts[0][few:]]
        yield first, parts


def _read_ahead(model: Model, stimuli: StimulusSet, batches: Sequence[range], budget: int) -> Iterator[Tensor]:
    """Yield the preprocessed batches in order, each read while the previous one is used."""
    read = _Reader(model, stimuli, budget)
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(read, batches[0])
        for following in batches[1:]:
            images = waiting.result()
            waiting = reader.submit(read, following)
            yield images
        yield waiting.result()


class _Reader:
    """Reads and preprocesses stimuli in groups bounded by their size: photographs may be large."""

    def __init__(self, model: Model, stimuli: StimulusSet, budget: int) -> None:
        self.model, self.stimuli, self.budget = model, stimuli, budget
        self.largest = 0

    def __call__(self, batch: range) -> Tensor:
        """float32 (images, channels, height, width)."""
        seen, done = self.model.preprocessing, 0
        images = torch.empty(len(batch), seen.channels, seen.image_size, seen.image_size)
        while done < len(batch):
            at_once = max(1, self.budget // (RESIZING * self.largest)) if self.largest else 1
            read = self.stimuli.read(np.array(batch[done : done + at_once]))
            self.largest = max(self.largest, *(image.size for image in read))
            images[done : done + len(read)] = seen(read)
            done += len(read)
        return images


def _refuse_not_finite(
    model: Model, stimuli: StimulusSet, block: NDArray[np.float32], columns: Mapping[str, slice], first: int
) -> None:
    rows = torch.from_numpy(block)
    # The sum is NaN or infinite if any value is: ten times faster than checking each value.
    if torch.isfinite(rows.sum()) or torch.isfinite(rows).all():
        return
    layer = next(layer for layer, column in columns.items() if not torch.isfinite(rows[:, column]).all())
    row = int((~torch.isfinite(rows[:, columns[layer]]).all(1)).nonzero()[0])
    raise UserError(
        f"{model.name}: layer {layer!r} gives NaN or infinity for stimulus {stimuli.stimulus_ids[first + row]!r} of "
        f"{stimuli.name}; check the weights and the preprocessing"
    )


def _attributes(model: Model, stimuli: StimulusSet, computation: Computation, settings: Activations) -> dict[str, str]:
    """Return everything the values depend on: the key that decides whether a file is kept or rewritten."""
    reduction = REDUCTIONS.module(settings.reduction)
    code = hashlib.sha256((model.code_sha256 + code_digest(__name__, reduction)).encode())
    return {
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "code_sha256": code.hexdigest(),
        "preprocessing": model.preprocessing.to_json(),
        "decoding": decoding(),
        "stimulus_set": stimuli.name,
        "stimulus_set_sha256": stimuli.sha256,
        "layers": ",".join(model.layers),
        "reduction": reduction_of(settings).describe(),
        **computation.describe(),
        "compression": "zlib" if settings.compression else "none",
        "nmnc_brain_version": version("nmnc-brain"),
        "torch_version": torch.__version__,
    }


def _notes_attribute(layer_notes: Mapping[str, str]) -> dict[str, str]:
    """Return the attribute with what the reduction did to each layer."""
    return {"reduction_of_layers": json.dumps(dict(layer_notes), ensure_ascii=False)} if layer_notes else {}


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: unknown; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU; choose auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
