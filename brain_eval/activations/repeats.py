"""Check that a network gives an image the same values in a second pass, in another batch and order."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brain_eval.activations.hooks import probe_images
from brain_eval.activations.layer_outputs import Computation, forward
from brain_eval.activations.layer_probe import Probe, refuse_training
from brain_eval.activations.models import Model
from brain_eval.activations.reductions.reduction import Kept
from nmnc.errors import UserError


@dataclass(frozen=True)
class Sample:
    """A few images, and what was recorded of them.

    Attributes:
        ids: of the images, for errors.
        images: float32 (images, channels, height, width), on the CPU.
        values: layer -> float32 (images, values), on the CPU.
    """

    ids: Sequence[str]
    images: Tensor
    values: Mapping[str, Tensor]

    def __getitem__(self, rows: slice) -> "Sample":
        values = {layer: values[rows] for layer, values in self.values.items()}
        return Sample(self.ids[rows], self.images[rows], values)


@dataclass(frozen=True)
class Repeats:
    """Show images a second time. Attributes: how the first pass was computed and recorded."""

    model: Model
    computation: Computation
    probe: Probe
    kept: Mapping[str, Kept]

    def first(self, ids: Sequence[str], images: Tensor, where: str) -> Sample:
        """Show images for the first time; `where` and errors as in `layer_outputs.forward`."""
        values: dict[str, Tensor] = {}

        def record(layer: str, output: Tensor) -> None:
            values[layer] = self.kept[layer].take(output).flatten(1).to("cpu", torch.float32, copy=True)

        forward(self.model, images.clone(), self.computation, self.probe.outputs, record, where)
        return Sample(ids, images, values)

    def check(self, samples: Sequence[Sample], before: int) -> None:
        """Show all samples in one batch, in reverse order.

        Args:
            samples: recorded earlier.
            before: size of the batch that the last sample was in; the second batch always has another size.

        Raises:
            UserError: a layer gives other values than before: it draws random numbers, has a memory, or mixes the
                images of a batch.
        """
        ids = [name for sample in samples for name in sample.ids]
        images = torch.cat([sample.images for sample in samples]).flip(0)
        if len(images) == before:
            images = torch.cat([images, probe_images(self.model.preprocessing, 1, seed=1)])

        def compare(layer: str, output: Tensor) -> None:
            again = self.kept[layer].take(output).flatten(1).to("cpu", torch.float32)[: len(ids)].flip(0)
            first = torch.cat([sample.values[layer] for sample in samples])
            scale = max(_largest(output), _largest(first))
            apart = torch.where((first == again) | (first.isnan() & again.isnan()), 0.0, (first - again).abs()).amax(1)
            apart = apart.nan_to_num(torch.inf)
            if apart.max() > self.probe.rounding * scale:
                worst = int(apart.argmax())
                raise UserError(
                    f"{self.model.name}: two passes over the same images differ in layer {layer!r}: for stimulus "
                    f"{ids[worst]!r} by {float(apart[worst]):.3g}, where its largest value is {scale:.3g}; it draws "
                    "random numbers, remembers earlier images, or mixes the images of a batch; fix the network "
                    "(F.dropout needs training=self.training) or choose earlier layers"
                )

        where = f"in a second pass over images such as {ids[0]!r}, in another batch"
        forward(self.model, images, self.computation, self.probe.outputs, compare, where)


def _largest(values: Tensor) -> float:
    """Return the largest finite absolute value."""
    return float(values.float().nan_to_num(0.0, 0.0, 0.0).abs().max())


def rows_to_repeat(images: int, n: int) -> slice:
    """Return which images of a batch are shown again, of `n` in all: few, to cost little time."""
    few = max(2, min(4, n // 64))
    few = min(few, images - 1 if images > 2 else images)
    return slice(0, few)


def state_of(module: nn.Module) -> dict[str, int]:
    """Name in the state dict -> a checksum that changes with the values; quantised and sparse ones are left out."""
    state = {name: value for name, value in module.state_dict().items() if type(value) is Tensor}
    return {
        name: _checksum(value)
        for name, value in state.items()
        if value.layout == torch.strided and not value.is_quantized and not value.is_meta
    }


def refuse_changes(model: Model, before: Mapping[str, int]) -> None:
    """Raise UserError if weights or buffers have changed, or a module is in training mode."""
    refuse_training(model)
    after = state_of(model.module)
    changed = [name for name, checksum in before.items() if after.get(name, checksum) != checksum]
    if changed:
        raise UserError(
            f"{model.name}: a forward pass changes its weights or buffers (first {changed[0]!r}), so its output may "
            "depend on earlier images; fix the network not to change them after eval()"
        )


def _checksum(tensor: Tensor) -> int:
    """Return a checksum of a tensor's bytes; for a large tensor the sum of every 64th word, as changes affect most."""
    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    integers = flat[: len(flat) // 8 * 8].view(torch.int64)
    if len(integers) > 2**16:
        return int(integers[::64].sum())
    return zlib.crc32(flat.cpu().numpy().tobytes())
