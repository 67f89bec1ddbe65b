"""Read a folder of training images, train/CLASS/* and test/CLASS/*, and report the files left out."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmnc.data.images import ENDINGS, OTHER_ENDINGS, Pixels, read_image
from nmnc.device import refuse_beyond_memory
from nmnc.errors import UserError

#: Entries that systems and programs create, in addition to names that begin with a dot.
NOT_OF_THE_USER = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information",
    "thumbs.db", "ehthumbs.db", "desktop.ini",
}  # fmt: skip
#: Most names listed per kind of left-out file.
NAMED = 3


def read_class_folders(path: Path, fit: Callable[[Pixels], NDArray[np.uint8]]) -> tuple[dict[str, NDArray[Any]], str]:
    """Read all images of PATH/train/CLASS and PATH/test/CLASS, in a fixed random order.

    Classes are numbered in the order of their names, compared as text.

    Args:
        path: the folder.
        fit: function from a decoded image to uint8 (height, width, 3).

    Returns:
        x_train, x_test: uint8 (images, height, width, 3); y_train, y_test: (images,); and a summary of left-out files.

    Raises:
        UserError: an image that cannot be read or belongs to no class, a class without training images, folders in
            folders, images of several sizes that are not resized.
    """
    left_out: dict[str, list[str]] = defaultdict(list)
    for entry in _listed(path, path, left_out):
        if entry.is_dir() and entry.name not in ("train", "test"):
            left_out["outside train and test"].append(entry.name)
    classes, files = _classes(path, "train", left_out), {}
    if not classes:
        raise UserError(f"{path}: no folders train/CLASS with images; create train/CLASS and test/CLASS")
    test_classes = _classes(path, "test", left_out)
    for name, folder in test_classes.items():
        if name not in classes:
            raise UserError(f"{folder}: train has no class of that name; add images of it there, or remove the folder")
    for part, folders in (("train", classes), ("test", test_classes)):
        files[part] = [
            (file, label)
            for label, name in enumerate(classes)
            if name in folders
            for file in _images(folders[name], path, left_out)
        ]
        empty = set(range(len(classes))) - {label for _, label in files[part]}
        if empty and part == "train":
            name = list(classes)[min(empty)]
            raise UserError(f"{classes[name]}: no images; add some, or remove the folder")
        if len(empty) == len(classes):
            raise UserError(f"{path / part}: no images; it needs {path / part}/CLASS/*.png")
        left_out["without test images"] += [list(classes)[label] for label in sorted(empty)]
    arrays: dict[str, NDArray[Any]] = {}
    for part, labelled_files in files.items():
        images = _decoded([file for file, _ in labelled_files], fit)
        # Shuffled, so that the first N images are not all of the first class.
        order = np.random.default_rng(0).permutation(len(images))
        arrays |= {f"x_{part}": images[order], f"y_{part}": np.array([label for _, label in labelled_files])[order]}
    return arrays, _summary(left_out)


def _listed(folder: Path, root: Path, left_out: dict[str, list[str]]) -> list[Path]:
    """Return the sorted entries of a folder without hidden and system files; [] if the folder does not exist."""
    if not folder.is_dir():
        return []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); fix its permissions, or remove it") from None
    hidden = [entry for entry in entries if entry.name.startswith(".") or entry.name.lower() in NOT_OF_THE_USER]
    left_out["hidden"] += [str(entry.relative_to(root)) for entry in hidden]
    return [entry for entry in entries if entry not in hidden]


def _classes(path: Path, part: str, left_out: dict[str, list[str]]) -> dict[str, Path]:
    """Map the name of each class to its folder, in the order of the folders' names.

    Unicode can encode an accented letter as one or two characters; class names use the composed form.
    """
    folders: dict[str, Path] = {}
    for entry in _listed(path / part, path, left_out):
        if not entry.is_dir():
            kind = "in no class" if entry.suffix.lower() in ENDINGS | OTHER_ENDINGS else "of another kind"
            left_out[kind].append(f"{part}/{entry.name}")
            continue
        name = unicodedata.normalize("NFC", entry.name)
        if name in folders:
            raise UserError(f"{entry}: a second class of that name in another Unicode encoding; merge or rename it")
        folders[name] = entry
    return folders


def _images(folder: Path, root: Path, left_out: dict[str, list[str]]) -> list[Path]:
    """Return the image files of one class, sorted."""
    images = []
    for entry in _listed(folder, root, left_out):
        ending = entry.suffix.lower()
        if entry.is_dir():
            raise UserError(f"{entry}: a folder inside a class folder; move its images to {folder}, or remove it")
        if ending in OTHER_ENDINGS:
            raise UserError(f"{entry}: images of this kind are not read; convert it to PNG, or remove it")
        if ending in ENDINGS:
            images.append(entry)
        else:
            left_out["of another kind"].append(str(entry.relative_to(root)))
    return images


def _decoded(files: list[Path], fit: Callable[[Pixels], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return all images as uint8 (images, height, width, 3); UserError if sizes differ."""
    first = fit(read_image(files[0]))
    refuse_beyond_memory(f"{files[0].parent.parent}: {len(files)} images of this size", len(files) * first.nbytes)
    images = np.empty((len(files), *first.shape), np.uint8)
    for number, file in enumerate(files):
        pixels = fit(read_image(file))
        if pixels.shape != first.shape:
            sizes = " but ".join(
                f"{path} is {array.shape[1]} x {array.shape[0]}" for path, array in ((files[0], first), (file, pixels))
            )
            raise UserError(f"{sizes} pixels: images of different sizes; set dataset.image_size, or resize them")
        images[number] = pixels
    return images


def _summary(left_out: dict[str, list[str]]) -> str:
    """Return a summary such as '2 hidden (a, b), 7 of another kind (c, d, e, ...)', or ''."""
    parts = []
    for kind, names in left_out.items():
        if names:
            more = ", ..." if len(names) > NAMED else ""
            parts.append(f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more})")
    return ", ".join(parts)
