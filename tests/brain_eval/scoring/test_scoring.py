"""Scores of one model: invariants, joint resampling, ceilings, and what bad activations get."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import spearmanr

from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.metrics import METRICS
from brain_eval.metrics.similarity import compare, correlation_rdm, upper_triangle
from brain_eval.scoring import targets
from brain_eval.scoring.ceilings import leave_one_out, split_half
from brain_eval.scoring.scores import COLUMNS
from nmnc.errors import UserError

N = 24


def recording(
    session: str,
    animal: str,
    stimuli: Any,
    features: NDArray[Any],
    species: str = "macaque",
    region: str = "IT",
    **others: Any,
) -> Recording:
    return Recording(
        session, animal, species, region, np.asarray(stimuli, dtype=np.intp), 50, correlation_rdm(features), **others
    )


def make_benchmark(
    recordings: list[Recording], n: int = N, name: str = "fake", ids: list[str] | None = None
) -> Benchmark:
    ids = tuple(ids) if ids is not None else tuple(f"image{i:02d}" for i in range(n))
    about = Description(name, 3, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    return Benchmark(about, StimulusSet(name, ids, lambda indices: [], f"sha of {ids}"), tuple(recordings))


def code(n: int = N, width: int = 8, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((n, width))


def layers_of(n: Any = N) -> dict[str, NDArray[np.float32]]:
    """Two layers that share a code with the recordings below, the second less."""
    rng = np.random.default_rng(1)
    return {
        "conv": (code(n) + rng.standard_normal((n, 8))).astype(np.float32),
        "fc": (code(n)[:, :5] + 3 * rng.standard_normal((n, 5))).astype(np.float32),
    }


def two_sessions() -> list[Recording]:
    """Session A shows images 0-15, session B images 10-23: 6 are shared."""
    rng = np.random.default_rng(2)
    return [
        recording(session, "M1", stimuli, code()[stimuli] + rng.standard_normal((len(stimuli), 8)))
        for session, stimuli in (("A", np.arange(16)), ("B", np.arange(10, 24)))
    ]


def cells(rows: list[dict[str, str]], *columns: str) -> list[Any]:
    return [tuple(row[column] for column in columns) for row in rows]


def test_rows_and_columns_are_those_of_the_contract(study: Any) -> None:
    rows = study.score_of(make_benchmark(two_sessions()), layers_of())
    assert tuple(rows[0]) == COLUMNS
    assert cells(rows, "layer", "session", "animal", "metric") == [
        (layer, session, animal, metric)
        for layer in ("conv", "fc")
        for session, animal in (("A", "M1"), ("B", "M1"), ("mean", "M1"), ("mean", "all"))
        for metric in ("spearman", "rho-a")
    ]
    first = rows[0]
    identity = {"network": "net", "rule": "nmnc", "kind": "nmnc", "seed": "7"}
    about = {"benchmark": "fake", "version": "3", "species": "macaque", "region": "IT", "preprocessing": "32 px"}
    numbers = {"n_draws": "60", "n_stimuli": "16", "n_neuroids": "50"}
    assert identity | about | numbers == {key: first[key] for key in identity | about | numbers}
    unknown = ("ceiling_lower", "ceiling_upper", "ceiled", "ceiling_definition")
    assert all(row[column] == "" for row in rows for column in unknown)
    for row in rows:
        assert float(row["ci_low"]) < float(row["raw"]) < float(row["ci_high"])
        assert "Student's t 95 % interval (Fisher z) over stimuli" in row["interval_method"]
        assert "counting pairs of stimuli twice; pairs ranked before resampling" in row["interval_method"]
        assert ("stimuli and recordings" in row["interval_method"]) == (row["session"] == "mean")
    means = [row for row in rows if row["session"] == "mean"]
    assert set(cells(means, "n_stimuli", "n_neuroids")) == {("24", "100")}


def test_raw_is_the_comparison_of_the_two_rdms_and_means_average_scores(study: Any) -> None:
    sessions, layers = two_sessions(), layers_of()
    rows = study.score_of(make_benchmark(sessions), layers)
    for layer, features in layers.items():
        for metric in ("spearman", "rho-a"):
            found = {
                row["session"]: float(row["raw"]) for row in rows if (row["layer"], row["metric"]) == (layer, metric)
            }
            for session in sessions:
                oracle = compare(correlation_rdm(features[session.stimuli]), session.rdm, metric)
                assert found[session.session] == pytest.approx(oracle, abs=1e-9)
            assert found["mean"] == pytest.approx((found["A"] + found["B"]) / 2, abs=1e-9)


def test_bootstrap_draws_come_from_resampled_shared_stimuli(study: Any) -> None:
    """Both sessions' draws are rebuilt from one set of stimulus counts by expanding the pairs of ranks."""
    sessions, layers = two_sessions(), layers_of()
    study.write(make_benchmark(sessions), layers)
    target = targets.Target(study.known["fake"], {"spearman": METRICS["spearman"]}, 12, 5)
    strata = [range(10), range(10, 16), range(16, 24)]
    weights = [target._weights[k][:12] for k in range(2)]
    counts = np.concatenate([weights[0], weights[1][:, 6:]], axis=1)
    assert np.array_equal(weights[0][:, 10:16], weights[1][:, :6])
    for stratum in strata:
        assert (counts[:, stratum].sum(axis=1) == len(stratum)).all()
    for k, session in enumerate(sessions):
        pairs = upper_triangle(correlation_rdm(layers["conv"][session.stimuli]))
        score = target.compare(k, pairs)[k, "spearman"]
        n = len(session.stimuli)
        assert score.variation.units.tolist() == session.stimuli.tolist()
        # A draw is the score, plus what the drawn stimuli's influences add up to, plus the remainder.
        influence = score.variation.influence * (n - 2) / np.sqrt(n * (n - 1))
        remainder = score.variation.remainder / np.sqrt(n / (n - 2))
        draws = score.raw + (weights[k] - 1) @ influence + remainder
        i, j = np.triu_indices(n, 1)
        ranks = [METRICS["spearman"].transform(values) for values in (pairs, upper_triangle(session.rdm))]
        for draw, w in zip(draws, weights[k].astype(int), strict=True):
            expanded = [np.repeat(values, w[i] * w[j]) for values in ranks]
            assert draw == pytest.approx(np.corrcoef(*expanded)[0, 1], abs=1e-10)


