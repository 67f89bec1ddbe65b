"""Images in, tensors out: values, order, resizing, hashes, and what unusable data get."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nmnc.data import sources as data_sources
from nmnc.data.dataset import Dataset, extent_of, load_dataset
from nmnc.errors import UserError
from nmnc.settings import Dataset as DatasetConfig

Arrays = dict[str, Any]


def arrays(channels: int = 3, train: int = 40, test: int = 12) -> Arrays:
    """Random images (n, 10, 10, channels) and labels 0 to 4."""
    random = np.random.default_rng(channels)
    return {
        "x_train": random.integers(0, 256, (train, 10, 10, channels), dtype=np.uint8),
        "y_train": np.arange(train) % 5,
        "x_test": random.integers(0, 256, (test, 10, 10, channels), dtype=np.uint8),
        "y_test": np.arange(test, dtype=np.uint8) % 5,
    }


def load(folder: Path, content: Arrays, **settings: Any) -> Dataset:
    np.savez(folder / "own.npz", **content)
    return load_dataset(DatasetConfig(name="own.npz", **settings), folder)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_npz_file_gives_its_own_values(tmp_path: Path, channels: int) -> None:
    content = arrays(channels)
    dataset = load(tmp_path, content)
    for part in ("train", "test"):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), content[f"x_{part}"])
        assert np.array_equal(labels.numpy(), content[f"y_{part}"])
    assert (dataset.image_shape, dataset.classes) == ((channels, 10, 10), 5)
    assert extent_of(DatasetConfig(name="own.npz"), tmp_path)[:2] == ((channels, 10, 10), 5)


def test_grey_images_need_no_channel_axis(tmp_path: Path) -> None:
    content = arrays(1)
    with_axis = load(tmp_path, content)
    flat = load(tmp_path, content | {key: content[key][..., 0] for key in ("x_train", "x_test")})
    assert torch.equal(flat.train_images, with_axis.train_images)
    assert flat.sha256 == with_axis.sha256


def test_training_images_are_standardised_per_channel(tmp_path: Path) -> None:
    content = arrays(3)
    content["x_train"][..., 1] //= 4  # channels of different mean and spread
    dataset = load(tmp_path, content)
    normalised = dataset.normalise(dataset.train_images)
    assert normalised.dtype == torch.float32
    assert normalised.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-4)
    assert normalised.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * 3, abs=1e-4)
    seen = dataset.preprocessing()
    assert (seen["image_size"], seen["channels"]) == (10, 3)
    by_hand = (content["x_test"] / 255 - np.array(seen["mean"])) / np.array(seen["std"])
    assert np.allclose(dataset.normalise(dataset.test_images).permute(0, 2, 3, 1).numpy(), by_hand, atol=1e-5)


def test_images_of_one_grey_value_stay_finite(tmp_path: Path) -> None:
    content = arrays(1)
    content["x_train"][:] = 7
    dataset = load(tmp_path, content)
    assert dataset.normalise(dataset.train_images).isfinite().all()


@pytest.mark.parametrize("size", [4, 7, 20])
def test_resizing_agrees_with_pillow(tmp_path: Path, size: int) -> None:
    content = arrays(3)
    dataset = load(tmp_path, content, image_size=size)
    assert dataset.image_shape == (3, size, size)
    for image, original in zip(dataset.train_images, content["x_train"], strict=True):
        pillow = np.asarray(Image.fromarray(original).resize((size, size), Image.Resampling.BILINEAR))
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - pillow).max() <= 1


def test_the_first_images_are_taken_and_all_classes_stay(tmp_path: Path) -> None:
    content = arrays()
    content["y_test"] //= 2  # the test set shows fewer classes
    whole, part = load(tmp_path, content), load(tmp_path, content, train_images=3, test_images=2)
    assert torch.equal(part.train_images, whole.train_images[:3])
    assert torch.equal(part.test_labels, whole.test_labels[:2])
    assert part.classes == whole.classes == 5
    with pytest.raises(UserError, match="train_images asks for 41 of 40 training images; lower"):
        load(tmp_path, content, train_images=41)
    with pytest.raises(UserError, match="test_images asks for 13 of 12 test images; lower"):
        load(tmp_path, content, test_images=13)
    held_out = load(tmp_path, content, train_images=30, validation_images=8, test_images=5)
    assert torch.equal(held_out.test_images, whole.train_images[30:35])
    with pytest.raises(UserError, match="first 1 training images are all of one class; shuffle the file or raise"):
        load(tmp_path, content, train_images=1)


def test_the_hash_follows_every_array_as_used(tmp_path: Path) -> None:
    content = arrays()
    known = {load(tmp_path, content).sha256, load(tmp_path, content, train_images=30).sha256}
    known |= {load(tmp_path, content, image_size=8).sha256}
    for key, array in content.items():
        changed = array.copy()
        changed.flat[-1] ^= 1
        known.add(load(tmp_path, content | {key: changed}).sha256)
    assert len(known) == 3 + 4
    assert load(tmp_path, content).sha256 in known


def changed(key: str, change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda content: content | {key: change(content[key])}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: {key: content[key] for key in ("x_train", "y_train", "x_test")}, "y_test is not a file"),
        (changed("x_train", lambda x: x / 255), r"images are float64 of shape \(40, 10, 10, 3\); give uint8"),
        (changed("x_test", lambda x: x[0]), "10 test images but 12 labels"),
        (changed("x_train", lambda x: x.transpose(0, 3, 1, 2)), r"shape \(40, 3, 10, 10\); give uint8"),
        (changed("x_train", lambda x: x[:, :6]), r"\(3, 6, 10\) for training and \(3, 10, 10\) for testing"),
        (changed("x_test", lambda x: x[..., :1]), r"\(1, 10, 10\) for testing; make all images square"),
        (changed("y_train", lambda y: y[:-1]), "40 train images but 39 labels"),
        (changed("y_test", lambda y: y[:0]), "12 test images but 0 labels"),
        (changed("y_train", lambda y: y[:, None]), r"labels are int64 of shape \(40, 1\); give whole numbers"),
        (changed("y_train", lambda y: y - 1), "labels are int64 .*whole numbers from 0 on"),
        (changed("y_train", lambda y: y + 0.5), "labels are float64"),
        (changed("y_train", lambda y: y.astype(object)), "y_train contains Python objects, which are not unpickled"),
        (changed("x_train", lambda x: x.astype("O")), "x_train contains Python objects, which are not unpickled"),
        (changed("x_test", lambda x: (x / 255).astype(">f4")), "of 0 to 1: multiply by 255 and round"),
        (changed("x_train", lambda x: x[:, :0, :0]), r"images of shape \(40, 0, 0, 3\) have no pixels"),
        (changed("x_train", lambda x: x[:0]), "0 train images but 40 labels"),
        (changed("y_train", lambda y: y + 1), "training labels go up to 5, but none is 0; number the classes from 0"),
        (changed("y_train", lambda y: y * 2), "training labels go up to 8, but none is 1"),
        (changed("y_train", lambda y: np.where(y == 4, 10**15, y)), f"go up to {10**15}, but none is 4"),
        (changed("y_train", lambda y: y.astype(np.uint64) + np.uint64(2**63)), f"go up to {2**63 + 4}, but none is 0"),
        (changed("y_test", lambda y: y + np.uint8(1)), "test label 5 is not among the training labels, 0 to 4"),
        (changed("y_test", lambda y: y + np.uint64(2**64 - 5)), f"test label {2**64 - 5} is not among the training"),
        (
            lambda content: content | {k: content[k] * 0 for k in ("y_train", "y_test")},
            "training images are of one class",
        ),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, damage: Callable[[Arrays], Arrays], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path, damage(arrays()))
    assert "own.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_called_truncated(tmp_path: Path) -> None:
    load(tmp_path, arrays())
    whole = (tmp_path / "own.npz").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "own.npz").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"own\.npz: truncated or not an \.npz file") as caught:
            load_dataset(DatasetConfig(name="own.npz"), tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", r"unknown name 'digit'; did you mean 'digits'\?"),
        ("imagenet", r"unknown name 'imagenet'; known: cifar10, digits"),
        ("none.npz", r"dataset none\.npz: no such file or folder, neither here nor in .*; fix dataset\.name"),
        ("some/folder", "dataset some/folder: no such file or folder"),
    ],
)
def test_data_that_are_not_there_are_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_dataset(DatasetConfig(name=name), tmp_path / "absent")


def test_arrays_may_lie_in_any_order(tmp_path: Path) -> None:
    content = arrays()
    other = {key: np.asfortranarray(x) if x.ndim > 1 else x.astype(">i8") for key, x in content.items()}
    assert load(tmp_path, other | {"more": np.zeros(3)}).sha256 == load(tmp_path, content).sha256


def bomb(path: Path, said: int, written: int) -> None:
    """An .npz file whose x_train says that it has `said` bytes, and has `written`."""
    np.savez(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        others = {name: archive.read(name) for name in archive.namelist() if name != "x_train.npy"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in others.items():
            archive.writestr(name, content)
        with archive.open("x_train.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (said,)})
            for _ in range(written // 2**24):
                stream.write(bytes(2**24))


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb(tmp_path / "own.npz", 10**15, 0)
    with pytest.raises(UserError, match=r"own\.npz: truncated or not .*x_train says 1000000000000000 bytes and has 0"):
        load_dataset(DatasetConfig(name="own.npz"), tmp_path)
    monkeypatch.setattr(data_sources, "BOMB_BYTES", 2**24)
    bomb(tmp_path / "own.npz", 2**26, 2**26)
    with pytest.raises(UserError, match=r"x_train unpacks to 0\.0671 GB of \d+ bytes; save it again"):
        load_dataset(DatasetConfig(name="own.npz"), tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: 2**12)  # a machine of 16 MiB
    monkeypatch.setattr(data_sources, "BOMB_RATIO", 10**4)
    with pytest.raises(UserError, match=r"own\.npz: 0\.0671 GB of memory needed, 0\.0168 GB available"):
        load_dataset(DatasetConfig(name="own.npz"), tmp_path)


@pytest.mark.parametrize("name", ["own.npz", "digits", "cifar10"])
def test_images_that_memory_cannot_take_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    np.savez(tmp_path / "own.npz", **arrays())
    monkeypatch.setattr(os, "sysconf", lambda name: 2**15)  # a machine of 1 GiB
    with pytest.raises(
        UserError, match=r"images of 4096 x 4096 pixels: .* GB of memory needed, 1\.07 GB available; lower"
    ):
        extent_of(DatasetConfig(name=name, image_size=4096), tmp_path)


def test_more_images_than_a_known_set_has_are_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train_images asks for 50001 of 50000 training images"):
        extent_of(DatasetConfig(name="cifar10", train_images=50_001), tmp_path)


def test_digits_are_scikit_learns_split_once() -> None:
    from sklearn.datasets import load_digits

    dataset = load_dataset(DatasetConfig(name="digits"), Path("absent"))
    images = torch.cat([dataset.train_images, dataset.test_images]).flatten(1).numpy()
    labels = torch.cat([dataset.train_labels, dataset.test_labels]).numpy()
    pixels, classes = load_digits(return_X_y=True)
    ours = sorted((*image, label) for image, label in zip(images.tolist(), labels.tolist(), strict=True))
    theirs = np.round(pixels * 255 / 16).astype(int)
    assert ours == sorted((*image, label) for image, label in zip(theirs.tolist(), classes.tolist(), strict=True))
    assert len(dataset.test_images) == 360
    assert extent_of(DatasetConfig(name="digits", image_size=16), Path("absent"))[:2] == ((1, 16, 16), 10)


def cifar_arrays() -> Arrays:
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8),
        "y_train": np.arange(50) % 10,
        "x_test": random.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8),
        "y_test": np.arange(10),
    }


def write_batches(folder: Path, content: Arrays) -> None:
    """The folder that torchvision's download leaves: pickled batches of planar images."""
    folder.mkdir(parents=True)
    names = [f"data_batch_{number}" for number in range(1, 6)]
    images, labels = content["x_train"].reshape(5, 10, 32, 32, 3), content["y_train"].reshape(5, 10)
    for name, image, label in [
        *zip(names, images, labels, strict=True),
        ("test_batch", content["x_test"], np.arange(10)),
    ]:
        batch = {b"data": image.transpose(0, 3, 1, 2).reshape(10, -1), b"labels": label.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def test_cifar10_is_the_same_from_either_form(tmp_path: Path) -> None:
    content = cifar_arrays()
    (tmp_path / "one").mkdir()
    np.savez(tmp_path / "one" / "cifar10.npz", **content)
    write_batches(tmp_path / "two" / "cifar-10-batches-py", content)
    one, two = (load_dataset(DatasetConfig(name="cifar10"), tmp_path / name) for name in ("one", "two"))
    assert one.sha256 == two.sha256
    assert np.array_equal(two.train_images.permute(0, 2, 3, 1).numpy(), content["x_train"])
    assert extent_of(DatasetConfig(name="cifar10"), tmp_path / "absent")[:2] == ((3, 32, 32), 10)


class Evil:
    """Unpickled carelessly, this makes a folder named `bitten`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path("bitten"),)


@pytest.mark.parametrize("batch", [pickle.dumps({b"data": Evil()}), b"", b"\x80\x02}q\x00", b"no pickle at all", None])
def test_a_cifar10_batch_can_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: bytes | None) -> None:
    monkeypatch.chdir(tmp_path)
    write_batches(tmp_path / "cifar-10-batches-py", cifar_arrays())
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.unlink() if batch is None else file.write_bytes(batch)
    with pytest.raises(UserError, match="data_batch_3: missing, truncated or not a CIFAR-10 batch") as caught:
        load_dataset(DatasetConfig(name="cifar10"), tmp_path)
    assert "\n" not in str(caught.value)
    assert not Path("bitten").exists()


def test_a_failed_download_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for protocol in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(protocol, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"CIFAR-10: neither .*cifar10\.npz nor .*or set NMNC_DATA") as caught:
        load_dataset(DatasetConfig(name="cifar10"), tmp_path / "absent")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.real_data
def test_real_cifar10(data_folder: Callable[..., Path]) -> None:
    dataset = load_dataset(DatasetConfig(name="cifar10", train_images=1000), data_folder("cifar10.npz"))
    assert dataset.image_shape == (3, 32, 32)
    assert (len(dataset.train_images), dataset.classes) == (1000, 10)
    assert dataset.test_labels.bincount().tolist() == [1000] * 10
    assert dataset.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # the official order
