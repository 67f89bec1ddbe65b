"""Sign symmetry: feedback weights with the signs, but not the magnitudes, of the forward weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nmnc.networks.replay import Record
from nmnc.rules.layerwise import LayerwiseFeedback


class UniformSignFeedback(LayerwiseFeedback):
    """uSF (Liao, Leibo & Poggio 2016, arXiv 1510.05067; at ImageNet scale Xiao et al. 2018, arXiv 1811.03567).

    The error is passed back through sign(W) times one magnitude per layer, the root mean square of its initial weights.
    The signs of the forward weights are copied at every step, so the rule does not avoid weight transport.

    Attributes:
        magnitudes: magnitudes of every layer, float32, broadcastable to its weight.
    """

    magnitudes: list[Tensor]

    def start(self, outputs: list[Tensor]) -> None:
        """Set the magnitudes."""
        self.scales = [layer.weight.detach().square().mean().sqrt() for layer in self.layers]
        self.magnitudes = self.draw()

    def draw(self) -> list[Tensor]:
        """Return the magnitudes of all layers."""
        return self.scales

    def _random(self) -> list[Tensor]:
        """Draw magnitudes |N(0, v)| with v the mean square of each layer's initial weights."""
        pairs = zip(self.weights, self.scales, strict=True)
        return [
            torch.randn(weight.shape, generator=self.generator, device=self.device).abs_() * scale
            for weight, scale in pairs
        ]

    def _follow(self) -> None:
        """Update the feedback weights to the current signs of the forward weights."""
        for layer, weight, magnitude in zip(self.layers, self.weights, self.magnitudes, strict=True):
            weight.copy_(layer.weight.detach().sign() * magnitude)

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """See `LayerwiseFeedback.carrying`; with the current signs."""
        self._follow()
        with super().carrying():
            yield

    def state_dict(self) -> dict[str, Any]:
        """Add the magnitudes."""
        return super().state_dict() | {"magnitudes": self.magnitudes, "scales": self.scales}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.scales = [scale.to(self.device) for scale in state["scales"]]
        self.magnitudes = [magnitude.to(self.device) for magnitude in state["magnitudes"]]


class FixedRandomSignFeedback(UniformSignFeedback):
    """frSF: sign(W) times magnitudes drawn once, like the weights of feedback alignment."""

    def draw(self) -> list[Tensor]:
        """See `UniformSignFeedback.draw`."""
        return self._random()


class BatchwiseRandomSignFeedback(UniformSignFeedback):
    """brSF: sign(W) times magnitudes drawn for every batch."""

    def draw(self) -> list[Tensor]:
        """See `UniformSignFeedback.draw`."""
        return self._random()

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """Draw the magnitudes of this batch."""
        self.magnitudes = self.draw()
        self._follow()
