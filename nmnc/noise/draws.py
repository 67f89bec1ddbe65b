"""Standard noise z for the perturbing rules: independent normal draws, or rows of random orthogonal matrices."""

from math import pi
from typing import Any

import torch
from torch import Tensor

#: Up to this many axes the orthogonal matrix is uniform (Haar); above, it is a cosine transform with random signs.
DENSE = 1024


class IndependentDraws:
    """z ~ N(0, I_k), independent from image to image."""

    def __init__(self, generator: torch.Generator) -> None:
        """Draw from `generator`, on its device."""
        self.generator = generator

    def take(self, images: int, axes: int) -> Tensor:
        """Return the next draws, float32 (images, axes)."""
        return torch.randn(images, axes, generator=self.generator, device=self.generator.device)

    def restart(self) -> None:
        """Start new, unrelated draws; nothing to do for independent ones."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming, apart from the generator's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


def make_draws(name: str, generator: torch.Generator) -> "IndependentDraws":
    """Return the draws that `noise.draws` names, from `generator`."""
    return OrthogonalDraws(generator) if name == "orthogonal" else IndependentDraws(generator)


class OrthogonalDraws(IndependentDraws):
    """z of successive images are the rows of sqrt(k) Q for a random orthogonal Q (k x k); a new Q when all are used.

    Each z has length sqrt(k) and E[z z^T] = I. If fewer rows are left than requested, rows of the same Q are used a
    second time: prediction error is already corrected along them, while rows of a new Q would disturb the first ones.
    Up to 1,024 axes Q is uniform (QR of a normal matrix). Above, its rows are those of the orthonormal cosine transform
    (DCT-II) with random signs, in random order, which needs only k random numbers and k signs.

    Attributes:
        seed: seed of the current Q; None before the first.
        axes: k of the current Q.
        used: number of rows taken from it.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(generator)
        self.seed: int | None = None
        self.axes = self.used = 0

    def take(self, images: int, axes: int) -> Tensor:
        """Return the next draws, float32 (images, axes), images <= axes."""
        if self.seed is None or self.used >= self.axes or self.axes != axes:
            drawn = torch.randint(2**62, (), generator=self.generator, device=self.generator.device)
            self._begin(int(drawn), axes)
        rows = (torch.arange(images, device=self.order.device) + self.used) % axes
        self.used += images
        if axes <= DENSE:
            return self.matrix[rows]
        return _cosines(self.order[rows], axes) * self.signs

    def _begin(self, seed: int, axes: int) -> None:
        """Draw the matrix of `seed`."""
        self.seed, self.axes, self.used = seed, axes, 0
        device = self.generator.device
        generator = torch.Generator(device).manual_seed(seed)
        if axes <= DENSE:
            q, r = torch.linalg.qr(torch.randn(axes, axes, generator=generator, device=device))
            self.matrix = q * (axes**0.5 * r.diagonal().sign())
            self.order = torch.empty(0, device=device)
            return
        self.order = torch.randperm(axes, generator=generator, device=device)
        self.signs = torch.randint(2, (axes,), generator=generator, device=device).mul_(2).sub_(1).to(torch.float32)

    def restart(self) -> None:
        """Draw a new matrix at the next call of `take`."""
        self.seed = None

    def state_dict(self) -> dict[str, Any]:
        """Return the seed and size of the current matrix, and the number of rows used."""
        return {"seed": self.seed, "axes": self.axes, "used": self.used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.seed = state["seed"]
        if self.seed is not None:
            self._begin(self.seed, state["axes"])
            self.used = state["used"]


def _cosines(rows: Tensor, axes: int) -> Tensor:
    """Return rows of sqrt(k) times the orthonormal DCT-II matrix of k axes, float32 (rows, axes).

    The angle (2 j + 1) i pi / (2 k) is reduced in integers, because large angles lose precision in float32.
    """
    odd = 2 * torch.arange(axes, device=rows.device) + 1
    angles = ((rows[:, None] * odd) % (4 * axes)).to(torch.float32) * (pi / (2 * axes))
    scale = torch.where(rows == 0, 1.0, 2**0.5)
    return angles.cos_() * scale[:, None]
