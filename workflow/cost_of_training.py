"""Estimate time and file sizes of a training run from a few steps with random images."""

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch

from nmnc.config import NetworkEntry, Run
from nmnc.data.dataset import Dataset
from nmnc.measure.diagnostics import diagnose
from nmnc.measure.dimension import FEWEST
from nmnc.networks import Network
from nmnc.settings import ACTIVITY_IMAGES
from nmnc.training.checkpoint import save_state
from nmnc.training.measure_job import Images as MeasuredImages
from nmnc.training.measure_job import measure
from nmnc.training.trainer import Trainer

#: A measurement is repeated until it has taken this long, at most ROUNDS times.
ENOUGH_SECONDS, ROUNDS = 0.3, 5
#: Most images in the measured evaluation and in the measured diagnosis.
TEST_IMAGES, DIAGNOSED = 500, 24
#: The time of measuring the manifold is extrapolated from this fraction of its images and half of it.
PART_OF_MANIFOLD = 1 / 4

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Images:
    """Properties of a data set that the time of training depends on; `shape` is (channels, height, width)."""

    shape: Shape
    classes: int
    n_train: int
    n_test: int


@dataclass(frozen=True)
class TrainingCost:
    """Cost of one run.

    Attributes:
        seconds: time without starting the process and reading the images.
        size: bytes of network.pt and of the resume state.
        network: the network.
    """

    seconds: float
    size: int
    network: Network


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a call, see `once`; the first call is excluded if there are others."""
    times: list[float] = []
    while sum(times) < ENOUGH_SECONDS and len(times) < ROUNDS:
        times.append(once(work, device))
    return median(times[1:] or times)


def once(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, including its work on the device.

    For one CPU thread this is processor time, which other programs do not affect.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    started = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started


def training_cost(run: Run, entry: NetworkEntry, images: Images, device: torch.device) -> TrainingCost:
    """Return the cost of one run.

    Raises:
        UserError: a setting that does not fit the network or the data set.
    """
    noise, batch_size = run.noise, run.training.batch_size
    trainer = Trainer(_random(images, max(noise.basis_images, batch_size)), entry, run, 0, device)
    for_basis = trainer.dataset.normalise(trainer.images[: noise.basis_images])
    with torch.no_grad():
        trainer.rule.start(trainer.network.outputs(for_basis, connected=True)[:-1])
    epochs = 0 if run.kind == "untrained" else run.training.epochs
    steps = epochs * (images.n_train // batch_size)
    seconds = _seconds_of_steps(trainer, steps) if steps else 0.0
    evaluation = seconds_of(trainer.accuracy, device) * images.n_test / len(trainer.test_labels)
    diagnosis = _seconds_of_diagnosis(trainer, for_basis, min(run.diagnostics.images, images.n_test))
    return TrainingCost(seconds + (epochs + 1) * (evaluation + diagnosis), _size(trainer), trainer.network)


def manifold_seconds(network: Network, images: Images, held_out: int, device: torch.device) -> float:
    """Return the seconds of `python -m nmnc diagnose`, extrapolated linearly from few images.

    Args:
        network: on the device; left in evaluation mode.
        images: properties of the data set.
        held_out: number of images for the gradients.
        device: CPU or GPU.
    """

    def of(part: float) -> float:
        n, few = (max(FEWEST, round(part * number)) for number in (ACTIVITY_IMAGES, held_out))
        activity, gradient_images = (torch.rand(number, *images.shape, device=device) for number in (n, few))
        labels = torch.arange(few, device=device) % images.classes
        generator = torch.Generator().manual_seed(0)
        return once(
            lambda: list(measure(network, MeasuredImages(activity, gradient_images, labels), generator)), device
        )

    short, long = of(PART_OF_MANIFOLD / 2), of(PART_OF_MANIFOLD)
    return long + max(long - short, 0.0) * 2 * (1 / PART_OF_MANIFOLD - 1)


def _random(images: Images, n_train: int) -> Dataset:
    """Return a data set of random images and labels, as small as the measurement allows."""
    rng = np.random.default_rng(0)

    def part(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = rng.integers(256, size=(n, *images.shape), dtype=np.uint8)
        return torch.from_numpy(pixels), torch.arange(n) % images.classes

    train, test = part(min(images.n_train, n_train)), part(min(images.n_test, TEST_IMAGES))
    mean = torch.full((images.shape[0],), 0.5)
    return Dataset("random images", *train, *test, mean, mean / 2, images.classes, "", "", "")


def _seconds_of_steps(trainer: Trainer, steps: int) -> float:
    """Return the seconds of `steps` training steps.

    Some steps refresh the feedback, some the basis, some neither: each kind is measured and counted separately.
    """
    noise, batch_size = trainer.run.noise, trainer.run.training.batch_size
    images, labels = trainer.images[:batch_size], trainer.labels[:batch_size]

    def kind(number: int) -> tuple[bool, bool]:
        return perturbing and number % noise.refresh_every == 0, moving and number % noise.basis_every == 0

    def step(number: int) -> float:
        trainer.step = number
        return once(lambda: trainer._step(trainer.augment(images), labels), trainer.device)

    for number in range(2):
        step(number)  # the first steps are slow
    perturbing, moving = trainer.rule.perturbations > 0, bool(trainer.rule.bases)
    counts = Counter(kind(number) for number in range(1, steps + 1))
    times: dict[tuple[bool, bool], list[float]] = defaultdict(list)
    for step_kind in counts:
        last = next(number for number in count(1) if kind(number) == step_kind)
        # A basis is computed from the activity of the preceding batches.
        first = max(1, last - -(-noise.basis_images // batch_size)) if step_kind[1] else last
        for _ in range(ROUNDS):
            for number in range(first, last + 1):
                times[kind(number)].append(step(number))
            if len(times[step_kind]) > 1 and sum(map(sum, times.values())) > ENOUGH_SECONDS:
                break
    return sum(median(times[kind]) * n for kind, n in counts.items())


def _seconds_of_diagnosis(trainer: Trainer, for_basis: torch.Tensor, n: int) -> float:
    """Return the seconds of a diagnosis on n images, extrapolated linearly from fewer images."""

    def of(few: int) -> float:
        images, labels = trainer.dataset.normalise(trainer.test_images[:few]), trainer.test_labels[:few]
        return once(lambda: diagnose(trainer.rule, trainer.run.noise, images, labels, for_basis), trainer.device)

    few = min(n, len(trainer.test_labels), DIAGNOSED)
    half = max(few // 2, 1)
    of(half)  # the first call is slow
    short, long = of(half), of(few)
    return long if few == half else long + max(long - short, 0.0) * (n - few) / (few - half)


def _size(trainer: Trainer) -> int:
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "state.pt", trainer.state_dict())
        save_state(Path(folder) / "network.pt", trainer.network.state_dict())
        return sum(path.stat().st_size for path in Path(folder).iterdir())
