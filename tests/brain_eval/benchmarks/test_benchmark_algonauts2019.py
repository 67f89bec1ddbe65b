"""algonauts2019: the published noise ceilings from its own files, and what the framework says of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import squareform
from scipy.stats import spearmanr

from brain_eval.benchmarks import algonauts2019, load_benchmark
from brain_eval.benchmarks.base import Benchmark
from brain_eval.scoring.ceilings import leave_one_out
from nmnc.errors import UserError


@pytest.fixture(scope="module")
def folder(data_folder: Callable[..., Path]) -> Path:
    return data_folder("algonauts2019")


@pytest.fixture(scope="module")
def benchmark(folder: Path) -> Benchmark:
    return load_benchmark("algonauts2019", folder)


def subjects(benchmark: Benchmark, region: str) -> list[np.ndarray]:
    return [recording.rdm for recording in benchmark.recordings if recording.region == region]


@pytest.mark.real_data
def test_recordings_and_stimuli(benchmark: Benchmark) -> None:
    assert [(r.region, r.animal, r.species) for r in benchmark.recordings] == [
        (region, f"S{subject}", "human") for region in ("EVC", "IT") for subject in range(1, 16)
    ]
    stimuli = benchmark.stimulus_set
    assert len(set(stimuli.stimulus_ids)) == benchmark.description.n_stimuli == 78
    assert stimuli.stimulus_ids[6] == "image_07"
    shapes = {image.shape for image in stimuli.read(np.arange(78))}
    assert shapes == {(400, 400, 3), (400, 399, 3), (400, 402, 3)}
    for recording in benchmark.recordings:
        assert recording.rdm.shape == (78, 78)
        assert np.array_equal(recording.rdm, recording.rdm.T)
        assert not np.diag(recording.rdm).any()
        assert recording.repetitions is None
        assert recording.responses is None
        assert recording.n_neuroids is None


@pytest.mark.real_data
@pytest.mark.parametrize(("region", "lower", "upper"), [("EVC", 0.016, 0.22), ("IT", 0.012, 0.23)])
def test_ceilings_as_published(region: str, lower: float, upper: float, benchmark: Benchmark, folder: Path) -> None:
    """Each subject against the mean of the others, and of all; their squares stand in the source's own log."""
    pairs = np.stack([squareform(rdm) for rdm in subjects(benchmark, region)])
    others = [spearmanr(own, np.delete(pairs, i, axis=0).mean(axis=0))[0] for i, own in enumerate(pairs)]
    everyone = [spearmanr(own, pairs.mean(axis=0))[0] for own in pairs]
    assert np.mean(others) == pytest.approx(lower, abs=5e-4)
    assert np.mean(everyone) == pytest.approx(upper, abs=5e-3)
    log = json.loads((folder / "algonauts2019/noise_ceiling_log.json").read_text())[f"fmri_{region}_RDMs.npz"]
    assert np.mean(np.square(others)) == pytest.approx(log["spearman"]["lnc"], abs=1e-6)
    assert np.mean(np.square(everyone)) == pytest.approx(log["spearman"]["unc"], abs=1e-6)
    # The description says so to whoever lists the benchmarks; ours are of mean ranks (Nili et al. 2014) and as low.
    assert lower < 0.02
    assert leave_one_out(subjects(benchmark, region), "spearman").lower < 0.02
    assert "leave-one-subject-out ceilings below .02" in benchmark.description.note


@pytest.mark.real_data
@pytest.mark.parametrize("region", ["EVC", "IT"])
def test_the_framework_calls_it_noise(region: str, benchmark: Benchmark) -> None:
    """Our own ceiling (mean of ranks) leaves room for hardly anything that subjects share."""
    ceiling = leave_one_out(subjects(benchmark, region), "spearman")
    assert 0 < ceiling.lower < 0.02
    assert 0.2 < ceiling.upper < 0.3, "a subject's own noise is in the mean of all"


def test_a_stack_of_another_form_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((78, 78)))
    with pytest.raises(UserError, match=r"has an array of shape \(78, 78\), not one RDM per subject"):
        algonauts2019._stack(tmp_path / "a.npz")


@pytest.mark.real_data
def test_another_picture_under_a_known_name_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = algonauts2019.DESCRIPTION
    (tmp_path / "algonauts2019").mkdir()
    for file in about.files:
        (tmp_path / file.path).symlink_to((folder / file.path).resolve())
    swapped = tmp_path / "algonauts2019/image_01.jpg"
    swapped.unlink()
    swapped.symlink_to((folder / "algonauts2019/image_02.jpg").resolve())
    with pytest.raises(UserError, match=r"image_01\.jpg has the wrong sha256"):
        load_benchmark("algonauts2019", tmp_path)
    # Nothing but the pins stands between the two.
    second = next(file for file in about.files if file.path.endswith("image_02.jpg"))
    files = tuple(replace(second, path=f.path) if f.path.endswith("image_01.jpg") else f for f in about.files)
    monkeypatch.setattr(algonauts2019, "DESCRIPTION", replace(about, files=files))
    assert len(load_benchmark("algonauts2019", tmp_path).recordings) == 30
