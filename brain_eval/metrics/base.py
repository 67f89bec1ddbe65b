"""What a metric is, and a kind of RDM: one record each, listed in RECORDS of its module and in brain_eval.metrics."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brain_eval.codes import Code
from brain_eval.metrics import METRICS
from nmnc.errors import UserError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

#: How draws are made; see brain_eval.inference.variation.
PAIRS = Code("pairs", "corrected for counting pairs of stimuli twice")
HALVES = PAIRS.then(Code("halves", "draws are random halves of the stimuli"))
#: A note for metrics with `biased`.
OF_ITS_SIZE = "Its value depends on the number of stimuli: compare only scores based on the same number of stimuli."


@dataclass(frozen=True)
class RdmKind:
    """A kind of RDM that recordings are compared by.

    A layer has no noise, so what is Mahalanobis or crossnobis distance in a recording is squared Euclidean distance
    in a layer: the same geometry, with noise that is alike and independent in all units.

    Attributes:
        name: in a study's evaluation.recorded_rdms.
        of_layer: activity (n, units) -> (n, n).
        of_recording: (n, n) of responses (n, p), or of repetitions (repetitions, n, p), NaN where missing.
        repeated: `of_recording` takes repetitions, at least two of every stimulus.
        spearman_brown: whether the noise of the RDM falls as Spearman & Brown have it, with the number of
            repetitions. That of squared distances has a part that falls with its square: from halves
            the formula gave ceilings a tenth (8 repetitions, true ceiling .69) to a third too low.
    """

    name: str
    of_layer: Callable[[ArrayLike], NDArray[np.floating]]
    of_recording: Callable[[ArrayLike], NDArray[np.floating]]
    repeated: bool = False
    spearman_brown: bool = False


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What all metrics have. A metric is one of the three subclasses, which say what it needs of a recording.

    Attributes:
        name: in a study's evaluation.metrics and in scores.csv.
        label: for an axis.
        note: what a reader of its scores must know, in sentences; mostly nothing.
        method: how its draws are made, for interval_method.
        biased: whether it is larger for fewer stimuli, see variation.variation_of_draws.
    """

    name: str
    label: str
    note: str = ""
    method: Code = PAIRS
    biased: bool = False


def no_factor(a: Vector, b: Vector) -> float:
    """Return 1: the metric is the Pearson correlation itself."""
    return 1.0


@dataclass(frozen=True, kw_only=True)
class RdmMetric(Metric):
    """A comparison of two RDMs: mostly the Pearson correlation of transformed pairs times a constant.

    Attributes:
        transform: pairs (m,) -> pairs (m,), e.g. ranks; done once on the full sample. RDMs that are
            averaged (for a ceiling) are averaged after it. Metrics with the same function share its result.
        factor: two transformed vectors -> the constant.
        value: two transformed vectors -> the similarity, where it is no Pearson correlation; else None.
        draws: two transformed vectors (m,) and stimulus counts (draws, n) -> the similarity in every
            bootstrap draw (draws,), where `value` is given; None: the Pearson correlation of
            resampling.weighted_correlations times `factor`.
        recomputed: `draws` computes every draw on its own, some milliseconds to a second each, where
            all others are matrix products over all draws at once.
        defined_if_constant: whether an RDM of equal distances has a similarity.
        spearman_brown: whether the Spearman-Brown formula applies, as to correlations; the cosines also
            reward the mean distance, and tau-a is not in units of a correlation.
    """

    transform: Callable[[Vector], Vector]
    factor: Callable[[Vector, Vector], float] = no_factor
    value: Callable[[Vector, Vector], float] | None = None
    draws: Callable[[Vector, Vector, Matrix], Vector] | None = None
    recomputed: bool = False
    defined_if_constant: bool = False
    spearman_brown: bool = True


def unprepared(values: Any, subsets: Matrix) -> Any:
    """Return a side as it is: its subsets are compared one by one."""
    return values


@dataclass(frozen=True, kw_only=True)
class SubsetMetric(Metric):
    """A comparison of activity with responses that is resampled by subsets of the stimuli, without copies.

    Only `compare` is needed; the others make it fast by doing all subsets at once.

    Attributes:
        compare: activity (n, p) and responses (n, q) of the same stimuli -> the similarity.
        transform: activity or responses -> what `prepare` takes; metrics with the same function share its result.
        prepare: (transformed, subsets (rows, n) float64 of 0 and 1) -> one side, ready for `in_subsets`.
        in_subsets: two sides and the subsets -> the similarity in each subset, (rows,) float64, NaN where undefined.
    """

    compare: Callable[[ArrayLike, ArrayLike], float]
    transform: Callable[[Any], Any] = np.asarray
    prepare: Callable[[Any, Matrix], Any] = unprepared
    in_subsets: Callable[[Any, Any, Matrix], Vector] | None = None
    method: Code = HALVES

    def compare_subsets(self, a: Any, b: Any, subsets: Matrix) -> Vector:
        """Return the similarity of two prepared sides in each subset, (rows,) float64, NaN where it is undefined."""
        if self.in_subsets is not None:
            return self.in_subsets(a, b, subsets)
        found = np.full(len(subsets), np.nan)
        for row, chosen in enumerate(subsets > 0):
            with suppress(UserError):
                found[row] = self.compare(a[chosen], b[chosen])
        return found


class Fold(NamedTuple):
    """A fitted split: which stimuli were held out, and what was predicted of them.

    Attributes:
        test: (test,) positions.
        predicted: (test, neuroids) float64.
    """

    test: NDArray[np.intp]
    predicted: Matrix


@dataclass(frozen=True, kw_only=True)
class EncodingMetric(Metric):
    """A prediction of held-out responses, scored by its median correlation over neuroids.

    Attributes:
        fit: activity (n, p), responses (n, neuroids), and one label per stimulus whose share the splits keep (or
            None) -> the fitted splits.
        fewest_features: that `fit` can do with.
    """

    fit: Callable[[NDArray[np.floating], Matrix, Sequence[object] | None], list[Fold]]
    fewest_features: int = 1


def metrics_of_rdms(names: Iterable[str] = METRICS) -> dict[str, RdmMetric]:
    """Return those of the metrics that compare RDMs, in their order; UserError for an unknown name."""
    return {name: metric for name in names if isinstance(metric := METRICS[name], RdmMetric)}


def metrics_of_responses(names: Iterable[str] = METRICS) -> list[SubsetMetric | EncodingMetric]:
    """Return those of the metrics that need responses, in their order; UserError for an unknown name."""
    return [metric for name in names if isinstance(metric := METRICS[name], SubsetMetric | EncodingMetric)]
