"""Reductions of a layer's output, and how a layer is recorded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from brain_eval.activations.reductions import REDUCTIONS
from brain_eval.activations.writer import Shape
from nmnc.errors import UserError


@dataclass(frozen=True)
class Reduction:
    """Settings of a reduction.

    Attributes:
        name: in REDUCTIONS.
        dimensions: most values kept of a layer by principal components and projections; smaller layers are projected
            no further than they have values.
        seed: of a random projection, together with the layer's name.
    """

    name: str = "none"
    dimensions: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        REDUCTIONS.module(self.name)
        if self.dimensions < 1:
            raise UserError(f"--reduction-dimensions {self.dimensions}: must be at least 1")

    @property
    def method(self) -> "Method":
        """The record."""
        return REDUCTIONS[self.name]

    def describe(self) -> str:
        """Return one line with everything the values depend on."""
        return self.method.describe(self)


#: Nothing is reduced.
WHOLE = Reduction()


@dataclass(frozen=True)
class Kept:
    """What is recorded of one layer while the images pass.

    Attributes:
        shape: of the values of an image, in the order in which they are recorded; 1 where there is no axis.
        channel_axis: of `shape`; the other two are channel_x and channel_y.
        placed: whether channel_x and channel_y mean a place on a map.
        take: the layer's output (images, ...) -> float (images, values); or (images, ...) in the values' order, which
            whoever copies it flattens: of an output in the channels-last layout a copy less.
        note: what was done, in words; empty where nothing was.
    """

    shape: Shape
    placed: bool
    take: Callable[[Tensor], Tensor]
    note: str = ""
    channel_axis: int = 0


class Layer(NamedTuple):
    """A layer to reduce.

    Attributes:
        name: of the layer.
        shape: of its output, without the batch axis.
        channel_axis: of `shape`; None where it is not known: then coordinates follow the order of the axes.
        n_images: of the stimulus set.
        device: where the output lies.
    """

    name: str
    shape: tuple[int, ...]
    channel_axis: int | None
    n_images: int
    device: torch.device

    def whole(self, note: str = "kept whole") -> Kept:
        """All of its values."""
        shape: Shape = (*self.shape, 1, 1)[:3]  # type: ignore[assignment]
        return Kept(shape, True, lambda output: output, note, self.channel_axis or 0)


class Fitted(NamedTuple):
    """A reduction fitted on all images: all values are recorded first, then the file is rewritten.

    Attributes:
        memory: images, shapes of the layers, dimensions -> upper bound on the bytes that `rewrite` takes.
        rewrite: writes the reduced file from one of all values, see `principal_layers.write_components`.
    """

    memory: Callable[[int, Mapping[str, Shape], int], int]
    rewrite: Callable[..., None]


def keep_all(layer: Layer, reduction: Reduction) -> Kept:
    """Record all values of a layer."""
    return layer.whole("")


@dataclass(frozen=True)
class Method:
    """A reduction: one record, listed in RECORDS of its module and in REDUCTIONS.

    Attributes:
        name: in a study's evaluation.activations.reduction.
        describe: one line that names all that the values depend on.
        keep: how a layer is recorded while the images pass; raises UserError for a layer that it cannot reduce.
        fitted: what is done behind that, where the reduction needs all images.
    """

    name: str
    describe: Callable[[Reduction], str]
    keep: Callable[[Layer, Reduction], Kept] = keep_all
    fitted: Fitted | None = None


RECORDS = (Method("none", lambda reduction: "none"),)


def reduce_layer(
    layer: str, shape: tuple[int, ...], channel_axis: int | None, reduction: Reduction, n_images: int,
    device: torch.device,
) -> Kept:  # fmt: skip
    """Return how a layer is recorded; arguments as `Layer`.

    Raises:
        UserError: the layer cannot be reduced so.
    """
    return reduction.method.keep(Layer(layer, shape, channel_axis, n_images, device), reduction)


def notes(kept: Mapping[str, Kept]) -> dict[str, str]:
    """Return the notes of the layers that have one."""
    return {layer: record.note for layer, record in kept.items() if record.note}
