"""Noise ceilings: how well the best possible model could do, given the noise of a recording."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Ceiling
from brain_eval.cka import linear_cka
from brain_eval.rdms import Vector, upper_triangle
from brain_eval.recorded_rdms import CORRELATION, Kind, find_kind
from brain_eval.repetitions import which_available
from brain_eval.resampling import generator
from brain_eval.similarity import Metric, correlate, find_metric, ranks
from nmnc.errors import UserError


def leave_one_out(
    rdms: Sequence[NDArray[np.float64]], metric: str, subjects: Sequence[str] | None = None, what: str = "subject"
) -> Ceiling:
    """Lower and upper noise ceiling from several subjects (Nili et al. 2014, PLoS Comput Biol 10:e1003553).

    Lower: each RDM against the mean of the other subjects' RDMs. Upper: each RDM against the mean of
    all. Both averaged over the RDMs; RDMs are averaged after the metric's transform (ranks).

    Args:
        rdms: (n, n) each, the same stimuli in the same order.
        metric: a name in similarity.METRICS.
        subjects: one label per RDM; RDMs of one subject are left out together, or a second session
            would tell the average what this subject is like. None: each RDM is its own subject.
        what: what the labels are, for the definition: subject, or session where there is one subject. Then
            the ceiling is that of this subject: what its sessions share need not be shared by others.

    Raises:
        UserError: fewer than two subjects, different sizes, unknown metric.
        UndefinedSimilarity: a constant RDM.
    """
    chosen = find_metric(metric)
    labels = list(subjects) if subjects is not None else [str(index) for index in range(len(rdms))]
    if len(labels) != len(rdms) or len(set(labels)) < 2:
        raise UserError(f"a leave-one-out ceiling needs RDMs of at least 2 subjects, got {len(set(labels))}")
    if len({np.shape(rdm) for rdm in rdms}) > 1:
        raise UserError("a leave-one-out ceiling needs RDMs of the same stimuli; score them apart")
    transformed = np.stack([chosen.transform(upper_triangle(rdm)) for rdm in rdms])
    everyone = chosen.transform(transformed.mean(axis=0))
    lower, upper = [], []
    for index, label in enumerate(labels):
        others = np.array([other != label for other in labels])
        pooled = chosen.transform(transformed[others].mean(axis=0))
        lower.append(correlate(pooled, transformed[index], chosen))
        upper.append(correlate(everyone, transformed[index], chosen))
    averaged = "ranks" if chosen.transform is ranks else "RDMs of equal size"
    words = f"leave-one-{what}-out over {len(set(labels))} {what}s ({len(rdms)} RDMs; mean of {averaged}"
    return Ceiling(float(np.mean(lower)), float(np.mean(upper)), f"{words}; Nili et al. 2014)")


def _halves(available: NDArray[np.bool_], rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Split each image's repetitions in two at random: which are in one half, which in the other, (repetitions, n).

    An odd repetition falls to either half by chance.
    """
    repetitions, n = available.shape
    keys = np.where(available, rng.random((repetitions, n)), np.inf)
    order = np.argsort(np.argsort(keys, axis=0, kind="stable"), axis=0, kind="stable")
    counts = available.sum(axis=0)
    cut = (counts + (rng.random(n) < 0.5)) // 2
    return available & (order < cut), available & (order >= cut)


def _rdm_of_half(values: NDArray[np.float64], chosen: NDArray[np.bool_], kind: Kind) -> NDArray[np.floating]:
    """RDM of the chosen repetitions alone, noise covariance included; `values` holds 0 where not available."""
    if kind.repeated:
        return kind.of_recording(np.where(chosen[..., None], values, np.nan))
    return kind.of_recording(_mean_of_half(values, chosen))


