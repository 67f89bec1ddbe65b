"""Activations within a byte budget: refused where it does not hold them, and the same peak for any number of images."""

import ctypes
import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import xarray as xr
from torch import nn

from brain_eval.activations import writer as activation_files
from brain_eval.activations.extraction import extract
from brain_eval.activations.layer_outputs import Computation
from brain_eval.activations.layer_probe import WORKSPACE, probe
from brain_eval.activations.memory_budget import memory_plan
from brain_eval.activations.models import Model
from brain_eval.activations.preprocessing import Preprocessing
from brain_eval.activations.reductions.reduction import Reduction
from brain_eval.activations.settings import Activations
from brain_eval.benchmarks.base import Benchmark, Description, stimuli_in_memory
from nmnc.errors import UserError
from tests.places import ROOT
from tests.sections import kept

CPU = Computation(torch.device("cpu"))


def model_of(module: Any, layers: list[str], size: int = 16) -> Model:
    seen = Preprocessing(size, 3, (0.0,) * 3, (1.0,) * 3)
    return Model("net", module.eval(), {name: module.get_submodule(name) for name in layers}, seen, "w", "c")


def benchmark_of(n: int, size: int = 16) -> Benchmark:
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return Benchmark(
        Description("toy", 1, (), (), "", ""), stimuli_in_memory("toy", [str(i) for i in range(n)], images)
    )


def small() -> Model:
    torch.manual_seed(0)
    return model_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)), ["0", "3"])


PEAK = """
import ctypes, json, sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from brain_eval.activations.extraction import extract
from tests.sections import kept
from brain_eval.benchmarks.base import Benchmark, Description, StimulusSet
from brain_eval.activations.models import Model
from brain_eval.activations.preprocessing import Preprocessing

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

class Counted(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Counted

def allocated():
    counted = mallinfo()
    return counted.uordblks + counted.hblkhd  # in the arenas of all threads, and mapped

peak = 0

def note(*_):
    global peak
    peak = max(peak, allocated())

def read(indices):
    images = [np.roll(image, int(index), 1) for index in indices]
    note()
    return images

out, n, options = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
image = np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)
stimuli = StimulusSet("s", tuple(map(str, range(n))), read, str(n))
benchmark = Benchmark(Description(f"n{n}", 1, (), (), "", ""), stimuli)
torch.manual_seed(0)
channels, stride = options.pop("channels", 16), options.pop("stride", 4)
side = 28 // stride
module = nn.Sequential(
    nn.Conv2d(3, channels, 5, stride), nn.ReLU(), nn.Flatten(), nn.Linear(channels * side**2, 10)
)
layers = {name: module.get_submodule(name) for name in ("0", "3")}
model = Model("m", module.eval(), layers, Preprocessing(32, 3, (0.,) * 3, (1.,) * 3), "w", "c")
module(torch.zeros(1, 3, 32, 32))
for part in module:
    part.register_forward_hook(note)
before = allocated()
extract(model, [benchmark], out, device="cpu", settings=kept(**options))
print(peak - before)
"""


