"""The NetCDF file of activations: its layout, its writing, and whether one on disk is still good.

One file per model and benchmark. It opens with a plain `xarray.open_dataset`: float32 variable
`activations` (presentation, neuroid), uncompressed unless asked for, with the coordinates that Brain-Score names
stimulus_id and stimulus_num (presentation; the latter is the position in the stimulus set), layer,
channel, channel_x, channel_y and neuroid_num (neuroid; the latter counts within its layer). As in
Brain-Score's activations extractor, channel_x is the index along the first and channel_y along the
second axis of a map beside its channel (row and column of a torch layer), both 0 where a layer has none,
and both -1 where a reduction left no place on the map.
`stimulus_num` is there because a NeuroidAssembly drops the name of a dimension's only coordinate.

The values have NetCDF's fletcher32 checksums, which HDF5 checks when it reads them; all else in the file is under the
SHA-256 that it ends with (nmnc.files.digests), checked before HDF5, which damaged tables may hang or crash, opens it.
"""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from math import ceil, prod
from pathlib import Path
from threading import Lock

import netCDF4
import numpy as np
from numpy.typing import NDArray

from brain_eval.files import netcdf_errors
from nmnc.errors import UserError
from nmnc.files.digests import Range, check_seal, seal
from nmnc.files.writing import replacing

#: Of one chunk. Large enough to write fast, small enough that one layer reads without its neighbours.
CHUNK_BYTES = 2**20
#: Of the block of presentations in memory, unless one batch is larger.
BLOCK_BYTES = 2**26
#: Presentations in a block, unless one batch is larger.
BLOCK_ROWS = 256
#: Bytes for the file's tables, and for the coordinates of one neuroid, on top of the activations.
FILE_BYTES, NEUROID_BYTES = 2**20, 20
#: Of a chunk's checksum and its entry in the file's tables.
CHECKSUM_BYTES = 64

#: Held while one thread writes: the netCDF library may not be entered by two.
NETCDF = Lock()

#: Extents of a layer's output for one image along its axes, 1 where it has fewer than three. Most often (channels,
#: extent along channel_x, extent along channel_y).
Shape = tuple[int, int, int]


def write(  # noqa: PLR0913
    path: Path,
    stimulus_ids: Sequence[str],
    shapes: Mapping[str, Shape],
    attributes: Mapping[str, str],
    blocks: Iterable[tuple[int, NDArray[np.float32]]],
    chunk: tuple[int, int],
    *,
    unplaced: Collection[str] = (),
    channel_axes: Mapping[str, int] | None = None,
    compression: bool = False,
    check: Callable[[int, NDArray[np.float32]], None] = lambda first, block: None,
) -> None:
    """Write one file, under a temporary name until it is whole; a block is written while the next one is computed.

    Args:
        path: the file.
        stimulus_ids: one per presentation.
        shapes: layer -> shape, in the order of the neuroids.
        attributes: of the file; see `is_current`.
        blocks: (position of the first presentation, float32 (presentations, neuroids)), covering all. The memory of a
            block may be reused for the next but one.
        chunk: from `layout`.
        unplaced: layers whose neuroids have no place on a map: channel_x and channel_y are -1.
        channel_axes: layer -> axis of its shape along which its channels lie; default: the first.
        compression: zlib, without loss.
        check: called with each block before it is written; what it raises ends the writing.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with replacing(path) as temporary:
        with netcdf_errors(path):
            dataset = netCDF4.Dataset(temporary, "w", format="NETCDF4")
        try:
            with netcdf_errors(path):
                variable = _define(
                    dataset, stimulus_ids, shapes, attributes, chunk, unplaced, channel_axes or {}, compression
                )

            def put(first: int, block: NDArray[np.float32]) -> None:
                check(first, block)
                with netcdf_errors(path), NETCDF:
                    variable[first : first + len(block)] = block

            with ThreadPoolExecutor(1) as writer:
                writing: Future[None] | None = None
                for first, block in blocks:
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(put, first, block)
                if writing is not None:
                    writing.result()
        except BaseException:
            # What is there is thrown away; a second failure while closing would hide the first.
            with suppress(OSError, RuntimeError):
                dataset.close()
            raise
        with netcdf_errors(path):
            dataset.close()
            seal(temporary, _checksummed(temporary))


def _checksummed(path: Path) -> list[Range]:
    """Where the values are: HDF5 compares them with their checksums whenever they are read, and nothing else."""
    import h5py

    ranges: list[Range] = []
    with h5py.File(path, "r") as file:
        file["activations"].id.chunk_iter(lambda chunk: ranges.append((chunk.byte_offset, chunk.size)))
    return ranges


def layout(
    n: int, shapes: Mapping[str, Shape], batch_size: int, block_bytes: int | None = None
) -> tuple[int, tuple[int, int]]:
    """Return presentations per block, and the chunk (presentations, neuroids), for `n` presentations.

    A block takes `block_bytes` (BLOCK_BYTES) at most, or one batch. A chunk is as tall as a block, so that each is
    written once and whole; and narrow, so that reading one layer for all presentations touches little else.
    """
    total = neuroids(shapes)
    most = BLOCK_BYTES if block_bytes is None else block_bytes
    batches = min(BLOCK_ROWS // batch_size, most // (batch_size * total * 4))
    rows = batch_size * max(batches, 1)
    tall = min(rows, n)
    return rows, (tall, min(max(CHUNK_BYTES // (tall * 4), 1), total))


def bytes_needed(n: int, shapes: Mapping[str, Shape], batch_size: int, block_bytes: int | None = None) -> int:
    """Upper bound on the size of the file of `n` presentations, compressed or not."""
    _, (tall, wide) = layout(n, shapes, batch_size, block_bytes)
    chunks = ceil(n / tall) * ceil(neuroids(shapes) / wide)  # those at the edges take their full size
    return chunks * (tall * wide * 4 + CHECKSUM_BYTES) + neuroids(shapes) * NEUROID_BYTES + FILE_BYTES


def refuse_without_room(out: Path, needed: int) -> None:
    """Raise UserError if `needed` bytes do not fit on the disk of the folder `out`."""
    available = shutil.disk_usage(out).free
    if needed > available:
        raise UserError(
            f"{out}: activations need {needed / 1e9:.3g} GB and {available / 1e9:.3g} GB are available; "
            "free disk space, choose fewer layers, or choose a folder on another disk"
        )


def is_current(path: Path, attributes: Mapping[str, str]) -> bool:
    """Whether `path` is a readable file with these attributes, which name all that its values depend on."""
    if not path.is_file():
        return False
    try:
        check_seal(path)
        with netCDF4.Dataset(path) as dataset:
            found = {name: dataset.getncattr(name) for name in dataset.ncattrs()}
    except (OSError, RuntimeError, UserError):
        return False  # damaged or foreign: to be written again
    return found.items() >= attributes.items()


def columns(shapes: Mapping[str, Shape]) -> dict[str, slice]:
    """Return the columns of each layer's neuroids."""
    ends = np.cumsum([prod(shape) for shape in shapes.values()]).tolist()
    return {layer: slice(end - prod(shape), end) for (layer, shape), end in zip(shapes.items(), ends, strict=True)}


