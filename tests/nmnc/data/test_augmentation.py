"""Crop and flip: every image is one of the crops it may be, all equally often, and the same for every rule."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from nmnc.data.augmentation import Augmentation, crop_flip
from nmnc.rule_kinds import RULES
from nmnc.training.trainer import Trainer

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(image: np.ndarray) -> np.ndarray:
    """All that may become of an image (channels, side, side), by slicing; (crops, channels, side, side)."""
    side = image.shape[-1]
    pad = max(side // 8, 1)
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    found = [
        padded[:, top : top + side, left : left + side][:, :, ::direction]
        for top in range(2 * pad + 1) for left in range(2 * pad + 1) for direction in (1, -1)
    ]  # fmt: skip
    return np.stack(found)


@pytest.mark.parametrize(("side", "count"), [(4, 18), (8, 18), (16, 50), (32, 162)])
def test_every_image_is_one_of_its_crops_and_each_is_as_likely(side: int, count: int) -> None:
    image = np.random.default_rng(side).integers(1, 256, (3, side, side), dtype=np.uint8)
    allowed = {crop.tobytes(): number for number, crop in enumerate(crops(image))}
    assert len(allowed) == count
    draws = 40 * count
    made = crop_flip(torch.from_numpy(image).expand(draws, -1, -1, -1), generator(side))
    assert made.dtype == torch.uint8
    assert made.shape == (draws, 3, side, side)
    chosen = np.bincount([allowed[one.numpy().tobytes()] for one in made], minlength=count)  # KeyError: not a crop
    assert stats.chisquare(chosen).pvalue > 1e-3


def test_images_of_a_batch_are_drawn_one_by_one_and_keep_their_places() -> None:
    images = torch.arange(1, 65, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    made = crop_flip(images, generator())
    assert torch.equal(made.amax((1, 2, 3)), images[:, 0, 0, 0])
    black = made.eq(0).sum((1, 2, 3))
    assert len(black.unique()) > 2


def test_the_seed_decides_and_nothing_else_is_drawn() -> None:
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=generator())
    before = torch.get_rng_state()
    one, same, other = (Augmentation("crop_flip", seed, CPU)(images) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    nothing = Augmentation("none", 0, CPU)
    state = nothing.generator.get_state()
    assert nothing(images) is images
    assert torch.equal(nothing.generator.get_state(), state)


def test_every_rule_of_a_seed_sees_the_same_images(toy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, list[Tensor]] = {}
    step = Trainer._step

    def spy(self: Trainer, images: Tensor, labels: Tensor) -> Tensor:
        seen[current].append(images.clone())
        return step(self, images, labels)

    monkeypatch.setattr(Trainer, "_step", spy)
    kinds = sorted(set(RULES) - {"untrained"})
    for current in kinds:
        seen[current] = []
        run = toy.trainer(current, training={"augmentation": "crop_flip"})
        run.train(tmp_path / f"{current}.pt")
    assert all(len(images) == toy.epochs * toy.steps_per_epoch for images in seen.values())
    assert all(torch.equal(*pair) for kind in kinds for pair in zip(seen[kind], seen["backprop"], strict=True))
    plain = toy.trainer("backprop")
    seen["plain"], current = [], "plain"
    plain.train(tmp_path / "plain.pt")
    assert not any(torch.equal(*pair) for pair in zip(seen["plain"], seen["backprop"], strict=True))
