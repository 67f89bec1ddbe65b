"""Noise ceilings: how well the best possible model could do, given the noise of a recording."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brain_eval.benchmarks.recorded_rdms import CORRELATION
from brain_eval.codes import Code, none
from brain_eval.inference.resampling import generator
from brain_eval.metrics import RDMS
from brain_eval.metrics.base import RdmKind, RdmMetric
from brain_eval.metrics.gram import RowError
from brain_eval.metrics.rdms import Vector, upper_triangle
from brain_eval.metrics.repetitions import Trials, random_halves_of_trials, recorded_trials, trials_of, whole_trials
from brain_eval.metrics.similarity import correlate, find_metric, ranks
from nmnc.errors import UserError


@dataclass(frozen=True)
class Ceiling:
    """Noise ceiling of a recording, in the units of the metric. None: unknown, never 1.

    Attributes:
        lower, upper: its ends.
        definition: how they were estimated, or why they are unknown; None if the data allow no estimate.
    """

    lower: float | None
    upper: float | None
    definition: Code | None


UNKNOWN = Ceiling(None, None, None)


def leave_one_out(
    rdms: Sequence[NDArray[np.float64]], metric: str, subjects: Sequence[str] | None = None, what: str = "subject"
) -> Ceiling:
    """Lower and upper noise ceiling from several subjects (Nili et al. 2014, PLoS Comput Biol 10:e1003553).

    Lower: each RDM against the mean of the other subjects' RDMs. Upper: each RDM against the mean of
    all. Both averaged over the RDMs; RDMs are averaged after the metric's transform (ranks).

    Args:
        rdms: (n, n) each, the same stimuli in the same order.
        metric: the name of a comparison of RDMs.
        subjects: one label per RDM; RDMs of one subject are left out together, or a second session
            would leak into the average. None: each RDM is a subject.
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
        raise UserError("a leave-one-out ceiling needs RDMs of the same stimuli; score these recordings separately")
    transformed = np.stack([chosen.transform(upper_triangle(rdm)) for rdm in rdms])
    everyone = chosen.transform(transformed.mean(axis=0))
    lower, upper = [], []
    for index, label in enumerate(labels):
        rest = np.array([other != label for other in labels])
        pooled = chosen.transform(transformed[rest].mean(axis=0))
        lower.append(correlate(pooled, transformed[index], chosen))
        upper.append(correlate(everyone, transformed[index], chosen))
    definition = left_out(what, len(set(labels)), len(rdms), ranked=chosen.transform is ranks)
    return Ceiling(float(np.mean(lower)), float(np.mean(upper)), definition)


def _half_rdm(trials: Trials, half: NDArray[np.bool_], kind: RdmKind) -> NDArray[np.floating]:
    """Return the RDM of half of the trials, with the noise covariance also from this half."""
    try:
        if kind.repeated:
            return kind.of_recording(np.where(half[..., None], trials.values, np.nan))
        return kind.of_recording(trials.means(half))
    except RowError as error:
        then = f" in a half of the repetitions{error.then}"
        raise type(error)(error.what, int(trials.images[error.row]), then) from None


def _splits(trials: Trials, n_splits: int, seed: int) -> Iterator[tuple[Trials, list[NDArray[np.bool_]]]]:
    """Yield random splits: trials of the images for which both halves have every neuroid, and the two halves."""
    rng = generator(seed, "split-half")
    for _ in range(n_splits):
        halves = random_halves_of_trials(trials, rng)
        if not trials.partial:
            yield trials, list(halves)
            continue
        usable = np.all([trials.counts(half).all(axis=1) for half in halves], axis=0)
        yield trials.of(usable), [half[:, usable] for half in halves]


def split_half_correlations(
    repetitions: NDArray[np.float64], metrics: Sequence[str], n_splits: int, seed: int, kind: str = CORRELATION
) -> tuple[dict[str, Vector], int]:
    """Correlate the RDMs of two random halves of the repetitions, `n_splits` times.

    Args:
        repetitions: (repetitions, n, neuroids) single-trial responses, NaN where one is missing. Images
            with fewer than two repetitions of some neuroid are left out; with fewer than four that all neuroids have,
            where an RDM takes two.
        metrics: names of comparisons of RDMs; metrics that share a transform share its cost.
        n_splits: number of random splits.
        seed: of the splits.
        kind: of the RDMs, a name in brain_eval.metrics.RDMS.

    Returns:
        Per metric (n_splits,) float64, and the number of images used, the fewest in any split.

    Raises:
        UserError: fewer than 3 images with two (four) repetitions, or infinity.
        UndefinedSimilarity: a half is constant over the neuroids for some image.
    """
    chosen: dict[str, RdmMetric] = {name: find_metric(name) for name in metrics}
    rdm_kind = RDMS[kind]
    needed = 4 if rdm_kind.repeated else 2
    trials = trials_of(whole_trials(repetitions) if rdm_kind.repeated else repetitions, needed)
    correlations: dict[str, list[float]] = {name: [] for name in chosen}
    fewest = len(trials.images)
    for split, halves in _splits(trials, n_splits if fewest >= 3 else 0, seed):
        fewest = min(fewest, len(split.images))
        if fewest < 3:
            break
        first, second = (upper_triangle(_half_rdm(split, half, rdm_kind)) for half in halves)
        transforms = {metric.transform for metric in chosen.values()}
        shared = {transform: (transform(first), transform(second)) for transform in transforms}
        for name, metric in chosen.items():
            a, b = shared[metric.transform]
            correlations[name].append(correlate(a, b, metric))
    if fewest < 3:
        whose = " of every neuroid" if trials.partial else ""
        raise UserError(
            f"a split-half ceiling needs 3 images with {needed} repetitions each{whose}, got {fewest}; "
            "give the average only"
        )
    return {name: np.array(values) for name, values in correlations.items()}, fewest


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
    halves = partial(split_halves, len(correlations), n_images)
    for holds, what in ((find_metric(metric).spearman_brown, metric), (RDMS[kind].spearman_brown, f"{kind} RDMs")):
        if not holds:
            return Ceiling(mean, None, halves(lower_of(what)))
    if mean <= 0.0:
        return Ceiling(mean, None, halves(SPEARMAN_BROWN).then(Code("not-positive", "reliability not positive")))
    return Ceiling(mean, float(np.sqrt(2 * mean / (1 + mean))), halves(SPEARMAN_BROWN))


