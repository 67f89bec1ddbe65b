"""Extraction of activations against the bare forward pass, and against Brain-Score's PytorchWrapper.

The bare pass gets images that lie preprocessed in memory; ours reads and resizes them too, and writes its
file, both in threads beside the pass: elapsed time counts, of a machine with a second core free, and once more the
processor time of all threads, which charges that work in full. The bare pass has the memory layout of ours: channels
last, which ours takes on a CPU, and contiguous. Brain-Score's wrapper gets the same network, the same images and our
preprocessing, and gathers four layers in memory, where ours writes them to a file; it is contiguous beside both. The
options channels_last and bfloat16 are timed beside our own contiguous float32 as well; the column lowest_spearman
holds their effect on the RDMs: Spearman with the contiguous float32 RDM, lowest of the layers. Part layouts times the
forward pass alone of six networks in both layouts.

thingsvision needs an environment of its own (its torch is 2.0): --part thingsvision --python INTERPRETER times it in
a process of that environment (pip install thingsvision), on the same network, which gets images that lie preprocessed
in memory and keeps four raw layers there. Both sides are given processor time of one thread; the releases of torch
are their own, so that the ratio is one of programs as they install, not of code on equal ground.

python bench/activations.py [--quick] [--part bare|brain-score|options|layouts] [--images N] [--repeats N] [--out CSV]
python bench/activations.py --part thingsvision --python INTERPRETER [--quick] [--out FILE.csv]
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr
from side_by_side import COLUMNS, compare, compare_by_both_clocks, facts, timed, write

from brain_eval.activations.extraction import DEFAULT, extract
from brain_eval.activations.models import Model, load_model
from brain_eval.activations.reductions.reduction import Reduction
from brain_eval.activations.settings import Activations
from brain_eval.benchmarks.base import Benchmark, Description, StimulusSet, stimuli_in_memory
from brain_eval.metrics.similarity import correlation_rdm, upper_triangle

THREADS = 1
#: Pixels a side of the images as they lie in memory or on the disk.
STORED = 256
RESNET_LAYERS = "layer1,layer2,layer3,layer4"


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Attributes:
        images, batch, image_size: of the comparison with the bare pass.
        wrapped: images of the comparison with Brain-Score.
        repeats: rounds of each comparison.
        only: of the comparisons with the bare pass those whose name holds this.
    """

    images: int = 256
    batch: int = 64
    image_size: int = 224
    wrapped: int = 256
    repeats: int = 5
    only: str = ""


QUICK = Sizes(images=6, batch=4, image_size=64, wrapped=5, repeats=1)


