"""Training and test images as tensors: digits, CIFAR-10, an .npz file or a folder of classes."""

import hashlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nmnc.config import Dataset as DatasetConfig
from nmnc.errors import UserError, did_you_mean
from nmnc.images import ENDINGS, as_uint8, read_image

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Dataset:
    """Images and labels, and where they are from.

    Attributes:
        train_images, test_images: uint8 (images, channels, height, width).
        train_labels, test_labels: int64 (images,), 0 to classes - 1.
        mean, std: float32 (channels,) of the training images scaled to 0..1.
        sha256: hex digest over all of the above arrays as used.
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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def facts(self) -> dict[str, Any]:
        """What provenance says of a data set, as plain data."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "citation": self.citation,
            "licence": self.licence,
            "n_train": len(self.train_labels),
            "n_test": len(self.test_labels),
        }

    def preprocessing(self) -> dict[str, Any]:
        """How the networks trained on these images see an image, as plain data."""
        return {
            "image_size": self.image_shape[1],
            "channels": self.image_shape[0],
            "mean": [round(value, 6) for value in self.mean.tolist()],  # float32 holds the 6 digits kept
            "std": [round(value, 6) for value in self.std.tolist()],
        }

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) on this data set's device -> float32, standardised."""
        # In place: of many large images each further copy would be the largest thing in memory.
        return images.float().div_(255).sub_(self.mean.view(1, -1, 1, 1)).div_(self.std.view(1, -1, 1, 1))

    def to(self, device: torch.device) -> "Dataset":
        """The same data set with every tensor on `device`."""
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def load_dataset(config: DatasetConfig, data: Path) -> Dataset:
    """Read a data set, cut it to the asked-for number of images and resize it.

    Args:
        config: the section `dataset` of a study.
        data: the data folder.

    Raises:
        UserError: unknown name, missing or truncated file, arrays of the wrong shape.
    """
    arrays, citation, licence = _source(config.name, data)
    train_images, test_images = (_as_images(arrays[f"x_{part}"], config) for part in ("train", "test"))
    train_labels, test_labels = (_as_labels(arrays[f"y_{part}"], config) for part in ("train", "test"))
    for images, labels, part in ((train_images, train_labels, "train"), (test_images, test_labels, "test")):
        if len(images) != len(labels) or len(images) == 0:
            raise UserError(
                f"dataset {config.name}: {len(images)} {part} images but {len(labels)} labels; mend the file"
            )
    shape, other = train_images.shape[1:], test_images.shape[1:]
    if shape != other or shape[1] != shape[2]:
        raise UserError(
            f"dataset {config.name}: images (channels, height, width) are {tuple(shape)} for training and "
            f"{tuple(other)} for testing; make them alike and square, or set dataset.image_size"
        )
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    if config.validation_images is not None:
        test_images, test_labels = _held_out(config, train_images), _held_out(config, train_labels)
    train_images, train_labels = train_images[: config.train_images], train_labels[: config.train_images]
    test_images, test_labels = test_images[: config.test_images], test_labels[: config.test_images]
    if classes > 1 and len(train_labels.unique()) == 1:
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
        mean=mean.round(decimals=6).float(), std=std.clamp_min(1e-6).round(decimals=6).float(),
    )  # fmt: skip


def _held_out(config: DatasetConfig, values: Tensor) -> Tensor:
    """The training images (or labels) that follow the first `train_images` and are never trained on."""
    first, count = config.train_images or len(values), config.validation_images or 0
    if first + count > len(values):
        raise UserError(
            f"dataset {config.name}: train_images and validation_images ask for {first} + {count} of "
            f"{len(values)} training images; lower dataset.train_images"
        )
    return values[first : first + count]


def _channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (float64, per channel) of uint8 images scaled to 0..1, from counts of grey levels."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([images[:, channel].flatten().bincount(minlength=256) for channel in range(images.shape[1])])
    shares = counts.double() / counts.sum(1, keepdim=True)
    mean = shares @ levels
    return mean, (shares @ levels.square() - mean.square()).clamp_min(0).sqrt()


def image_shape_of(config: DatasetConfig, data: Path) -> tuple[tuple[int, int, int], int]:
    """((channels, height, width), classes) without reading more than needed; downloads nothing."""
    if config.name in SHAPES:
        shape, classes = SHAPES[config.name]
        size = config.image_size
        return (shape[0], size, size) if size else shape, classes
    dataset = load_dataset(config, data)
    return dataset.image_shape, dataset.classes


def _source(name: str, data: Path) -> tuple[Arrays, str, str]:
    """The arrays x_train, y_train, x_test, y_test of a data set, its citation and its licence."""
    if name in SOURCES:
        load, citation, licence = SOURCES[name]
        return load(data), citation, licence
    for path in (Path(name), data / name):
        if path.is_file() and path.suffix == ".npz":
            return read_npz(path), f"the user's file {path.name}", "as given by its owner"
        if path.is_dir():
            return read_folder(path), f"the user's folder {path.name}", "as given by its owner"
    if "/" in name or name.endswith(".npz"):
        raise UserError(f"dataset {name}: no such file or folder, neither here nor in {data}; mend dataset.name")
    raise UserError(f"dataset: unknown name {name!r}{did_you_mean(name, SOURCES)}, an .npz file or a folder")


