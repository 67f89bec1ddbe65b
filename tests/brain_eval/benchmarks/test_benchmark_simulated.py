"""The simulated ventral stream: the truth that was planted is the truth that is found."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from brain_eval.benchmarks import simulated
from brain_eval.benchmarks.base import Benchmark
from brain_eval.benchmarks.ventral_stream import AREAS, InferotemporalCortex, _gabor, contours, gabor_energy, respond
from brain_eval.metrics.similarity import compare, correlation_rdm

AREA_OF = [area for area in AREAS for _ in simulated.ANIMALS]


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return simulated.make(simulated.SEED)


@pytest.fixture(scope="module")
def inferotemporal() -> InferotemporalCortex:
    """An IT that learnt from other examples than the benchmark's."""
    return InferotemporalCortex.learn(*simulated.object_images(24, np.random.default_rng(99)))


@pytest.fixture(scope="module")
def generated(benchmark: Benchmark, inferotemporal: InferotemporalCortex) -> dict[str, np.ndarray]:
    """Noise-free features of every area for the benchmark's images."""
    images = np.stack(benchmark.stimulus_set.read(np.arange(len(benchmark.stimulus_set.stimulus_ids))))
    return respond(images, inferotemporal)


@pytest.fixture(scope="module")
def scores(benchmark: Benchmark, generated: dict[str, np.ndarray]) -> np.ndarray:
    """(areas, recordings) Spearman correlations of noise-free features with recordings."""
    rdms = [correlation_rdm(generated[area]) for area in AREAS]
    return np.array([[compare(rdm, r.rdm) for r in benchmark.recordings] for rdm in rdms])


def test_recordings(benchmark: Benchmark) -> None:
    assert benchmark.description.simulated
    assert {r.species for r in benchmark.recordings} == {"simulated"}
    assert [(r.region, r.animal) for r in benchmark.recordings] == [
        (area, animal) for area in AREAS for animal in ("A", "B")
    ]
    stimuli = benchmark.stimulus_set
    assert len(set(stimuli.stimulus_ids)) == len(stimuli.stimulus_ids) == benchmark.description.n_stimuli
    assert len(set(stimuli.categories)) == len(simulated.OBJECTS) >= 6
    (image,) = stimuli.read(np.array([5]))
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    for recording in benchmark.recordings:
        assert recording.repetitions.shape[1:] == (len(stimuli.stimulus_ids), recording.n_neuroids)
        np.testing.assert_array_equal(recording.responses, recording.repetitions.mean(axis=0))
        expected = pdist(recording.responses, "correlation")
        np.testing.assert_allclose(squareform(recording.rdm), expected, atol=1e-12)


def test_each_area_wins_for_its_own_generator(scores: np.ndarray) -> None:
    for recording, area in enumerate(AREA_OF):
        assert AREAS[int(scores[:, recording].argmax())] == area, f"who explains a recording of {area}"
    for i, area in enumerate(AREAS):
        own = np.array([other == area for other in AREA_OF])
        assert scores[i, own].min() > scores[i, ~own].max() + 0.05, f"what {area} features explain"
        assert scores[i, own].min() > 0.5


