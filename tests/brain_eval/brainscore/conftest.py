"""A small public assembly in Brain-Score's own form (NetCDF, CSV, zip), and a small trained-like network."""

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from brain_eval.benchmarks.base import Description
from brain_eval.benchmarks.public.assembly import Pin, PublicAssembly
from brain_eval.benchmarks.public.environment import brainscore, prepare
from nmnc.networks import Network, build_network
from nmnc.training.checkpoint import save_network

with warnings.catch_warnings():
    # Its compiled part comments on numpy's; where this file is the first to import it, that were an error.
    warnings.simplefilter("ignore")
    import netCDF4  # noqa: F401

N_STIMULI, N_OBJECTS = 60, 6
REGIONS = ("V4", "IT")
NEUROIDS = {"V4": 4, "IT": 5}
REPETITIONS = 4


@dataclass(frozen=True)
class Public:
    """Files of a small assembly below data/brainio, and the truth behind them.

    Attributes:
        trials: (presentations, neuroids, bins) as recorded; order: the stimulus of each presentation.
    """

    source: PublicAssembly
    description: Description
    data: Path
    trials: np.ndarray
    order: np.ndarray
    regions: np.ndarray
    ids: list[str]


def images() -> list[np.ndarray]:
    """Tinted gratings of six orientations with noise, 32 x 40 pixels; even a random network reads the tint."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :40] / 40
    pictures = []
    for number in range(N_STIMULI):
        angle = np.pi * (number % N_OBJECTS) / N_OBJECTS + 0.1 * rng.normal()
        wave = np.sin(2 * np.pi * rng.uniform(3, 6) * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
        tint = rng.uniform(-0.3, 0.3, size=3)
        pixels = 0.5 + tint + 0.15 * wave[..., None] + 0.1 * rng.normal(size=(32, 40, 3))
        pictures.append((255 * np.clip(pixels, 0, 1)).astype(np.uint8))
    return pictures


def sha1_of(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def make(folder: Path, bins: list[tuple[int, int]], window: tuple[int, int] | None) -> Public:
    """Write the three files as Brain-Score's own packaging does, each into the folder of its sha1."""
    prepare()
    from brainscore_core.supported_data_standards.brainio import packaging
    from brainscore_core.supported_data_standards.brainio.assemblies import NeuronRecordingAssembly
    from brainscore_core.supported_data_standards.brainio.stimuli import StimulusSet

    rng = np.random.default_rng(1)
    (folder / "made").mkdir(parents=True)
    ids = [hashlib.sha1(str(number).encode()).hexdigest() for number in range(N_STIMULI)]
    pictures = images()
    for stimulus_id, pixels in zip(ids, pictures, strict=True):
        Image.fromarray(pixels).save(folder / f"made/{stimulus_id}.png")
    objects = [f"object {number % N_OBJECTS}" for number in range(N_STIMULI)]
    table = StimulusSet(
        pandas.DataFrame(
            {
                "image_id": ids,
                "stimulus_id": ids,
                "object_name": objects,
                "texture_type": objects,
                "filename": [f"{name}.png" for name in ids],
            }
        )
    )
    table.stimulus_paths = {stimulus_id: folder / f"made/{stimulus_id}.png" for stimulus_id in ids}
    small = np.stack([pixels[::4, ::4].ravel() / 255 for pixels in pictures])
    regions = np.repeat(REGIONS, [NEUROIDS[region] for region in REGIONS])
    signal = (small - small.mean(axis=0)) @ rng.normal(size=(small.shape[1], len(regions)))
    # The last repetition of every seventh image was not recorded; trials come in no order.
    order = np.array([i for r in range(REPETITIONS) for i in range(N_STIMULI) if r + 1 < REPETITIONS or i % 7])
    repetition = np.array([r for r in range(REPETITIONS) for i in range(N_STIMULI) if r + 1 < REPETITIONS or i % 7])
    shuffle = rng.permutation(len(order))
    order, repetition = order[shuffle], repetition[shuffle]
    trials = signal[order][..., None] + 2 * rng.normal(size=(len(order), len(regions), len(bins)))
    assembly = NeuronRecordingAssembly(
        trials,
        coords={
            "image_id": ("presentation", [ids[i] for i in order]),
            "repetition": ("presentation", repetition),
            "neuroid_id": ("neuroid", [f"site {number}" for number in range(len(regions))]),
            "region": ("neuroid", regions),
            **({"animal": ("neuroid", ["AAB"[n % 3] for n in range(len(regions))])} if window is None else {}),
            "time_bin_start": ("time_bin", [start for start, _ in bins]),
            "time_bin_end": ("time_bin", [end for _, end in bins]),
        },
        dims=["presentation", "neuroid", "time_bin"],
    )
    names = {"nc": "assy_lab_Small2026.nc", "csv": "stimulus_small_set.csv", "zip": "stimulus_small_set.zip"}
    packaging.write_netcdf(assembly, folder / names["nc"])
    packaging.create_stimulus_csv(table, folder / names["csv"])
    packaging.create_stimulus_zip(table, str(folder / names["zip"]))
    pins = {}
    for ending, name in names.items():
        pins[ending] = Pin(sha1_of(folder / name))
        (folder / "data/brainio" / pins[ending].sha1).mkdir(parents=True)
        (folder / name).rename(folder / "data/brainio" / pins[ending].sha1 / name)
    source = PublicAssembly(
        identifier="lab.Small2026", stimulus_set="small.set", assembly=pins["nc"], table=pins["csv"],
        images=pins["zip"], species="macaque", degrees=8, category="object_name", window=window,
        pls={"V4": "MajajHong2015public.V4-pls"},
    )  # fmt: skip
    description = Description("small", 1, ("macaque",), REGIONS, "Me (2026)", "mine", source.files)
    return Public(source, description, folder / "data", trials, order, regions, ids)


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Public:
    """One time bin, as MajajHong2015."""
    os.environ.pop("BRAINIO_HOME", None)
    return make(tmp_path_factory.mktemp("one_bin"), [(70, 170)], None)


