"""Training and test images as tensors: digits, CIFAR-10, an .npz file or a folder of classes."""

import hashlib
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nmnc.data.class_folders import read_class_folders
from nmnc.data.images import Pixels, as_uint8
from nmnc.data.sources import SOURCES, Arrays, read_npz
from nmnc.device import refuse_beyond_memory
from nmnc.errors import UserError, did_you_mean
from nmnc.settings import Dataset as DatasetConfig


@dataclass(frozen=True)
class Dataset:
    """Images, labels and their origin.

    Attributes:
        train_images, test_images: uint8 (images, channels, height, width).
        train_labels, test_labels: int64 (images,), 0 to classes - 1.
        mean, std: float32 (channels,) of the training images scaled to 0..1.
        sha256: hex digest over all of the above arrays as used.
        left_out: summary of the files of a folder that were not used, or "".
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    classes: int
    sha256: str
    citation: str
    licence: str
    left_out: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def facts(self) -> dict[str, Any]:
        """Return the data set's entry in provenance files, as plain data."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "citation": self.citation,
            "licence": self.licence,
            "n_train": len(self.train_labels),
            "n_test": len(self.test_labels),
            "left_out": self.left_out,
        }

    def preprocessing(self) -> dict[str, Any]:
        """Return the preprocessing of images for networks trained on this data set, as plain data."""
        return {
            "image_size": self.image_shape[1],
            "channels": self.image_shape[0],
            "mean": [round(value, 6) for value in self.mean.tolist()],  # 6 digits are exact in float32
            "std": [round(value, 6) for value in self.std.tolist()],
        }

    def normalise(self, images: Tensor) -> Tensor:
        """Standardise uint8 (batch, channels, height, width), on this data set's device, to float32."""
        # In place, because each further copy of many large images would dominate the memory.
        return images.float().div_(255).sub_(self.mean.view(1, -1, 1, 1)).div_(self.std.view(1, -1, 1, 1))

    def to(self, device: torch.device) -> "Dataset":
        """Return the data set with every tensor on `device`."""
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def load_dataset(config: DatasetConfig, data: Path) -> Dataset:
    """Read a data set, take the requested images and resize them; files left out are reported on stderr.

    Args:
        config: the section `dataset` of a study.
        data: the data folder.

    Raises:
        UserError: unknown name, missing or truncated file, arrays of the wrong shape, labels that are not classes,
            more images than available or than fit in memory.
    """
    arrays, citation, licence, left_out = _source(config, data)
    if left_out:
        print(f"dataset {config.name}: left out: {left_out}", file=sys.stderr)
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        _check_images(images, config)
        _check_labels(labels, config)
        if len(images) != len(labels) or len(images) == 0:
            raise UserError(
                f"dataset {config.name}: {len(images)} {part} images but {len(labels)} labels; fix the file"
            )
    classes = _count_classes(arrays["y_train"], arrays["y_test"], config)
    train, test = _chosen(config, len(arrays["y_train"]), len(arrays["y_test"]))
    held_out = "train" if config.validation_images else "test"
    train_images, test_images = (
        _as_images(arrays[f"x_{part}"][chosen], config) for part, chosen in (("train", train), (held_out, test))
    )
    train_labels, test_labels = (
        torch.from_numpy(arrays[f"y_{part}"][chosen].astype(np.int64))
        for part, chosen in (("train", train), (held_out, test))
    )
    shape, test_shape = train_images.shape[1:], test_images.shape[1:]
    if shape != test_shape or shape[1] != shape[2]:
        raise UserError(
            f"dataset {config.name}: images (channels, height, width) are {tuple(shape)} for training and "
            f"{tuple(test_shape)} for testing; make all images square and of one size, or set dataset.image_size"
        )
    if len(train_labels.unique()) == 1:
        raise UserError(
            f"dataset {config.name}: the first {len(train_labels)} training images are all of one class; "
            "shuffle the file or raise dataset.train_images"
        )
    digest = hashlib.sha256()
    for tensor in (train_images, train_labels, test_images, test_labels):
        digest.update(tensor.contiguous().numpy().tobytes())
    mean, std = _channel_statistics(train_images)
    return Dataset(
        name=config.name, classes=classes, sha256=digest.hexdigest(), citation=citation, licence=licence,
        train_images=train_images, train_labels=train_labels,
        test_images=test_images, test_labels=test_labels,
        mean=mean.round(decimals=6).float(), std=std.clamp_min(1e-6).round(decimals=6).float(), left_out=left_out,
    )  # fmt: skip


def _chosen(config: DatasetConfig, n_train: int, n_test: int) -> tuple[slice, slice]:
    """Return the slices of training images to train on and of images to test on.

    Validation images replace the test images; they follow the first `train_images` training images and are never
    trained on.

    Raises:
        UserError: more images are requested than available.
    """
    first, held_out = config.train_images or n_train, config.validation_images or 0
    if first + held_out > n_train:
        request = f"train_images and validation_images ask for {first} + {held_out}"
        raise UserError(
            f"dataset {config.name}: {request if held_out else f'train_images asks for {first}'} of {n_train} training "
            "images; lower dataset.train_images"
        )
    if held_out:
        return slice(first), slice(first, first + min(held_out, config.test_images or held_out))
    if (config.test_images or 0) > n_test:
        raise UserError(
            f"dataset {config.name}: test_images asks for {config.test_images} of {n_test} test images; "
            "lower dataset.test_images"
        )
    return slice(first), slice(config.test_images)


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, float64 (channels,), of uint8 images scaled to 0..1."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([images[:, channel].flatten().bincount(minlength=256) for channel in range(images.shape[1])])
    shares = counts.double() / counts.sum(1, keepdim=True)
    mean = shares @ levels
    return mean, (shares @ levels.square() - mean.square()).clamp_min(0).sqrt()


