"""A network as a list of stages; a stage is any module that maps the previous stage's output to its own."""

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from nmnc.modules import running_users_code

#: Arguments of built-in networks: a number of units, channels or blocks; one number per layer; a probability.
Count = Annotated[int, Field(ge=1, le=10**6)]
Counts = Annotated[list[Count], Field(max_length=200)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Network(nn.Module):
    """Named stages run one after the other; the last one gives the logits.

    Attributes:
        stages: the modules, in order.
        stage_names: their names, in order.
    """

    def __init__(self, stages: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__()
        named = list(stages)
        self.stage_names = tuple(name for name, _ in named)
        self.stages = nn.ModuleList(module for _, module in named)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 images (batch, channels, height, width) to logits (batch, classes)."""
        return self.suffix(x, 0)

    def prefix(self, x: Tensor, stage: int) -> Tensor:
        """Return the output of stage number `stage` (counted from 0) for images `x`."""
        for module in self.stages[: stage + 1]:
            x = module(x)
        return x

    def suffix(self, x: Tensor, from_stage: int) -> Tensor:
        """Return the logits for the input of stage number `from_stage`."""
        for module in self.stages[from_stage:]:
            x = module(x)
        return x

    def outputs(self, x: Tensor, connected: bool) -> list[Tensor]:
        """Return the outputs of every stage, the logits last.

        Args:
            x: images (batch, channels, height, width).
            connected: True leaves the stages in one autograd graph; False gives each stage a
                detached input, so that no gradient can flow from one stage to another.
        """
        results = []
        for module in self.stages:
            x = module(x)
            results.append(x)
            if not connected:
                x = x.detach()
        return results


def layer_sizes(network: Network, image_shape: tuple[int, int, int]) -> list[int]:
    """Return the number of units in each stage's output for one image of (channels, height, width).

    Raises:
        UserError: images of that shape do not pass through the network.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    with running_users_code(f"images of shape {image_shape} do not pass through the network"), torch.no_grad():
        outputs = network.outputs(torch.zeros(1, *image_shape, device=device), connected=True)
        sizes = [output.numel() for output in outputs]
    network.train(was_training)
    return sizes