def test_rho_a_draws_are_spearmans_times_the_factor_of_the_ties(study: Any) -> None:
    tied = replace(two_sessions()[0], rdm=np.round(two_sessions()[0].rdm, 1))
    rows = study.score_of(make_benchmark([tied]), layers_of())
    for spearman, rho_a in zip(rows[::2], rows[1::2], strict=True):
        factor = float(rho_a["raw"]) / float(spearman["raw"])
        assert 0.9 < factor < 1
        widths = [np.ptp(np.arctanh([float(row[end]) for end in ("ci_low", "ci_high")])) for row in (spearman, rho_a)]
        room = [1 - float(row["raw"]) ** 2 for row in (spearman, rho_a)]
        assert widths[1] * room[1] == pytest.approx(factor * widths[0] * room[0], abs=1e-8)


def test_scaling_a_layer_changes_nothing(study: Any) -> None:
    layers = layers_of()
    rows = study.score_of(make_benchmark(two_sessions()), layers)
    scaled = {
        layer: values * np.float32(scale) for (layer, values), scale in zip(layers.items(), (64, 2**-30), strict=True)
    }
    assert study.score_of(make_benchmark(two_sessions()), scaled) == rows


def test_a_model_equal_to_the_recording_scores_one_with_an_interval_at_one(study: Any) -> None:
    features = code(seed=3).astype(np.float32)
    rows = study.score_of(make_benchmark([recording("A", "M1", range(N), features)]), {"copy": features})
    assert len(rows) == 2
    for row in rows:
        assert [float(row[column]) for column in ("raw", "ci_low", "ci_high")] == pytest.approx([1, 1, 1], abs=1e-9)


def test_permuting_the_stimulus_set_changes_nothing(study: Any) -> None:
    sessions, layers = two_sessions(), layers_of()
    rows = study.score_of(make_benchmark(sessions), layers)
    order = np.random.default_rng(0).permutation(N)
    place = np.argsort(order)
    moved = make_benchmark(
        [replace(session, stimuli=place[session.stimuli]) for session in sessions],
        ids=[f"image{i:02d}" for i in order],
    )
    permuted = study.score_of(moved, {layer: values[order] for layer, values in layers.items()})
    assert permuted == rows


