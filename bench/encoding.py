"""Encoding against scikit-learn: the same ten splits, the same predictions.

Ours multiplies the features once and fits in the products of stimuli; scikit-learn fits the features
themselves, split by split. PLS is timed against scikit-learn's at its default tolerance, which Brain-Score
uses, and at 1e-18, where its numbers equal ours (at the default they are off in the third digit; the largest
differences are printed). Ridge is timed against RidgeCV with a penalty per neuroid.

python bench/encoding.py [--quick] [--part pls|ridge] [--repeats N] [--threads N] [--out FILE.csv]
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from side_by_side import compare, options, write
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import RidgeCV
from threadpoolctl import threadpool_limits

from brain_eval.metrics.encoding import cross_validated, pearson_by_column, splits_of

PARTS = ("pls", "ridge")
PENALTIES = tuple(np.logspace(0, 6, 13))


@dataclass(frozen=True)
class Sizes:
    """How much is computed: stimuli, neuroids of the layer, recorded neuroids, splits."""

    stimuli: int = 500
    features: int = 4000
    neuroids: int = 60
    splits: int = 10


QUICK = Sizes(stimuli=60, features=200, neuroids=5, splits=2)


@dataclass(frozen=True)
class Case:
    """Two functions of no arguments that return (splits, neuroids) correlations alike within `tolerance`."""

    name: str
    goal: str
    ours: tuple[str, Callable[[], np.ndarray]]
    other: tuple[str, Callable[[], np.ndarray]]
    tolerance: float


def data(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Rectified features and noisy responses that share 40 causes of falling strength."""
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((sizes.stimuli, 40)) * np.logspace(0, -1, 40)
    noise = rng.standard_normal((sizes.stimuli, sizes.features))
    features = np.maximum(causes @ rng.standard_normal((40, sizes.features)) + 0.3 * noise + 0.5, 0)
    responses = causes @ rng.standard_normal((40, sizes.neuroids))
    return features, responses + rng.standard_normal(responses.shape)


def by_splits(regression: Callable[[], Any], features: np.ndarray, responses: np.ndarray, splits: int) -> np.ndarray:
    """Fit and correlate a scikit-learn regression split by split."""
    correlations = []
    with warnings.catch_warnings():
        # scikit-learn says so where it stops before it has converged.
        warnings.simplefilter("ignore")
        for train, test in splits_of(len(features), splits):
            predicted = regression().fit(features[train], responses[train]).predict(features[test])
            correlations.append(pearson_by_column(predicted, responses[test]))
    return np.stack(correlations)


def cases(sizes: Sizes, parts: Sequence[str] = PARTS) -> list[Case]:
    """PLS at both tolerances of scikit-learn, and ridge."""
    features, responses = data(sizes)
    size = f"{sizes.stimuli} x {sizes.features} features, {sizes.neuroids} neuroids, {sizes.splits} splits"

    def ours(regression: str, **options: Any) -> Callable[[], np.ndarray]:
        return lambda: cross_validated(features, responses, regression, splits=sizes.splits, **options)

    def theirs(regression: Callable[[], Any]) -> Callable[[], np.ndarray]:
        return lambda: by_splits(regression, features, responses, sizes.splits)

    made = []
    if "pls" in parts:
        made += [
            Case(f"PLS-25, {size}", goal, ("pls", ours("pls")), (f"scikit-learn tol={tolerance:g}", theirs(
                partial(PLSRegression, 25, scale=False, tol=tolerance, max_iter=steps)
            )), within)
            for tolerance, steps, within, goal in ((1e-6, 500, 0.05, "at least 3.5"), (1e-18, 100_000, 1e-7, "none"))
        ]  # fmt: skip
    if "ridge" in parts:
        own = ("ridge", ours("ridge", penalties=PENALTIES))
        other = ("scikit-learn RidgeCV", theirs(lambda: RidgeCV(PENALTIES, alpha_per_target=True)))
        made.append(Case(f"ridge, {size}", "none", own, other, 1e-8))
    return made


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the bench; returns its rows."""
    chosen = options(__doc__, PARTS, arguments)
    rows = []
    for case in cases(QUICK if chosen.quick else Sizes(), chosen.part or PARTS):
        results: dict[str, np.ndarray] = {}

        def kept(side: tuple[str, Callable[[], np.ndarray]], results: dict = results) -> tuple[str, Callable[[], Any]]:
            return side[0], lambda: results.__setitem__(side[0], side[1]())

        with threadpool_limits(chosen.threads):
            rows.append(
                compare("encoding", case.name, kept(case.ours), kept(case.other),
                        repeats=chosen.repeats, goal=case.goal, threads=chosen.threads)
            )  # fmt: skip
        worst = np.max(np.abs(results[case.ours[0]] - results[case.other[0]]))
        print(f"  largest difference of a correlation {worst:.2g}", flush=True)
    write(chosen.out, rows)
    return rows


if __name__ == "__main__":
    main()
