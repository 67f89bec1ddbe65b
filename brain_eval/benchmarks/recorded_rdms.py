"""Which RDM of a recording a model is compared with: correlation distances, or another kind a study asks for.

A model's layer has no noise, so what is Mahalanobis or crossnobis distance in a recording is squared
Euclidean distance in a layer: the same geometry, with noise that is alike and independent in all units.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brain_eval.benchmarks.base import Benchmark, Recording
from brain_eval.metrics.gram import RowError
from brain_eval.metrics.mahalanobis import crossnobis_rdm, mahalanobis_rdm
from brain_eval.metrics.rdms import correlation_rdm, cosine_rdm, euclidean_rdm
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
#: What to do where it is undefined.
WAYS_OUT = (
    "leave out that stimulus (NaN for the recording) or the recording, or compare other distances "
    "(recorded_rdms: [euclidean], --recorded-rdms euclidean), or score by cka or ridge alone"
)


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

    Raises:
        UserError: a correlation RDM that is undefined: every recording has one, or the mean over recordings would
            silently be of fewer (names the stimulus, and what can be done).
    """
    kept, reasons = [], {}
    for recording in benchmark.recordings:
        try:
            kept.append(_with_rdm(recording, kind))
        except UserError as error:
            reason = error.of(benchmark.ids_of(recording)) if isinstance(error, RowError) else str(error)
            if kind == CORRELATION:
                raise UserError(f"{benchmark.place}, {recording.name}: {reason}; {WAYS_OUT}") from None
            reasons[f"{recording.species} {recording.region}, session {recording.session}"] = reason
    return replace(benchmark, recordings=tuple(kept)), reasons


def refuse_absent(kind: str, places: str, reasons: Mapping[str, str]) -> None:
    """UserError: no recording of `places` has a kind of RDM, with the first recording's reason."""
    why = next((f" ({recording}: {reason})" for recording, reason in reasons.items()), "")
    raise UserError(f"no recording of {places} has a {kind} RDM{why}; leave it out of the recorded RDMs")


def source_of(recording: Recording, kind: str) -> NDArray[np.float64] | None:
    """Return what an RDM of this kind is made of, responses or repetitions; None where they were not published."""
    return recording.repetitions if find_kind(kind).repeated else recording.responses


def _with_rdm(recording: Recording, kind: str) -> Recording:
    """The recording with an RDM of this kind: the one that it has, or one that is made of its responses."""
    source = source_of(recording, kind)
    if recording.rdm is not None and (kind == CORRELATION or (source is None and kind == recording.distance)):
        return recording
    if source is None:
        raise UserError(f"it has no {'repetitions' if KINDS[kind].repeated else 'responses'}")
    if kind == CORRELATION and source.shape[1] < 2:
        raise UserError("correlation distances need 2 neuroids, and it has 1")
    return replace(recording, rdm=KINDS[kind].of_recording(source))
