"""Brain-Score's public assemblies: read as Brain-Score reads them, refused when they are not as registered."""

import importlib
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from brain_eval.benchmarks import freemanziemba2013public, majajhong2015public
from brain_eval.benchmarks.base import Benchmark
from brain_eval.benchmarks.public import assembly as module
from brain_eval.benchmarks.public.assembly import Pin, ensure_files, load
from brain_eval.benchmarks.public.environment import brainscore, prepare
from brain_eval.benchmarks.public.trials import by_repetition, complete_repetitions
from brain_eval.benchmarks.sources import state
from nmnc.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def benchmark(public: Any) -> Benchmark:
    return load(public.description, public.source, public.data)


def test_stimuli_and_labels(benchmark: Benchmark, public: Any) -> None:
    stimuli = benchmark.stimulus_set
    assert stimuli.stimulus_ids == tuple(public.ids)
    assert stimuli.degrees == (8,) * 60
    assert stimuli.categories[:7] == (
        "object 0",
        "object 1",
        "object 2",
        "object 3",
        "object 4",
        "object 5",
        "object 0",
    )
    assert stimuli.read(np.array([3]))[0].shape == (32, 40, 3)
    labels = [(r.region, r.species, r.session, r.animal, r.n_neuroids) for r in benchmark.recordings]
    assert labels == [
        ("V4", "macaque", "pooled", "2 animals", 4),
        ("IT", "macaque", "pooled", "2 animals", 5),
    ]


def test_repetitions_responses_and_rdm_agree(benchmark: Benchmark, public: Any) -> None:
    for recording in benchmark.recordings:
        columns = public.regions == recording.region
        stimuli = recording.stimuli
        expected = np.stack([public.trials[public.order == i][:, columns, 0].mean(axis=0) for i in stimuli])
        assert sorted(stimuli) == list(range(60))
        np.testing.assert_allclose(recording.responses, expected, atol=1e-12)
        assert recording.repetitions.shape == (4, 60, columns.sum())
        np.testing.assert_allclose(np.nanmean(recording.repetitions, axis=0), expected, atol=1e-12)
        counts = (~np.isnan(recording.repetitions[:, :, 0])).sum(axis=0)
        assert counts.tolist() == [4 if i % 7 else 3 for i in stimuli]
        np.testing.assert_allclose(squareform(recording.rdm), pdist(expected, "correlation"), atol=1e-12)


@pytest.mark.parametrize(
    ("fixture", "identifier", "data", "path"),
    [
        ("public", "MajajHong2015.public", "majajhong2015", "majajhong2015.benchmark"),
        (
            "public_in_time",
            "FreemanZiemba2013.public",
            "freemanziemba2013",
            "freemanziemba2013.benchmarks.benchmark",
        ),
    ],
)
def test_averages_are_those_of_brain_score(
    fixture: str,
    identifier: str,
    data: str,
    path: str,
    registered: Callable[[str, str, Any], None],
    request: pytest.FixtureRequest,
) -> None:
    """Its own functions, on the same files, and its own RDM; for one bin and for a window of many."""
    public = request.getfixturevalue(fixture)
    registered(identifier, data, public)
    ours = load(public.description, public.source, public.data)
    with brainscore(public.data / "brainio"):
        benchmarks = importlib.import_module(f"brainscore_vision.benchmarks.{path}")
        rdm = importlib.import_module("brainscore_vision.metrics.rdm.metric").RDM()
        for recording in ours.recordings:
            theirs = benchmarks.load_assembly(average_repetitions=True, region=recording.region, access="public")
            assert [public.ids[i] for i in recording.stimuli] == list(theirs["stimulus_id"].values)
            np.testing.assert_allclose(recording.responses, theirs.values, atol=1e-10)
            np.testing.assert_allclose(recording.rdm, rdm(theirs).values, atol=1e-10)


@pytest.mark.parametrize("ours", [majajhong2015public, freemanziemba2013public])
def test_pins_are_those_brain_score_registers(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare()
    name = {"dicarlo": "majajhong2015", "movshon": "freemanziemba2013"}[ours.SOURCE.identifier.split(".")[0]]
    data = importlib.import_module(f"brainscore_vision.data.{name}")
    monkeypatch.setattr(data, "load_assembly_from_s3", lambda **registered: registered)
    monkeypatch.setattr(data, "load_stimulus_set_from_s3", lambda **registered: registered)
    source = ours.SOURCE
    assembly = data.data_registry[source.identifier.partition(".")[2]]()
    assert (assembly["identifier"], assembly["bucket"]) == (source.identifier, module.BUCKET)
    assert (assembly["sha1"], assembly["version_id"]) == (source.assembly.sha1, source.assembly.version)
    stimuli = data.stimulus_set_registry[source.stimulus_set]()
    assert (stimuli["csv_sha1"], stimuli["csv_version_id"]) == (source.table.sha1, source.table.version)
    assert (stimuli["zip_sha1"], stimuli["zip_version_id"]) == (source.images.sha1, source.images.version)
    path = {"majajhong2015": "benchmark", "freemanziemba2013": "benchmarks.benchmark"}[name]
    assert source.degrees == importlib.import_module(f"brainscore_vision.benchmarks.{name}.{path}").VISUAL_DEGREES
    import brainscore_vision

    assert set(source.pls.values()) <= set(brainscore_vision.benchmark_registry)
    assert tuple(source.pls) == ours.DESCRIPTION.regions


def test_an_absent_file_is_one_line_with_place_sha1_and_address(
    public: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "_URL", "http://127.0.0.1:9/brainio-brainscore/")
    shutil.copytree(public.data, tmp_path / "data")
    nc, _, _ = public.source.files
    place = tmp_path / "data" / nc.path
    content = place.read_bytes()
    place.unlink()
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        load(public.description, public.source, tmp_path / "data")
    text = str(caught.value)
    assert "\n" not in text
    sha1 = public.source.assembly.sha1
    assert place == tmp_path / f"data/brainio/{sha1}/assy_lab_Small2026.nc"
    for part in (
        f"put it at {place} by hand (sha1 {sha1})",
        "http://127.0.0.1:9/brainio-brainscore/assy_lab_Small2026.nc",
    ):
        assert part in text
    assert state(public.source.files, tmp_path / "data") == "no"
    # By hand: first a wrong one, which is refused and kept, then the right one.
    place.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"wrong sha1 [0-9a-f]{{40}}, expected {sha1}; delete it"):
        load(public.description, public.source, tmp_path / "data")
    assert state(public.source.files, tmp_path / "data") == "damaged"
    place.write_bytes(content)
    assert len(load(public.description, public.source, tmp_path / "data").recordings) == 2


