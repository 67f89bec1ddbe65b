"""Noise correlation within a random subspace of smooth maps."""

import torch
from torch import Tensor

from nmnc.noise.manifold import random_basis
from nmnc.rules.noise_correlation import RandomSubspace

#: Standard deviation of the Gaussian that smooths the maps, in pixels of the stage's own map.
SMOOTHNESS = 2.0


class SmoothSubspace(RandomSubspace):
    """The control between `RandomSubspace` and NMNC: a random subspace that is as smooth as activity.

    Activity of early layers is smooth over the image, and so are gradients. Each axis is a Gaussian random field per
    channel (white noise convolved with a Gaussian of 2 pixels), orthonormalised: of the manifold it shares only the
    smoothness. Stages without a map get the axes of `RandomSubspace`.
    """

    def start(self, outputs: list[Tensor]) -> None:
        """Draw the subspaces."""
        self.bases = []
        for size, output in zip(self.sizes, outputs, strict=True):
            d = min(self.noise.dimensions, size)
            if output.ndim == 4:
                self.bases.append(smooth_basis(output.shape[1:], d, self.generator))
            else:
                self.bases.append(random_basis(size, d, self.generator, self.device))
        self.feedback = self.make_feedback()


def smooth_basis(shape: torch.Size, dimensions: int, generator: torch.Generator) -> Tensor:
    """Return an orthonormal basis of smooth random maps, float32 (channels * height * width, dimensions).

    Args:
        shape: (channels, height, width).
        dimensions: d, at most the number of units.
        generator: on the device of the basis.
    """
    white = torch.randn(dimensions, *shape, generator=generator, device=generator.device)
    down, across = (_blur(side, generator.device) for side in shape[1:])
    return torch.linalg.qr((down @ white @ across.T).flatten(1).T).Q


def _blur(side: int, device: torch.device) -> Tensor:
    """Return a Gaussian smoothing matrix (side, side); rows of unit length keep the variance at the edge."""
    pixels = torch.arange(side, device=device, dtype=torch.float32)
    kernel = torch.exp(-(pixels[:, None] - pixels).square() / (2 * SMOOTHNESS**2))
    return kernel / kernel.norm(dim=1, keepdim=True)
