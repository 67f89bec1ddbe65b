"""responses.nc as laboratories have it: what is used, and what is refused with stimulus_id and neuroid."""

from collections.abc import Callable
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray
from numpy.typing import NDArray

from brain_eval.check import check_all
from brain_eval.metrics.rdms import correlation_rdm, euclidean_rdm
from nmnc.errors import UserError
from tests.sections import kept, scoring

P, N, R = 7, 6, 4
IDS = [f"s{i}" for i in range(N)]


def values(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape or (P, N, R))


def refused(mine: Any, match: str, **options: Any) -> None:
    """What `check` says, in one line that names the folder."""
    with pytest.raises(UserError, match=match) as caught:
        check_all({}, [f"mine={mine.path}"], mine.path, scoring(**options), kept())
    assert "\n" not in str(caught.value)
    assert "this layer" not in str(caught.value)
    assert str(mine.path) in str(caught.value)


def test_trials_missing_for_some_neuroids_leave_their_averages(mine: Any) -> None:
    trials = values()
    trials[:3, :, 3] = np.nan
    trials[5, 2, 0] = np.nan
    mine.responses(trials)
    (recording,) = mine.recordings()
    np.testing.assert_allclose(recording.responses, np.nanmean(trials, axis=2).T, atol=1e-12)
    np.testing.assert_array_equal(recording.repetitions, trials.transpose(2, 1, 0))


@pytest.mark.parametrize("extra", ["time_bin", "time", "channel"])
def test_a_further_dimension_of_length_1_is_dropped_and_a_longer_one_refused(mine: Any, extra: str) -> None:
    mine.responses(values(P, N), dims=("neuroid", "presentation"))
    (expected,) = mine.recordings()
    mine.responses(values(P, N)[:, None], dims=("neuroid", extra, "presentation"))
    np.testing.assert_array_equal(mine.recordings()[0].responses, expected.responses)
    mine.responses(values(P, 3, N), dims=("neuroid", extra, "presentation"))
    refused(mine, rf"has 3 values along '{extra}'; average over those you want")


def as_presentations(trials: NDArray[np.float64], order: Any) -> tuple[NDArray[np.float64], list[str], list[int]]:
    """(neuroid, stimulus, repetition) as (neuroid, presentation), with ids and repetitions along presentation."""
    pairs = [divmod(i, trials.shape[2]) for i in order]
    flat = np.stack([trials[:, stimulus, repetition] for stimulus, repetition in pairs], axis=1)
    return flat, [IDS[stimulus] for stimulus, _ in pairs], [repetition for _, repetition in pairs]


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_trials_along_presentation_are_trials(mine: Any, unequal: bool, counted: bool) -> None:
    """Brain-Score's form, in any order, with or without their numbers, as many of each stimulus or not."""
    trials = values()
    order = np.random.default_rng(1).permutation(N * R)
    if unequal:
        order = order[order % R < 2 + order // R % 3]
    flat, ids, numbers = as_presentations(trials, order)
    mine.responses(flat, ids, **({"repetition": ("presentation", numbers)} if counted else {}))
    (recording,) = mine.recordings()
    kept = np.full((R, N, P), np.nan)
    for i in order:
        stimulus, repetition = divmod(i, R)
        kept[repetition, stimulus] = trials[:, stimulus, repetition]
    assert recording.stimuli.tolist() == list(range(N))
    np.testing.assert_allclose(recording.responses, np.nanmean(kept, axis=0), atol=1e-12)
    np.testing.assert_array_equal(np.sort(recording.repetitions, axis=0), np.sort(kept, axis=0)[:4])


def test_a_stimulus_that_comes_twice_by_mistake_is_no_trial(mine: Any) -> None:
    mine.responses(values(P, N + 1), [*IDS, "s3"])
    refused(mine, "has stimulus_id 's3' twice; .* a coordinate 'repetition' along presentation")
    mine.responses(values(P, N + 1), [*IDS, "s3"], repetition=("presentation", [0] * N + [1]))
    assert mine.recordings()[0].repetitions.shape == (2, N, P)
    mine.responses(values(P, N + 1), [*IDS, "s3"], repetition=("presentation", [0] * (N + 1)))
    refused(mine, "stimulus_id 's3' has repetition 0 twice")
    mine.responses(values(P, N + 1, R), [*IDS, "s3"])
    refused(mine, "has stimulus_id 's3' twice; give each stimulus once")


def test_sessions_have_the_stimuli_they_saw(mine: Any) -> None:
    shown = values()
    shown[:4, :2] = np.nan
    shown[4:, 5] = np.nan
    mine.responses(shown, session=["A"] * 4 + ["B"] * 3)
    first, second = mine.recordings()
    assert (first.stimuli.tolist(), second.stimuli.tolist()) == ([2, 3, 4, 5], [0, 1, 2, 3, 4])
    np.testing.assert_allclose(first.rdm, correlation_rdm(shown[:4, 2:].mean(axis=2).T), atol=1e-12)
    np.testing.assert_allclose(second.responses, shown[4:, :5].mean(axis=2).T, atol=1e-12)
    mine.responses(shown)
    refused(mine, r"stimulus_id 's0' has no response \(NaN\) of neuroid 0 \(11 of 42 .* a session of their own")


def test_sessions_one_after_the_other_along_presentation(mine: Any) -> None:
    """As concatenated: each session's presentations are NaN for the other's neuroids, repetitions counted from 0."""
    flat, ids, numbers = as_presentations(values(), range(N * R))
    both = np.full((P, 2 * N * R), np.nan)
    both[:3, : N * R], both[3:, N * R :] = flat[:3], flat[3:] + 1
    mine.responses(both, ids * 2, session=["A"] * 3 + ["B"] * 4, repetition=("presentation", numbers * 2))
    first, second = mine.recordings()
    assert first.repetitions.shape == (R, N, 3)
    np.testing.assert_allclose(second.responses, values()[3:].mean(axis=2).T + 1, atol=1e-12)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ((slice(3, 4),), r"neuroid 3 \('n3'\) has no response at all \(NaN\); remove that neuroid"),
        ((slice(3, 5),), r"neuroid 3 \('n3'\) and 1 more has no response at all"),
        ((4, 2), r"stimulus_id 's2' has no response \(NaN\) of neuroid 4 \('n4'\) \(1 of 42 means"),
        ((slice(None), slice(2, None)), "has responses to 2 stimuli; an RDM can be compared from 3 on"),
        ((slice(None),), "has responses to 0 stimuli"),
    ],
)
def test_what_is_missing_throughout_is_named(mine: Any, broken: tuple[Any, ...], message: str) -> None:
    trials = values()
    trials[broken] = np.nan
    mine.responses(trials, neuroid_id=[f"n{i}" for i in range(P)])
    refused(mine, message)


