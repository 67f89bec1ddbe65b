"""RDMs against rsatoolbox, and the memory that a comparison of 20,000 stimuli takes.

The same features go through rsatoolbox's calc_rdm and through correlation_rdm in float64 and float32,
alternately; the largest difference of their distances is printed. The comparison of two sets of 20,000 x 512
features runs in a process of its own, whose peak resident memory is read when it ends. Whitened comparison
of two RDMs is timed against rsatoolbox's.

python bench/rdms.py [--quick] [--part rdm|whitened|memory] [--repeats N] [--threads N] [--out FILE.csv]
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import compare, facts, options, write
from threadpoolctl import threadpool_limits

from brain_eval.metrics.rdms import correlation_rdm, upper_triangle
from brain_eval.metrics.similarity import compare as compare_rdms

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox

PARTS = ("rdm", "whitened", "memory")
#: What the comparison of `many` stimuli may take.
BUDGET_GB = 8.0


@dataclass(frozen=True)
class Sizes:
    """How much is computed: stimuli x neuroids of the RDM, stimuli of the whitened comparison, of the memory test."""

    stimuli: int = 3200
    neuroids: int = 9216
    whitened: int = 400
    many: int = 20_000
    many_neuroids: int = 512


QUICK = Sizes(stimuli=40, neuroids=300, whitened=20, many=200, many_neuroids=16)


@dataclass(frozen=True)
class Case:
    """Two functions of no arguments that return the same numbers within `tolerance`."""

    name: str
    goal: str
    ours: tuple[str, Callable[[], Any]]
    other: tuple[str, Callable[[], Any]]
    tolerance: float


def rsa_rdms(pairs: np.ndarray) -> Any:
    """rsatoolbox's object of one RDM."""
    return rsatoolbox.rdm.RDMs(pairs[None])


def rdm_cases(sizes: Sizes) -> list[Case]:
    """The correlation RDM, as pairs, in both precisions."""
    features = np.random.default_rng(0).standard_normal((sizes.stimuli, sizes.neuroids))
    dataset = rsatoolbox.data.Dataset(features)
    single = features.astype(np.float32)

    def theirs() -> np.ndarray:
        return rsatoolbox.rdm.calc_rdm(dataset, method="correlation").dissimilarities[0]

    other = ("rsatoolbox calc_rdm", theirs)
    size = f"correlation RDM {sizes.stimuli} x {sizes.neuroids}"
    return [
        Case(f"{size}, float64", "at least 25", ("correlation_rdm", lambda: upper_triangle(correlation_rdm(features))),
             other, 1e-10),
        Case(f"{size}, float32", "at least 60",
             ("correlation_rdm float32", lambda: upper_triangle(correlation_rdm(single, np.float32))), other, 1e-5),
    ]  # fmt: skip


def whitened_cases(sizes: Sizes) -> list[Case]:
    """Whitened comparison of two RDMs."""
    rng = np.random.default_rng(1)
    rdms = [correlation_rdm(rng.standard_normal((sizes.whitened, 20))) for _ in range(2)]
    theirs = [rsa_rdms(upper_triangle(rdm)) for rdm in rdms]

    def ours_of(metric: str) -> Callable[[], float]:
        return lambda: compare_rdms(rdms[0], rdms[1], metric)

    def theirs_of(method: str) -> Callable[[], float]:
        return lambda: rsatoolbox.rdm.compare(theirs[0], theirs[1], method=method)[0, 0]

    return [
        Case(f"{ours} of {sizes.whitened} stimuli", "none", (ours, ours_of(ours)),
             (f"rsatoolbox {other}", theirs_of(other)), 1e-10)
        for ours, other in (("whitened-cosine", "cosine_cov"), ("whitened-correlation", "corr_cov"))
    ]  # fmt: skip


def timed_case(case: Case, repeats: int, threads: int) -> dict[str, Any]:
    """Time a case and print how far the two sides' numbers differ."""
    results: dict[str, Any] = {}

    def kept(name: str, function: Callable[[], Any]) -> Callable[[], None]:
        return lambda: results.__setitem__(name, function())

    ours, other = (case.ours[0], kept("ours", case.ours[1])), (case.other[0], kept("other", case.other[1]))
    with threadpool_limits(threads):
        row = compare("rdms", case.name, ours, other, repeats=repeats, goal=case.goal, threads=threads)
    print(f"  largest difference {np.max(np.abs(results['ours'] - results['other'])):.2g}", flush=True)
    return row


def measured_many(n: int, neuroids: int, metric: str, threads: int) -> dict[str, Any]:
    """Run many_stimuli.py, which imports little, and return what it prints."""
    command = [sys.executable, str(Path(__file__).with_name("many_stimuli.py")), str(n), str(neuroids), metric]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    done = subprocess.run(command, env={**os.environ, **limits}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def memory_row(sizes: Sizes, metric: str, threads: int) -> dict[str, Any]:
    """Measure the comparison of many stimuli and print it."""
    found = measured_many(sizes.many, sizes.many_neuroids, metric, threads)
    peak, where = found["peak"] / 1e9, facts("cpu", threads)
    name = f"{sizes.many} x {sizes.many_neuroids} features compared by {metric}, peak resident GB"
    print(
        f"rdms, {name} = {peak:.3g} of {BUDGET_GB:g} ({found['seconds']:.3g} s; {found['before'] / 1e9:.2g} GB before; "
        f"similarity {found['value']:.4f}; {where['cpu']}, {threads} threads)",
        flush=True,
    )
    return {
        "bench": "rdms", "case": name, "ours": f"{peak:.4g} GB", "other": f"{BUDGET_GB:g} GB",
        "seconds_ours": found["seconds"], "seconds_other": "", "ratio": BUDGET_GB / peak, "ratio_low": "",
        "ratio_high": "", "goal": "at least 1", "repeats": 1, **where,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the bench; returns its rows."""
    chosen = options(__doc__, PARTS, arguments)
    sizes, parts = QUICK if chosen.quick else Sizes(), chosen.part or PARTS
    rows: list[dict[str, Any]] = []
    for part, cases in (("rdm", rdm_cases), ("whitened", whitened_cases)):
        if part in parts:
            rows += [timed_case(case, chosen.repeats, chosen.threads) for case in cases(sizes)]
    if "memory" in parts:
        rows += [memory_row(sizes, metric, chosen.threads) for metric in ("spearman", "pearson", "whitened-cosine")]
    write(chosen.out, rows)
    return rows


if __name__ == "__main__":
    main()
