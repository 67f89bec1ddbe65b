"""The components of a layer's activity over all batches of a training, in the memory of a few hundred images."""

from typing import Any

import torch
from torch import Tensor

from nmnc.noise.incremental_pca import IncrementalPCA
from nmnc.noise.manifold import RELATIVE_TOLERANCE, centred

#: Weight of all older activity whenever a basis is asked for: the weights have moved, and so has the manifold.
MEMORY = 0.5
#: Random axes beside the components so far. In a direction that no axis touches, new activity would never be seen.
RANDOM_AXES = 16


class ActivityStream:
    """An incremental PCA that sees every batch but factorises nothing until a basis is asked for.

    A merge of `IncrementalPCA` for every batch would wait for the device each time, and takes five times as long as
    what is done instead: of the scatter S (units x units, never formed) of the batches since the last basis only the
    product S A with orthonormal axes A is kept, the components so far and a few random ones. For a basis, Nystrom's
    approximation S ~ (S A) (A^T S A)^-1 (S A)^T (Tropp, Yurtsever, Udell & Cevher 2017, "Fixed-rank approximation of
    a positive-semidefinite matrix from streaming data") makes of it as many rows as there are axes, and these enter the
    incremental PCA as one batch. Exact where activity has no more dimensions than A.

    Every batch is centred by its own mean: a mean that drifts as the weights move is no direction of the manifold.

    Attributes:
        components: the incremental PCA; what is older weighs half as much from basis to basis.
        axes: A, orthonormal, float32 (units, k + 16), fewer in a layer of fewer units.
        product: S A, float32 of the same shape.
    """

    axes: Tensor
    product: Tensor

    def __init__(self, components: int, generator: torch.Generator) -> None:
        """Start with nothing seen.

        Args:
            components: k; twice as many as will be asked for make those nearly exact.
            generator: of random axes, on the device of the activity.
        """
        self.components = IncrementalPCA(components, centred=False, memory=MEMORY)
        self.generator = generator

    def start(self, activity: Tensor) -> None:
        """Take in the first activity, float32 (images, units), as it is; see `basis` for the errors."""
        self.components.update(centred(activity))
        self._turn(self.components.basis())

    def update(self, batch: Tensor) -> None:
        """Take in one batch, float32 (images, units) of 2 images or more; waits for nothing."""
        rows = centred(batch)
        self.product.addmm_(rows.T, rows @ self.axes)

    def basis(self, dimensions: int) -> Tensor:
        """Orthonormal basis of the leading components of all that was seen, (units, d); see `IncrementalPCA.basis`.

        Raises:
            FloatingPointError: a batch was NaN, infinite or so large that its square is.
        """
        self.components.update(self._rows())
        whole = self.components.basis()
        self._turn(whole)
        return whole[:, :dimensions]

    def _rows(self) -> Tensor:
        """Rows (axes, units) whose scatter is Nystrom's approximation of that since the last basis."""
        core = (self.axes.T @ self.product).double()
        if not core.isfinite().all():
            raise FloatingPointError("activity is NaN or infinite")
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        # What cannot be told from rounding becomes a row of zeros: to leave it out, its number would have to be known.
        told = values > values[-1].clamp_min(0) * RELATIVE_TOLERANCE**2
        scaled = vectors * values.where(told, torch.inf).rsqrt()
        return scaled.T.to(self.product.dtype) @ self.product.T

    def _turn(self, basis: Tensor) -> None:
        """Let the axes be a basis (units, d) and random ones, with nothing seen along them."""
        units, known = basis.shape
        new = min(self.components.kept + RANDOM_AXES, units) - known
        random = torch.randn(units, new, generator=self.generator, device=basis.device)
        self.axes = torch.linalg.qr(torch.cat([basis, random], 1)).Q
        self.product = torch.zeros_like(self.axes)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on bit for bit; the generator is its owner's."""
        return {"components": self.components.state_dict(), "axes": self.axes, "product": self.product}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`, on the generator's device."""
        device = self.generator.device
        self.components.load_state_dict(state["components"], device)
        self.axes, self.product = state["axes"].to(device), state["product"].to(device)
