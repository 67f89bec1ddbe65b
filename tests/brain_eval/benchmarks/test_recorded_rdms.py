"""Recordings scored by other RDMs than correlation distances: values, ceilings, labels, and what is refused."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.inference import draws as score_draws
from brain_eval.metrics import RDMS as KINDS
from brain_eval.metrics import mahalanobis, rdms
from brain_eval.metrics.mahalanobis import crossnobis_rdm
from brain_eval.metrics.rdms import correlation_rdm, euclidean_rdm
from brain_eval.metrics.similarity import compare
from brain_eval.scoring import targets
from brain_eval.scoring.ceilings import split_half, split_half_all
from nmnc.errors import UserError

N = 20


def benchmark(repeated: bool = True) -> Benchmark:
    """Session A with 6 repetitions (4 of every other image), B with averages, C an RDM alone."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((N, 7))
    repetitions = signal + 0.8 * rng.standard_normal((6, N, 7))
    repetitions[4:, ::2] = np.nan
    means = np.nanmean(repetitions, axis=0)
    recordings = [
        Recording("A", "M1", "macaque", "IT", np.arange(N), 7, correlation_rdm(means), repetitions, means),
        Recording("B", "M1", "macaque", "IT", np.arange(5, N), 7, correlation_rdm(means[5:]), None, means[5:]),
        Recording("C", "M2", "macaque", "IT", np.arange(N), None, correlation_rdm(means + 1.0)),
    ]
    about = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    stimuli = StimulusSet("fake", tuple(f"image{i:02d}" for i in range(N)), lambda indices: [], "sha")
    return Benchmark(about, stimuli, tuple(recordings if repeated else recordings[1:]))


def layer() -> NDArray[np.float32]:
    recorded = benchmark().recordings[0].responses
    rng = np.random.default_rng(1)
    return (recorded @ rng.standard_normal((7, 12)) + rng.standard_normal((N, 12))).astype(np.float32)


def test_the_kinds_are_those_of_the_rdm_modules() -> None:
    assert list(KINDS) == [kind.name for kind in (*rdms.RECORDS, *mahalanobis.RECORDS)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["spearman", "whitened-cosine"])
