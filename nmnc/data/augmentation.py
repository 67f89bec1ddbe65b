"""Augmentation of the training images, on their device."""

import torch
import torch.nn.functional as F
from torch import Tensor


class Augmentation:
    """Crop and flip, or nothing, with a separate generator, so that all rules of a seed get the same images.

    Attributes:
        generator: generator on the device of the images; part of the resume state.
    """

    def __init__(self, kind: str, seed: int, device: torch.device) -> None:
        """Seed the generator; `kind` is none or crop_flip (see the section training of a study)."""
        self.kind = kind
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        """Return augmented images, uint8 (batch, channels, height, width); for none, the images themselves."""
        return images if self.kind == "none" else crop_flip(images, self.generator)


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pad with black by an eighth of the side, crop at random to the old size, flip left-right with probability 1/2.

    For 32 pixels this is the padding by 4 of Lee et al. 2015 (arXiv 1409.5185) and He et al. 2016, section 4.2.

    Args:
        images: (batch, channels, height, width), any dtype.
        generator: random generator on their device.
    """
    count, channels, *sides = images.shape
    device = images.device
    top, left = max(sides[0] // 8, 1), max(sides[1] // 8, 1)
    padded = F.pad(images, (left, left, top, top))

    def draw(end: int) -> Tensor:
        return torch.randint(end, (count, 1), generator=generator, device=device)

    rows = draw(2 * top + 1) + torch.arange(sides[0], device=device)
    columns = torch.arange(sides[1], device=device).expand(count, -1)
    columns = draw(2 * left + 1) + torch.where(draw(2) == 1, columns.flip(1), columns)
    image = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(1, -1, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
