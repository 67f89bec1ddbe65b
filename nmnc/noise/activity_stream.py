"""Principal components of a layer's activity over all training batches, in the memory of a few hundred images."""

from typing import Any

import torch
from torch import Tensor

from nmnc.noise.incremental_pca import IncrementalPCA
from nmnc.noise.manifold import RELATIVE_TOLERANCE, centred

#: Factor on older activity at every new basis, because the manifold moves with the weights.
MEMORY = 0.5
#: Random axes in addition to the components so far, so that activity in new directions is detected.
RANDOM_AXES = 16


class ActivityStream:
    """Incremental PCA over every batch that factorises only when a basis is requested.

    Merging every batch into `IncrementalPCA` would wait for the device each time and take five times as long. Instead,
    of the scatter S (units x units, never formed) of the batches since the last basis only the product S A with
    orthonormal axes A is kept: the components so far and a few random axes. For a basis, Nystrom's
    approximation S ~ (S A) (A^T S A)^-1 (S A)^T (Tropp, Yurtsever, Udell & Cevher 2017, "Fixed-rank approximation of
    a positive-semidefinite matrix from streaming data") gives as many rows as there are axes, which enter the
    incremental PCA as one batch. This is exact if activity has at most as many dimensions as A.

    Every batch is centred by its own mean, because drift of the mean during training is not a manifold direction.

    Attributes:
        components: the incremental PCA; older activity is weighted by half at every basis.
        axes: A, orthonormal, float32 (units, k + 16), fewer in a layer of fewer units.
        product: S A, float32 of the same shape.
    """

    axes: Tensor
    product: Tensor

    def __init__(self, components: int, generator: torch.Generator) -> None:
        """Start without any activity.

        Args:
            components: k; with twice the number requested later, those are nearly exact.
            generator: generator of random axes, on the device of the activity.
        """
        self.components = IncrementalPCA(components, centred=False, memory=MEMORY)
        self.generator = generator

    def start(self, activity: Tensor) -> None:
        """Add the first activity, float32 (images, units); see `basis` for the errors."""
        self.components.update(centred(activity))
        self._turn(self.components.basis())

    def update(self, batch: Tensor) -> None:
        """Add one batch, float32 (images, units) of 2 images or more, without waiting for the device."""
        rows = centred(batch)
        self.product.addmm_(rows.T, rows @ self.axes)

    def basis(self, dimensions: int) -> Tensor:
        """Return an orthonormal basis (units, d) of the leading components so far; see `IncrementalPCA.basis`.

        Raises:
            FloatingPointError: a batch was NaN, infinite or so large that its square is.
        """
        self.components.update(self._rows())
        components = self.components.basis()
        self._turn(components)
        return components[:, :dimensions]

    def _rows(self) -> Tensor:
        """Return rows (axes, units) whose scatter is Nystrom's approximation of the scatter since the last basis."""
        core = (self.axes.T @ self.product).double()
        if not core.isfinite().all():
            raise FloatingPointError("activity is NaN or infinite")
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        # Rows within rounding error become zero; removing them would need their number on the host.
        is_significant = values > values[-1].clamp_min(0) * RELATIVE_TOLERANCE**2
        scaled = vectors * values.where(is_significant, torch.inf).rsqrt()
        return scaled.T.to(self.product.dtype) @ self.product.T

    def _turn(self, basis: Tensor) -> None:
        """Set the axes to a basis (units, d) and random axes, with a product of zero."""
        units, known = basis.shape
        new = min(self.components.kept + RANDOM_AXES, units) - known
        random = torch.randn(units, new, generator=self.generator, device=basis.device)
        self.axes = torch.linalg.qr(torch.cat([basis, random], 1)).Q
        self.product = torch.zeros_like(self.axes)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming bit for bit; the rule saves the generator."""
        return {"components": self.components.state_dict(), "axes": self.axes, "product": self.product}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, on the generator's device."""
        device = self.generator.device
        self.components.load_state_dict(state["components"], device)
        self.axes, self.product = state["axes"].to(device), state["product"].to(device)
