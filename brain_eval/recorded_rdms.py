"""Which RDM of a recording a model is compared with: correlation distances, or another kind a study asks for.

A model's layer has no noise, so what is Mahalanobis or crossnobis distance in a recording is squared
Euclidean distance in a layer: the same geometry, with noise that is alike and independent in all units.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brain_eval.benchmarks.base import Benchmark, Recording
from brain_eval.mahalanobis import crossnobis_rdm, mahalanobis_rdm
from brain_eval.rdms import correlation_rdm, cosine_rdm, euclidean_rdm
from nmnc.errors import UserError

Rdm = Callable[[ArrayLike], NDArray[np.floating]]


@dataclass(frozen=True)
class Kind:
    """A kind of RDM.

    Attributes:
        of_layer: activity (n, units) -> (n, n).
        of_recording: (n, n) of responses (n, p), or of repetitions (repetitions, n, p), NaN where missing.
        repeated: `of_recording` takes repetitions, at least two of every stimulus.
        spearman_brown: whether the noise of the RDM falls as Spearman & Brown have it, with the number of
            repetitions. That of squared distances has a part that falls with its square: from halves
            the formula gave ceilings a tenth (8 repetitions, true ceiling .69) to a third too low.
    """

    of_layer: Rdm
    of_recording: Rdm
    repeated: bool = False
    spearman_brown: bool = False


#: Kinds by their names in a study's evaluation.recorded_rdms.
KINDS = {
    "correlation": Kind(correlation_rdm, correlation_rdm, spearman_brown=True),
    "cosine": Kind(cosine_rdm, cosine_rdm, spearman_brown=True),
    "euclidean": Kind(euclidean_rdm, euclidean_rdm),
    "mahalanobis": Kind(euclidean_rdm, mahalanobis_rdm, repeated=True),
    "crossnobis": Kind(euclidean_rdm, crossnobis_rdm, repeated=True),
}
#: The kind that every recording has, since some are published as an RDM alone.
CORRELATION = "correlation"


def find_kind(name: str) -> Kind:
    """Return the kind called `name`; UserError lists the known ones."""
    if name not in KINDS:
        raise UserError(f"unknown RDM '{name}' of recordings; choose from {', '.join(KINDS)}")
    return KINDS[name]


def metric_label(kind: str, metric: str) -> str:
    """Name a comparison in tables: "spearman" of correlation distances, "crossnobis-spearman" of crossnobis."""
    return metric if kind == CORRELATION else f"{kind}-{metric}"


def recorded_as(benchmark: Benchmark, kind: str) -> tuple[Benchmark, dict[str, str]]:
    """Return the benchmark with the recordings that have an RDM of this kind, which becomes their `rdm`.

    Returns:
        The benchmark, and for each recording that is left out its name and why.
    """
    if kind == CORRELATION:
        return benchmark, {}
    find_kind(kind)
    kept, reasons = [], {}
    for recording in benchmark.recordings:
        try:
            kept.append(replace(recording, rdm=_rdm(recording, kind)))
        except UserError as error:
            reasons[f"{recording.species} {recording.region}, session {recording.session}"] = str(error)
    return replace(benchmark, recordings=tuple(kept)), reasons


def source_of(recording: Recording, kind: str) -> NDArray[np.float64] | None:
    """Return what an RDM of this kind is made of, responses or repetitions; None where they were not published."""
    return recording.repetitions if find_kind(kind).repeated else recording.responses


def _rdm(recording: Recording, kind: str) -> NDArray[np.floating]:
    source = source_of(recording, kind)
    if source is None:
        raise UserError(f"it has no {'repetitions' if KINDS[kind].repeated else 'responses'}")
    return KINDS[kind].of_recording(source)
