"""Sign symmetry: the way back keeps the signs of the forward weights and gives up their magnitudes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nmnc.networks.replay import Record
from nmnc.rules.layerwise import LayerwiseFeedback


class UniformSignFeedback(LayerwiseFeedback):
    """uSF (Liao, Leibo & Poggio 2016, arXiv 1510.05067; at ImageNet scale Xiao et al. 2018, arXiv 1811.03567).

    The error travels through sign(W) times one magnitude a layer, the root mean square of its weights at the start. It
    transports the signs of the forward weights at every step, so it is no rule without weight transport.

    Attributes:
        magnitudes: of every layer, float32 broadcastable to its weight.
    """

    magnitudes: list[Tensor]

    def start(self, outputs: list[Tensor]) -> None:
        """Set the magnitudes."""
        self.scales = [layer.weight.detach().square().mean().sqrt() for layer in self.layers]
        self.magnitudes = self.draw()

    def draw(self) -> list[Tensor]:
        """Return magnitudes of all layers."""
        return self.scales

    def _random(self) -> list[Tensor]:
        """|N(0, v)|, v the mean square of each layer's weights at the start."""
        pairs = zip(self.weights, self.scales, strict=True)
        return [
            torch.randn(weight.shape, generator=self.generator, device=self.device).abs_() * scale
            for weight, scale in pairs
        ]

    def _follow(self) -> None:
        """Take over the signs that the forward weights have now."""
        for layer, weight, magnitude in zip(self.layers, self.weights, self.magnitudes, strict=True):
            weight.copy_(layer.weight.detach().sign() * magnitude)

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """See `LayerwiseFeedback.carrying`; with the present signs."""
        self._follow()
        with super().carrying():
            yield

    def state_dict(self) -> dict[str, Any]:
        """Add the magnitudes."""
        return super().state_dict() | {"magnitudes": self.magnitudes, "scales": self.scales}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        super().load_state_dict(state)
        self.scales = [scale.to(self.device) for scale in state["scales"]]
        self.magnitudes = [magnitude.to(self.device) for magnitude in state["magnitudes"]]


class FixedRandomSignFeedback(UniformSignFeedback):
    """frSF: sign(W) times magnitudes that are drawn once, as feedback alignment's weights are."""

    def draw(self) -> list[Tensor]:
        """See `UniformSignFeedback.draw`."""
        return self._random()


class BatchwiseRandomSignFeedback(UniformSignFeedback):
    """brSF: sign(W) times magnitudes that are drawn for every batch."""

    def draw(self) -> list[Tensor]:
        """See `UniformSignFeedback.draw`."""
        return self._random()

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """Draw the magnitudes of this batch."""
        self.magnitudes = self.draw()
        self._follow()
