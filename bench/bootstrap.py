"""Bootstrap over stimuli: 1,000 draws of 3 models against one recording of 300 conditions, beside rsatoolbox.

python bench/bootstrap.py [--quick] [--repeats 3] [--out bootstrap.csv]

Both resample conditions with replacement, drop the pairs of a condition with its own copy and compare
the models' RDMs with the recorded one by Pearson in every draw; with the same draws the numbers are the
same. rsatoolbox takes minutes for 1,000 draws, which it makes one by one: it is timed on fewer, and its
seconds are scaled up. Without its noise ceiling, which we compute once and not in every draw.
"""

import argparse
import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from side_by_side import compare, write

from brain_eval.inference.resampling import weighted_correlations, weighted_moments
from brain_eval.metrics.rdms import correlation_rdm, upper_triangle

Array = NDArray[np.float64]

MODELS = 3
GOAL = "at least 30"


def make_rdms(conditions: int, seed: int = 0) -> tuple[list[Array], Array]:
    """Return the pairs of three models' RDMs and of a recording's, which share a code."""
    rng = np.random.default_rng(seed)
    code = rng.standard_normal((conditions, 20))
    rdms = [
        upper_triangle(correlation_rdm(code + size * rng.standard_normal((conditions, 20)))) for size in (0.5, 1, 2, 1)
    ]
    return rdms[:MODELS], rdms[MODELS]


def picks(conditions: int, draws: int, seed: int) -> NDArray[np.intp]:
    """The conditions of every draw (draws, conditions), as rsatoolbox draws them after np.random.seed(seed)."""
    state = np.random.RandomState(seed)
    return np.stack([state.randint(0, conditions, size=conditions) for _ in range(draws)])


def our_draws(models: list[Array], recorded: Array, picked: NDArray[np.intp]) -> Array:
    """Return (draws, models) Pearson correlations."""
    draws, n = picked.shape
    flat = (picked + np.arange(draws)[:, None] * n).ravel()
    weights = np.bincount(flat, minlength=draws * n).reshape(draws, n).astype(np.float64)
    brain = weighted_moments(recorded, weights)
    return np.stack(
        [weighted_correlations(weighted_moments(model, weights), brain, weights) for model in models], axis=1
    )


def their_draws(models: list[Array], recorded: Array, draws: int, seed: int) -> Array:
    """Return rsatoolbox's (draws, models) evaluations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from rsatoolbox.inference import eval_bootstrap_pattern
        from rsatoolbox.model import ModelFixed
        from rsatoolbox.rdm import RDMs

        fixed = [ModelFixed(str(number), RDMs(pairs[None])) for number, pairs in enumerate(models)]
        data = RDMs(recorded[None])
        np.random.seed(seed)  # noqa: NPY002 (rsatoolbox draws from numpy's global generator)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            result = eval_bootstrap_pattern(fixed, data, method="corr", N=draws, boot_noise_ceil=False)
    return np.asarray(result.evaluations)


def scaled(row: dict[str, Any], factor: float) -> dict[str, Any]:
    """The row with the other's seconds, and the ratios, times the draws it was spared."""
    for key in ("seconds_other", "ratio", "ratio_low", "ratio_high"):
        row[key] *= factor
    low, high = row["ratio_low"], row["ratio_high"]
    print(f"times {factor:g}, as rsatoolbox made so much fewer draws: {row['ratio']:.3g} ({low:.3g} to {high:.3g})")
    return row


def main() -> None:
    """Print the ratio and how far the numbers are apart; write the row as CSV where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 conditions, 40 draws")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    conditions, draws, theirs = (30, 40, 20) if given.quick else (300, 1000, 20)
    models, recorded = make_rdms(conditions)
    picked = picks(conditions, draws, 0)
    apart = np.abs(our_draws(models, recorded, picked[:theirs]) - their_draws(models, recorded, theirs, 0)).max()
    print(f"largest difference on the same {theirs} draws: {apart:.2g}")
    row = compare(
        "bootstrap", f"{draws} draws, {MODELS} models, {conditions} conditions, Pearson",
        ("brain_eval", lambda: our_draws(models, recorded, picked)),
        (f"rsatoolbox ({theirs} draws scaled to {draws})", lambda: their_draws(models, recorded, theirs, 0)),
        repeats=given.repeats, goal=GOAL, threads=1,
    )  # fmt: skip
    write(given.out, [scaled(row, draws / theirs)])


if __name__ == "__main__":
    main()
