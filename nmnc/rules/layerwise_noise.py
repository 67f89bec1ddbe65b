"""Noise correlation layer by layer: noise is correlated with the next layer's response instead of the logits'."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.networks.backward import Carrier, check_layer, first_layer, replacing_backward, response
from nmnc.networks.replay import Record
from nmnc.noise.feedback import FactoredFeedback, Feedback, prediction_rate
from nmnc.noise.local_feedback import LocalFeedback
from nmnc.noise.perturbation import Perturbation
from nmnc.rules.manifold_noise import ManifoldNoiseCorrelation
from nmnc.rules.noise_correlation import NoiseCorrelation
from nmnc.settings import Noise


class LayerwiseNoiseCorrelation(NoiseCorrelation):
    """VNC layer by layer (kind vnc, noise.feedback layerwise), the control for the effect of the manifold.

    Isotropic noise xi in a hidden stage's output changes the pre-activation of the next stage's layer by W xi, exactly
    linear in the noise. Every pre-activation correlates its change with the noise in its receptive field, so that a
    convolution gets one kernel per position (`LocalFeedback`); unlike in a weight mirror, positions share no weights.
    The error is passed back from pre-activation to stage output through these kernels. Modules between a stage's first
    layer and its output (batch norm, non-linearity, pooling) keep their derivatives, and so does dropout before that
    layer, whose masks do not change the expectation.

    Attributes:
        layers: for every hidden stage, the layer that receives its output.
        shapes: shape of every hidden stage's output, without the batch axis.
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
        """Raise UserError for grouped convolutions, and for convolutions with orthogonal noise."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d) and self.noise.draws == "orthogonal":
                raise UserError(
                    "noise.draws orthogonal: noise that is orthogonal over a map is not so within the receptive "
                    "fields of a convolution; set noise.draws to independent"
                )
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                raise UserError(
                    "noise.feedback layerwise: vnc does not support grouped convolutions; use weight_mirror instead"
                )

    def start(self, outputs: list[Tensor]) -> None:
        """Record the shapes of the hidden outputs, then create the feedback."""
        self.forward_passes += len(outputs[0])  # the training loop counts these for local rules only
        self.shapes = [output.shape[1:] for output in outputs]
        super().start(outputs)

    def make_feedback(self) -> list[Feedback]:
        """Return kernels of zeros for every position of every layer."""
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
        """Return the linear response (images, pre-activations) of the layer to x, shaped as the stage's output."""
        layer = self.layers[stage]
        flattened = isinstance(layer, nn.Linear) and layer.in_features == self.sizes[stage]
        return response(layer, x.flatten(1) if flattened else x).flatten(1)

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Context manager: pass the error back through the feedback."""
        with replacing_backward(
            {layer: partial(_back, feedback) for layer, feedback in zip(self.layers, self.feedback, strict=True)}
        ):
            yield

    def signals(self, error: Tensor) -> list[Tensor]:
        """Return no signals, because autograd passes the error back."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Add the shapes."""
        return super().state_dict() | {"shapes": [list(shape) for shape in self.shapes]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.shapes = [torch.Size(shape) for shape in state["shapes"]]
        super().load_state_dict(state)


class LayerwiseManifoldNoiseCorrelation(LayerwiseNoiseCorrelation, ManifoldNoiseCorrelation):
    """Weight mirrors within the manifold (kind nmnc, noise.feedback layerwise).

    Noise xi = s U z in a hidden stage's output; A = mean(W xi z^T) / s, kept as a running average with rate eta, has
    the expectation W U, and the error goes back as (delta A) U^T.
    """

    def check_layers(self) -> None:
        """Accept any layer, because its whole response is correlated with the few coordinates z."""

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
    """See `nmnc.networks.backward.BackwardMap`: delta A, or (delta A) U^T."""
    signal = feedback.signal(gradient.flatten(1).to(feedback.matrix.dtype)).view(shape)
    # Pooling expects this memory layout; with the other one its backward pass takes five times as long.
    is_channels_last = signal.ndim == 4 and gradient.is_contiguous(memory_format=torch.channels_last)
    return signal.contiguous(memory_format=torch.channels_last) if is_channels_last else signal


def _layer_of(name: str, stage: nn.Module) -> Carrier:
    """Return the layer that receives a stage's input; UserError if there is no single such layer."""
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
