"""Weight mirrors: feedback weights that learn the forward weights from noise, layer by layer."""

from typing import Any

import torch
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.networks.backward import Carrier, padding, response
from nmnc.networks.replay import Record
from nmnc.noise.draws import IndependentDraws, make_draws
from nmnc.noise.feedback import prediction_rate
from nmnc.rules.layerwise import LayerwiseFeedback
from nmnc.settings import Noise


class WeightMirror(LayerwiseFeedback):
    """Weight mirrors (Akrout et al. 2019, arXiv 1904.05391, section 3): correlate noise with a layer's response.

    Every b batches each layer receives M patterns of noise with standard deviation s, and the correlation of its
    linear response with the noise updates the feedback weights with rate eta (in the paper: a Hebbian step and decay).
    The expectation is the layer's weight. Layers are independent of each other. With `noise.learning` prediction_error
    the noise is correlated with the part of the response that the feedback weights did not predict; every position of
    a convolution is then a sample as well.
    """

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        super().__init__(network, sizes, classes, noise, seed)
        self.draws: list[IndependentDraws] = [make_draws(noise.draws, self.generator) for _ in self.layers]
        if noise.draws == "independent":
            return
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                raise UserError(
                    "noise.draws orthogonal: the positions of a convolution see overlapping noise; "
                    "set noise.draws to independent for weight_mirror"
                )
            if noise.images > layer.in_features:
                raise UserError(
                    f"noise.draws orthogonal: a layer of weight_mirror has {layer.in_features} inputs, fewer than "
                    f"noise.images {noise.images}; lower noise.images or set noise.draws to independent"
                )

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """Update the feedback weights when due."""
        if step % self.noise.refresh_every:
            return
        images = self.noise.images
        for layer, weight, draws in zip(self.layers, self.weights, self.draws, strict=True):
            if layer not in self.shapes:
                continue  # its input needs no gradient
            shape = self.shapes[layer][-1:] if isinstance(layer, nn.Linear) else self.shapes[layer][1:]
            noise = self.noise.scale * draws.take(images, shape.numel()).view(images, *shape)
            self._learn(layer, weight, noise)
            self.perturbations += images
            self.forward_passes += images

    def _learn(self, layer: Carrier, weight: Tensor, noise: Tensor) -> None:
        """Update a layer's feedback weight with its response to noise."""
        change = response(layer, noise)
        if self.noise.learning == "correlation":
            weight.lerp_(mirror_estimate(layer, noise, change, self.noise.scale), self.noise.rate)
            return
        residual = change - response(layer, noise, weight)
        positions = change[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        rate = prediction_rate(self.noise, weight[0].numel(), positions)
        weight.add_(mirror_estimate(layer, noise, residual, self.noise.scale), alpha=rate)

    def state_dict(self) -> dict[str, Any]:
        """Add the draws."""
        return super().state_dict() | {"draws": [draws.state_dict() for draws in self.draws]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        for draws, draws_state in zip(self.draws, state["draws"], strict=True):
            draws.load_state_dict(draws_state)


def mirror_estimate(layer: Carrier, noise: Tensor, change: Tensor, scale: float) -> Tensor:
    """Return the unbiased estimate mean(response noise^T) / s^2 of a layer's weight.

    Args:
        layer: a Linear or Conv2d.
        noise: N(0, s^2), float32 (M, in_features) or (M, in_channels, height, width). Every position of a
            convolution is a sample of its kernel, or near the border of the part that lies on the map.
        change: the layer's linear response to the noise, or its unpredicted part, float32 (M, outputs, ...).
        scale: s.
    """
    if isinstance(layer, nn.Linear):
        return change.T @ noise / (len(noise) * scale**2)
    correlation = torch.nn.grad.conv2d_weight(
        noise, list(layer.weight.shape), change, layer.stride, padding(layer), layer.dilation, layer.groups
    )
    return correlation / (len(noise) * scale**2 * samples_per_offset(layer, noise.shape, change.shape, noise.device))


def samples_per_offset(layer: nn.Conv2d, inside: torch.Size, outside: torch.Size, device: torch.device) -> Tensor:
    """Return the number of output positions at which each kernel offset lies on the map, not on its padding.

    Args:
        layer: the convolution.
        inside: shape of its input.
        outside: shape of its output.
        device: device of the result.

    Returns:
        int64 (kernel height, kernel width), at least 1. An offset that is always on padding has 1; its weight has no
        effect.
    """
    counts = []
    for axis in (0, 1):
        starts = torch.arange(outside[axis + 2], device=device) * layer.stride[axis] - padding(layer)[axis]
        offsets = torch.arange(layer.kernel_size[axis], device=device) * layer.dilation[axis]
        position = starts[:, None] + offsets
        counts.append(((position >= 0) & (position < inside[axis + 2])).sum(0))
    return torch.outer(*counts).clamp_min(1)
