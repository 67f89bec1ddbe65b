"""How two representational dissimilarity matrices (RDMs) are compared, over their pairs of stimuli.

Kriegeskorte, Mur & Bandettini 2008 (Front Syst Neurosci 2:4). RDMs are made in brain_eval.metrics.rdms, and
in brain_eval.metrics.mahalanobis from single repetitions.
"""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

from brain_eval.codes import Code
from brain_eval.metrics import METRICS
from brain_eval.metrics.base import PAIRS, RdmMetric
from brain_eval.metrics.rdms import UndefinedSimilarity, Vector, correlation_rdm, square, upper_triangle
from nmnc.errors import UserError

#: Pairs that are ranked or summed at a time: 20,000 stimuli have 200 million, of which memory holds few copies.
CHUNK = 2**22


def ranks(pairs: Vector) -> Vector:
    """Return ranks from 1 on, ties at their average rank, float64: scipy.stats.rankdata in half its time.

    Ranking is most of the time of a split-half ceiling, 200 RDMs of 204,480 pairs. Beyond the pairs it
    holds their order and the result, 8 bytes a pair each.
    """
    order = np.argsort(pairs)
    result = np.empty(len(pairs))
    start = 0
    while start < len(pairs):
        stop = min(start + CHUNK, len(pairs))
        ordered = pairs[order[start:stop]]
        # Ties of the last value may go on beyond the chunk: the chunk ends before them, and they are one run.
        first = start + int(np.searchsorted(ordered, ordered[-1]))
        end = stop + bisect_right(range(stop, len(pairs)), ordered[-1], key=lambda place: pairs[order[place]])
        result[order[first:end]] = (first + 1 + end) / 2
        result[order[start:first]] = _ranks_of_sorted(ordered[: first - start], start)
        start = end
    return result


def _ranks_of_sorted(ordered: Vector, before: int) -> Vector:
    """Return the ranks of sorted values that `before` smaller ones precede."""
    new = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    if len(new) + 1 >= len(ordered):
        return np.arange(before + 1.0, before + len(ordered) + 1.0)
    starts, ends = np.concatenate(([0], new)), np.append(new, len(ordered))
    return np.repeat((starts + ends + 1) / 2 + before, ends - starts)


def standardised(pairs: Vector) -> Vector:
    """Return pairs of mean 0 and variance 1: RDMs averaged for a ceiling weigh the same. Constant pairs become 0."""
    centred = pairs - pairs.mean()
    spread = 0.0 if pairs.max() == pairs.min() else float(np.sqrt(centred @ centred / len(pairs)))
    if spread == 0.0:
        return np.zeros(len(pairs))
    centred /= spread
    return centred


def unit_size(pairs: Vector) -> Vector:
    """Return pairs of mean square 1: RDMs averaged for a ceiling weigh the same. Zeros stay zeros."""
    size = float(np.sqrt(pairs @ pairs / len(pairs)))
    return pairs / size if size > 0.0 else np.zeros(len(pairs))


def _rho_a_factor(a: Vector, b: Vector) -> float:
    # 12 cov / (m^2 - 1) = Spearman's rho times the ranks' spread with ties over that without ties.
    return float(12.0 * np.std(a) * np.std(b) / (float(len(a)) ** 2 - 1.0))


def cosine(a: Vector, b: Vector) -> float:
    """Return the cosine of the angle between two vectors (m,); UndefinedSimilarity where one is 0 throughout."""
    norm = float(np.sqrt((a @ a) * (b @ b)))
    if not norm > 0.0:
        raise UndefinedSimilarity("all distances of an RDM are 0; leave out that layer or recording")
    return float(np.clip(a @ b / norm, -1.0, 1.0))


def cosine_draws(a: Vector, b: Vector, weights: NDArray[np.float64]) -> Vector:
    """Return the cosine of two RDMs' pairs (m,) in every draw, by quadratic forms of the stimulus counts.

    Args: weights (draws, n), how often each stimulus is in each draw; pairs of copies of one stimulus drop out.
    Returns (draws,) float64 within [-1, 1]; NaN where a draw has only zeros.
    """
    first, second = (square(pairs, weights.shape[1]) for pairs in (a, b))
    ab, aa, bb = (np.einsum("ij,ij->i", weights @ m, weights) for m in (first * second, first**2, second**2))
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = ab / np.sqrt(aa * bb)
    return np.where((aa > 0) & (bb > 0), np.clip(draws, -1.0, 1.0), np.nan)


def tau_a(a: Vector, b: Vector) -> float:
    """Return Kendall's tau-a: concordant minus discordant pairs of distances over all of them, ties being neither.

    From scipy's tau-c, whose denominator needs the number of distinct values.

    Raises:
        UndefinedSimilarity: one of them is constant.
    """
    classes = min(len(np.unique(a)), len(np.unique(b)))
    if classes < 2:
        raise UndefinedSimilarity("an RDM is constant, so nothing is ordered; leave out that layer or recording")
    tau_c = float(kendalltau(a, b, method="asymptotic", variant="c").statistic)
    return tau_c * len(a) * (classes - 1) / (classes * (len(a) - 1))


def tau_a_draws(a: Vector, b: Vector, weights: NDArray[np.float64]) -> Vector:
    """Return tau-a in every draw, as `cosine_draws`: one sort per draw, as there is no closed form."""
    n = weights.shape[1]
    first, second = square(a, n), square(b, n)
    draws = np.full(len(weights), np.nan)
    for index, counts in enumerate(weights.astype(np.intp)):
        stimuli = np.repeat(np.arange(n), counts)
        rows, columns = np.triu_indices(len(stimuli), 1)
        rows, columns = stimuli[rows], stimuli[columns]
        two = rows != columns
        rows, columns = rows[two], columns[two]
        try:
            draws[index] = tau_a(first[rows, columns], second[rows, columns])
        except UndefinedSimilarity:
            continue
    return draws


