"""A simulated ventral stream of known truth: procedural images, four areas, two "animals".

No data and no network are needed: everything follows from one seed. Each animal records its own
random mixtures of an area's units (see `ventral_stream`), as Poisson spike counts in repeated trials,
so that noise ceilings can be estimated and lie below 1. Scores on it show whether the pipeline can
distinguish the areas; they are no evidence about a brain.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, Description, Recording, stimuli_in_memory

DESCRIPTION = Description(
    name="simulated",
    version=1,
    species=("simulated",),
    regions=("V1", "V2", "V4", "IT"),
    citation="NMNC-Brain (2026) simulated ventral stream, made from a seed; not recorded data",
    licence="Apache-2.0",
    simulated=True,
    n_stimuli=144,
    n_neuroids="100 units x 2 animals per area",
)

SEED = 2026
ANIMALS = ("A", "B")
SIZE = 64
PER_OBJECT = 18
#: Images per object from which IT learns its objects; none of them is a stimulus.
EXAMPLES_PER_OBJECT = 16
N_NEUROIDS = 100
N_REPETITIONS = 8
#: Units that drive one neuroid, and its mean spike count per trial.
N_INPUTS = 3
MEAN_COUNT = 3.0

Plane = NDArray[np.float64]


def _star(x: Plane, y: Plane) -> Plane:
    return 0.68 + 0.3 * np.cos(5 * np.arctan2(y, x)) - np.hypot(x, y)


def _cross(x: Plane, y: Plane) -> Plane:
    a, b = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(0.95 - a, 0.3 - b), np.minimum(0.95 - b, 0.3 - a))


def _crescent(x: Plane, y: Plane) -> Plane:
    return np.minimum(0.95 - np.hypot(x, y), np.hypot(x - 0.5, y) - 0.75)


def _triangle(x: Plane, y: Plane) -> Plane:
    return np.minimum(0.5 - y, 0.5 + y / 2 - np.abs(x) * np.sqrt(3) / 2)


#: Signed distance to the outline, positive inside, over an object's own coordinates (-1 to 1).
OBJECTS: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": lambda x, y: 0.85 - np.hypot(x, y),
    "square": lambda x, y: 0.75 - np.maximum(np.abs(x), np.abs(y)),
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y: 0.2 - np.abs(np.hypot(x, y) - 0.7),
    "crescent": _crescent,
    "bar": lambda x, y: np.minimum(0.95 - np.abs(x), 0.22 - np.abs(y)),
}


def object_images(per_object: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Draw light objects of random place, size, tilt and colour on random darker backgrounds.

    Returns:
        (n, 64, 64, 3) uint8 images and (n,) class numbers, `per_object` of each class in turn.
    """
    labels = np.repeat(np.arange(len(OBJECTS)), per_object)
    shapes = list(OBJECTS.values())
    return np.stack([_draw(shapes[label], rng) for label in labels]), labels


def _draw(shape: Callable[[Plane, Plane], Plane], rng: np.random.Generator) -> NDArray[np.uint8]:
    radius = rng.uniform(13, 20)
    centre = rng.uniform(radius, SIZE - radius, size=2)
    tilt = rng.uniform(-0.3, 0.3)
    y, x = np.meshgrid(np.arange(SIZE) - centre[0], np.arange(SIZE) - centre[1], indexing="ij")
    u = (x * np.cos(tilt) + y * np.sin(tilt)) / radius
    v = (y * np.cos(tilt) - x * np.sin(tilt)) / radius
    # A pixel's share of the object, from its distance to the outline: smooth edges.
    cover = np.clip(shape(u, v) * radius + 0.5, 0, 1)[..., None]
    background = _background(rng)
    lightness = background.mean() + rng.uniform(0.25, 0.5)
    colour = np.clip(lightness + rng.uniform(-0.15, 0.15, size=3), 0, 1)
    return np.round(255 * (cover * colour + (1 - cover) * background)).astype(np.uint8)


#: (64, 9): tent functions 8 pixels apart, for linear interpolation between 9 values.
_SMOOTH = np.maximum(0, 1 - np.abs(np.arange(SIZE)[:, None] / 8 - np.arange(9)))


def _background(rng: np.random.Generator) -> Plane:
    """A tinted gradient with smooth noise, (64, 64, 3) in 0..1."""
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.25)
    y, x = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), indexing="ij")
    noise = _SMOOTH @ rng.normal(size=(9, 9)) @ _SMOOTH.T
    plane = rng.uniform(0.25, 0.4) + slope * (x * np.cos(angle) + y * np.sin(angle)) / 2
    plane = plane + rng.uniform(0.02, 0.09) * noise
    return np.clip(plane[..., None] + rng.uniform(-0.05, 0.05, size=3), 0, 1)


def load(data_folder: Path) -> Benchmark:
    """Make the benchmark; the data folder is not looked at."""
    return make(SEED)


def make(seed: int) -> Benchmark:
    """Make images and recordings from a seed; the same seed gives the same bytes."""
    from brain_eval.benchmarks.ventral_stream import AREAS, InferotemporalCortex, respond

    # One stream of numbers per part: the images stay the same when a recording changes.
    draw, examples, record = np.random.default_rng(seed).spawn(3)
    images, labels = object_images(PER_OBJECT, draw)
    responses = respond(images, InferotemporalCortex.learn(*object_images(EXAMPLES_PER_OBJECT, examples)))
    names = list(OBJECTS)
    categories = [names[label] for label in labels]
    ids = [f"{name}{i % PER_OBJECT + 1:02d}" for i, name in enumerate(categories)]
    recordings = tuple(_recording(area, animal, responses[area], record) for area in AREAS for animal in ANIMALS)
    return Benchmark(DESCRIPTION, stimuli_in_memory("simulated", ids, images, categories), recordings)


def _recording(area: str, animal: str, units: NDArray[np.float32], rng: np.random.Generator) -> Recording:
    from brain_eval.metrics.similarity import correlation_rdm

    rates = neuroid_rates(units, rng)
    counts = rng.poisson(rates, size=(N_REPETITIONS, *rates.shape)).astype(np.float64)
    return Recording(
        session="simulated",
        animal=animal,
        species="simulated",
        region=area,
        stimuli=np.arange(len(units)),
        n_neuroids=N_NEUROIDS,
        rdm=correlation_rdm(counts.mean(axis=0)),
        repetitions=counts,
        responses=counts.mean(axis=0),
    )


def neuroid_rates(units: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return expected spike counts, (n, N_NEUROIDS) float64: each neuroid adds up a few random units.

    Every unit counts relative to its mean over the images, so that no scale of a channel dominates.
    """
    relative = units.astype(np.float64) / (units.mean(axis=0) + 1e-6)
    rates = np.zeros((len(units), N_NEUROIDS))
    for neuroid in range(N_NEUROIDS):
        inputs = rng.choice(relative.shape[1], size=N_INPUTS, replace=False)
        rates[:, neuroid] = MEAN_COUNT * relative[:, inputs] @ rng.dirichlet(np.ones(N_INPUTS))
    # Rounded, so that a last bit from another BLAS or thread count cannot change a drawn count.
    return np.round(rates, 4)
