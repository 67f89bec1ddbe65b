"""Standard noise z for the perturbing rules: independent normal draws, or rows of random orthogonal matrices."""

from math import pi
from typing import Any

import torch
from torch import Tensor

#: Up to so many axes the orthogonal matrix is drawn as it is (Haar); above, it is a cosine transform with random signs.
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
        """Forget what the draws so far were orthogonal to; nothing, here."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the generator's state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""


def make_draws(name: str, generator: torch.Generator) -> "IndependentDraws":
    """Return the draws that `noise.draws` names, from `generator`."""
    return OrthogonalDraws(generator) if name == "orthogonal" else IndependentDraws(generator)


class OrthogonalDraws(IndependentDraws):
    """z of successive images are the rows of sqrt(k) Q, Q a random orthogonal k x k matrix; a fresh one when used up.

    Each z has the length sqrt(k) exactly and E[z z^T] = I. Where fewer rows are left than asked for, rows that have
    been used follow from the same Q: along them prediction error has nothing left to correct, while rows of a second Q
    would disturb the first ones. Up to 1,024 axes Q is uniform (QR of a normal matrix); above, row i is that of the
    orthonormal cosine transform (DCT-II) with random signs, the rows in random order: k log k numbers instead of k^2.

    Attributes:
        seed: that the present Q is drawn from; None before the first.
        axes: k of the present Q.
        used: rows taken from it.
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
        """Make the matrix that `seed` stands for."""
        self.seed, self.axes, self.used = seed, axes, 0
        device = self.generator.device
        own = torch.Generator(device).manual_seed(seed)
        if axes <= DENSE:
            q, r = torch.linalg.qr(torch.randn(axes, axes, generator=own, device=device))
            self.matrix = q * (axes**0.5 * r.diagonal().sign())
            self.order = torch.empty(0, device=device)
            return
        self.order = torch.randperm(axes, generator=own, device=device)
        self.signs = torch.randint(2, (axes,), generator=own, device=device).mul_(2).sub_(1).to(torch.float32)

    def restart(self) -> None:
        """Begin a fresh matrix with the next draws."""
        self.seed = None

    def state_dict(self) -> dict[str, Any]:
        """Return which matrix is in use, and how far."""
        return {"seed": self.seed, "axes": self.axes, "used": self.used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self.seed = state["seed"]
        if self.seed is not None:
            self._begin(self.seed, state["axes"])
            self.used = state["used"]


def _cosines(rows: Tensor, axes: int) -> Tensor:
    """Rows of sqrt(k) times the orthonormal DCT-II matrix of k axes, float32 (rows, axes).

    The angle (2 j + 1) i pi / (2 k) is reduced in whole numbers: in float32 the large ones would lose their digits.
    """
    odd = 2 * torch.arange(axes, device=rows.device) + 1
    angles = ((rows[:, None] * odd) % (4 * axes)).to(torch.float32) * (pi / (2 * axes))
    scale = torch.where(rows == 0, 1.0, 2**0.5)
    return angles.cos_() * scale[:, None]
