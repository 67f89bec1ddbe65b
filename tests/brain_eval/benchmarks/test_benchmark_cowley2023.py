"""cowley2023: which image is whose, and what the sessions that share images say of each other."""

import hashlib
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import Benchmark, Recording
from brain_eval.benchmarks.cowley2023 import _Image, union_of_sessions
from brain_eval.benchmarks.recorded_rdms import recorded_as
from brain_eval.metrics.mahalanobis import crossnobis_rdm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from rsatoolbox.data import Dataset
    from rsatoolbox.data.noise import prec_from_unbalanced
    from rsatoolbox.rdm.calc_unbalanced import calc_rdm_unbalanced


@pytest.fixture(scope="module")
def folder(data_folder: Callable[..., Path]) -> Path:
    return data_folder("cowley2023")


@pytest.fixture(scope="module")
def benchmark(folder: Path) -> Benchmark:
    return load_benchmark("cowley2023", folder)


def image(session: str, number: int, content: str) -> _Image:
    return _Image(Path(session), f"{session}/image{number:04d}.jpg", content.encode())


def test_union_shares_between_sessions_but_never_within_one() -> None:
    ids, images, positions = union_of_sessions(
        {
            "s1": [image("s1", i, content) for i, content in enumerate("abcc", start=1)],
            "s2": [image("s2", i, content) for i, content in enumerate("xbcccbb", start=1)],
            "s3": [image("s3", i, content) for i, content in enumerate("bx", start=1)],
        }
    )
    assert [ids[i] for i in positions["s1"]] == [f"s1_image000{i}" for i in (1, 2, 3, 4)]
    assert [ids[i] for i in positions["s2"]] == [
        "s2_image0001", "s1_image0002", "s1_image0003", "s1_image0004", "s2_image0005", "s2_image0006",
        "s2_image0007",
    ]  # fmt: skip
    assert [ids[i] for i in positions["s3"]] == ["s1_image0002", "s2_image0001"]
    for own in positions.values():
        assert len(set(own)) == len(own)
    assert len(set(ids)) == len(ids) == len(images)


def session(benchmark: Benchmark, name: str) -> Recording:
    return next(recording for recording in benchmark.recordings if recording.session == name)


def shared(benchmark: Benchmark, first: str, second: str) -> np.ndarray:
    return np.intersect1d(session(benchmark, first).stimuli, session(benchmark, second).stimuli)


@pytest.mark.real_data
def test_sessions_as_published(benchmark: Benchmark) -> None:
    assert [(r.session, r.animal, r.n_neuroids, len(r.stimuli)) for r in benchmark.recordings] == [
        ("190923", "WE", 33, 1200),
        ("201025", "PE", 89, 1200),
        ("210224", "PE", 67, 800),
        ("210225", "PE", 55, 1200),
        ("210322", "PE", 59, 1200),
        ("210325", "PE", 50, 640),
        ("210621", "RA", 51, 1200),
    ]
    names = [r.session for r in benchmark.recordings]
    overlap = {(a, b): len(shared(benchmark, a, b)) for i, a in enumerate(names) for b in names[i + 1 :]}
    assert {pair: n for pair, n in overlap.items() if n} == {
        ("210322", "210325"): 600,
        ("210225", "210621"): 1,
    }
    ids = benchmark.stimulus_set.stimulus_ids
    assert len(ids) == len(set(ids)) == benchmark.description.n_stimuli == 7440 - 601
    assert ids[session(benchmark, "210325").stimuli[0]] == "210322_image0601"
    for recording in benchmark.recordings:
        assert len(set(recording.stimuli)) == len(recording.stimuli)


@pytest.mark.real_data
def test_the_rdm_is_one_minus_pearson_of_centred_counts(benchmark: Benchmark, folder: Path) -> None:
    counts = np.load(folder / "cowley2023/responses_repeat_averaged/responses_190923.npy").T
    expected = pdist(counts - counts.mean(axis=0), "correlation")
    np.testing.assert_allclose(squareform(session(benchmark, "190923").rdm), expected, atol=1e-12)


@pytest.mark.real_data
def test_the_responses_of_every_session_are_centred_counts(benchmark: Benchmark, folder: Path) -> None:
    for recording in benchmark.recordings:
        path = folder / f"cowley2023/responses_repeat_averaged/responses_{recording.session}.npy"
        counts = np.load(path).T
        assert recording.responses.shape == (len(recording.stimuli), recording.n_neuroids) == counts.shape
        np.testing.assert_allclose(recording.responses, counts - counts.mean(axis=0), atol=1e-12)


@pytest.mark.real_data
def test_pixels_read_the_responses_of_their_own_image(benchmark: Benchmark) -> None:
    """A ridge from coarse pixels predicts held-out images, and nothing where the images are shuffled."""
    from sklearn.linear_model import Ridge

    recording, rng = session(benchmark, "210325"), np.random.default_rng(0)
    images = np.stack(benchmark.stimulus_set.read(recording.stimuli))[:, ::8, ::8]
    pixels, medians = images.reshape(len(images), -1) / 255, []
    for order in (np.arange(640), rng.permutation(640)):
        responses = recording.responses[order]
        predicted = Ridge(30.0).fit(pixels[:500], responses[:500]).predict(pixels[500:])
        pairs = zip(predicted.T, responses[500:].T, strict=True)
        medians.append(float(np.median([np.corrcoef(a, b)[0, 1] for a, b in pairs])))
    assert medians[0] > 0.1 > 0.05 > abs(medians[1])