def _mean_of_half(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, neuroids) averages over the chosen repetitions; `values` holds 0 where not available."""
    sums = np.einsum("rn,rnp->np", chosen.astype(np.float64), values, optimize=True)
    return np.asarray(sums / chosen.sum(axis=0)[:, None])


def split_half_correlations(
    repetitions: NDArray[np.float64], metrics: Sequence[str], n_splits: int, seed: int, kind: str = CORRELATION
) -> tuple[dict[str, Vector], int]:
    """Correlate the RDMs of two random halves of the repetitions, `n_splits` times.

    Args:
        repetitions: (repetitions, n, neuroids) single-trial responses, NaN where one is missing. Images
            with fewer than two repetitions are left out; with fewer than four, where an RDM takes two.
        metrics: names in similarity.METRICS; metrics that share a transform share its cost.
        n_splits: number of random splits.
        seed: of the splits.
        kind: of the RDMs, a name in recorded_rdms.KINDS.

    Returns:
        Per metric (n_splits,) float64, and the number of images used.

    Raises:
        UserError: fewer than 3 images with two (four) repetitions, infinity, or NaN for some neuroids only.
        UndefinedSimilarity: a half is constant over the neuroids for some image.
    """
    chosen: dict[str, Metric] = {name: find_metric(name) for name in metrics}
    rdm_kind = find_kind(kind)
    available = which_available(repetitions)
    needed = 4 if rdm_kind.repeated else 2
    used = available.sum(axis=0) >= needed
    if used.sum() < 3:
        raise UserError(
            f"a split-half ceiling needs 3 images with {needed} repetitions each, got {int(used.sum())}; "
            "give the average only"
        )
    available = available[:, used]
    values = np.nan_to_num(repetitions[:, used], nan=0.0)
    rng = generator(seed, "split-half")
    correlations: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(n_splits):
        halves = _halves(available, rng)
        first, second = (upper_triangle(_rdm_of_half(values, half, rdm_kind)) for half in halves)
        transforms = {metric.transform for metric in chosen.values()}
        shared = {transform: (transform(first), transform(second)) for transform in transforms}
        for name, metric in chosen.items():
            a, b = shared[metric.transform]
            correlations[name].append(correlate(a, b, metric))
    return {name: np.array(values) for name, values in correlations.items()}, int(used.sum())


def ceiling_of_halves(
    correlations: Vector, n_images: int, metric: str = "spearman", kind: str = CORRELATION
) -> Ceiling:
    """Turn split-half correlations (n_splits,) into a ceiling.

    lower = their mean m (uncorrected); reliability r = 2 m / (1 + m) (Spearman 1910, Brown 1910), that
    of the RDM from all repetitions; upper = sqrt(r), the expected correlation of that RDM with the
    noiseless one. Upper is unknown where m is not positive, and where this does not hold: for metrics that
    are no correlations (tau-a, the cosines), and for squared distances (see recorded_rdms.Kind).
    """
    mean = float(np.mean(correlations))
    words = f"split-half over repetitions ({len(correlations)} random splits; {n_images} images): "
    for holds, what in ((find_metric(metric).spearman_brown, metric), (find_kind(kind).spearman_brown, f"{kind} RDMs")):
        if not holds:
            return Ceiling(mean, None, f"{words}lower = mean similarity of half RDMs; upper unknown for {what}")
    words += "lower = mean correlation of half RDMs; upper = sqrt(Spearman-Brown reliability)"
    if mean <= 0.0:
        return Ceiling(mean, None, words + "; reliability not positive")
    return Ceiling(mean, float(np.sqrt(2 * mean / (1 + mean))), words)


def split_half_cka(repetitions: NDArray[np.float64], unbiased: bool, n_splits: int, seed: int) -> Ceiling:
    """Lower noise ceiling of linear CKA: how well one half of the repetitions predicts the other.

    lower = mean CKA of the averages over random halves; upper is unknown, since no formula takes CKA from halves of
    the repetitions to all of them. Empty, with the reason, where it is undefined.

    Args:
        repetitions: (repetitions, n, neuroids) single-trial responses, NaN where one is missing. Images with
            fewer than two repetitions are left out.
        unbiased: see cka.gram.
        n_splits: random splits of each image's repetitions.
        seed: of the splits.

    Raises:
        UserError: infinity, or NaN for some neuroids only.
    """
    available = which_available(repetitions)
    used = available.sum(axis=0) >= 2
    available, values = available[:, used], np.nan_to_num(repetitions[:, used], nan=0.0)
    rng = generator(seed, "split-half")
    found = []
    try:
        for _ in range(n_splits):
            first, second = (_mean_of_half(values, half) for half in _halves(available, rng))
            found.append(linear_cka(first, second, unbiased))
    except UserError as error:
        return Ceiling(None, None, f"none: {error}")
    words = f"split-half over repetitions ({n_splits} random splits; {int(used.sum())} images): "
    return Ceiling(float(np.mean(found)), None, words + "lower = mean CKA of half averages; upper unknown for CKA")


def split_half(
    repetitions: NDArray[np.float64], metric: str, n_splits: int = 100, seed: int = 0, kind: str = CORRELATION
) -> Ceiling:
    """Noise ceiling of one recording from its repetitions; see `ceiling_of_halves` for the definition.

    Args:
        repetitions: (repetitions, n, neuroids) single-trial responses, NaN where one is missing.
        metric: a name in similarity.METRICS.
        n_splits: random splits of each image's repetitions.
        seed: of the splits.
        kind: of the RDMs, a name in recorded_rdms.KINDS.
    """
    correlations, n_images = split_half_correlations(repetitions, [metric], n_splits, seed, kind)
    return ceiling_of_halves(correlations[metric], n_images, metric, kind)


def split_half_all(
    repetitions: NDArray[np.float64], metrics: Sequence[str], n_splits: int, seed: int, kind: str = CORRELATION
) -> dict[str, Ceiling]:
    """Return `split_half` for several metrics at the cost of one; empty, with the reason, where it is undefined.

    Too few images with enough repetitions leave it empty as well: the scores need no repetitions.

    Raises:
        UserError: infinity, or NaN for some neuroids only.
    """
    which_available(repetitions)
    try:
        correlations, n_images = split_half_correlations(repetitions, metrics, n_splits, seed, kind)
    except UserError as error:
        return {name: Ceiling(None, None, f"none: {error}") for name in metrics}
    return {name: ceiling_of_halves(correlations[name], n_images, name, kind) for name in metrics}