def _as_images(array: NDArray[Any], config: DatasetConfig) -> Tensor:
    """uint8 (images, height, width[, channels]) -> uint8 (images, channels, height, width), resized."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise UserError(
            f"dataset {config.name}: images are {array.dtype} of shape {array.shape}; "
            "give uint8 (images, height, width) or (images, height, width, 1 or 3)"
        )
    images = torch.from_numpy(array if array.ndim == 4 else array[..., None]).permute(0, 3, 1, 2).contiguous()
    size = config.image_size
    if size is None or images.shape[2:] == (size, size):
        return images
    resized = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
        for part in images.split(1000)
    ]
    return torch.cat(resized).round().clamp(0, 255).to(torch.uint8)


def _as_labels(array: NDArray[Any], config: DatasetConfig) -> Tensor:
    """Any whole numbers (images,) -> int64."""
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.size and array.min() < 0):
        raise UserError(
            f"dataset {config.name}: labels are {array.dtype} of shape {array.shape}; "
            "give whole numbers from 0 on, one for each image: shape (images,)"
        )
    return torch.from_numpy(array.astype(np.int64))


def read_npz(path: Path) -> Arrays:
    """The four arrays of an .npz file; UserError when one is missing or the file is truncated."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {key: file[key] for key in ("x_train", "y_train", "x_test", "y_test")}
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}; it needs x_train, y_train, x_test and y_test") from None
    except Exception as error:  # zipfile, zlib and numpy each have their own for a damaged file
        raise UserError(f"{path}: truncated or not an .npz file ({error}); make or fetch it again") from None


def read_folder(path: Path) -> Arrays:
    """Images of PATH/train/CLASS/* and PATH/test/CLASS/*, of one size, in a fixed random order.

    Classes are numbered in the order of their names.
    """
    classes = sorted(folder.name for folder in (path / "train").glob("*") if folder.is_dir())
    if not classes:
        raise UserError(f"{path}: no folders train/CLASS with images; make train/CLASS and test/CLASS")
    arrays: Arrays = {}
    for part in ("train", "test"):
        images, labels = [], []
        for label, name in enumerate(classes):
            for file in sorted((path / part / name).glob("*")):
                if file.suffix.lower() not in ENDINGS:
                    continue
                images.append(as_uint8(read_image(file)))
                labels.append(label)
        if len({image.shape for image in images}) > 1:
            raise UserError(f"{path / part}: images of different sizes; resize them to one size first")
        if not images:
            raise UserError(f"{path / part}: no images; it needs {path / part}/CLASS/*.png")
        # The first N images must not be those of the first class.
        order = np.random.default_rng(0).permutation(len(images))
        arrays |= {f"x_{part}": np.stack(images)[order], f"y_{part}": np.array(labels)[order]}
    return arrays


def _digits(_: Path) -> Arrays:
    """1,797 handwritten digits of 8 x 8 pixels; a fixed random fifth of them is the test set."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return {
        "x_train": images[train],
        "y_train": labels[train],
        "x_test": images[test],
        "y_test": labels[test],
    }


def _cifar10(data: Path) -> Arrays:
    """cifar10.npz, else torchvision's folder cifar-10-batches-py, else torchvision's download of it."""
    if (data / "cifar10.npz").exists():
        return read_npz(data / "cifar10.npz")
    batches = data / "cifar-10-batches-py"
    if not batches.exists():
        import torchvision

        try:
            torchvision.datasets.CIFAR10(data, download=True)
        except Exception as error:  # urllib, ssl, tarfile and torchvision's hash check each have their own
            raise UserError(
                f"CIFAR-10: neither {data / 'cifar10.npz'} nor {batches} is there, and the download failed "
                f"({' '.join(str(error).split())}); put one of them there or set NMNC_DATA"
            ) from None
    parts = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    arrays: Arrays = {}
    for part, names in parts.items():
        read = [_read_cifar_batch(batches / name) for name in names]
        images = np.concatenate([batch[b"data"] for batch in read])
        arrays[f"x_{part}"] = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays[f"y_{part}"] = np.concatenate([batch[b"labels"] for batch in read])
    return arrays


class _ArraysOnly(pickle.Unpickler):
    """Refuses everything but numpy arrays: a batch file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype", "encode"}
        if module.split(".")[0] in ("numpy", "_codecs") and name in allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read_cifar_batch(path: Path) -> dict[bytes, Any]:
    """One batch file of torchvision's folder, read without running anything it may contain."""
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        return {key: np.asarray(batch[key]) for key in (b"data", b"labels")}
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"{path}: missing, truncated or not a CIFAR-10 batch ({error}); fetch it again") from None


#: name -> (function of the data folder, citation, licence)
SOURCES: dict[str, tuple[Callable[[Path], Arrays], str, str]] = {
    "digits": (
        _digits,
        "Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; copy in scikit-learn",
        "CC BY 4.0",
    ),
    "cifar10": (
        _cifar10,
        "Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images",
        "no formal licence; free research use with citation",
    ),
}

#: Shape of one image and number of classes of each source.
SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {
    "digits": ((1, 8, 8), 10),
    "cifar10": ((3, 32, 32), 10),
}