def test_permuting_the_rows_of_a_recording_changes_nothing(study: Any) -> None:
    session, layers = two_sessions()[0], layers_of()
    rows = study.score_of(make_benchmark([session]), layers)
    order = np.random.default_rng(0).permutation(16)
    moved = replace(session, stimuli=session.stimuli[order], rdm=session.rdm[np.ix_(order, order)])
    permuted = study.score_of(make_benchmark([moved]), layers)
    for column in ("raw", "ci_low", "ci_high"):
        assert [float(row[column]) for row in permuted] == pytest.approx([float(row[column]) for row in rows], abs=1e-9)


def test_shuffled_stimuli_score_near_zero(study: Any) -> None:
    features = code(200, seed=3)
    benchmark = make_benchmark([recording("A", "M1", range(200), features)], n=200)
    shuffled = features[np.random.default_rng(0).permutation(200)].astype(np.float32)
    assert abs(float(study.score_of(benchmark, {"layer": shuffled})[0]["raw"])) < 0.05


def test_same_seed_same_bytes_and_the_draws_depend_on_the_benchmark_not_on_the_model(study: Any) -> None:
    benchmark = make_benchmark(two_sessions())
    study.score_of(benchmark, layers_of(), out="first.csv")
    study.score(out="second.csv")
    first = (study.folder / "first.csv").read_bytes()
    assert first == (study.folder / "second.csv").read_bytes()
    other = study.score(out="other.csv", identity="net,vnc,vnc,0")
    rows = study.score(out="third.csv")
    assert cells(other, "raw", "ci_low", "ci_high") == cells(rows, "raw", "ci_low", "ci_high")
    assert cells(study.score(seed=1), "ci_low") != cells(rows, "ci_low")
    renamed = study.score_of(make_benchmark(two_sessions(), name="other"), layers_of())
    assert cells(renamed, "raw") == cells(rows, "raw")
    assert cells(renamed, "ci_low") != cells(rows, "ci_low")


def test_repetitions_give_a_split_half_ceiling_and_ceiled_scores(study: Any) -> None:
    rng = np.random.default_rng(4)
    repetitions = code() + 0.7 * rng.standard_normal((6, N, 8))
    repetitions[4:, ::2] = np.nan
    session = recording("A", "M1", range(N), np.nanmean(repetitions, axis=0), repetitions=repetitions)
    rows = study.score_of(make_benchmark([session]), layers_of())
    for row in rows:
        oracle = split_half(repetitions, row["metric"], targets.SPLITS, 0)
        assert float(row["ceiling_lower"]) == pytest.approx(oracle.lower, abs=1e-9)
        assert float(row["ceiling_upper"]) == pytest.approx(oracle.upper, abs=1e-9)
        assert float(row["ceiled"]) == pytest.approx(float(row["raw"]) / oracle.upper, abs=1e-9)
        assert "split-half" in row["ceiling_definition"]
        assert row["ceiling_definition"].endswith("ceiled = raw / ceiling_upper")


def test_subjects_on_the_same_stimuli_give_a_leave_one_out_ceiling_on_their_mean(study: Any) -> None:
    rng = np.random.default_rng(5)
    order = rng.permutation(N)
    subjects = [recording("s", f"S{k}", range(N), code() + rng.standard_normal((N, 8)), "human") for k in range(3)]
    last = subjects[-1]
    rdms = [subject.rdm for subject in subjects]
    subjects[-1] = replace(last, stimuli=last.stimuli[order], rdm=last.rdm[np.ix_(order, order)])
    rows = study.score_of(make_benchmark(subjects), layers_of())
    assert cells(rows, "session", "animal")[:8:2] == [("s", "S0"), ("s", "S1"), ("s", "S2"), ("mean", "all")]
    for row in rows:
        if row["session"] == "mean":
            oracle = leave_one_out(rdms, row["metric"])
            assert (float(row["ceiling_lower"]), float(row["ceiling_upper"])) == pytest.approx(
                (oracle.lower, oracle.upper), abs=1e-9
            )
        else:
            assert row["ceiling_upper"] == row["ceiled"] == ""


