"""Scores of one model: invariants, joint resampling, ceilings, and what bad activations get."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from brain_eval.metrics.base import metrics_of_rdms
from brain_eval.metrics.similarity import compare, correlation_rdm, upper_triangle
from brain_eval.scoring import targets
from brain_eval.scoring.ceilings import leave_one_out, split_half
from brain_eval.scoring.scores import COLUMNS
from tests.brain_eval.scoring.fakes import N, cells, code, layers_of, make_benchmark, recording, two_sessions


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
    target = targets.Target(study.known["fake"], {"spearman": metrics_of_rdms()["spearman"]}, 12, 5)
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
        ranks = [metrics_of_rdms()["spearman"].transform(values) for values in (pairs, upper_triangle(session.rdm))]
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