RANKED_ONCE = PAIRS.then(Code("ranked-once", "pairs ranked before resampling, not in every draw"))
#: Spearman 1904; rho-a: Schütt et al. 2023 (eLife 12:e82566), the expected Spearman correlation when ties are broken
#: at random, so that tied predictions gain nothing; tau-a: Nili et al. 2014.
RECORDS = (
    RdmMetric(name="spearman", label="Spearman correlation of RDMs", transform=ranks, method=RANKED_ONCE),
    RdmMetric(
        name="rho-a",
        label="rho-a of RDMs",
        note="It credits no ties of distances; where there are none it is Spearman's correlation.",
        transform=ranks,
        factor=_rho_a_factor,
        method=RANKED_ONCE,
    ),
    RdmMetric(name="pearson", label="Pearson correlation of RDMs", transform=standardised),
    RdmMetric(
        name="cosine",
        label="cosine of RDMs",
        transform=unit_size,
        value=cosine,
        draws=cosine_draws,
        defined_if_constant=True,
        spearman_brown=False,
    ),
    RdmMetric(
        name="tau-a",
        label="Kendall's tau-a of RDMs",
        transform=ranks,
        value=tau_a,
        draws=tau_a_draws,
        method=PAIRS.then(Code("ordered", "pairs ordered in every draw")),
        recomputed=True,
        spearman_brown=False,
    ),
)


def find_metric(name: str) -> RdmMetric:
    """Return the comparison of RDMs called `name`; UserError for an unknown one, or one that needs responses."""
    metric = METRICS[name]
    if not isinstance(metric, RdmMetric):
        raise UserError(f"{name} compares responses, not RDMs; pass activity and responses to its own function")
    return metric


def correlate(a: Vector, b: Vector, metric: RdmMetric) -> float:
    """Return the metric's value for two vectors (m,) that are already transformed.

    Raises:
        UndefinedSimilarity: one of them is constant (for the cosines: 0 throughout).
    """
    if metric.value is not None:
        return metric.value(a, b)
    a_mean, b_mean = a.mean(), b.mean()
    products = np.zeros(3)
    for start in range(0, len(a), CHUNK):
        first, second = a[start : start + CHUNK] - a_mean, b[start : start + CHUNK] - b_mean
        products += (first @ second, first @ first, second @ second)
    norm = float(np.sqrt(products[1] * products[2]))
    if not norm > 0.0 or a.max() == a.min() or b.max() == b.min():
        raise UndefinedSimilarity(
            "an RDM is constant, so its correlation is undefined; leave out that layer or recording"
        )
    pearson = float(np.clip(products[0] / norm, -1.0, 1.0))
    return pearson * metric.factor(a, b)


def compare(rdm_a: ArrayLike, rdm_b: ArrayLike, metric: str = "spearman") -> float:
    """Compare two (n, n) RDMs of the same stimuli in the same order over the pairs of their upper triangles.

    Args: metric, the name of a comparison of RDMs. Returns the similarity: 1 for RDMs of the same rank order (rho-a
    and tau-a: without ties), for the metrics that do not rank for RDMs of the same distances.

    Raises:
        UserError: unknown metric, different sizes, NaN (names its rows), fewer than 3 stimuli.
        UndefinedSimilarity: all pairs of one RDM are tied.
    """
    chosen = find_metric(metric)
    a, b = upper_triangle(rdm_a), upper_triangle(rdm_b)
    if len(a) != len(b):
        raise UserError(
            f"RDMs of {np.shape(rdm_a)[0]} and {np.shape(rdm_b)[0]} stimuli cannot be compared; "
            "pass the same stimuli in the same order"
        )
    if len(a) < 3:
        raise UserError(f"comparing RDMs needs at least 3 stimuli, got {np.shape(rdm_a)[0]}; use more")
    for which, pairs in (("first", a), ("second", b)):
        if not np.isfinite(pairs).all():
            row, column = (axis[np.argmin(np.isfinite(pairs))] for axis in np.triu_indices(np.shape(rdm_a)[0], 1))
            raise UserError(
                f"the {which} RDM contains NaN or infinity between rows {row} and {column}; remove these stimuli"
            )
    return correlate(chosen.transform(a), chosen.transform(b), chosen)


def compare_features(
    features_a: ArrayLike, features_b: ArrayLike, metric: str = "spearman",
    rdm: Callable[[ArrayLike], NDArray[np.floating]] = correlation_rdm,
) -> float:  # fmt: skip
    """Compare the RDMs of two sets of features (n, p) and (n, q) and never hold both: 20,000 stimuli fit in 8 GB.

    At most one RDM (8 n^2 bytes) and two upper triangles (4 n^2 bytes each) are in memory, for all metrics but tau-a.
    Args: metric as in `compare`; rdm, features -> (n, n). Raises as `compare` and as `rdm`.
    """
    chosen = find_metric(metric)
    if len(np.shape(features_a)) != 2 or np.shape(features_a)[:1] != np.shape(features_b)[:1]:
        raise UserError(
            f"features of shapes {np.shape(features_a)} and {np.shape(features_b)} cannot be compared; "
            "pass the same stimuli in the same order"
        )
    a, b = (chosen.transform(upper_triangle(rdm(features))) for features in (features_a, features_b))
    return correlate(a, b, chosen)
