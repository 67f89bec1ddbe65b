"""Folders of classes: which images are read, in which order, and what is left out aloud or refused."""

import os
import shutil
import unicodedata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nmnc.data.dataset import load_dataset
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
    refused("train/a: no images; add some, or remove the folder")
    (tmp_path / "own" / "train" / "a").rmdir()
    write_folder(tmp_path / "own", arrays())
    odd = tmp_path / "own" / "train" / "class 1" / "odd.png"
    Image.new("RGB", (5, 5)).save(odd)
    refused(r"000\.png is 10 x 10 but .*odd\.png is 5 x 5 pixels: .*different sizes; set dataset\.image_size")
    odd.write_bytes(odd.read_bytes()[:40])
    refused(r"odd\.png cannot be read as an image .*; replace that file")
    (tmp_path / "own" / "train").rename(tmp_path / "own" / "training")
    refused("no folders train/CLASS")


def picture(path: Path, size: tuple[int, int] = (10, 10), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of three classes with two images each."""
    for number, (part, name) in enumerate(product(("train", "test"), ("ant", "bee", "cow"))):
        for i in range(2):
            picture(tmp_path / "own" / part / name / f"{i}.png", seed=10 * number + i)
    return tmp_path / "own"


def test_what_is_left_out_of_a_folder_is_counted_and_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_dataset(DatasetConfig(name="own"), own.parent)
    assert (before.left_out, capsys.readouterr().err) == ("", "")
    picture(own / "train" / ".ipynb_checkpoints" / "0-checkpoint.png")
    picture(own / "train" / "__MACOSX" / "0.png")
    picture(own / "test" / "@eaDir" / "0.png")
    (own / "train" / "bee" / "._0.png").write_bytes(b"of a Mac")
    for name in ("Thumbs.db", "notes.txt", "labels.csv", "0.npy", "no ending"):
        (own / "train" / "bee" / name).write_bytes(b"no image")
    picture(own / "train" / "montage.png")
    (own / "validation").mkdir()
    (own / "README.md").write_text("about")
    after = load_dataset(DatasetConfig(name="own"), own.parent)
    assert (after.sha256, after.classes) == (before.sha256, 3)
    assert after.left_out == (
        "5 hidden (train/.ipynb_checkpoints, train/__MACOSX, test/@eaDir, ...), 1 outside train and test (validation), "
        "1 in no class (train/montage.png), 4 of another kind (train/bee/0.npy, train/bee/labels.csv, "
        "train/bee/no ending, ...)"
    )
    assert capsys.readouterr().err == f"dataset own: left out: {after.left_out}\n"
    assert after.facts()["left_out"] == after.left_out


def test_classes_without_test_images_are_named(own: Path) -> None:
    shutil.rmtree(own / "test" / "ant")
    for image in (own / "test" / "cow").iterdir():
        image.unlink()
    dataset = load_dataset(DatasetConfig(name="own"), own.parent)
    assert dataset.left_out == "2 without test images (ant, cow)"
    assert (dataset.classes, dataset.test_labels.tolist()) == (3, [1, 1])


ODD = {
    "class only in test": (lambda own: picture(own / "test/wolf/0.png"), "test/wolf: train has no class of that name"),
    "another case": (lambda own: (own / "test/bee").rename(own / "test/Bee"), "test/Bee: train has no class of"),
    "class without images": (lambda own: (own / "train/dog").mkdir(), "train/dog: no images; add some, or remove"),
    "only files of another kind": (
        lambda own: [(own / "train/dog").mkdir(), (own / "train/dog/a.txt").write_text("")], "train/dog: no images"
    ),
    "folder in a class": (lambda own: picture(own / "train/bee/more/0.png"), "bee/more: a folder inside a class"),
    "link to the folder above": (
        lambda own: (own / "train/dog").symlink_to(own / "train"), "train/dog/ant: a folder inside a class folder"
    ),
    "kind that is not read": (
        lambda own: (own / "train/bee/2.HEIC").write_bytes(b""), r"2\.HEIC: images of this kind are not read"
    ),
    "link to nothing": (lambda own: (own / "train/bee/2.png").symlink_to("gone.png"), r"2\.png cannot be read"),
    "pipe": (lambda own: os.mkfifo(own / "train/bee/2.png"), r"2\.png is not a regular file"),
    "name in two encodings": (
        lambda own: [picture(own / f"train/{name}/0.png") for name in ("Gr\u00f6\u00dfe", "Gro\u0308\u00dfe")],
        "a second class of that name in another Unicode encoding",
    ),
    "no test images": (lambda own: shutil.rmtree(own / "test"), "test: no images; it needs .*test/CLASS"),
    "several frames": (
        lambda own: Image.new("L", (4, 4)).save(
            own / "train/bee/2.gif", save_all=True, append_images=[Image.new("L", (4, 4), 9)]
        ),
        r"2\.gif \(GIF, mode .\) has 2 frames",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", ODD)
def test_what_would_change_the_classes_is_refused(mistake: str, own: Path) -> None:
    make, words = ODD[mistake]
    make(own)
    with pytest.raises(UserError, match=words) as caught:
        load_dataset(DatasetConfig(name="own"), own.parent)
    assert "\n" not in str(caught.value)


def test_classes_are_numbered_in_the_order_of_their_names_as_text(tmp_path: Path) -> None:
    names = ["10", "2", "B", "a", "e\u0301t\u00e9", "z"]  # as sorted by code point
    for part in ("train", "test"):
        for label, name in enumerate(names):
            form = "NFC" if part == "test" and name != "z" else "NFD"
            folder = tmp_path / "own" / part / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            Image.new("L", (6, 6), 10 * label).save(folder / "0.PNG")
    dataset = load_dataset(DatasetConfig(name="own"), tmp_path)
    for part in ("train", "test"):
        labels, images = getattr(dataset, f"{part}_labels"), getattr(dataset, f"{part}_images")
        assert images[:, 0, 0, 0].tolist() == [10 * label for label in labels.tolist()]
        assert sorted(labels.tolist()) == [0, 1, 2, 3, 4, 5]


def test_images_of_several_sizes_are_stretched_to_one(own: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (23, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(own / "train" / "bee" / "2.tif")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(own / "train" / "bee" / "3.tif")
    alone = load_dataset(DatasetConfig(name="own", image_size=8), own.parent)
    assert alone.image_shape == (3, 8, 8)
    for image in (pixels, np.repeat(pixels[..., :1], 3, axis=2)):
        pillow = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BILINEAR)).astype(int)
        closest = min(np.abs(found.permute(1, 2, 0).numpy() - pillow).max() for found in alone.train_images)
        assert closest <= 1


def test_resizing_one_by_one_is_resizing_all_at_once(tmp_path: Path) -> None:
    content = arrays()
    write_folder(tmp_path / "own", content)
    folder = load_dataset(DatasetConfig(name="own", image_size=7), tmp_path)
    order = np.argsort(content["y_train"], kind="stable")[np.random.default_rng(0).permutation(40)]
    np.savez(tmp_path / "own.npz", **content | {key: content[key][order] for key in ("x_train", "y_train")})
    at_once = load_dataset(DatasetConfig(name="own.npz", image_size=7), tmp_path)
    assert torch.equal(folder.train_images, at_once.train_images)
