"""Fewer values a layer: spatial mean, principal components, sparse random projection."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brain_eval.activations.reductions.pca import SMALLEST, Components
from brain_eval.activations.reductions.random_projection import bound_in_words, random_projection
from brain_eval.activations.writer import Shape
from nmnc.errors import UserError

NAMES = ("none", "spatial_mean", "pca", "random_projection")


@dataclass(frozen=True)
class Reduction:
    """What is kept of a layer's output.

    Attributes:
        name: "none": all of it. "spatial_mean": of each channel the mean over its map; outputs that are
            no maps, such as tokens, are kept whole. "pca": exact principal components, fitted on the benchmark's
            stimuli, without their labels or recordings. "random_projection": scikit-learn's SparseRandomProjection
            (Achlioptas 2003; density 1/sqrt(values) as Li, Hastie & Church 2006).
        dimensions: most values kept of a layer by the last two; smaller layers are projected no further
            than they have values.
        seed: of the random projection, together with the layer's name.
    """

    name: str = "none"
    dimensions: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UserError(f"--reduction {self.name}: unknown; use one of {', '.join(NAMES)}")
        if self.dimensions < 1:
            raise UserError(f"--reduction-dimensions {self.dimensions}: must be at least 1")

    def describe(self) -> str:
        """One line that names all that the values depend on."""
        return {
            "none": "none",
            "spatial_mean": "spatial mean over the map of each channel",
            "pca": f"at most {self.dimensions} principal components, fitted on these stimuli, without those "
            f"below {SMALLEST:g} of the largest singular value",
            "random_projection": f"sparse random projection to {self.dimensions} dimensions, seed {self.seed}",
        }[self.name]


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


def kept_of(
    layer: str,
    shape: tuple[int, ...],
    channel_axis: int | None,
    reduction: Reduction,
    n_images: int,
    device: torch.device,
) -> Kept:
    """How a layer is recorded.

    For principal components, which need all images, everything is recorded; see `components_note`.

    Args:
        layer: its name.
        shape: of its output, without the batch axis.
        channel_axis: of `shape`; None where it is not known: then coordinates follow the order of the axes.
        reduction: what is kept.
        n_images: of the stimulus set.
        device: where the output lies.

    Raises:
        UserError: the mean over places is wanted of a map whose channel axis is not known.
    """
    whole: Shape = (*shape, 1, 1)[:3]  # type: ignore[assignment]
    size = int(np.prod(shape))
    if reduction.name == "spatial_mean" and len(shape) == 3:
        if channel_axis is None:
            raise UserError(
                f"layer {layer!r} gives {shape} for an image, and no image of another size shows which axis has the "
                "channels; set --channel-axis (channel_axis of the model) to first or last, or choose another reduction"
            )
        places = [axis for axis in range(3) if axis != channel_axis]
        note = f"mean over {' x '.join(str(shape[axis]) for axis in places)} places; channel_x and channel_y are -1"
        axes = [1 + axis for axis in places]
        return Kept((shape[channel_axis], 1, 1), False, lambda output: output.mean(axes, dtype=torch.float32), note)
    if reduction.name == "random_projection" and size > reduction.dimensions:
        projection = random_projection(layer, shape, reduction.dimensions, reduction.seed, device)
        note = (
            f"{size} values projected on {reduction.dimensions} random directions of density {projection.density:.6g}; "
            "channel counts the directions, channel_x and channel_y are -1; "
            f"{bound_in_words(n_images, reduction.dimensions)}"
        )
        return Kept((reduction.dimensions, 1, 1), False, projection, note)
    note = "kept whole" if reduction.name in ("spatial_mean", "random_projection") else ""
    return Kept(whole, True, lambda output: output, note, channel_axis or 0)


def components_note(components: Components, size: int, asked: int) -> str:
    """What became of a layer of `size` values of which `asked` principal components were wanted."""
    found = len(components.singular_values)
    if not components.variance:
        return f"the same {size} values for all stimuli: one component of zeros; channel_x and channel_y are -1"
    note = (
        f"{found} principal components of {size} values hold {components.explained():.6f} of the variance; channel "
        "counts the components, channel_x and channel_y are -1"
    )
    if components.dropped:
        note += f"; {components.dropped} dropped, below {SMALLEST:g} of the largest singular value"
    if found + components.dropped < asked:
        note += f"; {asked} were asked for, there are no more than {found + components.dropped}"
    return note


def notes(kept: Mapping[str, Kept]) -> dict[str, str]:
    """What was done to each layer to which anything was."""
    return {layer: one.note for layer, one in kept.items() if one.note}
