"""What scoring reads and writes: RDMs beside the scores, full disks, and what bad activations get."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from brain_eval.metrics.similarity import correlation_rdm
from nmnc.errors import UserError
from tests.brain_eval.scoring.fakes import N, code, layers_of, make_benchmark, recording, two_sessions


def test_a_dead_stimulus_empties_the_scores_that_need_it_and_says_so(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = layers_of()
    layers["conv"][3] = 0.25  # shown in session A only
    rows = study.score_of(make_benchmark(two_sessions()), layers)
    for row in rows:
        if row["layer"] == "fc" or row["session"] == "B":
            assert row["raw"] != ""
        else:
            assert [row[c] for c in ("raw", "ci_low", "ci_high", "n_draws", "ceiled")] == [""] * 5
            assert row["interval_method"] == "none: activity is constant for stimulus 'image03'"
    warning = capsys.readouterr().err
    assert "layer 'conv', session A: activity is constant for stimulus 'image03'" in warning
    with xr.open_dataset(study.folder / "rdms.nc") as file:
        assert np.isnan(file["fake"].sel(layer_fake="conv")).all()
        assert not np.isnan(file["fake"].sel(layer_fake="fc")).any()


def test_a_layer_whose_rdm_is_constant_is_empty_too(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = study.score_of(make_benchmark(two_sessions()), {"one-hot": np.eye(N, dtype=np.float32)})
    assert {row["raw"] for row in rows} == {""}
    assert "the RDM is constant" in capsys.readouterr().err


def test_draws_that_cannot_be_used_are_not_counted(study: Any) -> None:
    """Of 3 stimuli, a draw without all three has at most one pair."""
    tiny = make_benchmark([recording("A", "M1", range(3), code()[:3])], n=3)
    row = study.score_of(tiny, {"layer": code(3, seed=9).astype(np.float32)}, draws=400)[0]
    assert int(row["n_draws"]) == pytest.approx(400 * 6 / 27, abs=30)
    assert row["raw"] in {"-1", "-0.5", "0.5", "1"}


def test_rdms_of_small_benchmarks_are_stored_with_layers_and_ids(study: Any) -> None:
    layers = layers_of()
    study.write(make_benchmark(two_sessions()), layers)
    study.write(make_benchmark([recording("A", "M1", range(8), code()[:8])], n=8, name="small"), {"conv": code()[:8]})
    big = make_benchmark([recording("A", "M1", range(9), code()[:9])], n=201, name="big")
    study.write(big, {"conv": code(201)})
    study.score()
    with xr.open_dataset(study.folder / "rdms.nc") as file:
        assert set(file.data_vars) == {"fake", "stimulus_id_fake", "small", "stimulus_id_small"}
        assert list(file["layer_fake"].values) == ["conv", "fc"]
        assert list(file["stimulus_id_fake"].values[:2]) == ["image00", "image01"]
        assert file["small"].shape == (1, 8, 8)
        for layer, features in layers.items():
            assert np.array_equal(file["fake"].sel(layer_fake=layer), correlation_rdm(features))
        assert file.attrs["rule"] == "nmnc"


def test_without_small_benchmarks_the_rdm_file_is_empty_but_there(study: Any) -> None:
    big = make_benchmark([recording("A", "M1", range(9), code()[:9])], n=201)
    study.score_of(big, {"conv": code(201)})
    with xr.open_dataset(study.folder / "rdms.nc") as file:
        assert not file.data_vars


def test_a_full_disk_leaves_the_old_scores_and_rdms(
    study: Any, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    rng = np.random.default_rng(0)
    benchmark = make_benchmark([recording("A", "M1", range(60), code(60))], n=60)
    study.score_of(benchmark, {"fc": code(60)})
    before = {path.name: path.read_bytes() for path in study.folder.iterdir()}
    study.write(benchmark, {f"layer{i}": rng.normal(size=(60, 5)) for i in range(6)})  # RDMs of 170 kB
    before["fake.nc"] = (study.folder / "fake.nc").read_bytes()
    with file_size_limit(60_000), pytest.raises(UserError, match=r"rdms\.nc: cannot be written \(.*\), .* free disk"):
        study.score()
    assert {path.name: path.read_bytes() for path in study.folder.iterdir()} == before


def test_layers_need_not_be_contiguous_in_the_file(study: Any) -> None:
    layers, benchmark = layers_of(), make_benchmark(two_sessions())
    rows = study.score_of(benchmark, layers)
    mixed = np.random.default_rng(0).permutation(13)
    block = np.concatenate(list(layers.values()), axis=1)[:, mixed]
    names = np.repeat(["conv", "fc"], [8, 5])[mixed].astype(object)
    with netCDF4.Dataset(study.folder / "fake.nc", "w") as file:
        file.createDimension("presentation", N)
        file.createDimension("neuroid", 13)
        file.createVariable("stimulus_id", str, "presentation")[:] = np.array(
            benchmark.stimulus_set.stimulus_ids, object
        )
        file.createVariable("layer", str, "neuroid")[:] = names
        file.createVariable("activations", "f4", ("presentation", "neuroid"))[:] = block
        file.setncatts({"preprocessing": "32 px", "stimulus_set_sha256": benchmark.stimulus_set.sha256})
    again = sorted(study.score(), key=lambda row: row["layer"])
    for column in ("raw", "ci_low", "ci_high"):
        assert [float(row[column]) for row in again] == pytest.approx([float(row[column]) for row in rows], abs=1e-9)


def test_activations_of_other_stimuli_are_refused(study: Any) -> None:
    benchmark = make_benchmark(two_sessions())
    study.write(benchmark, layers_of(), stimulus_set_sha256="older")
    with pytest.raises(UserError, match=r"fake\.nc was made from other stimuli.*extract --benchmark fake"):
        study.score()
    study.write(benchmark, layers_of())
    swapped = ("image01", "image00", *benchmark.stimulus_set.stimulus_ids[2:])
    stimuli = replace(benchmark.stimulus_set, stimulus_ids=swapped)
    study.known["fake"] = replace(benchmark, stimulus_set=stimuli)
    with pytest.raises(UserError, match="other stimuli"):
        study.score()


def test_missing_broken_and_foreign_files_are_named(study: Any) -> None:
    path = study.write(make_benchmark(two_sessions()), layers_of())
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=r"fake\.nc is missing; run: python -m brain_eval extract"):
        study.score()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(UserError, match=r"fake\.nc is not a readable NetCDF"):
        study.score()
    middle = len(content) // 2  # among the values, which are not compressed: zeros, or a chunk that is gone
    path.write_bytes(content[:middle])
    with pytest.raises(UserError, match=r"fake\.nc is (not a readable|damaged)"):
        study.score()
    netCDF4.Dataset(path, "w").close()
    with pytest.raises(UserError, match=r"fake\.nc lacks a part"):
        study.score()
    assert not (study.folder / "scores.csv").exists()
    assert not (study.folder / "rdms.nc").exists()


def test_nan_in_the_activations_names_layer_and_stimulus(study: Any) -> None:
    layers = layers_of()
    layers["fc"][12, 1] = np.nan
    study.write(make_benchmark(two_sessions()), layers)
    with pytest.raises(UserError, match="layer 'fc' contains NaN or infinity for stimulus 'image12'"):
        study.score()
    assert not (study.folder / "scores.csv").exists()


@pytest.mark.parametrize("identity", ["net", "a,b,c", "a,b,c,x", "a,b,c,1,2", "a,,c,1"])
def test_identity_must_have_four_parts(study: Any, identity: str) -> None:
    with pytest.raises(UserError, match="not network,rule,kind,seed"):
        study.score(identity=identity)


def test_unknown_metric_is_refused_before_anything_is_read(study: Any) -> None:
    with pytest.raises(UserError, match="unknown metric 'pearsn'"):
        study.score("fake", metrics=["pearsn"])


def test_a_recording_without_contrast_or_of_another_size_is_the_datas_fault(study: Any) -> None:
    session = two_sessions()[0]
    study.write(make_benchmark([replace(session, rdm=1 - np.eye(16))]), layers_of())
    with pytest.raises(UserError, match="benchmark fake, session A, animal M1: its RDM contains NaN or is constant"):
        study.score()
    study.write(make_benchmark([replace(session, rdm=session.rdm[:9, :9])]), layers_of())
    with pytest.raises(UserError, match="a row for each of its stimuli"):
        study.score()
