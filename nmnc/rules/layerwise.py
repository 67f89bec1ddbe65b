"""Rules that pass the error back layer by layer through other weights than the network's."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nmnc.networks import Network
from nmnc.networks.backward import carriers, replacing_backward, through
from nmnc.rules.base import Rule
from nmnc.settings import Noise


class LayerwiseFeedback(Rule):
    """Every Linear and Conv2d passes the error back through a separate feedback weight, initially zero.

    Attributes:
        layers: the layers that pass the error back.
        weights: feedback weights, float32 of the shape of each layer's weight.
        shapes: shapes of the layers' inputs in the latest forward pass.
    """

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        super().__init__(network, sizes, classes, noise, seed)
        self.layers = carriers(network.stages)
        # zeros_like keeps the memory layout: with mixed layouts, a convolution would convert one of them every time.
        self.weights = [torch.zeros_like(layer.weight.detach()) for layer in self.layers]
        self.shapes: dict[nn.Module, torch.Size] = {}

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Context manager: pass the error back through `weights`."""
        pairs = zip(self.layers, self.weights, strict=True)
        with replacing_backward({layer: partial(through, layer, weight) for layer, weight in pairs}) as self.shapes:
            yield

    def state_dict(self) -> dict[str, Any]:
        """Add the weights."""
        return super().state_dict() | {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        for weight, stored in zip(self.weights, state["weights"], strict=True):
            weight.copy_(stored)


class FeedbackAlignment(LayerwiseFeedback):
    """FA (Lillicrap et al. 2016, Nature Communications 7:13276): fixed random weights in the backward pass.

    They are drawn like the forward weights: N(0, v) with v the mean square of the layer's initial weights.
    """

    def start(self, outputs: list[Tensor]) -> None:
        """Draw the weights."""
        for layer, weight in zip(self.layers, self.weights, strict=True):
            scale = layer.weight.detach().square().mean().sqrt()
            weight.copy_(torch.randn(weight.shape, generator=self.generator, device=self.device) * scale)