def test_values_that_are_no_responses_are_refused(mine: Any) -> None:
    trials = values()
    trials[3, 2, 1] = -np.inf
    mine.responses(trials)
    refused(mine, "stimulus_id 's2' has an infinite response of neuroid 3; fix")
    mine.responses(values() * 1e200)
    refused(mine, "too large to square; divide all values by one number")
    with netCDF4.Dataset(mine.path / "responses.nc", "w", auto_complex=True) as file:
        for name, size in (("neuroid", P), ("presentation", N)):
            file.createDimension(name, size)
        file.createVariable("stimulus_id", str, ("presentation",))[:] = np.array(IDS, dtype=object)
        file.createVariable("responses", "c16", ("neuroid", "presentation"))[:] = values(P, N) + 1j
    refused(mine, "not real numbers|average over")


@pytest.mark.parametrize("dtype", ["f4", "i2", "u4", "i8"])
def test_counts_packed_numbers_and_fill_values_arrive_as_they_are(mine: Any, dtype: str) -> None:
    counts = np.random.default_rng(0).integers(1, 90, (P, N, R)).astype(float)
    counts[:, 3, 2] = np.nan
    packed = {"responses": {"dtype": dtype, "_FillValue": 999, "scale_factor": 0.5}}
    mine.responses(counts, encoding=packed)
    np.testing.assert_array_equal(mine.recordings()[0].repetitions, counts.transpose(2, 1, 0))
    mine.responses(-counts, encoding={"responses": {"dtype": "f8"}})
    np.testing.assert_array_equal(mine.recordings()[0].repetitions, -counts.transpose(2, 1, 0))


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "i8"])
def test_what_was_never_written_is_missing_and_no_number(mine: Any, dtype: str) -> None:
    with netCDF4.Dataset(mine.path / "responses.nc", "w") as file:
        for name, size in (("neuroid", P), ("presentation", N)):
            file.createDimension(name, size)
        file.createVariable("stimulus_id", str, ("presentation",))[:] = np.array(IDS, dtype=object)
        variable = file.createVariable("responses", dtype, ("neuroid", "presentation"))
        variable[:, : N - 1] = np.round(10 * values(P, N - 1))
    assert mine.recordings()[0].stimuli.tolist() == [0, 1, 2, 3, 4]


def silent(mine: Any) -> str:
    trials = values() + 3
    trials[:, 4] = 0.0
    mine.responses(trials)
    return r"activity is constant for stimulus_id 's4', so its correlations are undefined; leave out that stimulus"


def one_neuroid(mine: Any) -> Any:
    mine.responses(values()[:1])
    return "correlation distances need 2 neuroids, and it has 1; .* --recorded-rdms euclidean"


