"""The file of activations: its size told in advance, its coordinates, and how it is written."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from numpy.typing import NDArray

from brain_eval.activations import writer as activation_files
from nmnc.errors import UserError


@pytest.mark.parametrize(("n", "batch_size", "side"), [(23, 4, 4), (300, 256, 12), (40, 64, 30), (1, 1, 1)])
def test_the_size_told_in_advance_is_an_upper_bound_and_not_far_off(
    tmp_path: Path, n: int, batch_size: int, side: int
) -> None:
    shapes = {"a": (7, side, side), "b": (10, 1, 1)}
    rows, chunk = activation_files.layout(n, shapes, batch_size)
    ids = [f"{i:06d}" for i in range(n)]
    values = np.random.default_rng(0).random((n, activation_files.neuroids(shapes)), dtype=np.float32)
    blocks = ((first, values[first : first + rows]) for first in range(0, n, rows))
    activation_files.write(tmp_path / "a.nc", ids, shapes, {}, blocks, chunk)
    size, told = (tmp_path / "a.nc").stat().st_size, activation_files.bytes_needed(n, shapes, batch_size)
    assert size <= told <= 1.5 * size + 2 * activation_files.FILE_BYTES
    with netCDF4.Dataset(tmp_path / "a.nc") as dataset:
        np.testing.assert_array_equal(dataset["activations"][:], values)


SHAPES = {"maps": (3, 4, 5), "units": (7, 1, 1)}
IDS = [f"{i}" for i in range(50)]
VALUES = np.random.default_rng(0).random((50, 67), dtype=np.float32)


def blocks_of(values: NDArray[np.float32], rows: int) -> Iterator[Any]:
    return ((first, values[first : first + rows]) for first in range(0, len(values), rows))


def test_compression_loses_nothing_and_saves_room(tmp_path: Path) -> None:
    values = np.round(VALUES, 1)  # few different numbers: they compress
    for name, compression in (("plain", False), ("small", True)):
        chunk = (25, 67)
        activation_files.write(tmp_path / name, IDS, SHAPES, {}, blocks_of(values, 25), chunk, compression=compression)
    filters = []
    for name in ("plain", "small"):
        with netCDF4.Dataset(tmp_path / name) as dataset:
            np.testing.assert_array_equal(dataset["activations"][:], values)
            filters.append(dataset["activations"].filters()["zlib"])
    assert filters == [False, True]
    assert (tmp_path / "small").stat().st_size < (tmp_path / "plain").stat().st_size - 5000


def test_layers_without_a_place_have_none(tmp_path: Path) -> None:
    activation_files.write(tmp_path / "a.nc", IDS, SHAPES, {}, blocks_of(VALUES, 50), (50, 67), unplaced=["units"])
    with netCDF4.Dataset(tmp_path / "a.nc") as dataset:
        x, y, channel = (np.asarray(dataset[name][:]) for name in ("channel_x", "channel_y", "channel"))
    assert (x[60:] == -1).all()
    assert (y[60:] == -1).all()
    assert set(zip(x[:60], y[:60], strict=True)) == {(i, j) for i in range(4) for j in range(5)}
    np.testing.assert_array_equal(channel[60:], np.arange(7))


def test_a_block_is_written_while_the_next_is_made_and_its_memory_used_only_after(tmp_path: Path) -> None:
    two = np.empty((2, 10, 67), np.float32)
    checked: list[Any] = []

    def blocks() -> Iterator[Any]:
        for number, first in enumerate(range(0, 50, 10)):
            assert len(checked) >= number - 1  # all but the last are written before memory comes round again
            two[number % 2] = VALUES[first : first + 10]
            yield first, two[number % 2]

    def check(first: Any, block: Any) -> None:
        time.sleep(0.02)
        checked.append(first)

    activation_files.write(tmp_path / "a.nc", IDS, SHAPES, {}, blocks(), (10, 67), check=check)
    assert checked == [0, 10, 20, 30, 40]
    with netCDF4.Dataset(tmp_path / "a.nc") as dataset:
        np.testing.assert_array_equal(dataset["activations"][:], VALUES)


def test_what_a_check_refuses_is_not_written(tmp_path: Path) -> None:
    def check(first: Any, block: Any) -> None:
        if first == 20:
            raise UserError("block 20 is bad")

    with pytest.raises(UserError, match="block 20 is bad"):
        activation_files.write(tmp_path / "a.nc", IDS, SHAPES, {}, blocks_of(VALUES, 10), (10, 67), check=check)
    assert not list(tmp_path.iterdir())


def test_a_file_is_current_by_its_origin_and_may_say_more(tmp_path: Path) -> None:
    origin = {"weights": "a", "stimuli": "b"}
    activation_files.write(tmp_path / "a.nc", IDS, SHAPES, origin | {"note": "c"}, blocks_of(VALUES, 50), (50, 67))
    assert activation_files.is_current(tmp_path / "a.nc", origin)
    assert not activation_files.is_current(tmp_path / "a.nc", origin | {"weights": "b"})
    assert not activation_files.is_current(tmp_path / "a.nc", origin | {"dtype": "b"})
    assert not activation_files.is_current(tmp_path / "none.nc", origin)
