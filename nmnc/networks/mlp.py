"""Fully connected networks."""

from itertools import pairwise

import torch
from torch import nn

from nmnc.errors import UserError, did_you_mean
from nmnc.networks.network import Counts, Network

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "linear": nn.Identity}


def mlp(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    hidden: Counts | None = None,
    activation: str = "relu",
) -> Network:
    """Stages fc1, fc2, ..., logits.

    Args:
        image_shape: (channels, height, width) of one image; flattened.
        classes: number of outputs.
        hidden: units of each hidden layer (default 1024, 512).
        activation: relu, tanh or linear (linear networks test the laws of the estimator).
    """
    if activation not in ACTIVATIONS:
        raise UserError(f"network mlp: unknown activation {activation!r}{did_you_mean(activation, ACTIVATIONS)}")
    units = [int(torch.Size(image_shape).numel()), *([1024, 512] if hidden is None else hidden)]
    stages: list[tuple[str, nn.Module]] = [
        (f"fc{number}", nn.Sequential(nn.Flatten(), nn.Linear(before, after), ACTIVATIONS[activation]()))
        for number, (before, after) in enumerate(pairwise(units), 1)
    ]
    stages.append(("logits", nn.Sequential(nn.Flatten(), nn.Linear(units[-1], classes))))
    return Network(stages)