@pytest.mark.parametrize("make", [silent, one_neuroid])
def test_an_undefined_correlation_is_refused_where_it_is_asked_for_alone(mine: Any, make: Callable[..., Any]) -> None:
    message = make(mine)
    (recording,) = mine.recordings()
    assert recording.rdm is None
    refused(mine, message)
    refused(mine, message, metrics=["ridge", "pearson"], recorded_rdms=["euclidean", "correlation"])
    for options in ({"metrics": ["ridge", "cka-biased"]}, {"recorded_rdms": ["euclidean"]}):
        check_all({}, [f"mine={mine.path}"], mine.path, scoring(**options), kept())


def test_a_kind_that_the_folder_lacks_is_refused_by_check_with_its_reason(mine: Any) -> None:
    mine.responses(values() * (np.arange(N) != 4)[:, None])
    refused(mine, "no .* has a cosine RDM .*zero everywhere for stimulus_id 's4'", recorded_rdms=["cosine"])
    mine.responses(values(P, N))
    refused(
        mine, r"has a crossnobis RDM \(macaque V4, session 1: it has no repetitions\)", recorded_rdms=["crossnobis"]
    )
    check_all({}, [f"mine={mine.path}", "kriegeskorte2008"], mine.path, scoring(recorded_rdms=["crossnobis"]), kept())


def test_an_undefined_correlation_does_not_hinder_other_scores(mine: Any, study: Any) -> None:
    silent(mine)
    benchmark = mine.load()
    features = np.random.default_rng(2).standard_normal((N, 9)).astype(np.float32)
    study.write(benchmark, {"conv": features})
    with pytest.raises(UserError, match=r"responses\.nc, session 1, animal 1: activity is constant for stimulus_id"):
        study.score("mine", metrics=["spearman"])
    rows = study.score("mine", metrics=["spearman", "cka-biased"], recorded_rdms=["euclidean"])
    assert [row["metric"] for row in rows] == ["cka-biased", "euclidean-spearman"]
    assert all(row["raw"] for row in rows)


def test_centre_subtracts_means_over_each_recordings_stimuli(mine: Any) -> None:
    trials = values() + 5 * values(P, 1, 1, seed=3)
    trials[:3, 5] = np.nan
    mine.responses(trials, animal=["A"] * 3 + ["B"] * 4)
    plain = mine.recordings()
    mine.about(centre="true")
    for before, after in zip(plain, mine.recordings(), strict=True):
        means = before.responses.mean(axis=0)
        np.testing.assert_array_equal(after.responses, before.responses - means)
        np.testing.assert_array_equal(after.repetitions, before.repetitions - means)
        np.testing.assert_array_equal(after.rdm, correlation_rdm(after.responses))
        assert np.abs(after.rdm - before.rdm).max() > 0.1
        np.testing.assert_allclose(euclidean_rdm(after.responses), euclidean_rdm(before.responses), atol=1e-12)
    mine.about(centre="false")
    np.testing.assert_array_equal(mine.recordings()[0].rdm, plain[0].rdm)


def test_what_is_not_used_is_counted_and_named(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    mine.table(columns="stimulus_id,filename,degrees")
    (mine.path / "stimuli.csv").write_text(
        "stimulus_id,filename,degrees,source,year\n" + "".join(f"s{i},{i}.png,8,web,2026\n" for i in range(N))
    )
    (mine.path / "stimuli" / "Thumbs.db").write_bytes(b"")
    (mine.path / "stimuli" / ".DS_Store").write_bytes(b"")
    data = {"responses": (("neuroid", "presentation"), values(P, 4)), "snr": ("neuroid", values(P))}
    own = {"stimulus_id": ("presentation", IDS[:4]), "session": ("presentation", list("AABB"))}
    xarray.Dataset(data, own).to_netcdf(mine.path / "responses.nc")
    check_all({}, [f"mine={mine.path}"], mine.path, scoring(), kept())
    assert capsys.readouterr().err.splitlines() == [
        "brain_eval: note: mine: stimuli.csv: 2 columns (source, year) not used",
        "brain_eval: note: mine: stimuli/: 1 file (Thumbs.db) not listed in stimuli.csv",
        "brain_eval: note: mine: responses.nc: 2 variables (snr, session) not used",
        "brain_eval: note: mine: responses.nc: 2 stimuli (s4, s5) of stimuli.csv without responses",
    ]


@pytest.mark.parametrize("name", ["responses", "animal"])
def test_half_precision_is_refused_before_netcdf_crashes_on_it(mine: Any, name: str) -> None:
    mine.responses(values(P, N), dims=("neuroid", "presentation"))
    with h5py.File(mine.path / "responses.nc", "a") as file:
        file.pop(name, None)
        file.create_dataset(name, data=np.ones((P, N) if name == "responses" else P, np.float16))
    refused(mine, rf"responses\.nc: '{name}' is float16, which NetCDF does not have; write it as float32")
