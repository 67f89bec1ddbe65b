"""Principal components of few images and many units through the Gram matrix against a full decomposition.

Features are float64 with a spectrum that falls by half every few components, so that some singular values
lie below 1e-4 of the largest and are dropped. Ours gives all scores that remain; the decomposition all three
factors. Checked: the same number of components, the same singular values, the same subspaces.

The Gram matrix alone takes images^2 x units multiply-adds (one BLAS syrk, which this cannot beat): the bench
prints how close ours comes to that floor.

python bench/pca.py [--quick] [--threads N] [--out FILE.csv]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import subspace_angles, svd
from scipy.linalg.blas import dsyrk
from side_by_side import compare, write
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from brain_eval.activations.reductions.pca import SMALLEST, Components, principal_components

IMAGES, UNITS, QUICK = 1000, 100_000, (60, 2000)


def features_of(images: int, units: int) -> np.ndarray:
    """(images, units) float64, singular values from 1 to 1e-6, every unit with a mean of its own."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((images, units))
    features *= np.geomspace(1, 1e-6, images)[:, None]
    turned = np.linalg.qr(rng.standard_normal((images, images)))[0] @ features
    return turned + rng.standard_normal(units)


class Remembered:
    """A function of no arguments whose last result is kept."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: Any = None

    def __call__(self) -> None:
        """Call it."""
        self.result = self.function()


def same(found: Components, left: np.ndarray, singular: np.ndarray) -> None:
    """AssertionError unless number, singular values and subspaces agree."""
    kept = int((singular > SMALLEST * singular[0]).sum())
    if len(found.singular_values) != kept:
        raise AssertionError(f"{len(found.singular_values)} components, not {kept}")
    np.testing.assert_allclose(found.singular_values, singular[:kept], rtol=1e-6)
    for count in np.linspace(1, kept, 5).astype(int):
        angle = float(np.max(subspace_angles(found.scores()[:, :count], left[:, :count])))
        if angle > 1e-5:
            raise AssertionError(f"the first {count} components differ by an angle of {angle:.2g}")


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the comparison; returns its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="CSV to write")
    given = parser.parse_args(arguments)
    images, units = QUICK if given.quick else (IMAGES, UNITS)
    repeats = 1 if given.quick else given.repeats
    features = features_of(images, units)
    ours = Remembered(lambda: _with_scores(principal_components(features, images)))
    full = Remembered(lambda: svd(features - features.mean(0), full_matrices=False))
    peer = Remembered(lambda: PCA(svd_solver="full").fit_transform(features))
    case, rows = f"{images} x {units} float64", []
    with threadpool_limits(given.threads):
        for name, other in (("scipy.linalg.svd", full), ("scikit-learn PCA(full)", peer)):
            rows.append(
                compare("pca", case, ("Gram matrix", ours), (name, other), repeats=repeats,
                        goal="at least 50", threads=given.threads)
            )  # fmt: skip
        started = time.perf_counter()
        dsyrk(1.0, features.T, trans=1)
        floor = time.perf_counter() - started
    print(f"pca, {case}: floor, the Gram matrix as one BLAS call: {floor:.4g} s", flush=True)
    left, singular, _ = full.result
    same(ours.result, left, singular)
    kept = len(ours.result.singular_values)
    np.testing.assert_allclose(np.linalg.norm(peer.result, axis=0)[:kept], ours.result.singular_values, rtol=1e-6)
    print(f"pca, {case}: the same {kept} singular values above {SMALLEST:g} and subspaces", flush=True)
    write(given.out, rows)
    return rows


def _with_scores(found: Components) -> Components:
    found.scores()
    return found


if __name__ == "__main__":
    main()