def test_sessions_of_one_subject_give_a_leave_one_out_ceiling_and_animals_go_before_sessions(study: Any) -> None:
    rng = np.random.default_rng(8)
    sessions = [recording(f"s{k}", "M1", range(N), code() + rng.standard_normal((N, 8))) for k in range(3)]
    oracle = leave_one_out([one.rdm for one in sessions], "spearman")
    rows = study.score_of(make_benchmark(sessions), layers_of(), metrics=["spearman"])
    for row in (row for row in rows if row["session"] == "mean"):
        assert float(row["ceiling_lower"]) == pytest.approx(oracle.lower, abs=1e-9)
        assert float(row["ceiling_upper"]) == pytest.approx(oracle.upper, abs=1e-9)
        assert row["ceiling_definition"].startswith("leave-one-session-out over 3 sessions (3 RDMs")
    other = recording("s9", "M2", range(N), code() + rng.standard_normal((N, 8)))
    rows = study.score_of(make_benchmark([*sessions, other]), layers_of(), metrics=["spearman"])
    words = {row["animal"]: row["ceiling_definition"].partition(" (")[0] for row in rows if row["session"] == "mean"}
    assert words == {
        "M1": "leave-one-session-out over 3 sessions", "all": "leave-one-subject-out over 2 subjects",
    }  # fmt: skip


def test_species_and_regions_are_averaged_apart(study: Any) -> None:
    rng = np.random.default_rng(6)
    recordings = [
        recording(f"{region}{k}", f"M{k}", range(N), code() + rng.standard_normal((N, 8)), species, region)
        for species, region in (("macaque", "V4"), ("macaque", "IT"), ("human", "IT"))
        for k in range(2 if species == "macaque" else 1)
    ]
    rows = study.score_of(make_benchmark(recordings), layers_of())
    assert cells(rows[::2], "species", "region", "session", "animal")[:7] == [
        ("macaque", "V4", "V40", "M0"),
        ("macaque", "V4", "V41", "M1"),
        ("macaque", "V4", "mean", "all"),
        ("macaque", "IT", "IT0", "M0"),
        ("macaque", "IT", "IT1", "M1"),
        ("macaque", "IT", "mean", "all"),
        ("human", "IT", "IT0", "M0"),
    ]


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
    with file_size_limit(60_000), pytest.raises(UserError, match=r"rdms\.nc: cannot be written \(.*\), .* make room"):
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
    with pytest.raises(UserError, match=r"fake\.nc is no readable NetCDF"):
        study.score()
    middle = len(content) // 2  # among the values, which are not compressed: zeros, or a chunk that is gone
    path.write_bytes(content[:middle])
    with pytest.raises(UserError, match=r"fake\.nc is (no readable|damaged)"):
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
    with pytest.raises(UserError, match="layer 'fc' holds NaN or infinity for stimulus 'image12'"):
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
    with pytest.raises(UserError, match="benchmark fake, session A, animal M1: its RDM holds NaN or is constant"):
        study.score()
    study.write(make_benchmark([replace(session, rdm=session.rdm[:9, :9])]), layers_of())
    with pytest.raises(UserError, match="a row for each of its stimuli"):
        study.score()


def test_scoring_does_not_import_torch() -> None:
    """Start-up time: torch costs seconds, and every score is a process of its own."""
    import subprocess
    import sys

    check = "import sys, brain_eval.scoring.scores, workflow.analysis.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_scores_equal_scipys_on_a_file_read_with_xarray(study: Any) -> None:
    """The whole way with other tools: xarray reads, numpy correlates, scipy ranks."""
    session = two_sessions()[1]
    rows = study.score_of(make_benchmark([session]), layers_of())
    with xr.open_dataset(study.folder / "fake.nc") as file:
        layers = file["layer"].values
        for row in rows[::2]:
            features = file["activations"].values[:, layers == row["layer"]][session.stimuli]
            rdm = 1 - np.corrcoef(features.astype(np.float64))
            oracle = spearmanr(upper_triangle(rdm), upper_triangle(session.rdm)).statistic
            assert float(row["raw"]) == pytest.approx(oracle, abs=1e-9)
