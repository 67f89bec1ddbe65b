"""kriegeskorte2008 against published relations between its own files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr

from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import Benchmark
from brain_eval.metrics.similarity import compare

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def folder(data_folder: Callable[..., Path]) -> Path:
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
        assert recording.responses is None


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


@pytest.fixture(scope="module")
def brains(benchmark: Benchmark) -> dict[str, np.ndarray]:
    macaque, *humans = benchmark.recordings
    return {"macaque": macaque.rdm, "human": np.mean([subject.rdm for subject in humans], axis=0)}


@pytest.mark.parametrize(
    ("model", "macaque", "human"), [("animacy", 0.453, 0.588), ("V1", 0.074, 0.0393), ("monkeyIT", 1.0, 0.4389)]
)
def test_reference_models_stand_where_they_did(
    model: str, macaque: float, human: float, brains: dict[str, np.ndarray], folder: Path
) -> None:
    """Model RDMs of the same source, from a file of their own, through our comparison."""
    stored = loadmat(folder / "kriegeskorte2008/92_modelRDMs.mat")["Models"].ravel()
    rdms = {str(entry["name"].item()): entry["RDM"].astype(np.float64) for entry in stored}
    assert compare(rdms[model], brains["macaque"], "spearman") == pytest.approx(macaque, abs=5e-4)
    assert compare(rdms[model], brains["human"], "spearman") == pytest.approx(human, abs=5e-4)


#: AlexNet's layers against macaque and human IT, Spearman, as first computed here: no source publishes them. They
#: tell a change of the data or of their order, which is not documented for the images of this file.
ALEXNET = {
    "conv1": (0.115, 0.125), "conv2": (0.172, 0.111), "conv3": (0.216, 0.149), "conv4": (0.186, 0.112),
    "conv5": (0.081, -0.056), "fc6": (0.158, -0.016), "fc7": (0.161, 0.015), "fc8": (0.230, 0.118),
}  # fmt: skip


def test_alexnets_stored_rdms_stand_where_they_did(brains: dict[str, np.ndarray], folder: Path) -> None:
    stored = loadmat(folder / "kriegeskorte2008/modelRDMs_A2020.mat")["modelRDMs"].ravel()
    found = {
        entry["reprName"].item(): tuple(
            compare(squareform(entry["RDM"].astype(np.float64).ravel()), brains[species], "spearman")
            for species in ("macaque", "human")
        )
        for entry in stored
        if entry["measModelName"].item() == "complete" and entry["reprName"].item() in ALEXNET
    }
    assert found.keys() == ALEXNET.keys()
    for layer, expected in ALEXNET.items():
        assert found[layer] == pytest.approx(expected, abs=5e-4), layer