def neuroids(shapes: Mapping[str, Shape]) -> int:
    """Neuroids of all layers together."""
    return sum(prod(shape) for shape in shapes.values())


def _define(
    dataset: netCDF4.Dataset,
    stimulus_ids: Sequence[str],
    shapes: Mapping[str, Shape],
    attributes: Mapping[str, str],
    chunk: tuple[int, int],
    unplaced: Collection[str],
    channel_axes: Mapping[str, int],
    compression: bool,
) -> netCDF4.Variable:
    """Dimensions, coordinates, attributes and the empty variable `activations`."""
    dataset.set_fill_off()  # every value is written anyway
    dataset.createDimension("presentation", len(stimulus_ids))
    dataset.createDimension("neuroid", neuroids(shapes))
    dataset.setncatts(dict(attributes))
    grids = []
    for layer, shape in shapes.items():
        axis = channel_axes.get(layer, 0)
        places = [other for other in range(3) if other != axis]
        grids.append(np.indices(shape).reshape(3, -1)[[axis, *places]])
    channel, channel_x, channel_y = np.concatenate(grids, axis=1)
    _text(dataset, "stimulus_id", "presentation", stimulus_ids)
    _integers(dataset, "stimulus_num", "presentation", np.arange(len(stimulus_ids)))
    sizes = [prod(shape) for shape in shapes.values()]
    for layer, column in columns(shapes).items():
        if layer in unplaced:
            channel_x[column] = channel_y[column] = -1
    _text(dataset, "layer", "neuroid", list(shapes), sizes)
    _integers(dataset, "channel", "neuroid", channel)
    _integers(dataset, "channel_x", "neuroid", channel_x)
    _integers(dataset, "channel_y", "neuroid", channel_y)
    _integers(dataset, "neuroid_num", "neuroid", np.concatenate([np.arange(size) for size in sizes]))
    # Each chunk is written once and whole: a cache of one gathers its rows, so that they go to the disk in one piece.
    variable = dataset.createVariable(
        "activations", "f4", ("presentation", "neuroid"), compression="zlib" if compression else None, complevel=1,
        chunksizes=chunk, chunk_cache=4 * prod(chunk), fletcher32=True,
    )  # fmt: skip
    variable.set_auto_maskandscale(False)
    variable.coordinates = "stimulus_id stimulus_num layer channel channel_x channel_y neuroid_num"
    return variable


def _integers(dataset: netCDF4.Dataset, name: str, dimension: str, values: NDArray[np.intp]) -> None:
    variable = dataset.createVariable(name, "i4", (dimension,), compression="zlib", complevel=1)
    variable[:] = values


def _text(
    dataset: netCDF4.Dataset, name: str, dimension: str, values: Sequence[str], times: Sequence[int] | int = 1
) -> None:
    """Strings, each so many times, as UTF-8 characters: a third of the time to read of variable-length ones."""
    encoded = np.repeat(np.char.encode(np.asarray(values, dtype=np.str_), "utf-8"), times)
    width = max(encoded.dtype.itemsize, 1)
    dataset.createDimension(f"{name}_characters", width)
    variable = dataset.createVariable(name, "S1", (dimension, f"{name}_characters"), compression="zlib", complevel=1)
    variable._Encoding = "utf-8"
    variable.set_auto_chartostring(False)
    variable[:] = encoded.astype(f"S{width}").view("S1").reshape(len(encoded), width)