SPEARMAN_BROWN = Code(
    "spearman-brown", "lower = mean correlation of half RDMs; upper = sqrt(Spearman-Brown reliability)"
)
CKA_LOWER = Code("lower:cka", "lower = mean CKA of half averages; upper unknown for CKA")


def lower_of(what: str) -> Code:
    """Return how a lower ceiling was made of half RDMs, where the upper one of `what` is unknown."""
    return Code(f"lower:{what.replace(' ', '-')}", f"lower = mean similarity of half RDMs; upper unknown for {what}")


def split_halves(n_splits: int, n_images: int, ends: Code) -> Code:
    """Return the definition of a split-half ceiling, with how its ends were made."""
    text = f"split-half over repetitions ({n_splits} random splits; {n_images} images)"
    return Code(f"split-half:{n_splits}:{n_images}", text).then(ends, ": ")


def left_out(what: str, n: int, n_rdms: int, *, ranked: bool = True) -> Code:
    """Return the definition of a ceiling that leaves one of n subjects (or sessions) out at a time."""
    code, averaged = ("ranks", "ranks") if ranked else ("equal-size", "RDMs of equal size")
    return Code(
        f"leave-one-{what}-out:{n}:{n_rdms}:{code}",
        f"leave-one-{what}-out over {n} {what}s ({n_rdms} RDMs; mean of {averaged}; Nili et al. 2014)",
    )


def split_half_responses(
    repetitions: NDArray[np.float64], compare: Callable[[ArrayLike, ArrayLike], float], n_splits: int, seed: int
) -> Ceiling:
    """Lower noise ceiling of a comparison of responses: how well one half of the repetitions predicts the other.

    lower = mean similarity of the averages over random halves; upper is unknown, since no formula leads from halves of
    the repetitions to all of them. Empty, with the reason, where it is undefined.

    Args:
        repetitions: (repetitions, n, neuroids) single-trial responses, NaN where one is missing. Images with
            fewer than two repetitions of some neuroid are left out.
        compare: two averages (n, neuroids) -> their similarity, e.g. cka.linear_cka.
        n_splits: random splits of each image's repetitions.
        seed: of the splits.

    Raises:
        UserError: infinity.
    """
    trials = trials_of(repetitions, 2)
    found, fewest = [], len(trials.images)
    try:
        for split, halves in _splits(trials, n_splits, seed):
            fewest = min(fewest, len(split.images))
            first, second = (split.means(half) for half in halves)
            found.append(compare(first, second))
    except UserError as error:
        return Ceiling(None, None, none("split-half", str(error), varies=True))
    return Ceiling(float(np.mean(found)), None, split_halves(n_splits, fewest, CKA_LOWER))


def split_half(
    repetitions: NDArray[np.float64], metric: str, n_splits: int = 100, seed: int = 0, kind: str = CORRELATION
) -> Ceiling:
    """Noise ceiling of one recording from its repetitions; see `ceiling_of_halves` for the definition.

    Args:
        repetitions: (repetitions, n, neuroids) single-trial responses, NaN where one is missing.
        metric: the name of a comparison of RDMs.
        n_splits: random splits of each image's repetitions.
        seed: of the splits.
        kind: of the RDMs, a name in brain_eval.metrics.RDMS.
    """
    correlations, n_images = split_half_correlations(repetitions, [metric], n_splits, seed, kind)
    return ceiling_of_halves(correlations[metric], n_images, metric, kind)


def split_half_all(
    repetitions: NDArray[np.float64], metrics: Sequence[str], n_splits: int, seed: int, kind: str = CORRELATION,
    stimulus_ids: Sequence[str] = (),
) -> dict[str, Ceiling]:  # fmt: skip
    """Return `split_half` for several metrics at the cost of one; empty, with the reason, where it is undefined.

    Too few images with enough repetitions leave it empty as well: the scores need no repetitions. The reason names
    one of the `stimulus_ids`, where they are given, else its row.

    Raises:
        UserError: infinity.
    """
    recorded_trials(repetitions)
    try:
        correlations, n_images = split_half_correlations(repetitions, metrics, n_splits, seed, kind)
    except UserError as error:
        reason = error.of(stimulus_ids) if isinstance(error, RowError) and stimulus_ids else str(error)
        return dict.fromkeys(metrics, Ceiling(None, None, none("split-half", reason, varies=True)))
    return {name: ceiling_of_halves(correlations[name], n_images, name, kind) for name in metrics}
