"""Sources of training images: digits, CIFAR-10 and .npz files, read without running or unpickling anything."""

import io
import math
import pickle  # noqa: TID251 (for an Unpickler that refuses all but arrays)
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nmnc.device import refuse_beyond_memory
from nmnc.errors import UserError

#: x_train, x_test: uint8 (images, height, width[, channels]); y_train, y_test: whole numbers (images,).
Arrays = dict[str, NDArray[Any]]
KEYS = ("x_train", "y_train", "x_test", "y_test")
#: An array that unpacks to more bytes, and to a larger multiple of its size in the file, is a decompression bomb.
BOMB_BYTES, BOMB_RATIO = 2**30, 200


def read_npz(path: Path) -> Arrays:
    """Return the four arrays of an .npz file, numbers only.

    Raises:
        UserError: an array is missing, contains Python objects or does not fit in memory; the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [_declared_bytes(archive, key, path) for key in KEYS]
        refuse_beyond_memory(str(path), sum(sizes))
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {key: file[key] for key in KEYS}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each raise other errors for a damaged file
        raise UserError(f"{path}: truncated or not an .npz file ({error}); save or download it again") from None


def _declared_bytes(archive: zipfile.ZipFile, key: str, path: Path) -> int:
    """Return the bytes of one array of an .npz file according to its header, without unpacking it."""
    try:
        member = archive.getinfo(f"{key}.npy")
    except KeyError:
        raise UserError(f"{path}: {key} is not a file in the archive; it needs {', '.join(KEYS)}") from None
    with archive.open(member) as stream:
        newer = np.lib.format.read_magic(stream) != (1, 0)
        read = np.lib.format.read_array_header_2_0 if newer else np.lib.format.read_array_header_1_0
        shape, _, dtype = read(stream)
        header = stream.tell()
    if dtype.hasobject:
        raise UserError(f"{path}: {key} contains Python objects, which are not unpickled; save it as numbers")
    size = math.prod(shape) * dtype.itemsize
    if size != member.file_size - header:
        raise ValueError(f"{key} says {size} bytes and has {member.file_size - header}")
    if size > BOMB_BYTES and size > BOMB_RATIO * member.compress_size:
        raise UserError(f"{path}: {key} unpacks to {size / 1e9:.3g} GB of {member.compress_size} bytes; save it again")
    return size


def _digits(_: Path) -> Arrays:
    """Return 1,797 handwritten digits of 8 x 8 pixels; a fixed random fifth of them is the test set."""
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
    """Return CIFAR-10 from cifar10.npz, else from torchvision's folder cifar-10-batches-py, downloaded if absent."""
    if (data / "cifar10.npz").exists():
        return read_npz(data / "cifar10.npz")
    batches = data / "cifar-10-batches-py"
    if not batches.exists():
        import torchvision

        try:
            torchvision.datasets.CIFAR10(data, download=True)
        except Exception as error:  # urllib, ssl, tarfile and torchvision each raise other errors
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
    """Unpickler that accepts only numpy arrays, so that a batch file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype", "encode"}
        if module.split(".")[0] in ("numpy", "_codecs") and name in allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read_cifar_batch(path: Path) -> dict[bytes, Any]:
    """Return the arrays of one batch file of torchvision's folder, without running code in it."""
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        return {key: np.asarray(batch[key]) for key in (b"data", b"labels")}
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"{path}: missing, truncated or not a CIFAR-10 batch ({error}); download it again") from None


class Source(NamedTuple):
    """A built-in data set.

    Attributes:
        load: returns the arrays x_train, y_train, x_test, y_test from the data folder, downloading them if needed.
        citation, licence: citation and licence of the images.
        shape: (channels, height, width) of one image.
        classes: number of classes.
        sizes: numbers of training and of test images.
    """

    load: Callable[[Path], Arrays]
    citation: str
    licence: str
    shape: tuple[int, int, int]
    classes: int
    sizes: tuple[int, int]


#: To add a data set: a function in a new file of this folder, and one entry here.
SOURCES = {
    "digits": Source(
        _digits,
        "Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; copy in scikit-learn",
        "CC BY 4.0",
        (1, 8, 8),
        10,
        (1437, 360),
    ),
    "cifar10": Source(
        _cifar10,
        "Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images",
        "no formal licence; free research use with citation",
        (3, 32, 32),
        10,
        (50_000, 10_000),
    ),
}