def test_shuffled_images_sit_at_chance(benchmark: Benchmark, generated: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for recording in benchmark.recordings:
        rdm = correlation_rdm(generated[recording.region])
        orders = [rng.permutation(len(rdm)) for _ in range(20)]
        chance = [compare(rdm[np.ix_(order, order)], recording.rdm) for order in orders]
        assert abs(np.mean(chance)) < 0.02
        assert np.max(np.abs(chance)) < 0.12


def test_same_seed_same_bytes(benchmark: Benchmark) -> None:
    again = simulated.make(simulated.SEED)
    assert again.stimulus_set.sha256 == benchmark.stimulus_set.sha256
    for one, other in zip(benchmark.recordings, again.recordings, strict=True):
        assert one.repetitions.tobytes() == other.repetitions.tobytes()
        assert one.rdm.tobytes() == other.rdm.tobytes()


def test_another_seed_has_the_same_truth(benchmark: Benchmark, inferotemporal: InferotemporalCortex) -> None:
    """The area that wins is a property of the areas, not of one lucky seed."""
    made = simulated.make(7)
    assert made.stimulus_set.sha256 != benchmark.stimulus_set.sha256
    images = np.stack(made.stimulus_set.read(np.arange(len(made.stimulus_set.stimulus_ids))))
    rdms = {area: correlation_rdm(units) for area, units in respond(images, inferotemporal).items()}
    for recording in made.recordings:
        found = {area: compare(rdm, recording.rdm) for area, rdm in rdms.items()}
        assert max(found, key=lambda area: found[area]) == recording.region


def test_animals_differ_but_share_the_signal(benchmark: Benchmark) -> None:
    for a, b in zip(benchmark.recordings[::2], benchmark.recordings[1::2], strict=True):
        assert a.region == b.region
        assert not np.array_equal(a.repetitions, b.repetitions)
        assert compare(a.rdm, b.rdm) > 0.4


def test_repetitions_are_noisy_but_reliable(benchmark: Benchmark) -> None:
    for recording in benchmark.recordings:
        halves = [recording.repetitions[i::2].mean(axis=0) for i in (0, 1)]
        reliability = spearmanr(*(pdist(half, "correlation") for half in halves))[0]
        assert 0.3 < reliability < 0.9, recording.region


def grating(wavelength: float, orientation: int) -> np.ndarray:
    """A grating whose bars run along `orientation` (steps of 22.5 degrees, x to the right, y down)."""
    angle = np.pi * orientation / 8 + np.pi / 2
    y, x = np.mgrid[:64, :64]
    wave = np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength)
    return np.repeat((127.5 + 100 * wave)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_v1_prefers_the_grating_it_is_named_for(scale: int) -> None:
    wavelength = (4.0, 8.0, 16.0)[scale]
    gratings = np.stack([grating(wavelength, orientation) for orientation in range(8)])
    best = gabor_energy(gratings)[:, scale].mean(axis=(2, 3)).argmax(axis=1)
    assert best.tolist() == list(range(8))
    response = [np.abs(_gabor(w, 0)).max() for w in (4.0, 8.0, 16.0)]
    assert min(response) > 0.9, "each filter passes its own wavelength"


def test_energy_ignores_polarity_and_contrast() -> None:
    images, _ = simulated.object_images(1, np.random.default_rng(1))
    energy = gabor_energy(images)
    np.testing.assert_allclose(gabor_energy(255 - images), energy, rtol=1e-3, atol=1e-3)
    halved = gabor_energy((images // 2).astype(np.uint8))
    assert np.corrcoef(halved.ravel(), energy.ravel())[0, 1] > 0.99


def test_arcs_prefer_their_own_direction_of_curvature() -> None:
    """The right half of a ring of radius 4 cells (8 pixels) excites direction 0, the left half 8."""
    y, x = np.mgrid[:64, :64] - 31.5
    outline = np.abs(np.hypot(x, y) - 8) < 1
    halves = [outline & (x > 0), outline & (x < 0), outline & (y > 0), outline & (y < 0)]
    images = np.stack([np.where(half, 255, 100) for half in halves])[..., None].repeat(3, axis=-1)
    arcs = contours(gabor_energy(images.astype(np.uint8)))[:, 16:32]
    centre = arcs[:, :, 15:17, 15:17].max(axis=(2, 3))
    assert centre.argmax(axis=1).tolist() == [0, 8, 4, 12]


def test_it_tolerates_position_and_selects_objects(inferotemporal: InferotemporalCortex) -> None:
    """The same objects moved by 8 pixels: IT's pattern stays, V1's goes; another object changes IT's."""
    images, _ = simulated.object_images(4, np.random.default_rng(5))
    moved = np.roll(images, (8, -8), axis=(1, 2))
    before, after = respond(images, inferotemporal), respond(moved, inferotemporal)

    def same_and_other(area: str) -> tuple[float, float]:
        n = len(images)
        correlations = np.corrcoef(before[area], after[area])[:n, n:]
        others = np.array([[i // 4 != j // 4 for j in range(n)] for i in range(n)])
        return float(np.mean(np.diag(correlations))), float(correlations[others].mean())

    it_same, it_other = same_and_other("IT")
    v1_same, _ = same_and_other("V1")
    assert it_same > 0.8 > 0.4 > v1_same
    assert it_other < 0.2