def noise(n: int, side: int = STORED) -> np.ndarray:
    """Images with the spectrum of natural ones, (n, side, side, 3) uint8."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    frequency[0, 0] = np.inf
    images = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, 3, side, side)), axes=(2, 3)) / frequency, axes=(2, 3))
    images /= images.std((1, 2, 3), keepdims=True)
    return np.clip(128 + 50 * images, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def network(name: str, layers: str, image_size: int) -> Model:
    """A network with its initial weights; no trained ones are needed to measure speed."""
    seen = f'{{"image_size": {image_size}, "channels": 3, "mean": [0.45, 0.45, 0.45], "std": [0.22, 0.22, 0.22]}}'
    return load_model(name, layers, preprocessing=seen)


def benchmark_of(stimuli: StimulusSet) -> Benchmark:
    """A benchmark without recordings."""
    return Benchmark(Description(stimuli.name, 1, (), (), "", ""), stimuli)


class Extraction:
    """Our extraction as a function to be timed, and what it wrote."""

    def __init__(
        self, model: Model, stimuli: StimulusSet, sizes: Sizes, scratch: Path, settings: Activations = DEFAULT
    ) -> None:
        self.model, self.benchmark, self.batch, self.settings = model, benchmark_of(stimuli), sizes.batch, settings
        self.folder = Path(tempfile.mkdtemp(dir=scratch))

    def __call__(self) -> None:
        """Write the file anew."""
        self.path.unlink(missing_ok=True)
        options: dict[str, Any] = {"batch_size": self.batch, "device": "cpu", "threads": THREADS}
        extract(self.model, [self.benchmark], self.folder, settings=self.settings, **options)

    @property
    def path(self) -> Path:
        """The file that is written."""
        return self.folder / f"{self.benchmark.description.name}.nc"

    def layers(self) -> dict[str, np.ndarray]:
        """What is in the file, by layer."""
        with xr.open_dataset(self.path) as dataset:
            values, names = dataset["activations"].values, dataset["layer"].values
        return {layer: values[:, names == layer] for layer in dict.fromkeys(names)}


def bare(
    model: Model, images: torch.Tensor, batch: int, layout: torch.memory_format = torch.contiguous_format
) -> Callable[[], None]:
    """The forward pass alone over preprocessed images, weights and images laid out beforehand."""
    model.module.to(memory_format=layout)
    parts = [part.contiguous(memory_format=layout) for part in images.split(batch)]

    def run() -> None:
        with torch.inference_mode():
            for part in parts:
                model.module(part)

    return run


def against_the_bare_pass(sizes: Sizes, scratch: Path) -> list[dict[str, Any]]:
    """Rows: bare / ours for at most 10,000 values an image, and for raw layers (no goal), in either layout."""
    images = noise(sizes.images)
    stimuli = stimuli_in_memory("noise", [str(i) for i in range(len(images))], images)
    rows = []
    cases = {
        "4 layers, spatial mean": (RESNET_LAYERS, Reduction("spatial_mean"), "at least 0.95"),
        "avgpool and fc": ("avgpool,fc", Reduction(), "at least 0.95"),
        "4 layers, random projection to 1,000": (RESNET_LAYERS, Reduction("random_projection"), "at least 0.95"),
        "4 layers, raw": (RESNET_LAYERS, Reduction(), "none"),
    }
    for case, (layers, reduction, goal) in cases.items():
        if sizes.only not in case:
            continue
        model = network("torchvision:resnet18", layers, sizes.image_size)
        prepared = model.preprocessing(list(images))
        for words, layout in {"": torch.channels_last, ", contiguous": torch.contiguous_format}.items():
            # A network of its own: extraction lays its weights out in place.
            own = network("torchvision:resnet18", layers, sizes.image_size)
            settings = Activations(
                reduction=reduction.name,
                reduction_dimensions=reduction.dimensions,
                reduction_seed=reduction.seed,
                channels_last=False if words else None,
            )
            ours = Extraction(own, stimuli, sizes, scratch, settings)
            rows += compare_by_both_clocks(
                "activations", f"ResNet-18 at {sizes.image_size}, {len(images)} images, {case}{words}",
                ("extraction", ours), ("bare forward pass", bare(model, prepared, sizes.batch, layout)),
                repeats=sizes.repeats, goal=goal, threads=THREADS,
            )  # fmt: skip
            check_against_the_network(model, prepared, ours)
    return rows


def tolerance(ours: Extraction) -> float:
    """How far a value may be from the other side's, in absolute terms: another layout sums in another order."""
    return 1e-5 if ours.settings.channels_last is False else 1e-4


def check_against_the_network(model: Model, images: torch.Tensor, ours: Extraction) -> None:
    """The same numbers on both sides: the file against hooks of our own on the bare pass."""
    if ours.settings.reduction == "random_projection":
        return  # the oracle, scikit-learn's own product, stands in the tests
    caught: dict[str, list[np.ndarray]] = {layer: [] for layer in model.layers}
    hooks = []
    for layer, module in model.layers.items():

        def catch(_module: Any, _input: Any, output: torch.Tensor, layer: str = layer) -> None:
            mean = ours.settings.reduction == "spatial_mean" and output.ndim == 4
            caught[layer].append((output.mean((2, 3)) if mean else output.flatten(1)).numpy().copy())

        hooks.append(module.register_forward_hook(catch))
    bare(model, images, ours.batch)()
    for hook in hooks:
        hook.remove()
    for layer, values in ours.layers().items():
        np.testing.assert_allclose(values, np.concatenate(caught[layer]), rtol=1e-4, atol=tolerance(ours))


def against_brain_score(sizes: Sizes, scratch: Path) -> list[dict[str, Any]]:
    """Rows: PytorchWrapper / ours, four layers of a large and of a small network, images from PNG files."""
    large = ("torchvision:alexnet", "features.2,features.5,features.12,classifier.5", sizes.image_size)
    small = ("examples.cifar_resnet:resnet20", "relu,layer1,layer2,layer3", 32)
    rows = []
    for channels_last in (None, False):
        rows += _wrapped("AlexNet", large, noise(sizes.wrapped), sizes, scratch, channels_last)
        rows += _wrapped("ResNet-20", small, noise(4 * sizes.wrapped, 32), sizes, scratch, channels_last)
    return rows


