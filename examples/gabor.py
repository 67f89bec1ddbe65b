"""A bank of Gabor filters, the classical model of V1; as a reference model `network: examples.gabor:gabor_bank`.

Nothing is trained. Simple cells are half-rectified filter outputs; complex cells add the squares of two filters in
quadrature (Jones & Palmer 1987, J. Neurophysiol. 58:1233; Adelson & Bergen 1985, J. Opt. Soc. Am. A 2:284).
"""

import math

import torch
from torch import Tensor, nn

PHASES = (0.0, math.pi / 2, math.pi, 3 * math.pi / 2)


def filters(wavelengths: tuple[float, ...], orientations: int, size: int) -> Tensor:
    """Return Gabor filters of zero mean and unit norm, float32 (wavelengths * orientations * 4 phases, 1, size, size).

    Args:
        wavelengths: wavelengths of the carrier in pixels; the envelope's standard deviation is half of it.
        orientations: equally spaced over half a turn.
        size: side of the filters in pixels; must be odd.
    """
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) - size // 2] * 2, indexing="ij")
    bank = []
    for wavelength in wavelengths:
        envelope = torch.exp(-(x**2 + y**2) / (2 * (wavelength / 2) ** 2))
        for number in range(orientations):
            angle = math.pi * number / orientations
            along = x * math.cos(angle) + y * math.sin(angle)
            for phase in PHASES:
                carrier = torch.cos(2 * math.pi * along / wavelength + phase)
                filtered = envelope * carrier
                filtered = filtered - envelope * filtered.sum() / envelope.sum()
                bank.append(filtered / filtered.norm())
    return torch.stack(bank)[:, None].float()


class Simple(nn.Module):
    """Half-rectified outputs of every filter: (batch, channels, height, width) -> (batch, filters, height, width)."""

    def __init__(self, wavelengths: tuple[float, ...], orientations: int, size: int) -> None:
        super().__init__()
        self.register_buffer("bank", filters(wavelengths, orientations, size))
        self.bank: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Filter the grey image and rectify."""
        grey = images.mean(1, keepdim=True)
        return torch.relu(nn.functional.conv2d(grey, self.bank, padding=self.bank.shape[-1] // 2))


class Complex(nn.Module):
    """Energy over the four phases of each wavelength and orientation, halved in resolution."""

    def forward(self, simple: Tensor) -> Tensor:
        """Map (batch, filters, height, width) to (batch, filters / 4, height / 2, width / 2)."""
        phases = simple.unflatten(1, (-1, len(PHASES)))
        return nn.functional.avg_pool2d(phases.square().sum(2).sqrt(), 2)


def gabor_bank(
    wavelengths: tuple[float, ...] = (3.0, 6.0, 12.0), orientations: int = 8, size: int = 15
) -> nn.Sequential:
    """Return the model, whose layers are `simple` and `complex`."""
    layers = nn.Sequential()
    layers.add_module("simple", Simple(tuple(wavelengths), orientations, size))
    layers.add_module("complex", Complex())
    return layers
