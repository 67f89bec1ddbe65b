"""Noise ceilings against rsatoolbox, and against a simulation whose reliability is known."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.metrics import rdms
from brain_eval.metrics.base import RdmKind, metrics_of_rdms
from brain_eval.metrics.similarity import UndefinedSimilarity, compare, correlation_rdm, upper_triangle
from brain_eval.scoring import ceiling_files
from brain_eval.scoring.ceilings import (
    ceiling_of_halves,
    leave_one_out,
    split_half,
    split_half_all,
    split_half_correlations,
)
from nmnc.errors import UserError
from nmnc.files import sources

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox
    from rsatoolbox.inference import boot_noise_ceiling, cv_noise_ceiling
    from rsatoolbox.inference.crossvalsets import sets_leave_one_out_rdm

METRICS = metrics_of_rdms()


#: Metrics that noise attenuates as it does a correlation.
CORRELATIONS = [name for name, metric in METRICS.items() if metric.spearman_brown]
#: rsatoolbox's names of our metrics, where they differ.
THEIRS = {"pearson": "corr", "whitened-cosine": "cosine_cov", "whitened-correlation": "corr_cov"}


def subjects_rdms(n_subjects: int, n: int = 12, noise: float = 1.0, seed: int = 0) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    code = rng.standard_normal((n, 10))
    return [correlation_rdm(code + noise * rng.standard_normal((n, 10))) for _ in range(n_subjects)]


def simulated_repetitions(
    noise: float, repetitions: int = 8, n: int = 60, neuroids: int = 40, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noiseless responses (n, neuroids) and noisy repetitions of them."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((n, 5)) @ rng.standard_normal((5, neuroids))
    return truth, truth + noise * rng.standard_normal((repetitions, n, neuroids))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.filterwarnings("ignore:Noise ceiling for tau")
def test_leave_one_out_equals_rsatoolbox(metric: str) -> None:
    for n_subjects in [2, 3, 7]:
        for ties in [False, True]:
            rdms = subjects_rdms(n_subjects)
            if ties:
                rdms = [np.round(rdm, 1) for rdm in rdms]
            stacked = rsatoolbox.rdm.RDMs(np.stack([upper_triangle(rdm) for rdm in rdms]))
            found = leave_one_out(rdms, metric)
            assert (found.lower, found.upper) == pytest.approx(
                boot_noise_ceiling(stacked, method=THEIRS.get(metric, metric)), abs=1e-10
            )
            _, test_set, ceil_set = sets_leave_one_out_rdm(stacked)
            assert (found.lower, found.upper) == pytest.approx(
                cv_noise_ceiling(stacked, ceil_set, test_set, method=THEIRS.get(metric, metric)), abs=1e-10
            )


@pytest.mark.parametrize("metric", [*CORRELATIONS, "tau-a"])
def test_leave_one_out_bounds_the_true_model(metric: str) -> None:
    rng = np.random.default_rng(1)
    code = rng.standard_normal((40, 10))
    rdms = [correlation_rdm(code + rng.standard_normal((40, 10))) for _ in range(6)]
    found = leave_one_out(rdms, metric)
    true_model = np.mean([compare(correlation_rdm(code), rdm, metric) for rdm in rdms])
    assert found.lower < true_model < found.upper


def test_sessions_of_one_subject_are_left_out_together() -> None:
    """With a copy of the left-out RDM in the average, the lower ceiling would rise above the honest one."""
    rdms = subjects_rdms(3)
    subjects = ["S1", "S1", "S2", "S2", "S3", "S3"]
    twice = [rdm for rdm in rdms for _ in range(2)]
    honest = leave_one_out(twice, "spearman", subjects)
    assert (honest.lower, honest.upper) == pytest.approx(tuple(vars(leave_one_out(rdms, "spearman")).values())[:2])
    assert leave_one_out(twice, "spearman").lower > honest.lower + 0.1
    assert "3 subjects (6 RDMs" in honest.definition.meaning


def test_leave_one_out_refuses_one_subject_and_unlike_stimuli() -> None:
    rdms = subjects_rdms(3)
    with pytest.raises(UserError, match="at least 2 subjects, got 1"):
        leave_one_out(rdms[:1], "spearman")
    with pytest.raises(UserError, match="at least 2 subjects, got 1"):
        leave_one_out(rdms, "spearman", ["S1"] * 3)
    with pytest.raises(UserError, match="same stimuli"):
        leave_one_out([rdms[0], rdms[1][:5, :5]], "spearman")


@pytest.mark.parametrize("noise", [4.0, 8.0])
@pytest.mark.parametrize("metric", CORRELATIONS)
def test_split_half_upper_is_the_correlation_with_the_noiseless_rdm(noise: float, metric: str) -> None:
    truth, repetitions = simulated_repetitions(noise)
    found = split_half(repetitions, metric, 30, 0)
    against_truth = compare(correlation_rdm(truth), correlation_rdm(repetitions.mean(axis=0)), metric)
    assert found.upper == pytest.approx(against_truth, abs=0.04)
    assert 0.3 < against_truth < 0.99
    assert found.lower < found.upper


def test_split_half_lower_is_the_correlation_of_two_halves() -> None:
    """An independent pair of half data sets of the same truth must correlate as the halves do."""
    truth, repetitions = simulated_repetitions(2.0)
    halves = [truth + 2.0 * np.random.default_rng(s).standard_normal((4, *truth.shape)) for s in (8, 9)]
    oracle = compare(*(correlation_rdm(half.mean(axis=0)) for half in halves))
    assert split_half(repetitions, "spearman", 30, 0).lower == pytest.approx(oracle, abs=0.04)


def test_split_half_applies_spearman_brown() -> None:
    found = ceiling_of_halves(np.array([0.4, 0.6]), 10)
    assert (found.lower, found.upper) == pytest.approx((0.5, np.sqrt(2 * 0.5 / 1.5)))
    assert "2 random splits; 10 images" in found.definition.meaning


def test_without_noise_the_ceiling_is_one_and_without_signal_unknown() -> None:
    _, repetitions = simulated_repetitions(0.0)
    found = split_half(repetitions, "spearman", 5, 0)
    assert (found.lower, found.upper) == pytest.approx((1, 1))
    noise = np.random.default_rng(2).standard_normal((2, 30, 20))
    found = split_half(noise, "spearman", 5, 0)
    assert found.lower == pytest.approx(0, abs=0.1)
    unknown = ceiling_of_halves(np.array([-0.1, 0.02]), 30)
    assert unknown.upper is None
    assert "not positive" in unknown.definition.meaning


@pytest.mark.parametrize("metric", ["tau-a", "cosine", "whitened-cosine"])
def test_what_is_no_correlation_has_no_upper_split_half_ceiling(metric: str) -> None:
    _, repetitions = simulated_repetitions(4.0)
    found = split_half(repetitions, metric, 3, 0)
    assert found.upper is None
    assert 0 < found.lower < 1
    assert f"upper unknown for {metric}" in found.definition.meaning


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls = []

    def spy(*arguments: Any) -> Any:
        calls.append(arguments)
        return split_half_all(*arguments)

    monkeypatch.setattr(ceiling_files, "split_half_all", spy)
    return calls


def benchmark_with(repetitions: NDArray[np.float64]) -> Benchmark:
    rdm = correlation_rdm(np.nanmean(repetitions, axis=0))
    n = len(rdm)
    recordings = (
        Recording("A", "M1", "macaque", "IT", np.arange(n), 4, rdm, repetitions),
        Recording("B", "M2", "macaque", "IT", np.arange(n), 4, rdm),
    )
    about = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    return Benchmark(about, StimulusSet("fake", tuple(map(str, range(n))), lambda indices: [], "sha"), recordings)


def test_ceilings_are_computed_once_and_kept_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    _, repetitions = simulated_repetitions(2.0, repetitions=4, n=12)
    benchmark, metrics = benchmark_with(repetitions), ["spearman", "rho-a"]
    first = ceiling_files.ceilings_of(benchmark, metrics, 0, tmp_path)
    assert first == ceiling_files.ceilings_of(benchmark, metrics, 0, tmp_path)
    assert len(calls) == 1
    assert first == ceiling_files.ceilings_of(benchmark, metrics, 0, None)
    assert first[1] == dict.fromkeys(metrics, ceiling_files.UNKNOWN)
    assert [path.name.rpartition("-")[0] for path in tmp_path.glob("*.json")] == ["fake"]


def test_kept_ceilings_are_not_used_for_other_data_settings_or_damaged_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    _, repetitions = simulated_repetitions(2.0, repetitions=4, n=12)
    benchmark = benchmark_with(repetitions)
    made = ceiling_files.ceilings_of(benchmark, ["spearman"], 0, tmp_path)
    other = repetitions.copy()
    other[0, 0, 0] += 1e-9
    ceiling_files.ceilings_of(benchmark_with(other), ["spearman"], 0, tmp_path)
    ceiling_files.ceilings_of(benchmark, ["spearman"], 1, tmp_path)
    ceiling_files.ceilings_of(benchmark, ["rho-a"], 0, tmp_path)
    assert len(calls) == len(list(tmp_path.glob("*.json"))) == 4
    for calls_so_far, damage in ((5, lambda text: text[:40]), (6, lambda text: text.replace("0.", "0.9", 1))):
        for path in tmp_path.glob("*.json"):
            path.write_text(damage(path.read_text()))
        assert ceiling_files.ceilings_of(benchmark, ["spearman"], 0, tmp_path) == made
        assert len(calls) == calls_so_far


EDITS = {
    "metrics/repetitions.py": True,
    "scoring/ceilings.py": True,
    "inference/resampling.py": True,
    "metrics/whitened.py": True,  # the metric's module, which no import statement names
    "metrics/mahalanobis.py": True,  # likewise the kind's
    "metrics/encoding.py": False,
    "benchmarks/simulated.py": False,
}


def test_an_edit_of_the_code_behind_a_ceiling_and_no_other_computes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of the packages, whose code is hashed instead of ours."""
    for package in ("brain_eval", "nmnc"):
        shutil.copytree(sources.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    calls, (_, repetitions) = counted(monkeypatch), simulated_repetitions(2.0, repetitions=4, n=12)

    def made() -> Any:
        sources.code_digest.cache_clear()
        metrics = ["whitened-cosine"]
        ceiling_files.ceilings_of(benchmark_with(repetitions), metrics, 0, tmp_path / "kept", "crossnobis")
        return len(calls)

    assert made() == made() == 1
    for name, again in EDITS.items():
        before = made()
        with (tmp_path / "brain_eval" / name).open("a") as file:
            file.write("# edited\n")
        assert (made() > before) == again, name
    sources.code_digest.cache_clear()


def test_a_ceiling_that_is_undefined_names_the_stimulus() -> None:
    _, repetitions = simulated_repetitions(1.0, repetitions=2, n=10)
    repetitions[0, 6] = 0.0
    repetitions[1, 2] = np.nan  # is left out: the row among those used is another one
    (first, _) = ceiling_files.ceilings_of(benchmark_with(repetitions), ["spearman"], 0, None)
    assert first["spearman"].definition.meaning == (
        "none: activity is constant for stimulus_id '6' in a half of the repetitions, so its correlations are undefined"
    )


def test_splits_are_seeded() -> None:
    _, repetitions = simulated_repetitions(2.0, repetitions=5, n=20)
    first = split_half(repetitions, "spearman", 4, 3)
    assert split_half(repetitions, "spearman", 4, 3) == first
    assert split_half(repetitions, "spearman", 4, 4) != first


def test_each_image_splits_its_own_repetitions_and_the_padding_is_not_read() -> None:
    """Ragged data equal the same data with the repetitions elsewhere along the padded axis."""
    _, full = simulated_repetitions(1.0, repetitions=7, n=25)
    ragged = full.copy()
    rng = np.random.default_rng(0)
    for image in range(25):
        missing = rng.permutation(7)[: rng.integers(0, 6)]
        ragged[missing, image] = np.nan
    correlations, n_images = split_half_correlations(ragged, ["spearman"], 40, 0)
    assert n_images == 25
    assert 0.3 < correlations["spearman"].mean() < split_half(full, "spearman", 40, 0).lower


def test_halves_are_disjoint_exhaustive_and_of_equal_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetition r answers with neuroid r alone, so a half's mean shows which repetitions it holds."""
    counts = [2, 3, 4, 7, 8]
    repetitions = np.full((8, 5, 8), np.nan)
    for image, count in enumerate(counts):
        repetitions[:count, image] = np.eye(8)[:count]
    seen = []

    def spy(half: Any) -> Any:
        seen.append(half.copy())
        return correlation_rdm(half)

    monkeypatch.setattr(rdms, "RECORDS", (RdmKind("correlation", spy, spy, spearman_brown=True),))
    split_half_correlations(repetitions, ["spearman"], 60, 0)
    sizes = np.array([[(half[image] > 0).sum() for image in range(5)] for half in seen]).reshape(60, 2, 5)
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert not ((first > 0) & (second > 0)).any()
        assert [np.count_nonzero(row) for row in first + second] == counts
    assert np.abs(sizes[:, 0] - sizes[:, 1]).max() == 1
    # The odd repetition goes to either half.
    assert {tuple(pair) for pair in sizes[:, :, 1]} == {(1, 2), (2, 1)}
    # Every repetition meets either half.
    assert all(0 < sum(half[4, r] > 0 for half in seen[::2]) < 60 for r in range(8))


def test_images_with_one_repetition_are_left_out() -> None:
    _, repetitions = simulated_repetitions(1.0, n=20)
    single = np.concatenate([repetitions, repetitions[:, :4]], axis=1)
    single[1:, 20:] = np.nan
    correlations, n_images = split_half_correlations(single, ["spearman"], 3, 0)
    assert n_images == 20
    assert np.array_equal(
        correlations["spearman"], split_half_correlations(repetitions, ["spearman"], 3, 0)[0]["spearman"]
    )


def test_several_metrics_at_once_equal_one_by_one() -> None:
    _, repetitions = simulated_repetitions(2.0, n=20)
    together = split_half_all(repetitions, list(METRICS), 5, 0)
    assert together == {metric: split_half(repetitions, metric, 5, 0) for metric in METRICS}


def test_split_half_refuses_what_it_cannot_split() -> None:
    _, repetitions = simulated_repetitions(1.0, n=10)
    with pytest.raises(UserError, match="3 images with 2 repetitions each, got 0"):
        split_half(repetitions[:1], "spearman")
    with pytest.raises(UserError, match="must be"):
        split_half(repetitions[0], "spearman")
    repetitions[3, 4, 5] = np.inf
    with pytest.raises(UserError, match="repetition 3 holds infinity in row 4"):
        split_half(repetitions, "spearman")


@pytest.mark.parametrize("kind", ["correlation", "euclidean", "crossnobis"])
def test_repetitions_too_few_for_halves_leave_the_ceiling_empty(kind: str) -> None:
    _, repetitions = simulated_repetitions(1.0, n=10)
    found = split_half_all(repetitions[:1], ["spearman"], 3, 0, kind)["spearman"]
    assert (found.lower, found.upper) == (None, None)
    assert re.match(
        r"none: a split-half ceiling needs 3 images with \d repetitions each, got 0", found.definition.meaning
    )
    repetitions[0, 0, 0] = np.inf
    with pytest.raises(UserError, match="repetition 0 holds infinity in row 0"):
        split_half_all(repetitions, ["spearman"], 3, 0, kind)


def test_a_half_without_contrast_gives_an_unknown_ceiling_not_a_number() -> None:
    _, repetitions = simulated_repetitions(1.0, repetitions=2, n=10)
    repetitions[0, 6] = 0.0
    with pytest.raises(UndefinedSimilarity, match="row 6"):
        split_half(repetitions, "spearman", 3)
    found = split_half_all(repetitions, ["spearman"], 3, 0)["spearman"]
    assert (found.lower, found.upper) == (None, None)
    assert "constant in row 6" in found.definition.meaning
