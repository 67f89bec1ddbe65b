"""Preprocessing against Pillow, which resizes by the same antialiased triangle filter, and its laws."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from brain_eval.activations.preprocessing import Preprocessing
from nmnc.errors import UserError

PLAIN = Preprocessing(32, 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
GREY = Preprocessing(32, 1, (0.0,), (1.0,))
SETTINGS = {"image_size": 32, "channels": 3, "mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1]}


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(175, 175), (112, 112), (33, 90), (16, 16), (32, 32), (8, 200)])
def test_resizing_is_pillows(height: int, width: int) -> None:
    image = random_image(height, width)
    ours = PLAIN([image])[0].numpy()
    for channel in range(3):
        floats = Image.fromarray(image[..., channel].astype(np.float32), mode="F")
        theirs = np.asarray(floats.resize((32, 32), Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(ours[channel], theirs, atol=1e-5)


def test_an_image_of_the_right_size_is_only_scaled() -> None:
    image = random_image(32, 32)
    assert torch.equal(PLAIN([image])[0], torch.from_numpy(image).permute(2, 0, 1).float() / 255)


def test_grey_is_the_luma_that_pillow_uses() -> None:
    image = random_image(32, 32)
    theirs = np.asarray(Image.fromarray(image).convert("L")) / 255
    ours = GREY([image])
    assert ours.shape == (1, 1, 32, 32)
    np.testing.assert_allclose(ours[0, 0].numpy(), theirs, atol=0.51 / 255)  # Pillow rounds to 8 bits


@given(
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    side=st.integers(1, 48),
)
@settings(max_examples=40)
def test_one_colour_stays_one_colour(colour: Any, size: Any, side: Any) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)
    image = np.full((*size, 3), colour, dtype=np.uint8)
    expected = (np.array(colour) / 255 - mean) / std
    result = Preprocessing(side, 3, mean, std)([image])[0].numpy()
    np.testing.assert_allclose(result, np.broadcast_to(expected[:, None, None], (3, side, side)), atol=1e-4)


@pytest.mark.parametrize("preprocessing", [PLAIN, GREY])
def test_images_of_several_sizes_keep_their_order(preprocessing: Preprocessing) -> None:
    images = [random_image(*size, seed) for seed, size in enumerate([(40, 40), (20, 50), (40, 40), (32, 32), (20, 50)])]
    together = preprocessing(images)
    assert together.dtype == torch.float32
    for position, image in enumerate(images):
        assert torch.equal(together[position : position + 1], preprocessing([image]))


@pytest.mark.parametrize("preprocessing", [PLAIN, GREY])
@pytest.mark.parametrize("size", [(40, 50), (32, 32), (16, 16)])
def test_deep_pixels_are_seen_as_their_eight_bits_and_no_coarser(
    preprocessing: Preprocessing, size: tuple[int, int]
) -> None:
    image = random_image(*size)
    deep = image / np.float32(255)
    assert torch.equal(preprocessing([image, deep]), preprocessing([image, image]))
    finer = deep.copy()
    finer[0, 0] = np.nextafter(finer[0, 0], 1)
    assert not torch.equal(preprocessing([finer]), preprocessing([deep]))


def test_images_are_not_changed() -> None:
    image = random_image(32, 32)
    before = image.copy()
    Preprocessing.from_plain(SETTINGS, "here")([image])
    np.testing.assert_array_equal(image, before)
    deep = image / np.float32(255)
    Preprocessing.from_plain(SETTINGS, "here")([deep])
    np.testing.assert_array_equal(deep, before / np.float32(255))


def test_the_description_is_one_readable_line_and_tells_settings_apart() -> None:
    text = Preprocessing.from_plain(SETTINGS, "here").describe()
    assert text == "32x32 RGB, antialiased bilinear, mean 0.5 0.4 0.3, std 0.3 0.2 0.1"
    others = [SETTINGS | change for change in ({"image_size": 33}, {"mean": [0.5, 0.4, 0.3000001]}, {"std": [1, 1, 1]})]
    described = {Preprocessing.from_plain(values, "here").describe() for values in others}
    assert len(described | {text, GREY.describe()}) == 5


def test_json_and_plain_data_agree() -> None:
    assert Preprocessing.from_option(json.dumps(SETTINGS), "x") == Preprocessing.from_plain(SETTINGS, "y")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 3}, "size: unknown key"),
        ({"image_size": 0}, "image_size: .*greater than or equal to 1"),
        ({"image_size": 32.0}, "image_size: .*valid integer"),
        ({"channels": 4}, "channels: .*1 or 3"),
        ({"mean": [0.5]}, "one value for each of the 3 channels"),
        ({"std": [0.5, 0.0, 0.5]}, "above 0"),
        ({"std": [0.5, float("nan"), 0.5]}, r"std\.1: .*finite number"),
        ({"std": ["0.5"] * 3}, r"std\.0: .*valid number"),
        ({"image_size": 10**6}, "image_size: .*less than or equal to 4096"),
        ({"channels": True}, "channels: .*not true or false"),
        ({"mean": "abc"}, "mean: .*valid list"),
        ({"mean": 3}, "mean: .*valid list"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Preprocessing.from_plain(SETTINGS | change, "config")
    assert str(error.value).startswith("config: ")
    assert "\n" not in str(error.value)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(UserError, match="--preprocessing: not JSON"):
        Preprocessing.from_option("{32}", "--preprocessing")
    with pytest.raises(UserError, match="valid dictionary"):
        Preprocessing.from_option("[32]", "--preprocessing")


@pytest.mark.parametrize("content", [SETTINGS, {"preprocessing": SETTINGS, "name": "digits"}])
def test_a_file_gives_the_same_as_its_text(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "seen.json").write_text(json.dumps(content))
    expected = Preprocessing.from_plain(SETTINGS, "here")
    assert Preprocessing.from_option(str(tmp_path / "seen.json"), "x") == expected
    assert Preprocessing.from_option(json.dumps(SETTINGS), "x") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file"),
        (b"{32}", "not JSON"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"{}", "image_size: missing; add it"),
        (b"[32]", "valid dictionary"),
        (b'{"preprocessing": 3}', "valid dictionary"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        Preprocessing.from_option(str(path), "--preprocessing")
    assert str(error.value).startswith(f"--preprocessing {path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_arrays_that_are_no_images_are_refused(image: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="not uint8"):
        PLAIN([image])
