"""Fewer values a layer: spatial mean, principal components, sparse random projection."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np
import torch
from torch import Tensor

from brain_eval.activation_files import Shape
from brain_eval.errors import UserError
from brain_eval.pca import SMALLEST, Components

NAMES = ("none", "spatial_mean", "pca", "random_projection")
#: Chance with which the error bound of a random projection may fail.
FAILURE = 0.05


@dataclass(frozen=True)
class Reduction:
    """What is kept of a layer's output.

    Attributes:
        name: "none": all of it. "spatial_mean": of each channel the mean over its map; outputs that are
            no maps are kept whole. "pca": exact principal components, fitted on the benchmark's stimuli,
            without their labels or recordings. "random_projection": scikit-learn's SparseRandomProjection
            (Achlioptas 2003; density 1/sqrt(values) as Li, Hastie & Church 2006).
        dimensions: most values kept of a layer by the last two; smaller layers are projected no further
            than they have values.
        seed: of the random projection, together with the layer's name.
    """

    name: str = "none"
    dimensions: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UserError(f"--reduction {self.name}: unknown; use one of {', '.join(NAMES)}")
        if self.dimensions < 1:
            raise UserError(f"--reduction-dimensions {self.dimensions}: must be at least 1")

    def describe(self) -> str:
        """One line that names all that the values depend on."""
        return {
            "none": "none",
            "spatial_mean": "spatial mean over the map of each channel",
            "pca": f"at most {self.dimensions} principal components, fitted on these stimuli, without those "
            f"below {SMALLEST:g} of the largest singular value",
            "random_projection": f"sparse random projection to {self.dimensions} dimensions, seed {self.seed}",
        }[self.name]


#: Nothing is reduced.
WHOLE = Reduction()


@dataclass(frozen=True)
class Kept:
    """What is recorded of one layer while the images pass.

    Attributes:
        shape: channels and the extents along channel_x and channel_y, 1 where there is none.
        placed: whether channel_x and channel_y mean a place on a map.
        take: the layer's output (images, ...) -> float (images, values); or (images, ...) in the values' order, which
            whoever copies it flattens: of an output in the channels-last layout a copy less.
        note: what was done, in words; empty where nothing was.
    """

    shape: Shape
    placed: bool
    take: Callable[[Tensor], Tensor]
    note: str = ""


def kept_of(layer: str, shape: tuple[int, ...], reduction: Reduction, n_images: int, device: torch.device) -> Kept:
    """How a layer with outputs of this shape, without the batch axis, is recorded.

    For principal components, which need all images, everything is recorded; see `components_note`.
    """
    whole: Shape = (*shape, 1, 1)[:3]  # type: ignore[assignment]
    size = int(np.prod(shape))
    if reduction.name == "spatial_mean" and len(shape) == 3:
        note = f"mean over {shape[1]} x {shape[2]} places; channel_x and channel_y are -1"
        return Kept((shape[0], 1, 1), False, lambda output: output.mean((2, 3), dtype=torch.float32), note)
    if reduction.name == "random_projection" and size > reduction.dimensions:
        matrix, density = _projection(layer, size, reduction)
        matrix = matrix.to(device)
        note = (
            f"{size} values projected on {reduction.dimensions} random directions of density {density:.6g}; channel "
            "counts the directions, channel_x and channel_y are -1; "
            f"{bound_in_words(n_images, reduction.dimensions)}"
        )

        def project(output: Tensor) -> Tensor:
            return torch.sparse.mm(matrix, output.flatten(1).float().T).T

        return Kept((reduction.dimensions, 1, 1), False, project, note)
    note = "kept whole" if reduction.name in ("spatial_mean", "random_projection") else ""
    return Kept(whole, True, lambda output: output, note)


def components_note(components: Components, size: int, asked: int) -> str:
    """What became of a layer of `size` values of which `asked` principal components were wanted."""
    found = len(components.singular_values)
    if not components.variance:
        return f"the same {size} values for all stimuli: one component of zeros; channel_x and channel_y are -1"
    note = (
        f"{found} principal components of {size} values hold {components.explained():.6f} of the variance; channel "
        "counts the components, channel_x and channel_y are -1"
    )
    if components.dropped:
        note += f"; {components.dropped} dropped, below {SMALLEST:g} of the largest singular value"
    if found + components.dropped < asked:
        note += f"; {asked} were asked for, there are no more than {found + components.dropped}"
    return note


def error_bound(n: int, k: int, failure: float = FAILURE) -> float | None:
    """Relative error of squared distances between n points projected on k random directions.

    With probability of at least 1 - failure over the seeds, all n (n - 1) / 2 squared Euclidean distances
    change by a factor within 1 - error and 1 + error, where k (error^2 / 2 - error^3 / 3) =
    2 ln(n (n - 1) / failure): the Johnson-Lindenstrauss lemma with the tail bound of Achlioptas (2003,
    "Database-friendly random projections", theorem 1.1) and a union bound over pairs. The proof covers
    densities from 1/3; sparser directions approach it where no single value dominates (Li, Hastie & Church 2006).

    Returns:
        The error, or None where no error below 1 is guaranteed.
    """
    if n < 2:
        return 0.0
    needed = 2 * log(n * (n - 1) / failure) / k
    if needed >= 1 / 6:
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle**2 / 2 - middle**3 / 3 < needed else (low, middle)
    return high


def bound_in_words(n: int, k: int) -> str:
    """The error bound for n stimuli and k dimensions, for the attributes of a file."""
    error = error_bound(n, k)
    pairs = f"squared distances between all pairs of {n} stimuli"
    if error is None:
        least = int(12 * log(n * (n - 1) / FAILURE)) + 1
        return f"no error below 1 is guaranteed for {pairs} (needs {least} dimensions or more)"
    return (
        f"with probability {1 - FAILURE:g} {pairs} are kept within a factor of 1 +- {error:.3f} "
        "(Johnson-Lindenstrauss, Achlioptas 2003; proven from density 1/3, approached below it)"
    )


def projection_seed(layer: str, seed: int) -> int:
    """scikit-learn's random_state for a layer; by its name, so that other layers beside it change nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed} {layer}".encode()).digest()[:4], "big")


def notes(kept: Mapping[str, Kept]) -> dict[str, str]:
    """What was done to each layer to which anything was."""
    return {layer: one.note for layer, one in kept.items() if one.note}


@lru_cache(maxsize=32)  # the same for all benchmarks
def _projection(layer: str, size: int, reduction: Reduction) -> tuple[Tensor, float]:
    """The (dimensions, size) matrix of a layer as float32 in compressed sparse rows, and its density."""
    from scipy.sparse import csr_matrix
    from sklearn.random_projection import SparseRandomProjection

    seed = projection_seed(layer, reduction.seed)
    fitted = SparseRandomProjection(reduction.dimensions, random_state=seed).fit(csr_matrix((1, size)))
    rows = fitted.components_.tocsr()
    rows.sort_indices()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its sparse rows a beta
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(rows.indptr.astype(np.int64)),
            torch.from_numpy(rows.indices.astype(np.int64)),
            torch.from_numpy(rows.data.astype(np.float32)),
            rows.shape,
            check_invariants=True,
        )
    return matrix, float(fitted.density_)
