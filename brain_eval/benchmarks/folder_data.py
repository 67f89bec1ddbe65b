"""responses.nc and rdm.nc of a benchmark folder -> recordings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Recording
from nmnc.errors import UserError

DIMS = ("repetition", "presentation", "neuroid")


def read_responses(path: Path, labels: dict[str, str], stimulus_ids: Sequence[str]) -> tuple[Recording, ...]:
    """Read responses: (neuroid, presentation [, repetition]) in any order, NaN for a missing repetition.

    Args:
        path: NetCDF with the variable `responses` (or one variable of another name), stimulus_id along
            presentation, and perhaps animal and session along neuroid.
        labels: session, animal, species, region; the first two only where the file does not give them.
        stimulus_ids: of the stimulus set.

    Returns:
        One recording per session and animal, in the order in which they first occur.

    Raises:
        UserError: unreadable, other dims, an unknown or duplicated id, NaN that is no missing repetition.
    """
    data, variable = _variable(path, "responses")
    if set(variable.dims) not in ({*DIMS}, {*DIMS[1:]}) or variable.size == 0:
        raise UserError(
            f"{path}: '{variable.name}' has dims {variable.dims} of sizes {variable.shape}; "
            "it needs neuroid and presentation, and may have repetition"
        )
    has_repetitions = "repetition" in variable.dims
    values = variable.transpose(*DIMS[0 if has_repetitions else 1 :]).values.astype(np.float64)
    repetitions = values if has_repetitions else values[None]
    stimuli = _positions(data, repetitions.shape[1], path, stimulus_ids)
    recordings = []
    for (session, animal), columns in _groups(data, labels, repetitions.shape[2]).items():
        own = repetitions[:, :, columns]
        _refuse_missing(own, path, [stimulus_ids[i] for i in stimuli])
        responses = np.nanmean(own, axis=0)
        recordings.append(
            Recording(
                session=session,
                animal=animal,
                species=labels["species"],
                region=labels["region"],
                stimuli=stimuli,
                n_neuroids=len(columns),
                rdm=_rdm(responses, path),
                repetitions=own if has_repetitions else None,
                responses=responses,
            )
        )
    return tuple(recordings)


def read_rdm(path: Path, labels: dict[str, str], stimulus_ids: Sequence[str]) -> tuple[Recording, ...]:
    """Read `rdm`, an (n, n) symmetric matrix of dissimilarities with a vector stimulus_id of length n.

    Raises:
        UserError: unreadable, not square, not symmetric, NaN, an unknown or duplicated id.
    """
    data, variable = _variable(path, "rdm")
    rdm = variable.values.astype(np.float64)
    if rdm.ndim != 2 or rdm.shape[0] != rdm.shape[1]:
        raise UserError(f"{path}: '{variable.name}' has shape {rdm.shape}; an RDM is square")
    stimuli = _positions(data, len(rdm), path, stimulus_ids)
    ids = [stimulus_ids[i] for i in stimuli]
    np.fill_diagonal(rdm, 0.0)
    wrong = ~np.isfinite(rdm)
    if wrong.any():
        # Both images of a missing pair are suspect: name the one with the most gaps.
        worst = ids[int(wrong.sum(axis=1).argmax())]
        raise UserError(f"{path} has NaN or infinity in the row of stimulus_id '{worst}'; leave it out")
    if not np.allclose(rdm, rdm.T, rtol=1e-5, atol=1e-8):
        worst = ids[int(np.abs(rdm - rdm.T).max(axis=1).argmax())]
        raise UserError(f"{path} is not symmetric in the row of stimulus_id '{worst}'; mend that")
    symmetric = (rdm + rdm.T) / 2
    who = (labels["session"], labels["animal"], labels["species"], labels["region"])
    return (Recording(*who, stimuli=stimuli, n_neuroids=None, rdm=symmetric),)


def unique_ids(values: list[str], path: Path) -> tuple[str, ...]:
    """Return the ids as they are; UserError names the file and the id that is empty or comes twice."""
    seen: set[str] = set()
    for value in values:
        if not value:
            raise UserError(f"{path} has an empty stimulus_id; give every stimulus one")
        if value in seen:
            raise UserError(
                f"{path} holds stimulus_id '{value}' twice; give each stimulus once "
                "(repeated presentations belong along a dimension 'repetition')"
            )
        seen.add(value)
    return tuple(values)


def _positions(data: Any, n: int, path: Path, stimulus_ids: Sequence[str]) -> NDArray[np.intp]:
    """Where each of the file's n stimulus_ids stands in the stimulus set."""
    if "stimulus_id" not in data.variables or data["stimulus_id"].shape != (n,):
        raise UserError(f"{path} has no coordinate stimulus_id of length {n}; name each presentation's image")
    own = unique_ids([_label(value) for value in data["stimulus_id"].values], path)
    known = {stimulus_id: i for i, stimulus_id in enumerate(stimulus_ids)}
    for stimulus_id in own:
        if stimulus_id not in known:
            raise UserError(
                f"{path} has stimulus_id '{stimulus_id}', which stimuli.csv beside it does not list; add it"
            )
    if n < 3:
        raise UserError(f"{path} has {n} stimuli; an RDM can be compared from 3 on, add some")
    return np.array([known[stimulus_id] for stimulus_id in own], dtype=np.intp)


def _label(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _variable(path: Path, name: str) -> tuple[Any, Any]:
    """The data set and its variable `name`, or its only one."""
    import xarray

    try:
        # decode_times off: responses with units of "seconds" are numbers all the same.
        data = xarray.load_dataset(path, engine="netcdf4", decode_times=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as NetCDF ({error}); write it anew") from error
    found = [str(key) for key in data.data_vars]
    if name not in found and len(found) != 1:
        raise UserError(f"{path} has no variable '{name}', but {', '.join(found) or 'none'}; add it")
    variable = data[name if name in found else found[0]]
    if not np.issubdtype(variable.dtype, np.number):
        raise UserError(f"{path}: '{variable.name}' holds {variable.dtype}, not numbers; write it anew")
    return data, variable


def _groups(data: Any, labels: dict[str, str], n: int) -> dict[tuple[str, str], list[int]]:
    """(session, animal) -> its neuroids."""
    own = {
        key: [_label(value) for value in data[key].values]
        if key in data.variables and data[key].dims == ("neuroid",)
        else [labels[key]] * n
        for key in ("session", "animal")
    }
    groups: dict[tuple[str, str], list[int]] = {}
    for i, pair in enumerate(zip(own["session"], own["animal"], strict=True)):
        groups.setdefault(pair, []).append(i)
    return groups


def _refuse_missing(repetitions: NDArray[np.float64], path: Path, ids: list[str]) -> None:
    """A repetition may be missing (NaN) for all neuroids of a recording, not for some and not always."""
    missing = np.isnan(repetitions)
    faults = {
        "an infinite response; mend that": np.isinf(repetitions).any(axis=(0, 2)),
        "no response (NaN) of some neuroid; leave out that stimulus or neuroid": missing.all(axis=0).any(axis=1),
        "a repetition that is NaN for some neuroids only; make it NaN for all of them, or leave out those neuroids": (
            missing.any(axis=2) != missing.all(axis=2)
        ).any(axis=0),
    }
    for fault, stimuli in faults.items():
        if stimuli.any():
            raise UserError(f"{path}: stimulus_id '{ids[int(stimuli.argmax())]}' has {fault}")


def _rdm(responses: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    from brain_eval.similarity import correlation_rdm

    try:
        return correlation_rdm(responses)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