def _wrapped(
    name: str, kind: tuple[str, str, int], images: np.ndarray, sizes: Sizes, scratch: Path, channels_last: bool | None
) -> list[dict[str, Any]]:
    # Two networks of the same weights: extraction lays its own out in place.
    model, own = network(*kind), network(*kind)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    paths = [str(folder / f"{number:04d}.png") for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)

    def read(indices: NDArray[np.intp]) -> list[np.ndarray]:
        return [np.asarray(Image.open(paths[i])) for i in indices]

    stimuli, settings = StimulusSet("files", tuple(paths), read, "files"), Activations(channels_last=channels_last)
    ours = Extraction(own, stimuli, sizes, scratch, settings)
    theirs: list[Any] = []

    def preprocess(files: Sequence[str]) -> np.ndarray:
        return model.preprocessing([np.asarray(Image.open(file)) for file in files]).numpy()

    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        from brainscore_vision.model_helpers.activations.pytorch import PytorchWrapper

        wrapper = PytorchWrapper(model.module, preprocess, identifier=None, batch_size=sizes.batch)
        wrapper.identifier = False  # nothing is stored

        def wrapped() -> None:
            theirs[:] = [wrapper(paths, layers=list(model.layers))]

        layout = ", contiguous" if channels_last is False else ""
        rows = compare_by_both_clocks(
            "activations", f"{name} at {model.preprocessing.image_size}, {len(paths)} images, 4 raw layers{layout}",
            ("extraction to a file", ours), ("PytorchWrapper to memory", wrapped),
            repeats=sizes.repeats, goal="at least 1.5", threads=THREADS,
        )  # fmt: skip
    for layer, values in ours.layers().items():
        np.testing.assert_allclose(values, theirs[0].sel(layer=layer).values, rtol=1e-4, atol=tolerance(ours))
    return rows