def peak_of(folder: Path, n: int, **options: Any) -> int:
    """Most bytes that extracting n images adds to what a process of its own has allocated.

    Allocations are counted whenever images are read and whenever a layer has computed, not resident pages: how many
    of those there are depends on what else the machine runs.
    """
    command = [sys.executable, "-c", PEAK, str(folder), str(n), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return int(done.stdout)


counted = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc 2.33 counts allocations")


@pytest.mark.slow
@counted
def test_500_and_20000_images_take_the_same_memory(tmp_path: Path) -> None:
    few, many = (peak_of(tmp_path, n) for n in (500, 20_000))
    grown = (tmp_path / "n20000.nc").stat().st_size - (tmp_path / "n500.nc").stat().st_size
    assert grown > 50e6
    # Three batches do not always meet in memory as 80 do; what is kept of each image would be three times this.
    assert many - few < grown / 3


@counted
def test_batches_and_buffers_stay_within_the_budget(tmp_path: Path) -> None:
    short, ample = (
        peak_of(tmp_path / str(memory_gb), 400, memory_gb=memory_gb, channels=64, stride=1) for memory_gb in (0.05, 2.0)
    )
    assert short < 0.05e9
    assert ample > 0.1e9  # or the budget was never short


def test_a_smaller_budget_makes_smaller_batches_and_the_same_numbers(tmp_path: Path) -> None:
    sizes: list[list[int]] = []
    files = []
    for memory_gb in (2.0, 0.004):
        model = small()
        model.module.register_forward_hook(lambda module, images, output: sizes[-1].append(len(output)))
        sizes.append([])
        extract(model, [benchmark_of(300)], tmp_path / str(memory_gb), settings=kept(memory_gb=memory_gb), device="cpu")
        with xr.open_dataset(tmp_path / str(memory_gb) / "toy.nc") as dataset:
            files.append(dataset["activations"].values)
    # A probe; a first batch of 256, cut in two, and the rest; a few of the first and of the last batch again.
    assert sizes[0] == [2, 32, 4, 224, 44, 4]
    assert 2 < max(sizes[1]) < 200
    np.testing.assert_allclose(files[1], files[0], rtol=1e-5, atol=1e-5)


def test_the_plan_keeps_to_its_budget_and_grows_with_it() -> None:
    sizes = []
    for budget in (0.1, 1.0, 10.0):
        plan = memory_plan("net", budget, 10**6, image=10**4, forward=10**5, row=10**4)
        assert plan.needed + plan.images <= budget * 1e9
        sizes.append(plan.batch_size)
    assert sizes[1] == pytest.approx(10 * sizes[0], rel=0.01)
    assert sizes[2] == pytest.approx(10 * sizes[1], rel=0.01)
    assert memory_plan("net", 10.0, 64, image=10**4, forward=10**5, row=10**4).batch_size == 64


def test_the_forward_pass_is_measured_where_most_of_it_is_alive() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Flatten()

        def forward(self, x: Any) -> Any:
            wide = x.repeat(1, 10, 1, 1)  # 10 images' worth, and its double beside it, no module of its own
            return self.out((wide * 2).mean(1))

    found = probe(model_of(Wide(), ["out"]), CPU)
    image = 3 * 16 * 16 * 4
    assert found.outputs["out"].shape == (256,)
    assert found.bytes_per_image == WORKSPACE * (image + 20 * image + 4 * 256)


def refused(tmp_path: Path, settings: Activations, message: str, n: int = 300) -> None:
    unread = benchmark_of(n)
    object.__setattr__(unread.stimulus_set, "read", lambda indices: pytest.fail("read a stimulus"))
    with pytest.raises(UserError, match=message) as error:
        extract(small(), [unread], tmp_path, settings=settings, device="cpu")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_budget_below_one_image_is_refused_before_it_starts(tmp_path: Path) -> None:
    refused(tmp_path, kept(memory_gb=5e-5), r"net: one image needs \S+e-05 GB of memory and 5e-05 GB are available")


def test_principal_components_that_no_budget_holds_are_refused(tmp_path: Path) -> None:
    pca = kept(Reduction("pca", 10), memory_gb=0.1)
    refused(tmp_path, pca, r"net on toy: PCA: needs 0\.\d+ GB of memory and 0\.1 GB are available; raise --memory-gb")


def test_more_memory_than_the_machine_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=3_000_000))
    refused(tmp_path, kept(), r"net on toy: needs 0\.\d+ GB of memory and 0\.003 GB are available; lower --memory")


@pytest.mark.parametrize(("reduction", "fits"), [(Reduction(), False), (Reduction("spatial_mean"), True)])
def test_too_little_disk_is_refused_for_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reduction: Reduction, fits: bool
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(activation_files.shutil, "disk_usage", lambda path: usage(10**12, 10**12, 1_400_000))
    if fits:
        extract(small(), [benchmark_of(300)], tmp_path, settings=kept(reduction), device="cpu")
        assert (tmp_path / "toy.nc").stat().st_size < 1_400_000
    else:
        refused(tmp_path, kept(reduction), r"activations need 0\.005\d+ GB and 0\.0014 GB are available; free disk")


def test_principal_components_need_disk_for_all_values_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(activation_files.shutil, "disk_usage", lambda path: usage(10**12, 10**12, 2_200_000))
    refused(tmp_path, kept(Reduction("pca", 3)), r"activations need 0\.00\d+ GB and 0\.0022 GB are available")
