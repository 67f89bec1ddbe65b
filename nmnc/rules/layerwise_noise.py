"""Noise correlation layer by layer: noise is correlated with the next layer's response instead of the logits'."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.networks.backward import Carrier, check_layer, first_layer, response, ways_back
from nmnc.networks.replay import Record
from nmnc.noise.feedback import FactoredFeedback, Feedback, prediction_rate
from nmnc.noise.local_feedback import LocalFeedback
from nmnc.noise.perturbation import Perturbation
from nmnc.rules.manifold_noise import ManifoldNoiseCorrelation
from nmnc.rules.noise_correlation import NoiseCorrelation
from nmnc.settings import Noise


class LayerwiseNoiseCorrelation(NoiseCorrelation):
    """VNC layer by layer (kind vnc, noise.feedback layerwise), the control of the manifold's share.

    Isotropic noise xi in a hidden stage's output changes the pre-activation of the next stage's layer by W xi, exactly
    linear in the noise. Every pre-activation correlates its own change with the noise in its own receptive field, so
    a convolution gets one kernel per position (`LocalFeedback`): unlike a weight mirror, no two positions share what
    they learn. The error goes back from pre-activation to stage output through these kernels. What lies between a
    stage's first layer and its output (batch norm, non-linearity, pooling) keeps its own derivative, and so does
    dropout before that layer, whose masks leave the expectation as it is.

    Attributes:
        layers: of every hidden stage the layer that takes its output.
        shapes: of every hidden stage's output, without the batch axis.
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
        self.check_layers()

    def check_layers(self) -> None:
        """Raise UserError for layers whose receptive fields cannot be told, or whose noise cannot be orthogonal."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d) and self.noise.draws == "orthogonal":
                raise UserError(
                    "noise.draws orthogonal: noise that is orthogonal over a map is not so within the receptive "
                    "fields of a convolution; set noise.draws to independent"
                )
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                raise UserError("noise.feedback layerwise of vnc: a convolution in groups; use weight_mirror instead")

    def start(self, outputs: list[Tensor]) -> None:
        """See the shapes of the hidden stages' outputs, then make the feedback."""
        self.forward_passes += len(outputs[0])  # which the loop counts for local rules only
        self.shapes = [output.shape[1:] for output in outputs]
        super().start(outputs)

    def make_feedback(self) -> list[Feedback]:
        """Zero kernels for every position of every layer."""
        pairs = zip(self.layers, self.shapes, strict=True)
        return [LocalFeedback(layer, shape, self.device) for layer, shape in pairs]

    def rate(self, stage: int, perturbation: Perturbation) -> float:
        """See `NoiseCorrelation.rate`; k is the fan-in."""
        return prediction_rate(self.noise, self.layers[stage].weight[0].numel())

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

    def state_dict(self) -> dict[str, Any]:
        """Add the shapes."""
        return super().state_dict() | {"shapes": [list(shape) for shape in self.shapes]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self.shapes = [torch.Size(shape) for shape in state["shapes"]]
        super().load_state_dict(state)


class LayerwiseManifoldNoiseCorrelation(LayerwiseNoiseCorrelation, ManifoldNoiseCorrelation):
    """Weight mirrors within the manifold (kind nmnc, noise.feedback layerwise).

    Noise xi = s U z in a hidden stage's output; A = mean(W xi z^T) / s, kept as a running average with rate eta, has
    the expectation W U, and the error goes back as (delta A) U^T.
    """

    def check_layers(self) -> None:
        """Any layer serves: its whole response is correlated with the few coordinates z."""

    def make_feedback(self) -> list[Feedback]:
        """Zero feedback in the current bases: (pre-activations, d) for every hidden stage."""
        sizes = [
            self._response(stage, torch.zeros(1, *shape, device=self.device)).numel()
            for stage, shape in enumerate(self.shapes)
        ]
        return [FactoredFeedback(*pair) for pair in zip(sizes, self.bases, strict=True)]

    def rate(self, stage: int, perturbation: Perturbation) -> float:
        """See `NoiseCorrelation.rate`; k = d."""
        return ManifoldNoiseCorrelation.rate(self, stage, perturbation)


def _back(feedback: Feedback, gradient: Tensor, shape: torch.Size) -> Tensor:
    """See `nmnc.networks.backward.WayBack`: delta A, or (delta A) U^T."""
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
