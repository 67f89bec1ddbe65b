"""Images in, tensors out: values, order, resizing, hashes, and what unusable data get."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nmnc.config import Dataset as DatasetConfig
from nmnc.data import Dataset, image_shape_of, load_dataset
from nmnc.errors import UserError

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
    assert image_shape_of(DatasetConfig(name="own.npz"), tmp_path) == ((channels, 10, 10), 5)


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
    assert load(tmp_path, content, train_images=10**6).sha256 == whole.sha256
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
        (changed("x_test", lambda x: x[..., :1]), r"\(1, 10, 10\) for testing; make them alike"),
        (changed("y_train", lambda y: y[:-1]), "40 train images but 39 labels"),
        (changed("y_test", lambda y: y[:0]), "12 test images but 0 labels"),
        (changed("y_train", lambda y: y[:, None]), r"labels are int64 of shape \(40, 1\); give whole numbers"),
        (changed("y_train", lambda y: y - 1), "labels are int64 .*whole numbers from 0 on"),
        (changed("y_train", lambda y: y + 0.5), "labels are float64"),
        (changed("y_train", lambda y: y.astype(object)), "truncated or not an .npz file .*allow_pickle"),
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
        ("none.npz", r"dataset none\.npz: no such file or folder, neither here nor in .*; mend dataset\.name"),
        ("some/folder", "dataset some/folder: no such file or folder"),
    ],
)
def test_data_that_are_not_there_are_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_dataset(DatasetConfig(name=name), tmp_path / "absent")


def write_folder(path: Path, content: Arrays) -> None:
    """Images as PNG in PATH/PART/CLASS, the classes in name order."""
    for part in ("train", "test"):
        for number, (image, label) in enumerate(zip(content[f"x_{part}"], content[f"y_{part}"], strict=True)):
            folder = path / part / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze()).save(folder / f"{number:03d}.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_gives_the_pixels_of_its_images(tmp_path: Path, channels: int) -> None:
    content = arrays(channels)
    write_folder(tmp_path / "own", content)
    (tmp_path / "own" / "train" / "class 0" / "notes.txt").write_text("no image")
    dataset = load_dataset(DatasetConfig(name="own"), tmp_path)
    order = np.argsort(content["y_train"], kind="stable")[np.random.default_rng(0).permutation(40)]
    assert np.array_equal(dataset.train_labels.numpy(), content["y_train"][order])
    expected = np.broadcast_to(content["x_train"][order], (40, 10, 10, 3))
    assert np.array_equal(dataset.train_images.permute(0, 2, 3, 1).numpy(), expected)


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            load_dataset(DatasetConfig(name="own"), tmp_path)
        assert str(tmp_path / "own") in str(caught.value)

    (tmp_path / "own" / "train" / "a").mkdir(parents=True)
    refused("train: no images")
    write_folder(tmp_path / "own", arrays())
    odd = tmp_path / "own" / "train" / "class 1" / "odd.png"
    Image.new("RGB", (5, 5)).save(odd)
    refused("images of different sizes; resize them to one size first")
    odd.write_bytes(odd.read_bytes()[:40])
    refused(r"odd\.png cannot be read as an image .*; replace that file")
    (tmp_path / "own" / "train").rename(tmp_path / "own" / "training")
    refused("no folders train/CLASS")


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
    assert image_shape_of(DatasetConfig(name="digits", image_size=16), Path("absent")) == ((1, 16, 16), 10)


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
    assert image_shape_of(DatasetConfig(name="cifar10"), tmp_path / "absent") == ((3, 32, 32), 10)


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