class Extent(NamedTuple):
    """(channels, height, width) of one image, and the numbers of classes, training images and test images."""

    shape: tuple[int, int, int]
    classes: int
    n_train: int
    n_test: int


def extent_of(config: DatasetConfig, data: Path) -> Extent:
    """Return the extent of a data set without downloading it, and without reading a built-in one.

    Raises:
        UserError: as `load_dataset`; for a built-in data set only if too many or too large images are requested.
    """
    if config.name in SOURCES:
        _, _, _, shape, classes, sizes = SOURCES[config.name]
        size = config.image_size
        train, test = _chosen(config, *sizes)
        n_train, n_test = len(range(sizes[0])[train]), len(range(sizes[0 if config.validation_images else 1])[test])
        for n in (n_train, n_test):
            _refuse_large(n, shape[0], size or shape[1], config)
        return Extent((shape[0], size, size) if size else shape, classes, n_train, n_test)
    dataset = load_dataset(config, data)
    return Extent(dataset.image_shape, dataset.classes, len(dataset.train_labels), len(dataset.test_labels))


def _source(config: DatasetConfig, data: Path) -> tuple[Arrays, str, str, str]:
    """Return the arrays x_train, y_train, x_test, y_test, the citation, the licence and a summary of left-out files."""
    name = config.name
    if name in SOURCES:
        source = SOURCES[name]
        return source.load(data), source.citation, source.licence, ""
    for path in (Path(name), data / name):
        if path.is_file() and path.suffix == ".npz":
            return read_npz(path), f"the user's file {path.name}", "as given by its owner", ""
        if path.is_dir():
            arrays, left_out = read_class_folders(path, partial(_fitted, size=config.image_size))
            return arrays, f"the user's folder {path.name}", "as given by its owner", left_out
    if "/" in name or name.endswith(".npz"):
        raise UserError(f"dataset {name}: no such file or folder, neither here nor in {data}; fix dataset.name")
    raise UserError(f"dataset: unknown name {name!r}{did_you_mean(name, SOURCES)}, an .npz file or a folder")


def _check_images(array: NDArray[Any], config: DatasetConfig) -> None:
    """Raise UserError for images other than uint8 (images, height, width[, 1 or 3])."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        scaled = " (of 0 to 1: multiply by 255 and round)" if array.dtype.kind == "f" else ""
        raise UserError(
            f"dataset {config.name}: images are {array.dtype} of shape {array.shape}; "
            f"give uint8 (images, height, width) or (images, height, width, 1 or 3){scaled}"
        )
    if 0 in array.shape[1:]:
        raise UserError(f"dataset {config.name}: images of shape {array.shape} have no pixels; fix the file")


def _as_images(array: NDArray[np.uint8], config: DatasetConfig) -> Tensor:
    """Convert uint8 (images, height, width[, channels]) to uint8 (images, channels, height, width), resized."""
    images = torch.from_numpy(array if array.ndim == 4 else array[..., None]).permute(0, 3, 1, 2).contiguous()
    size = config.image_size
    if size is None or images.shape[2:] == (size, size):
        return images
    _refuse_large(len(images), images.shape[1], size, config)
    return torch.cat([_resized(part.float(), size) for part in images.split(max(1, 2**22 // size**2))])


def _resized(images: Tensor, size: int) -> Tensor:
    """Resize float32 (images, channels, height, width), 0 to 255, to uint8 (images, channels, size, size)."""
    resized = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _fitted(pixels: Pixels, size: int | None) -> NDArray[np.uint8]:
    """Convert a decoded image (height, width, 3) to uint8, resized before rounding if a size is given."""
    if size is None or pixels.shape[:2] == (size, size):
        return as_uint8(pixels)
    levels = torch.from_numpy(pixels.astype(np.float32) * (1 if pixels.dtype == np.uint8 else 255))
    return _resized(levels.permute(2, 0, 1)[None].contiguous(), size)[0].permute(1, 2, 0).numpy()


def _refuse_large(images: int, channels: int, size: int, config: DatasetConfig) -> None:
    """Raise UserError if the resized images exceed the machine's memory."""
    purpose = f"dataset {config.name}: {images} images of {size} x {size} pixels"
    refuse_beyond_memory(purpose, images * channels * size**2, "lower dataset.image_size")


def _check_labels(array: NDArray[Any], config: DatasetConfig) -> None:
    """Raise UserError for labels other than whole numbers from 0, (images,)."""
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.size and array.min() < 0):
        raise UserError(
            f"dataset {config.name}: labels are {array.dtype} of shape {array.shape}; "
            "give whole numbers from 0 on, one per image: shape (images,)"
        )


def _count_classes(train: NDArray[Any], test: NDArray[Any], config: DatasetConfig) -> int:
    """Return the number of classes; UserError for a class without training images, or a single class."""
    present = np.unique(train)
    gaps = present != np.arange(len(present), dtype=present.dtype)
    if gaps.any():
        raise UserError(
            f"dataset {config.name}: training labels go up to {present[-1]}, but none is {gaps.argmax()}; number the "
            "classes from 0 on, without gaps"
        )
    unknown = np.setdiff1d(test.astype(object), present.astype(object))
    if len(unknown):
        raise UserError(
            f"dataset {config.name}: the test label {unknown[0]} is not among the training labels, 0 to {present[-1]}; "
            "remove those images or add training images"
        )
    if len(present) == 1:
        raise UserError(f"dataset {config.name}: all training images are of one class; give two classes or more")
    return len(present)
