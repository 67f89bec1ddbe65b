"""Principal components of a stream of activity, in one pass and in the memory of a few batches."""

from typing import Any

import torch
from torch import Tensor

from nmnc.noise.manifold import RELATIVE_TOLERANCE, gram_matrix, mean_activity


class IncrementalPCA:
    """Leading components of all batches seen so far; each batch is looked at once and then forgotten.

    Merge and truncate (Ross, Lim, Lin & Yang 2008, "Incremental learning for robust visual tracking", section 2.2):
    the components so far, each scaled by its singular value, the new centred batch and one row for the shift of the
    mean are stacked, and the stack's leading components replace the old ones. The stack's singular vectors come from
    its Gram matrix, (k + m + 1)^2 numbers for k components and batches of m images; nothing is (units x units).
    Exact as long as k is at least the rank of what was seen; beyond that every merge drops the smallest components.

    Attributes:
        count: images seen, those of a batch before the last weighted by `memory` once per batch since then.
        mean: float64 (units,), their weighted mean; None before the first batch. Zero where not centred.
        components: (k, units) at most, mutually orthogonal rows; the length of each is its singular value.
    """

    def __init__(self, components: int, centred: bool = True, memory: float = 1.0) -> None:
        """Start with nothing seen.

        Args:
            components: k, components kept from batch to batch. More than will be asked for makes those more exact.
            centred: False leaves the mean in, as for the rows of a Jacobian.
            memory: weight of what was seen, per new batch (Ross et al., section 2.3); 1 forgets nothing.

        Raises:
            ValueError: no component is kept, or memory is outside (0, 1].
        """
        if components < 1 or not 0 < memory <= 1:
            raise ValueError(f"components {components} must be 1 or more, memory {memory} above 0 and at most 1")
        self.kept, self.centred, self.memory = components, centred, memory
        self.count = 0.0
        self.mean: Tensor | None = None
        self.components: Tensor | None = None

    def update(self, batch: Tensor) -> None:
        """Take in one batch; where it is not finite, nothing changes.

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
        """Orthonormal basis of the leading components, (units, d) in the dtype of the batches.

        Args:
            dimensions: components asked for; None: all that are kept.

        Returns:
            d is `dimensions` or fewer: singular values below 1e-3 of the largest are rounding and are dropped, as in
            `nmnc.noise.manifold.principal_basis`.
        """
        sizes = self.singular_values
        spanned = int((sizes > RELATIVE_TOLERANCE * sizes[0]).sum())
        taken = spanned if dimensions is None else min(spanned, dimensions)
        return torch.linalg.qr(self._seen()[:taken].T).Q

    def state_dict(self) -> dict[str, Any]:
        """All that was seen, for `load_state_dict`."""
        return {"count": self.count, "mean": self.mean, "components": self.components}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Undo `state_dict`, on a device."""
        self.count = state["count"]
        self.mean, self.components = state["mean"].to(device), state["components"].to(device)

    def _seen(self) -> Tensor:
        if self.components is None:
            raise ValueError("no batch was seen; call update first")
        return self.components