@pytest.mark.real_data
def test_two_sessions_agree_on_the_images_they_share(benchmark: Benchmark) -> None:
    """Other neurons, same images: a wrong order anywhere on the way would leave nothing."""
    images = shared(benchmark, "210322", "210325")
    first, second = (
        session(benchmark, name).rdm[np.ix_(rows, rows)]
        for name in ("210322", "210325")
        for rows in [[list(session(benchmark, name).stimuli).index(i) for i in images]]
    )
    assert spearmanr(squareform(first), squareform(second))[0] == pytest.approx(0.622, abs=5e-4)
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = second[np.ix_(order, order)]
    assert abs(spearmanr(squareform(first), squareform(shuffled))[0]) < 0.02


@pytest.mark.real_data
def test_repetitions_average_to_the_recording(benchmark: Benchmark) -> None:
    (recording,) = (r for r in benchmark.recordings if r.repetitions is not None)
    assert recording.session == "210325"
    assert recording.repetitions.shape == (10, 640, 50)
    missing = np.isnan(recording.repetitions)
    assert np.array_equal(missing.any(axis=2), missing.all(axis=2))
    assert set((~missing[:, :, 0]).sum(axis=0)) == {6, 7, 8, 9, 10}
    expected = pdist(np.nanmean(recording.repetitions, axis=0), "correlation")
    np.testing.assert_allclose(squareform(recording.rdm), expected, atol=1e-12)


@pytest.mark.real_data
def test_images_are_those_of_the_responses(benchmark: Benchmark, folder: Path) -> None:
    """Every stimulus of a recording is, byte for byte, the file its number names in its own archive."""
    from PIL import Image

    recording = session(benchmark, "210325")
    chosen = [0, 599, 600, 639]
    read = benchmark.stimulus_set.read(recording.stimuli[chosen])
    with zipfile.ZipFile(folder / "cowley2023/images/images_210325.zip") as archive:
        for position, pixels in zip(chosen, read, strict=True):
            with archive.open(f"image{position + 1:04d}.jpg") as file:
                assert pixels.shape == (112, 112, 3)
                assert np.array_equal(pixels, np.asarray(Image.open(file).convert("RGB")))


@pytest.mark.real_data
def test_equal_files_of_one_session_stay_two_stimuli(benchmark: Benchmark) -> None:
    ids = benchmark.stimulus_set.stimulus_ids
    pair = [ids.index(f"210621_image{number}") for number in ("0101", "0536")]
    first, second = benchmark.stimulus_set.read(np.array(pair))
    assert hashlib.sha256(first.tobytes()).digest() == hashlib.sha256(second.tobytes()).digest()


@pytest.mark.real_data
def test_images_are_streamed(benchmark: Benchmark) -> None:
    one = 112 * 112 * 3
    tracemalloc.start()
    try:
        for start in range(0, 1024, 128):
            benchmark.stimulus_set.read(np.arange(start, start + 128))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20 * one
    assert peak < 400 * one, "128 images and the archive's directory, not 1024 images"


@pytest.mark.real_data
def test_crossnobis_of_the_session_with_repetitions_equals_rsatoolbox(benchmark: Benchmark) -> None:
    """6 to 10 repetitions an image; 30 images, since rsatoolbox goes through pairs of trials."""
    repetitions = session(benchmark, "210325").repetitions[:, :30]
    assert set((~np.isnan(repetitions[..., 0])).sum(axis=0)) == {6, 7, 8, 9}
    here = ~np.isnan(repetitions).any(axis=2).ravel()
    repetition, stimulus = np.indices(repetitions.shape[:2]).reshape(2, -1).astype(float)
    centred = repetitions - np.nanmean(repetitions, axis=0).mean(axis=0)
    trials = Dataset(
        centred.reshape(-1, 50)[here], obs_descriptors={"stimulus": stimulus[here], "repetition": repetition[here]}
    )
    noise = prec_from_unbalanced(trials, "stimulus", method="shrinkage_diag")
    oracle = calc_rdm_unbalanced(trials, "crossnobis", "stimulus", noise=noise, cv_descriptor="repetition")
    found = squareform(crossnobis_rdm(repetitions), checks=False)
    np.testing.assert_allclose(found, oracle.dissimilarities[0], atol=1e-10)


@pytest.mark.real_data
def test_only_one_session_has_repetitions_for_crossnobis(benchmark: Benchmark) -> None:
    own, reasons = recorded_as(benchmark, "crossnobis")
    assert [recording.session for recording in own.recordings] == ["210325"]
    assert len(reasons) == 6
    assert set(reasons.values()) == {"it has no repetitions"}
    distances = squareform(own.recordings[0].rdm, checks=False)
    # Noise averages out, so that a few distances are negative; the other kind of RDM says much the same.
    assert 0 < (distances < 0).mean() < 0.05
    assert spearmanr(distances, squareform(session(benchmark, "210325").rdm))[0] > 0.5
