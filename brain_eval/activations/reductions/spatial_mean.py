"""Mean of each channel over its map; outputs that are not maps, such as tokens, are kept whole."""

import torch

from brain_eval.activations.reductions.reduction import Kept, Layer, Method, Reduction
from nmnc.errors import UserError


def keep(layer: Layer, reduction: Reduction) -> Kept:
    """Record the mean of each channel, float32; UserError for a map whose channel axis is not known."""
    shape, channel_axis = layer.shape, layer.channel_axis
    if len(shape) != 3:
        return layer.whole()
    if channel_axis is None:
        raise UserError(
            f"layer {layer.name!r} gives {shape} for an image, and no image of another size shows which axis has the "
            "channels; set --channel-axis (channel_axis of the model) to first or last, or choose another reduction"
        )
    places = [axis for axis in range(3) if axis != channel_axis]
    note = f"mean over {' x '.join(str(shape[axis]) for axis in places)} places; channel_x and channel_y are -1"
    axes = [1 + axis for axis in places]
    return Kept((shape[channel_axis], 1, 1), False, lambda output: output.mean(axes, dtype=torch.float32), note)


RECORDS = (Method("spatial_mean", lambda reduction: "spatial mean over the map of each channel", keep),)
