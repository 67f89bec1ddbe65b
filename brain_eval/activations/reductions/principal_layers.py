"""Principal components of recorded layers: from the file of all their values to a small one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import netCDF4
import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from brain_eval.activations import writer as activation_files
from brain_eval.activations.reductions.pca import SMALLEST, Components, bytes_needed, principal_components
from brain_eval.activations.reductions.reduction import Fitted, Method, Reduction
from brain_eval.activations.writer import Shape
from brain_eval.files import netcdf_errors

#: Bytes of the float32 block of a file read at a time: many chunks, so that few are read twice.
READ_BYTES = 2**26


class _Layer:
    """A layer of a file of activations, read by blocks."""

    def __init__(self, variable: netCDF4.Variable, column: slice) -> None:
        self._variable, self._first = variable, column.start
        self.shape = (variable.shape[0], column.stop - column.start)

    def __getitem__(self, block: tuple[slice, slice], /) -> NDArray[np.float32]:
        images, units = block
        start, stop, _ = units.indices(self.shape[1])
        with activation_files.NETCDF:
            return self._variable[images, self._first + start : self._first + stop]


def memory_of_components(n: int, shapes: Mapping[str, Shape], k: int) -> int:
    """Return an upper bound on the bytes of `write_components`: one layer computed, earlier ones kept."""
    each = [bytes_needed(n, prod(shape), k) for shape in shapes.values()]
    return max(seeking for seeking, _ in each) + sum(kept for _, kept in each) + 4 * READ_BYTES


def write_components(
    source: Path,
    path: Path,
    stimulus_ids: Sequence[str],
    shapes: Mapping[str, Shape],
    k: int,
    attributes: Callable[[Mapping[str, str]], Mapping[str, str]],
    compression: bool,
) -> None:
    """Write the file of each layer's first k principal components, fitted on its stimuli.

    Args:
        source: file of all values of the layers, of these `shapes`.
        path: the file to write, with `stimulus_ids` and `compression`.
        attributes: notes by layer -> attributes of the file.

    Raises:
        UserError: the disk is full or a file cannot be read.
    """
    n, found, notes = len(stimulus_ids), dict[str, Components](), dict[str, str]()
    with netcdf_errors(source):
        dataset = netCDF4.Dataset(source)
    with dataset, threadpool_limits(torch.get_num_threads(), "blas"):
        variable = dataset["activations"]
        variable.set_auto_maskandscale(False)
        for layer, column in tqdm(activation_files.columns(shapes).items(), "principal components", disable=None):
            values = _Layer(variable, column)
            found[layer] = principal_components(values, k, 2 * READ_BYTES)
            notes[layer] = components_note(found[layer], values.shape[1], k)
        fewer = {layer: (len(part.singular_values), 1, 1) for layer, part in found.items()}
        rows, chunk = activation_files.layout(n, fewer, activation_files.BLOCK_ROWS)

        def blocks() -> Iterator[tuple[int, NDArray[np.float32]]]:
            for first in range(0, n, rows):
                images = slice(first, min(first + rows, n))
                scores = [part.scores(images) for part in found.values()]
                yield first, np.concatenate(scores, 1, dtype=np.float32)

        activation_files.write(
            path, stimulus_ids, fewer, attributes(notes), blocks(), chunk, unplaced=list(fewer), compression=compression
        )


def components_note(components: Components, size: int, asked: int) -> str:
    """Return what `asked` principal components of a layer of `size` values gave, for a file's attributes."""
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


def _describe(reduction: Reduction) -> str:
    return (
        f"at most {reduction.dimensions} principal components, fitted on these stimuli, without those below "
        f"{SMALLEST:g} of the largest singular value"
    )


RECORDS = (Method("pca", _describe, fitted=Fitted(memory_of_components, write_components)),)
