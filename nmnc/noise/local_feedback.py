"""Feedback that each pre-activation learns within its own receptive field, without weight sharing."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmnc.networks.backward import Carrier, padding
from nmnc.noise.perturbation import Perturbation


class LocalFeedback:
    """One kernel per position, like the weights of a locally connected layer that replaces a convolution.

    A Linear layer that receives the whole input has one position, and its kernel has the shape of the weight matrix.

    Attributes:
        matrix: A, float32 (positions, outputs, fan-in), initially zero.
    """

    def __init__(self, layer: Carrier, shape: torch.Size, device: torch.device) -> None:
        """Create kernels of zeros.

        Args:
            layer: the Linear or Conv2d (groups 1) whose input is perturbed.
            shape: shape of that input without the batch axis.
            device: device of the kernels.
        """
        self.layer, self.shape = layer, shape
        positions, fan_in = self._patches(torch.zeros(1, shape.numel())).shape[1:]
        self.matrix = torch.zeros(positions, len(layer.weight), fan_in, device=device)

    def _geometry(self) -> dict[str, tuple[int, int]]:
        """Return the arguments of `unfold` and `fold`."""
        layer = self.layer
        assert isinstance(layer, nn.Conv2d)
        sizes = {"kernel_size": layer.kernel_size, "dilation": layer.dilation, "stride": layer.stride}
        return {**{key: (value[0], value[1]) for key, value in sizes.items()}, "padding": padding(layer)}

    def _patches(self, x: Tensor) -> Tensor:
        """Return the receptive fields of x (images, units) as (images, positions, fan-in)."""
        if isinstance(self.layer, nn.Linear):
            return x.view(len(x), -1, self.layer.in_features)
        return F.unfold(x.view(-1, *self.shape), **self._geometry()).mT

    def _by_position(self, values: Tensor) -> Tensor:
        """Return a view of pre-activations (images, units) as (positions, images, outputs)."""
        if isinstance(self.layer, nn.Linear):
            return values.view(len(values), -1, self.layer.out_features).transpose(0, 1)
        return values.view(len(values), self.layer.out_channels, -1).permute(2, 0, 1)

    def _estimate(self, response: Tensor, patches: Tensor, divisor: float) -> Tensor:
        """Return the mean over images of each position's response times its patch, divided by the noise's variance."""
        return response.mT @ patches / (patches.shape[1] * divisor)

    def update(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """See `nmnc.noise.feedback.Feedback.update`; the response is the layer's, float32 (M, pre-activations)."""
        patches = self._patches(perturbation.noise).transpose(0, 1)
        self.matrix.lerp_(self._estimate(self._by_position(response), patches, perturbation.divisor), rate)

    def correct(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """See `nmnc.noise.feedback.FullFeedback.correct`, position by position."""
        patches = self._patches(perturbation.noise).transpose(0, 1)
        residual = self._by_position(response) - patches @ self.matrix.mT
        self.matrix.add_(self._estimate(residual, patches, perturbation.divisor), alpha=rate)

    def signal(self, error: Tensor) -> Tensor:
        """Map the error at the pre-activations (batch, pre-activations) to the perturbed layer (batch, units)."""
        patches = self._by_position(error) @ self.matrix  # (positions, batch, fan-in)
        if isinstance(self.layer, nn.Linear):
            return patches.transpose(0, 1).flatten(1)
        height, width = self.shape[1:]
        return F.fold(patches.permute(1, 2, 0), (height, width), **self._geometry()).flatten(1)

    def rebase(self, basis: Tensor) -> None:
        """See `nmnc.noise.feedback.Feedback.rebase`; there is no basis."""