def test_brainio_home_is_honoured(public: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(public.data / "brainio", tmp_path / "elsewhere")
    monkeypatch.setenv("BRAINIO_HOME", str(tmp_path / "elsewhere"))
    assert state(public.source.files, tmp_path / "nowhere") == "yes"
    loaded = load(public.description, public.source, tmp_path / "nowhere")
    assert [recording.n_neuroids for recording in loaded.recordings] == [4, 5]
    assert not (tmp_path / "nowhere").exists()


def test_a_stored_version_is_part_of_the_address(public: Any) -> None:
    source = replace(public.source, assembly=Pin("0" * 40, "W2vx"))
    nc, table, _ = source.files
    assert nc.url == module._URL + "assy_lab_Small2026.nc?versionId=W2vx"
    assert nc.path == f"brainio/{'0' * 40}/assy_lab_Small2026.nc"
    assert table.url == module._URL + "stimulus_small_set.csv"


def test_an_unpacked_folder_with_gaps_is_refused(public: Any, tmp_path: Path) -> None:
    """Brain-Score takes any folder for complete, and a kill while unpacking would leave one."""
    shutil.copytree(public.data, tmp_path / "data")
    ensure_files(public.source, tmp_path / "data")
    folder = (tmp_path / "data" / public.source.files[2].path).with_suffix("")
    assert len(list(folder.iterdir())) == 60
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    (folder / f"{public.ids[5]}.png").unlink()
    with pytest.raises(UserError, match=f"lacks 1 images, first {public.ids[5]}.png; delete it and rerun"):
        ensure_files(public.source, tmp_path / "data")


def test_an_archive_that_is_none(public: Any, tmp_path: Path) -> None:
    import hashlib

    shutil.copytree(public.data, tmp_path / "data")
    sha1 = hashlib.sha1(b"no archive").hexdigest()
    source = replace(public.source, images=Pin(sha1))
    place = tmp_path / "data" / source.files[2].path
    place.parent.mkdir()
    place.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"stimulus_small_set.zip is not a readable zip archive .* delete it and rerun"):
        ensure_files(source, tmp_path / "data")


@pytest.mark.parametrize(
    ("fixture", "changes", "regions", "message"),
    [
        ("public", {}, ("V4", "TEO"), "contains no neuroids of region TEO"),
        ("public_in_time", {"window": None}, ("V4",), "has 170 time bins, not 1"),
        ("public_in_time", {"window": (50, 300)}, ("V4",), "has 160 bins of 1 ms between 50 and 300 ms"),
    ],
)
def test_an_assembly_of_another_form_is_refused(
    fixture: str, changes: dict, regions: tuple[str, ...], message: str, request: pytest.FixtureRequest
) -> None:
    public = request.getfixturevalue(fixture)
    description, source = replace(public.description, regions=regions), replace(public.source, **changes)
    with pytest.raises(UserError, match=re.escape(message)):
        load(description, source, public.data)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_by_repetition_keeps_every_trial_in_its_order(order: list[int]) -> None:
    trials = np.arange(2.0 * len(order)).reshape(-1, 2)
    stimuli, repetitions = by_repetition(trials, [f"s{i}" for i in order], [f"s{i}" for i in range(5)])
    assert stimuli.tolist() == sorted(set(order))
    for row, stimulus in enumerate(stimuli):
        own = trials[np.array(order) == stimulus]
        np.testing.assert_array_equal(repetitions[: len(own), row], own)
        assert np.isnan(repetitions[len(own) :, row]).all()


def test_a_trial_of_an_unknown_stimulus_is_refused() -> None:
    with pytest.raises(UserError, match="stimulus_id 'x' of the assembly is not in its stimulus set"):
        by_repetition(np.zeros((2, 1)), ["a", "x"], ["a"])


def test_repetitions_missing_for_some_neuroids_are_packed() -> None:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(4, 3, 2))
    whole[3, 1] = np.nan
    assert complete_repetitions(whole) is whole
    # Animal A has repetitions 0 and 1 of stimulus 0, animal B 2 and 3: two of each, paired anew.
    parted = whole.copy()
    parted[2:, 0, 0] = np.nan
    parted[:2, 0, 1] = np.nan
    packed = complete_repetitions(parted)
    assert packed.shape == (4, 3, 2)
    np.testing.assert_array_equal(packed[:2, 0, 0], whole[:2, 0, 0])
    np.testing.assert_array_equal(packed[:2, 0, 1], whole[2:, 0, 1])
    missing = np.isnan(packed)
    assert np.array_equal(missing.any(axis=2), missing.all(axis=2))
    np.testing.assert_array_equal(packed[:, 2], whole[:, 2])
    parted[:, 0, 1] = np.nan
    assert complete_repetitions(parted) is None
