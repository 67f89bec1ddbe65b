"""Preprocess the images of a benchmark as in the model's training."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import interpolate

from brain_eval.activations.settings import ImagePreprocessing
from nmnc.data.images import Pixels
from nmnc.errors import UserError
from nmnc.files.reading import parse_json, read_json
from nmnc.validation import one_line

#: Weights of red, green and blue in the luma of ITU-R BT.601, section 2.5.1.
LUMA = (0.299, 0.587, 0.114)
EXAMPLE = '{"image_size": 32, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}'


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before a model sees it.

    Attributes:
        image_size: pixels a side; an image that is not square is stretched, as Brain-Score does.
        channels: 3 for red, green, blue; 1 for grey (ITU-R 601 luma).
        mean, std: one value per channel, subtracted from and divided into values of 0 to 1.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_plain(cls, values: Any, where: str) -> "Preprocessing":
        """Check plain data with the keys of `ImagePreprocessing`, as in a network.pt or in JSON.

        Raises:
            UserError: a missing or unknown key, or a value out of range; begins with `where`, e.g. "--preprocessing".
        """
        try:
            checked = ImagePreprocessing.model_validate(values, strict=True)
        except ValidationError as error:
            message = one_line(error, ImagePreprocessing)
            raise UserError(f"{where}: preprocessing: {message}; e.g. {EXAMPLE}") from None
        return cls(checked.image_size, checked.channels, tuple(checked.mean), tuple(checked.std))

    @classmethod
    def from_option(cls, text: str, where: str) -> "Preprocessing":
        """Check JSON text, or a .json file of it, possibly below the key "preprocessing".

        Raises:
            UserError: the file cannot be read, or as `from_plain`.
        """
        if not text.endswith(".json"):
            return cls.from_plain(parse_json(text, where, f"e.g. {EXAMPLE}"), where)
        try:
            values = read_json(Path(text), f"give a file with {EXAMPLE}")
        except UserError as error:
            raise UserError(f"{where} {error}") from None
        inner = values.get("preprocessing", values) if isinstance(values, dict) else values
        return cls.from_plain(inner, f"{where} {text}")

    def to_json(self) -> str:
        """The JSON text that `from_json` reads."""
        return json.dumps(asdict(self))

    def describe(self) -> str:
        """One line for messages, e.g. "32x32 RGB, antialiased bilinear, mean 0.5 0.5 0.5, std 1.0 1.0 1.0"."""
        colour = "RGB" if self.channels == 3 else "grey (ITU-R 601)"
        mean, std = (" ".join(str(value) for value in values) for values in (self.mean, self.std))
        return f"{self.image_size}x{self.image_size} {colour}, antialiased bilinear, mean {mean}, std {std}"

    def __call__(self, images: Sequence[Pixels]) -> Tensor:
        """Return the model's input for images (height, width, 3) of any sizes, uint8, or float32 from 0 to 1.

        float32 (images, channels, image_size, image_size), on the CPU: scaled to 0..1, luma when grey, resized
        (bilinear, antialiased, align_corners=False), then normalised.
        """
        result = torch.empty(len(images), self.channels, self.image_size, self.image_size)
        alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for position, image in enumerate(images):
            if image.dtype not in (np.uint8, np.float32) or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"image {position} is {image.dtype} {image.shape}, not uint8 or float32 (height, width, 3)"
                )
            alike[image.dtype, image.shape].append(position)
        for positions in alike.values():  # one call of the resizer per size, not per image
            result[positions] = self._resized(np.stack([images[position] for position in positions]))
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return result.sub_(mean).div_(std)

    def _resized(self, images: NDArray[Any]) -> Tensor:
        """uint8 or float32 (images, height, width, 3) -> float32 (images, channels, image_size, image_size), 0..1."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        # Channel by channel: the resizer gives the same numbers in two thirds of the time.
        pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        if images.dtype == np.uint8:
            pixels = pixels.div_(255)
        if self.channels == 1:
            pixels = (pixels * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        size = (self.image_size, self.image_size)
        return interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
