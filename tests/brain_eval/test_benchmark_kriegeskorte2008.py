"""kriegeskorte2008 against published relations between its own files."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr

from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import Benchmark

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def folder(data_folder) -> Path:
    return data_folder("kriegeskorte2008")


@pytest.fixture(scope="module")
def benchmark(folder: Path) -> Benchmark:
    return load_benchmark("kriegeskorte2008", folder)


def pairs(rdm: np.ndarray) -> np.ndarray:
    return squareform(rdm, checks=False)


def test_recordings_and_stimuli(benchmark: Benchmark) -> None:
    labels = [(r.species, r.region, r.session, r.animal, r.n_neuroids) for r in benchmark.recordings]
    assert labels == [
        ("macaque", "IT", "average", "2 animals", 674),
        *[("human", "IT", "mean of 2", f"S{i}", 316) for i in range(1, 5)],
    ]
    stimuli = benchmark.stimulus_set
    assert len(set(stimuli.stimulus_ids)) == benchmark.description.n_stimuli == 92
    assert len(set(stimuli.categories)) == 6
    images = stimuli.read(np.array([91, 0]))
    assert [image.shape for image in images] == [(175, 175, 3)] * 2
    assert images[0].dtype == np.uint8
    for recording in benchmark.recordings:
        rdm = recording.rdm
        assert rdm.dtype == np.float64
        assert rdm.shape == (92, 92)
        assert np.array_equal(rdm, rdm.T)
        assert not np.diag(rdm).any()
        assert recording.repetitions is None


def test_macaque_against_human_as_published(benchmark: Benchmark, folder: Path) -> None:
    macaque, *humans = benchmark.recordings
    human = np.mean([subject.rdm for subject in humans], axis=0)
    assert spearmanr(pairs(macaque.rdm), pairs(human))[0] == pytest.approx(0.4389, abs=5e-5)
    assert pearsonr(pairs(macaque.rdm), pairs(human))[0] == pytest.approx(0.4912, abs=5e-5)
    # The published mean over subjects, from another file.
    path = folder / "kriegeskorte2008/Kriegeskorte_Neuron2008_supplementalData.mat"
    published = loadmat(path)["RDMs_mIT_hIT_fig1"].ravel()[1]["RDM"].ravel()
    np.testing.assert_allclose(pairs(human), published, atol=1e-6)


def test_images_stand_in_the_order_of_the_rdm(benchmark: Benchmark) -> None:
    macaque = pairs(benchmark.recordings[0].rdm)
    inanimate = np.array(["inanimate" in category for category in benchmark.stimulus_set.categories])
    animacy = pdist(inanimate[:, None], "cityblock")
    assert spearmanr(animacy, macaque)[0] == pytest.approx(0.453, abs=5e-4)
    images = np.stack(benchmark.stimulus_set.read(np.arange(92))).reshape(92, -1)
    assert spearmanr(pdist(images, "correlation"), macaque)[0] == pytest.approx(0.145, abs=5e-4)