def options(sizes: Sizes, scratch: Path) -> list[dict[str, Any]]:
    """Rows: float32 / option, with the effect of the option on the RDMs."""
    images = noise(sizes.images)
    stimuli = stimuli_in_memory("noise", [str(i) for i in range(len(images))], images)
    plain = Extraction(
        network("torchvision:resnet18", RESNET_LAYERS, sizes.image_size), stimuli, sizes, scratch,
        Activations(channels_last=False),
    )  # fmt: skip
    rows = []
    for name, settings in {
        "channels last": Activations(channels_last=True),
        "bfloat16": Activations(dtype="bfloat16", channels_last=False),
        "bfloat16, channels last": Activations(dtype="bfloat16", channels_last=True),
    }.items():
        ours = Extraction(
            network("torchvision:resnet18", RESNET_LAYERS, sizes.image_size), stimuli, sizes, scratch, settings
        )
        row = compare(
            "activations", f"ResNet-18 at {sizes.image_size}, {len(images)} images, 4 raw layers, {name}",
            (name, ours), ("float32, contiguous", plain), repeats=max(1, sizes.repeats // 2),
            goal="none", threads=THREADS,
        )  # fmt: skip
        expected = plain.layers()
        lowest = min(_spearman(values, expected[layer]) for layer, values in ours.layers().items())
        rows.append(row | {"lowest_spearman": lowest})
        print(f"  {name}: Spearman of its RDMs with those of float32 at least {lowest:.6f}", flush=True)
    return rows


def layouts(sizes: Sizes, scratch: Path) -> list[dict[str, Any]]:
    """Rows: contiguous / channels last, the forward pass alone of several networks, an eighth of the images."""
    networks = {
        "MobileNet-V2": ("torchvision:mobilenet_v2", "classifier", sizes.image_size),
        "EfficientNet-B0": ("torchvision:efficientnet_b0", "classifier", sizes.image_size),
        "ResNet-50": ("torchvision:resnet50", "fc", sizes.image_size),
        "DenseNet-121": ("torchvision:densenet121", "classifier", sizes.image_size),
        "ResNet-20": ("examples.cifar_resnet:resnet20", "linear", 32),
        "bank of Gabor filters": ("examples.gabor:gabor_bank", "complex", 32),
    }
    rows = []
    for name, kind in networks.items():
        images = network(*kind).preprocessing(list(noise(max(2, sizes.images // 8), kind[2])))
        last, contiguous = (
            bare(network(*kind), images, sizes.batch, layout)
            for layout in (torch.channels_last, torch.contiguous_format)
        )
        rows.append(
            compare(
                "activations", f"{name} at {kind[2]}, {len(images)} images, forward pass",
                ("channels last", last), ("contiguous", contiguous),
                repeats=sizes.repeats, goal="none", threads=THREADS,
            )
        )  # fmt: skip
    return rows


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    return float(spearmanr(*(upper_triangle(correlation_rdm(values)) for values in (one, other))).statistic)


def against_thingsvision(sizes: Sizes, scratch: Path, interpreter: str) -> list[dict[str, Any]]:
    """Row: thingsvision, in a process of its own environment / ours, four raw layers of ResNet-18."""
    images = noise(sizes.images)
    model = network("torchvision:resnet18", RESNET_LAYERS, sizes.image_size)
    stimuli = stimuli_in_memory("noise", [str(i) for i in range(len(images))], images)
    ours = Extraction(model, stimuli, sizes, scratch)
    np.save(scratch / "images.npy", model.preprocessing(list(images)).numpy())
    torch.save(model.module.state_dict(), scratch / "weights.pt")
    command = [interpreter, str(Path(__file__).with_name("thingsvision_pass.py")), str(scratch), RESNET_LAYERS]
    command += [str(sizes.batch), str(sizes.repeats)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"thingsvision did not run in {interpreter}: {done.stderr.strip().splitlines()[-1]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours()
    with np.load(scratch / "features.npz", allow_pickle=False) as features:
        for layer, values in ours.layers().items():
            np.testing.assert_allclose(values, features[layer], rtol=1e-4, atol=1e-4)
    own = [timed(ours, time.process_time)[0] for _ in range(sizes.repeats)]
    row = {
        "bench": "activations", "case": f"ResNet-18 at {sizes.image_size}, {len(images)} images, 4 raw layers",
        "ours": "extraction to a file",
        "other": f"thingsvision {theirs['thingsvision']} (torch {theirs['torch']}) to memory",
        "seconds_ours": statistics.median(own), "seconds_other": statistics.median(theirs["seconds"]),
        "ratio": statistics.median(theirs["seconds"]) / statistics.median(own),
        "ratio_low": min(theirs["seconds"]) / max(own), "ratio_high": max(theirs["seconds"]) / min(own),
        "goal": "none", "repeats": sizes.repeats, **facts("cpu", THREADS),
    }  # fmt: skip
    print("{case}: {other} / {ours} = {ratio:.3g} ({ratio_low:.3g} to {ratio_high:.3g})".format(**row), flush=True)
    return [row]


PARTS = {"bare": against_the_bare_pass, "brain-score": against_brain_score, "options": options, "layouts": layouts}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run all comparisons; returns their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast")
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--part", choices=[*PARTS, "thingsvision"], help="one comparison only")
    parser.add_argument("--images", type=int, default=Sizes.images, help="images of every comparison")
    parser.add_argument("--repeats", type=int, default=Sizes.repeats, help="rounds of every comparison")
    parser.add_argument("--only", default="", help="of part bare the cases whose name holds this text")
    parser.add_argument("--python", help="interpreter of an environment with thingsvision, for that part")
    given = parser.parse_args(arguments)
    if (given.part == "thingsvision") != (given.python is not None):
        parser.error("--part thingsvision and --python INTERPRETER belong together")
    sizes = (
        QUICK
        if given.quick
        else Sizes(images=given.images, wrapped=given.images, repeats=given.repeats, only=given.only)
    )
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory(prefix="bench-activations-") as folder:
        # Brain-Score reads these when it is imported.
        os.environ |= {"BS_INSTALL_DEPENDENCIES": "no", "RESULTCACHING_DISABLE": "1"}
        os.environ |= {name: folder for name in ("RESULTCACHING_HOME", "BRAINSCORE_HOME", "BRAINIO_HOME")}
        if given.python is not None:
            rows = against_thingsvision(sizes, Path(folder), given.python)
        else:
            parts = [part for name, part in PARTS.items() if given.part in (None, name)]
            rows = [row for part in parts for row in part(sizes, Path(folder))]
    write(given.out, rows, (*COLUMNS, "lowest_spearman"))
    return rows


if __name__ == "__main__":
    main()
