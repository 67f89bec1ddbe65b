"""Which RDM of a recording a model is compared with: correlation distances, or another kind a study asks for."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, Recording
from brain_eval.metrics import RDMS
from brain_eval.metrics.gram import RowError
from nmnc.errors import UserError

#: The kind that every recording has, since some are published as an RDM alone.
CORRELATION = "correlation"
#: What to do where it is undefined.
WAYS_OUT = (
    "leave out that stimulus (NaN for the recording) or the recording, or compare other distances "
    "(recorded_rdms: [euclidean], --recorded-rdms euclidean), or score by cka or ridge alone"
)


def metric_label(kind: str, metric: str) -> str:
    """Name a comparison in tables: "spearman" of correlation distances, "crossnobis-spearman" of crossnobis."""
    return metric if kind == CORRELATION else f"{kind}-{metric}"


def recorded_as(benchmark: Benchmark, kind: str) -> tuple[Benchmark, dict[str, str]]:
    """Return the benchmark with the recordings that have an RDM of this kind, which becomes their `rdm`.

    The second value gives the name of each recording that is left out, and why.

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
    return recording.repetitions if RDMS[kind].repeated else recording.responses


def _with_rdm(recording: Recording, kind: str) -> Recording:
    """The recording with an RDM of this kind: the one that it has, or one that is made of its responses."""
    source = source_of(recording, kind)
    if recording.rdm is not None and (kind == CORRELATION or (source is None and kind == recording.distance)):
        return recording
    if source is None:
        raise UserError(f"it has no {'repetitions' if RDMS[kind].repeated else 'responses'}")
    if kind == CORRELATION and source.shape[1] < 2:
        raise UserError("correlation distances need 2 neuroids, and it has 1")
    return replace(recording, rdm=RDMS[kind].of_recording(source))
