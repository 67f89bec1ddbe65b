"""The layer-wise form of NMNC: noise on the manifold, correlated with the next layer instead of the logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nmnc.backward import Carrier, check_layer, first_layer, response, ways_back
from nmnc.config import Noise
from nmnc.errors import UserError
from nmnc.feedback import FactoredFeedback, Feedback
from nmnc.networks import Network
from nmnc.replay import Record
from nmnc.rules.manifold_noise import ManifoldNoiseCorrelation


class LayerwiseManifoldNoiseCorrelation(ManifoldNoiseCorrelation):
    """Weight mirrors within the manifold (kind nmnc, noise.feedback layerwise).

    Noise xi = s U z in a hidden stage's output changes the pre-activation of the next stage's layer by W xi,
    exactly linear in the noise. A = mean(W xi z^T) / s, kept as a running average with rate eta, has the
    expectation W U, and the error goes back from pre-activation to stage output as (delta A) U^T. What lies between
    a stage's first layer and its output (batch norm, non-linearity, pooling) keeps its own derivative, and so does
    dropout before that layer, whose masks leave the expectation as it is.

    Attributes:
        layers: of every hidden stage the layer that takes its output.
    """

    local = False

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        super().__init__(network, sizes, classes, noise, seed)
        for setting in ("per_image", "adaptive"):
            if getattr(noise, setting):
                raise UserError(
                    f"noise.{setting} needs the logits' response to noise; use noise.feedback factored or full with it"
                )
        self.layers = [
            _layer_of(name, stage)
            for name, stage in zip(network.stage_names[1:], list(network.stages)[1:], strict=True)
        ]

    def start(self, outputs: list[Tensor]) -> None:
        """Find the first subspaces, and how many pre-activations each feeds."""
        self.forward_passes += len(outputs[0])  # which the loop counts for local rules only
        self.preactivations = [
            self._response(stage, torch.zeros_like(output[:1])).numel() for stage, output in enumerate(outputs)
        ]
        super().start(outputs)

    def make_feedback(self) -> list[Feedback]:
        """Zero feedback in the current bases: (pre-activations, d) for every hidden stage."""
        return [FactoredFeedback(*pair) for pair in zip(self.preactivations, self.bases, strict=True)]

    def correlate(self, outputs: list[Tensor], record: Record) -> None:
        """Correlate noise in every hidden stage's output with the change of the next pre-activation."""
        for stage, output in enumerate(outputs):
            perturbation = self.perturb(stage, self.noise.images)
            change = self._response(stage, perturbation.noise.view(-1, *output.shape[1:]))
            self.learn(stage, change, perturbation)
            self.perturbations += self.noise.images
            self.forward_passes += self.noise.images

    def _response(self, stage: int, x: Tensor) -> Tensor:
        """Linear response (images, pre-activations) of the layer that takes x, shaped as a hidden stage's output."""
        layer = self.layers[stage]
        flattened = isinstance(layer, nn.Linear) and layer.in_features == self.sizes[stage]
        return response(layer, x.flatten(1) if flattened else x).flatten(1)

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """The error passes through the feedback."""
        with ways_back(
            {layer: partial(_back, feedback) for layer, feedback in zip(self.layers, self.feedback, strict=True)}
        ):
            yield

    def signals(self, error: Tensor) -> list[Tensor]:
        """None: autograd carries the error."""
        return []

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Rule.load_state_dict`."""
        self.preactivations = [len(matrix) for matrix in state["feedback"]]
        super().load_state_dict(state)


def _back(feedback: Feedback, gradient: Tensor, shape: torch.Size) -> Tensor:
    """See `nmnc.backward.WayBack`: (delta A) U^T."""
    signal = feedback.signal(gradient.flatten(1).to(feedback.matrix.dtype)).view(shape)
    # In the order of channels that the pooling behind it expects: it takes five times as long on the other.
    last = signal.ndim == 4 and gradient.is_contiguous(memory_format=torch.channels_last)
    return signal.contiguous(memory_format=torch.channels_last) if last else signal


def _layer_of(name: str, stage: nn.Module) -> Carrier:
    """The layer that takes a stage's input; UserError where there is no such one."""
    layer = first_layer(stage)
    if layer is None:
        raise UserError(
            f"noise.feedback layerwise: stage {name} does not pass all its input to one Linear or Conv2d first "
            "(Flatten and dropout may come before it); use noise.feedback factored"
        )
    try:
        check_layer(layer)
    except UserError as error:
        raise UserError(f"noise.feedback layerwise: stage {name}: {error}") from None
    return layer