def test_a_score_is_the_comparison_of_the_layers_rdm_with_the_recordings(
    study: Any, kind: str, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known, features = benchmark(), layer()
    rows = study.score_of(known, {"conv": features}, metrics=[metric], recorded_rdms=[kind])
    first = known.recordings[0]
    recorded = KINDS[kind].of_recording(first.repetitions if KINDS[kind].repeated else first.responses)
    model = {"correlation": correlation_rdm, "cosine": rdms.cosine_rdm}.get(kind, euclidean_rdm)(features)
    assert float(rows[0]["raw"]) == pytest.approx(compare(model, recorded, metric), abs=1e-9)
    assert float(rows[0]["ci_low"]) < float(rows[0]["raw"]) < float(rows[0]["ci_high"])
    assert {row["metric"] for row in rows} == {metric if kind == "correlation" else f"{kind}-{metric}"}
    sessions = {"correlation": "A B C mean mean", "mahalanobis": "A", "crossnobis": "A"}.get(kind, "A B mean")
    assert [row["session"] for row in rows if row["animal"] != "all" or kind == "correlation"] == sessions.split()
    warned = capsys.readouterr().err
    for session, lacks in (("B", "repetitions"), ("C", "repetitions" if KINDS[kind].repeated else "responses")):
        assert (f"session {session}: no {kind} RDM: it has no {lacks}" in warned) == (session not in sessions)


def test_kinds_stand_one_after_the_other_and_correlation_rows_stay_the_same(study: Any) -> None:
    study.write(benchmark(), {"conv": layer(), "fc": layer()[:, :5]})
    alone = study.score("fake", metrics=["spearman", "cka-biased"])
    both = study.score("fake", metrics=["spearman", "cka-biased"], recorded_rdms=["correlation", "crossnobis"])
    assert both[: len(alone)] == alone
    assert [(row["layer"], row["metric"], row["session"]) for row in both[len(alone) :]] == [
        ("conv", "crossnobis-spearman", "A"), ("fc", "crossnobis-spearman", "A"),
    ]  # fmt: skip
    # Responses need no RDM: they are scored whatever the RDMs are.
    other = study.score("fake", metrics=["spearman", "cka-biased"], recorded_rdms=["crossnobis"])
    assert other[-2:] == both[-2:]
    assert {row["metric"] for row in other} == {"cka-biased", "crossnobis-spearman"}


def test_draws_lie_under_the_name_of_the_rdm(study: Any) -> None:
    path = study.folder / "draws.nc"
    study.write(benchmark(), {"conv": layer()})
    kinds = ["correlation", "crossnobis"]
    rows = study.score("fake", metrics=["spearman"], recorded_rdms=kinds, draws_out=path)
    found = score_draws.read_draws(path)
    assert set(found) == {("fake", "spearman"), ("fake", "crossnobis-spearman")}
    crossed = found["fake", "crossnobis-spearman"]
    assert crossed.labels == (("A", "M1", "macaque", "IT"),)
    assert crossed.raw[0, 0] == pytest.approx(float(rows[-1]["raw"]), abs=1e-9)


def test_the_ceiling_splits_repetitions_and_has_no_upper_end(study: Any) -> None:
    known = benchmark()
    (row,) = study.score_of(known, {"conv": layer()}, metrics=["spearman"], recorded_rdms=["crossnobis"])
    oracle = split_half(known.recordings[0].repetitions, "spearman", targets.SPLITS, 0, "crossnobis")
    assert float(row["ceiling_lower"]) == pytest.approx(oracle.lower, abs=1e-9)
    assert row["ceiling_upper"] == row["ceiled"] == ""
    assert row["ceiling_definition"].endswith("upper unknown for crossnobis RDMs")


def simulated(repetitions: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((60, 8)) @ rng.standard_normal((8, 40)) / np.sqrt(8)
    return truth, truth + 2.5 * rng.standard_normal((repetitions, 60, 40))


def test_lower_is_the_similarity_of_the_rdms_of_two_independent_halves() -> None:
    """Repetitions recorded anew must correlate as the halves do: noise covariance and all are the half's own."""
    found, oracle = [], []
    for seed in range(12):
        truth, repetitions = simulated(8, seed)
        found.append(split_half(repetitions, "pearson", 10, 0, "crossnobis").lower)
        anew = truth + 2.5 * np.random.default_rng(100 + seed).standard_normal((6, 4, *truth.shape))
        pairs = zip(anew[::2], anew[1::2], strict=True)
        oracle += [compare(crossnobis_rdm(one), crossnobis_rdm(other), "pearson") for one, other in pairs]
    # Standard error of the difference .014 (40 data sets: .476 against .466).
    assert np.mean(found) == pytest.approx(np.mean(oracle), abs=0.04)


def test_spearman_and_brown_would_ceil_crossnobis_too_low() -> None:
    """Why upper stays unknown: the noise of squared distances falls faster than with the number of repetitions."""
    formula, reached = [], []
    for seed in range(6):
        truth, repetitions = simulated(8, seed)
        lower = split_half(repetitions, "pearson", 10, 0, "crossnobis").lower
        formula.append(np.sqrt(2 * lower / (1 + lower)))
        reached.append(compare(euclidean_rdm(truth), crossnobis_rdm(repetitions), "pearson"))
    assert np.mean(formula) < np.mean(reached) - 0.03


def test_too_few_repetitions_for_halves_leave_the_ceiling_empty() -> None:
    _, repetitions = simulated(3, 0)
    found = split_half_all(repetitions, ["spearman"], 3, 0, "crossnobis")["spearman"]
    assert (found.lower, found.upper) == (None, None)
    assert "needs 3 images with 4 repetitions each, got 0" in found.definition.meaning


def test_without_any_repetitions_crossnobis_is_refused_and_nothing_is_written(study: Any) -> None:
    study.write(benchmark(repeated=False), {"conv": layer()})
    with pytest.raises(UserError, match="no recording of fake has a crossnobis RDM"):
        study.score("fake", recorded_rdms=["correlation", "crossnobis"])
    assert not (study.folder / "scores.csv").exists()
    with pytest.raises(UserError, match="unknown RDM of recordings 'crosnobis'; did you mean 'crossnobis'"):
        study.score("fake", recorded_rdms=["crosnobis"])


def test_a_recording_whose_noise_is_unknown_is_warned_of(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    known = benchmark()
    repetitions = known.recordings[0].repetitions
    repetitions[..., 2] = np.where(np.isnan(repetitions[..., 2]), np.nan, 1.0)
    study.write(known, {"conv": layer()})
    with pytest.raises(UserError, match="has a mahalanobis RDM"):
        study.score("fake", recorded_rdms=["mahalanobis"])
    assert (
        "session A: no mahalanobis RDM: neuroid 2 has identical responses in all repetitions" in capsys.readouterr().err
    )
