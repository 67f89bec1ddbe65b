"""Sparse random projection of a layer's outputs, and how well it keeps distances."""

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from math import log, prod
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from brain_eval.activations.reductions.reduction import Kept, Layer, Method, Reduction

#: Probability that the error bound fails.
FAILURE = 0.05
#: Values of an image multiplied at once on a CPU, so that they are still in its cache: four times as fast.
WIDTH = 4096


@dataclass(frozen=True)
class RandomProjection:
    """A sparse matrix (dimensions, values) to multiply outputs (images, ...) of one shape with.

    Attributes:
        parts: (first value, one past the last, float32 rows of the matrix in between), for values in torch's order.
        parts_channels_last: the same for maps that lie in memory place by place: their values are taken as they lie.
        dimensions: of the result.
        density: share of the matrix that is not zero.
    """

    parts: list[tuple[int, int, Tensor]]
    parts_channels_last: list[tuple[int, int, Tensor]]
    dimensions: int
    density: float

    def __call__(self, output: Tensor) -> Tensor:
        """float32 (images, dimensions)."""
        last = output.ndim == 4 and output.is_contiguous(memory_format=torch.channels_last)
        values = (output.permute(0, 2, 3, 1) if last else output).flatten(1)
        projected = torch.zeros(self.dimensions, len(values), device=output.device)
        for first, end, rows in self.parts_channels_last if last else self.parts:
            projected += torch.sparse.mm(rows, values[:, first:end].float().contiguous().T)
        return projected.T


@lru_cache(maxsize=32)  # the same for all benchmarks
def random_projection(
    layer: str, shape: tuple[int, ...], dimensions: int, seed: int, device: torch.device
) -> RandomProjection:
    """Return scikit-learn's SparseRandomProjection (Achlioptas 2003), density 1/sqrt(values) (Li et al. 2006).

    Args:
        layer, seed: see `projection_seed`.
        shape: of an output, without the batch axis.
        dimensions: of the result.
        device: where it is multiplied; a GPU takes all values at once.
    """
    from scipy.sparse import csc_matrix, csr_matrix
    from sklearn.random_projection import SparseRandomProjection

    size = prod(shape)
    fitted = SparseRandomProjection(dimensions, random_state=projection_seed(layer, seed)).fit(csr_matrix((1, size)))
    matrix = csc_matrix(fitted.components_, dtype=np.float32)
    width = WIDTH if device.type == "cpu" else size

    def parts(columns: Any) -> list[tuple[int, int, Tensor]]:
        ends = [(first, min(first + width, size)) for first in range(0, size, width)]
        return [(first, end, _rows(columns[:, first:end].tocsr()).to(device)) for first, end in ends]

    ordered = parts(matrix)
    if len(shape) != 3:
        return RandomProjection(ordered, ordered, dimensions, float(fitted.density_))
    as_they_lie = np.arange(size).reshape(shape).transpose(1, 2, 0).ravel()
    return RandomProjection(ordered, parts(matrix[:, as_they_lie]), dimensions, float(fitted.density_))


def projection_seed(layer: str, seed: int) -> int:
    """Return scikit-learn's random_state for a layer, from its name, so that it does not depend on other layers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {layer}".encode()).digest()[:4], "big")


def error_bound(n: int, k: int, failure: float = FAILURE) -> float | None:
    """Return the relative error of squared distances between n points projected on k random directions; None from 1 on.

    With probability of at least 1 - failure over the seeds, all n (n - 1) / 2 squared Euclidean distances change by a
    factor within 1 - error and 1 + error, where k (error^2 / 2 - error^3 / 3) = 2 ln(n (n - 1) / failure): the
    Johnson-Lindenstrauss lemma with the tail bound of Achlioptas (2003, "Database-friendly random projections",
    theorem 1.1) and a union bound over pairs. The proof covers densities from 1/3; sparser directions approach it where
    no single value dominates (Li, Hastie & Church 2006).
    """
    if n < 2:
        return 0.0
    needed = 2 * log(n * (n - 1) / failure) / k
    if needed >= 1 / 6:
        return None
    return float(brentq(lambda error: error**2 / 2 - error**3 / 3 - needed, 0.0, 1.0))


def bound_text(n: int, k: int) -> str:
    """Return the error bound for n stimuli and k dimensions as text, for the attributes of a file."""
    error = error_bound(n, k)
    pairs = f"squared distances between all pairs of {n} stimuli"
    if error is None:
        least = int(12 * log(n * (n - 1) / FAILURE)) + 1
        return f"no error below 1 is guaranteed for {pairs} (needs {least} dimensions or more)"
    return (
        f"with probability {1 - FAILURE:g} {pairs} are kept within a factor of 1 +- {error:.3f} "
        "(Johnson-Lindenstrauss, Achlioptas 2003; proven from density 1/3, approached below it)"
    )


def _rows(matrix: Any) -> Tensor:
    """Return the matrix as torch's compressed sparse rows, values float32."""
    matrix.sort_indices()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its sparse rows a beta
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data),
            matrix.shape,
            check_invariants=True,
        )


def _keep(layer: Layer, reduction: Reduction) -> Kept:
    """Project a layer with more values than dimensions; keep a smaller one whole."""
    size, k = prod(layer.shape), reduction.dimensions
    if size <= k:
        return layer.whole()
    projection = random_projection(layer.name, layer.shape, k, reduction.seed, layer.device)
    note = (
        f"{size} values projected on {k} random directions of density {projection.density:.6g}; "
        f"channel counts the directions, channel_x and channel_y are -1; {bound_text(layer.n_images, k)}"
    )
    return Kept((k, 1, 1), False, projection, note)


def _describe(reduction: Reduction) -> str:
    return f"sparse random projection to {reduction.dimensions} dimensions, seed {reduction.seed}"


RECORDS = (Method("random_projection", _describe, _keep),)
