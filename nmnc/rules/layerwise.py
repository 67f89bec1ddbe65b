"""Rules that carry the error back layer by layer through other weights than the network's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nmnc.networks import Network
from nmnc.networks.backward import carriers, through, ways_back
from nmnc.rules.base import Rule
from nmnc.settings import Noise


class LayerwiseFeedback(Rule):
    """Every Linear and Conv2d sends the error back through another weight than its own, zero at the start.

    Attributes:
        layers: the layers that carry the error.
        weights: float32 of the shape of each layer's own weight.
        shapes: of the layers' inputs in the newest forward pass.
    """

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        super().__init__(network, sizes, classes, noise, seed)
        self.layers = carriers(network.stages)
        # As the layers' own in memory too: a convolution with mixed orders of channels converts one of them.
        self.weights = [torch.zeros_like(layer.weight.detach()) for layer in self.layers]
        self.shapes: dict[nn.Module, torch.Size] = {}

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """The error passes through `weights`."""
        pairs = zip(self.layers, self.weights, strict=True)
        with ways_back({layer: partial(through, layer, weight) for layer, weight in pairs}) as self.shapes:
            yield

    def state_dict(self) -> dict[str, Any]:
        """Add the weights."""
        return super().state_dict() | {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        super().load_state_dict(state)
        for weight, stored in zip(self.weights, state["weights"], strict=True):
            weight.copy_(stored)


class FeedbackAlignment(LayerwiseFeedback):
    """FA (Lillicrap et al. 2016, Nature Communications 7:13276): fixed random weights on the way back.

    They are drawn as the forward weights were: N(0, v) with v the mean square of the layer's weights at the start.
    """

    def start(self, outputs: list[Tensor]) -> None:
        """Draw the weights."""
        for layer, weight in zip(self.layers, self.weights, strict=True):
            scale = layer.weight.detach().square().mean().sqrt()
            weight.copy_(torch.randn(weight.shape, generator=self.generator, device=self.device) * scale)
