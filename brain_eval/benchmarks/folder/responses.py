"""responses.nc of a benchmark folder -> recordings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Recording, without_means
from brain_eval.benchmarks.folder.netcdf import Content, Labels, read_content
from brain_eval.benchmarks.folder.stimuli import counted, places_of
from brain_eval.benchmarks.public.trials import by_repetition
from brain_eval.metrics.rdms import UndefinedSimilarity, correlation_rdm
from nmnc.errors import UserError

DIMS = ("repetition", "presentation", "neuroid")
LABELS = ("stimulus_id", "repetition", "session", "animal", "neuroid_id", "neuroid")

Array = NDArray[np.float64]


def read_responses(
    path: Path, labels: dict[str, str], stimulus_ids: Sequence[str], centre: bool = False
) -> tuple[tuple[Recording, ...], list[str]]:
    """Read responses: (neuroid, presentation [, repetition]) in any order, NaN for what was not recorded.

    Args:
        path: NetCDF with the variable `responses` (or one variable of another name), stimulus_id along presentation
            (several times where trials lie along it), and perhaps animal and session along neuroid.
        labels: session, animal, species, region; the first two only where the file does not give them.
        stimulus_ids: of the stimulus set.
        centre: subtract each neuroid's mean over the recording's stimuli.

    Returns:
        One recording per session and animal, in the order of their first occurrence, each with the stimuli that any of
        its neuroids has responses to; and notes on what of the file is not used.

    Raises:
        UserError: unreadable, other dims, an unknown id, infinity, a stimulus that some neuroids of a recording have
            no response to at all (names stimulus_id and neuroid).
    """
    content = read_content(path, "responses", LABELS)
    values = _in_order(content, path)
    shown = _presented(content, values.shape[1], path)
    stimuli = places_of(shown.values, stimulus_ids, path)
    along = _trials_along_presentation(content, stimuli, stimulus_ids, values.shape[0], path)
    names = _neuroid_names(content, values.shape[2])
    groups = _groups(content, labels, values.shape[2], path)
    recordings = []
    for (session, animal), neuroids in groups.items():
        measured = values[:, :, neuroids]
        who = f"{path}, session {session}, animal {animal}" if len(groups) > 1 else str(path)
        if along:
            there = np.flatnonzero(~np.isnan(measured[0]).all(axis=1))
            trials = [stimulus_ids[position] for position in stimuli[there]]
            _refuse_same_trials(content, trials, there, who)
            places, measured = stimuli[:0], measured[:, there]
            if trials:
                places, measured = by_repetition(measured[0], trials, stimulus_ids)
        else:
            seen = ~np.isnan(measured).all(axis=(0, 2))
            places, measured = (stimuli, measured) if seen.all() else (stimuli[seen], measured[:, seen])
        _refuse_gaps(measured, who, [stimulus_ids[i] for i in places], [names[i] for i in neuroids])
        responses = np.nanmean(measured, axis=0)
        repetitions = measured if along or "repetition" in content.dims else None
        if centre:
            responses, repetitions = without_means(responses, repetitions)
        recordings.append(
            Recording(
                session=session,
                animal=animal,
                species=labels["species"],
                region=labels["region"],
                stimuli=places,
                n_neuroids=len(neuroids),
                rdm=_correlation(responses),
                repetitions=repetitions,
                responses=responses,
            )
        )
    return tuple(recordings), _notes(content, recordings, stimulus_ids, path)


def _in_order(content: Content, path: Path) -> Array:
    """Values as (repetition, presentation, neuroid); further dimensions of length 1 are dropped."""
    values, dims = content.values, content.dims
    for dim in [dim for dim in dims if dim not in DIMS]:
        axis = dims.index(dim)
        if values.shape[axis] != 1 and {"neuroid", "presentation"} <= set(dims):
            raise UserError(
                f"{path}: '{content.name}' has {values.shape[axis]} values along '{dim}'; average over those you want "
                f"(e.g. xarray's mean('{dim}')), or write a folder for each"
            )
        if values.shape[axis] == 1:
            values, dims = values.squeeze(axis), (*dims[:axis], *dims[axis + 1 :])
    if len(dims) != len(set(dims)) or set(dims) not in ({*DIMS}, {*DIMS[1:]}) or values.size == 0:
        raise UserError(
            f"{path}: '{content.name}' has dims {content.dims} of sizes {content.values.shape}; "
            "it needs neuroid and presentation, and may have repetition"
        )
    order = [dims.index(dim) for dim in DIMS if dim in dims]
    values = values.transpose(order)
    return values if values.ndim == 3 else values[None]


def _presented(content: Content, n: int, path: Path) -> Labels:
    """The stimulus_id of each of n presentations (or rows of an RDM)."""
    found = content.labels.get("stimulus_id")
    if found is None or len(found.values) != n or found.dimension not in content.dims:
        unused = ", ".join(content.unused) or "nothing else"
        raise UserError(
            f"{path} has no coordinate stimulus_id of length {n}; name each presentation's image (it has {unused})"
        )
    return found


def _trials_along_presentation(
    content: Content, stimuli: NDArray[np.intp], stimulus_ids: Sequence[str], repetitions: int, path: Path
) -> bool:
    """Whether presentations are single trials, several of a stimulus, as in Brain-Score's assemblies.

    They are where a coordinate `repetition` along presentation counts them, or where every stimulus has several.
    """
    number = content.labels.get("repetition")
    counted = number is not None and number.dimension == "presentation"
    counts = np.bincount(stimuli)[np.unique(stimuli)]
    if counts.max() == 1 and not counted:
        return False
    if "repetition" in content.dims or not (counted or counts.min() > 1):
        advice = "give each stimulus once" if "repetition" in content.dims else (
            "give each stimulus once; or, if they are trials, all of them a coordinate 'repetition' along presentation"
        )  # fmt: skip
        first = stimulus_ids[int(np.flatnonzero(np.bincount(stimuli) > 1)[0])]
        raise UserError(f"{path} has stimulus_id '{first}' twice; {advice}")
    return True


def _refuse_same_trials(content: Content, trials: Sequence[str], there: NDArray[np.intp], who: str) -> None:
    """Refuse two trials of a recording with the same stimulus_id and repetition."""
    number = content.labels.get("repetition")
    if number is None or number.dimension != "presentation":
        return
    seen = set()
    for trial in zip(trials, (number.values[i] for i in there), strict=True):
        if trial in seen:
            raise UserError(f"{who}: stimulus_id '{trial[0]}' has repetition {trial[1]} twice; number its trials")
        seen.add(trial)


def _refuse_gaps(trials: Array, who: str, ids: Sequence[str], names: Sequence[str]) -> None:
    """Refuse infinity, and responses that are missing for some neuroids of a recording throughout.

    Args: trials (repetitions, n, neuroids) of the stimuli `ids` that were shown and the neuroids `names`; `who` names
    file and recording.
    """
    if len(ids) < 3:
        raise UserError(f"{who} has responses to {len(ids)} stimuli; an RDM can be compared from 3 on, add some")
    infinite = np.argwhere(np.isinf(trials))
    if len(infinite):
        _, row, column = infinite[0]
        raise UserError(f"{who}: stimulus_id '{ids[row]}' has an infinite response of {names[column]}; fix that value")
    missing = np.isnan(trials).all(axis=0)
    dead = np.flatnonzero(missing.all(axis=0))
    if len(dead):
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        raise UserError(f"{who}: {names[dead[0]]}{more} has no response at all (NaN); remove that neuroid")
    if missing.any():
        row = int(missing.sum(axis=1).argmax())
        raise UserError(
            f"{who}: stimulus_id '{ids[row]}' has no response (NaN) of {names[int(missing[row].argmax())]} "
            f"({int(missing.sum())} of {missing.size} means are missing); leave out that stimulus or neuroid, or give "
            "neuroids that saw other stimuli a session of their own (coordinate session along neuroid)"
        )


def _groups(content: Content, labels: dict[str, str], n: int, path: Path) -> dict[tuple[str, str], list[int]]:
    """(session, animal) -> its neuroids; a single label, or one of benchmark.yaml, is that of all."""
    labels_of = {}
    for key in ("session", "animal"):
        found = content.labels.get(key)
        if found is None or found.dimension == "presentation":
            labels_of[key] = [labels[key]] * n
        elif found.dimension == "":
            labels_of[key] = found.values * n
        elif found.dimension == "neuroid":
            labels_of[key] = found.values
        else:
            raise UserError(f"{path}: {key} lies along '{found.dimension}'; give one to each neuroid")
    groups: dict[tuple[str, str], list[int]] = {}
    for i, pair in enumerate(zip(labels_of["session"], labels_of["animal"], strict=True)):
        groups.setdefault(pair, []).append(i)
    return groups


def _neuroid_names(content: Content, n: int) -> list[str]:
    """What errors call the neuroids: by number from 0, and by neuroid_id where the file has it."""
    found = content.labels.get("neuroid_id") or content.labels.get("neuroid")
    if found is None or found.dimension != "neuroid":
        return [f"neuroid {i}" for i in range(n)]
    return [f"neuroid {i} ('{name}')" for i, name in enumerate(found.values)]


def _correlation(responses: Array) -> Array | None:
    """Correlation distances, or None where they are undefined: other distances, CKA and encoding need not be."""
    try:
        return correlation_rdm(responses)
    except UndefinedSimilarity:
        return None


def _notes(content: Content, recordings: Sequence[Recording], stimulus_ids: Sequence[str], path: Path) -> list[str]:
    """What of the file, and of the stimuli, is not used, a line each."""
    notes = []
    unused = list(content.unused)
    unused += [key for key in ("session", "animal") if _along(content, key) == "presentation"]
    if unused:
        notes.append(f"{path.name}: {counted(unused, 'variable')} not used")
    seen = np.unique(np.concatenate([recording.stimuli for recording in recordings]))
    without = [stimulus_ids[i] for i in np.setdiff1d(np.arange(len(stimulus_ids)), seen)]
    if without:
        notes.append(f"{path.name}: {counted(without, 'stimulus', 'stimuli')} of stimuli.csv without responses")
    return notes


def _along(content: Content, label: str) -> str | None:
    found = content.labels.get(label)
    return None if found is None else found.dimension
