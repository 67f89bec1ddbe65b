"""The file of activations: its size told in advance, and memory that does not depend on it."""

import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from brain_eval import activation_files


@pytest.mark.parametrize(("n", "batch_size", "side"), [(23, 4, 4), (300, 256, 12), (40, 64, 30), (1, 1, 1)])
def test_the_size_told_in_advance_is_an_upper_bound_and_not_far_off(tmp_path, n, batch_size, side):
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


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from brain_eval import activations
from brain_eval.benchmarks.base import Benchmark, Description, StimulusSet
from brain_eval.models import Model
from brain_eval.stimuli import Preprocessing

def peak(n):
    image = np.zeros((32, 32, 3), np.uint8)
    stimuli = StimulusSet("s", tuple(map(str, range(n))), lambda indices: [image] * len(indices), str(n))
    activations.load_benchmark = lambda spec, data: Benchmark(Description(f"n{n}", 1, (), (), "", ""), stimuli)
    module = nn.Conv2d(3, 16, 1)
    model = Model("m", module, {"conv": module}, Preprocessing(32, 3, (0.,) * 3, (1.,) * 3), "w", "c")
    activations.extract_all(model, ["s"], Path("."), Path(sys.argv[1]), batch_size=64, device="cpu")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

first = peak(1024)  # the allocator has settled by then
print(peak(3584) - first)
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    more = [(tmp_path / f"n{n}.nc").stat().st_size / 2**20 for n in (1024, 3584)]
    assert more[1] - more[0] > 150  # megabytes
    assert float(done.stdout) < 60
