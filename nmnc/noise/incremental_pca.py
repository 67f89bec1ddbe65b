"""Principal components of a stream of activity, in one pass with the memory of a few batches."""

from typing import Any

import torch
from torch import Tensor

from nmnc.noise.manifold import RELATIVE_TOLERANCE, gram_matrix, mean_activity


class IncrementalPCA:
    """Leading components of all batches so far; each batch is used once and not kept.

    Merge and truncate (Ross, Lim, Lin & Yang 2008, "Incremental learning for robust visual tracking", section 2.2):
    the components so far, each scaled by its singular value, the new centred batch and one row for the shift of the
    mean are stacked, and the stack's leading components replace the old ones. The stack's singular vectors come from
    its Gram matrix, (k + m + 1)^2 numbers for k components and batches of m images; nothing is (units x units).
    Exact while k is at least the rank of all batches; otherwise every merge drops the smallest components.

    Attributes:
        count: number of images so far, each batch weighted by `memory` once per later batch.
        mean: float64 (units,), their weighted mean; None before the first batch, zero if not centred.
        components: (k, units) at most, mutually orthogonal rows; the length of each is its singular value.
    """

    def __init__(self, components: int, centred: bool = True, memory: float = 1.0) -> None:
        """Start without any batch.

        Args:
            components: k, components kept from batch to batch. A larger k makes the leading ones more exact.
            centred: False keeps the mean, as for the rows of a Jacobian.
            memory: factor on earlier batches per new batch (Ross et al., section 2.3); 1 forgets nothing.

        Raises:
            ValueError: components is below 1, or memory is outside (0, 1].
        """
        if components < 1 or not 0 < memory <= 1:
            raise ValueError(f"components {components} must be 1 or more, memory {memory} above 0 and at most 1")
        self.kept, self.centred, self.memory = components, centred, memory
        self.count = 0.0
        self.mean: Tensor | None = None
        self.components: Tensor | None = None

    def update(self, batch: Tensor) -> None:
        """Add one batch; a batch that is not finite changes nothing.

        Args:
            batch: float (images, units), of any number of images; half precision is widened to float32.

        Raises:
            FloatingPointError: the batch is NaN, infinite or so large that its square is.
        """
        batch = batch if batch.dtype == torch.float64 else batch.float()
        old = self.memory * self.count
        mean = mean_activity(batch) if self.centred else batch.new_zeros(1, dtype=torch.float64)
        parts = [batch - mean.to(batch.dtype)]
        if self.components is not None and self.mean is not None:
            parts.append(self.memory**0.5 * self.components)
            shift = mean - self.mean
            if self.centred:
                parts.append((old * len(batch) / (old + len(batch))) ** 0.5 * shift[None].to(batch.dtype))
            mean = self.mean + shift * (len(batch) / (old + len(batch)))
        stack = torch.cat(parts)
        _, vectors = torch.linalg.eigh(gram_matrix(stack))
        self.components = vectors.flip(1)[:, : self.kept].T.to(stack.dtype) @ stack
        self.mean, self.count = mean, old + len(batch)

    @property
    def singular_values(self) -> Tensor:
        """float64 (k,) at most, descending: square root of the (weighted) scatter along each component."""
        return self._seen().norm(dim=1, dtype=torch.float64)

    def basis(self, dimensions: int | None = None) -> Tensor:
        """Return an orthonormal basis of the leading components, (units, d) in the dtype of the batches.

        Args:
            dimensions: number of components; None for all that are kept.

        Returns:
            d is `dimensions` or fewer: singular values below 1e-3 of the largest are rounding and are dropped, as in
            `nmnc.noise.manifold.principal_basis`.
        """
        sizes = self.singular_values
        spanned = int((sizes > RELATIVE_TOLERANCE * sizes[0]).sum())
        taken = spanned if dimensions is None else min(spanned, dimensions)
        return torch.linalg.qr(self._seen()[:taken].T).Q

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""
        return {"count": self.count, "mean": self.mean, "components": self.components}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` returned, on a device."""
        self.count = state["count"]
        self.mean, self.components = state["mean"].to(device), state["components"].to(device)

    def _seen(self) -> Tensor:
        if self.components is None:
            raise ValueError("no batch was seen; call update first")
        return self.components