@pytest.fixture(scope="session")
def public_in_time(tmp_path_factory: pytest.TempPathFactory) -> Public:
    """Bins of 1 ms from 40 to 210 ms, of which 50 to 200 count, as FreemanZiemba2013."""
    os.environ.pop("BRAINIO_HOME", None)
    return make(tmp_path_factory.mktemp("bins"), [(t, t + 1) for t in range(40, 210)], (50, 200))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, Public], None]:
    """A function that lets Brain-Score's data set IDENTIFIER (in its module data.NAME) be a small one."""

    def register(identifier: str, name: str, public: Public) -> None:
        import importlib

        import brainscore_vision

        from brain_eval.benchmarks.public.assembly import load_assembly

        # Importing the plug-in registers the large one: first that, then ours.
        with brainscore(public.data / "brainio"):
            importlib.import_module(f"brainscore_vision.data.{name}")
        monkeypatch.setitem(brainscore_vision.data_registry, identifier, lambda: load_assembly(public.source))

    return register


@torch.no_grad()
def vary(network: Network, images: Tensor) -> None:
    """Set biases so that every unit is as often active as not: its activity then varies far above rounding.

    Fresh biases make all patterns nearly alike, and the ranks of their distances differ from machine to machine.
    """

    def centre(module: nn.Module, _: object, output: Tensor) -> Tensor:
        mean = output.mean([0, *range(2, output.ndim)])
        module.bias.sub_(mean)
        return output - mean.view(-1, *[1] * (output.ndim - 2))

    for stage in network.stages:
        first = next(module for module in stage.modules() if isinstance(module, nn.Conv2d | nn.Linear))
        handle = first.register_forward_hook(centre)
        images = stage(images)
        handle.remove()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network.pt of a small convnet with random weights, in the folders of a study."""
    path = tmp_path_factory.mktemp("study") / "networks/small/nmnc/seed3/network.pt"
    path.parent.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network("convnet", (3, 16, 16), 10, {"channels": [8, 8], "hidden": [30]})
        vary(network, torch.rand(64, 3, 16, 16) * 4 - 2)
    recipe = {
        "kind": "convnet",
        "image_shape": [3, 16, 16],
        "classes": 10,
        "arguments": {"channels": [8, 8], "hidden": [30]},
    }
    preprocessing = {"image_size": 16, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    save_network(path, network, {"network": recipe, "preprocessing": preprocessing})
    return path
