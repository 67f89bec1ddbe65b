"""Single trials of a Brain-Score assembly: without time, by stimulus and repetition, in Brain-Score's order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmnc.errors import UserError


def one_bin(assembly: Any, identifier: str, window: tuple[int, int] | None) -> Any:
    """Return an assembly (presentation, neuroid, time_bin) without time: its only bin, or the mean over a window.

    Args:
        assembly: of Brain-Score.
        identifier: names it in errors.
        window: (start, end) in ms, averaged over bins of 1 ms; None where there is one bin.

    Raises:
        UserError: several bins without a window, or bins that do not fill it.
    """
    if window is None:
        if assembly.sizes.get("time_bin", 1) != 1:
            raise UserError(f"{identifier} has {assembly.sizes['time_bin']} time bins, not 1; delete its file")
        return assembly.squeeze("time_bin") if "time_bin" in assembly.dims else assembly
    starts, ends = assembly["time_bin_start"].values, assembly["time_bin_end"].values
    start, end = window
    bins = np.flatnonzero((starts >= start) & (ends <= end) & (ends - starts == 1))
    if len(bins) != end - start:
        raise UserError(f"{identifier} has {len(bins)} bins of 1 ms between {start} and {end} ms; delete its file")
    return assembly.isel(time_bin=bins).mean("time_bin")


def averaged_order(assembly: Any, trial_ids: Sequence[str]) -> list[int]:
    """Return the position, in the stimulus set's order of the presented stimuli, of each averaged presentation.

    Brain-Score groups presentations by all their coordinates but the repetition, and groups are sorted.

    Args:
        assembly: with its single trials.
        trial_ids: the stimulus of each presentation.
    """
    from brainscore_core.supported_data_standards.brainio.assemblies import walk_coords

    known = [str(stimulus_id) for stimulus_id in assembly.attrs["stimulus_set"]["stimulus_id"]]
    presented, first = np.unique(np.array(trial_ids), return_index=True)
    rows = dict(zip(presented.tolist(), first.tolist(), strict=True))
    shown = [stimulus_id for stimulus_id in known if stimulus_id in rows]
    columns = [
        values[[rows[stimulus_id] for stimulus_id in shown]].tolist()
        for name, dims, values in walk_coords(assembly)
        if tuple(dims) == ("presentation",) and name != "repetition"
    ]
    keys = list(zip(*columns, strict=True))
    return sorted(range(len(shown)), key=keys.__getitem__)


def by_repetition(
    trials: NDArray[np.float64], trial_ids: Sequence[str], stimulus_ids: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Sort single trials (presentations, neuroids) by stimulus and repetition.

    Args:
        trials: any number per stimulus, in any order.
        trial_ids: the stimulus of each presentation.
        stimulus_ids: of the stimulus set; gives the order.

    Returns:
        (n,) positions of the presented stimuli in the stimulus set, ascending, and (repetitions, n, neuroids) trials,
        NaN behind a stimulus's last one.
    """
    position = {stimulus_id: i for i, stimulus_id in enumerate(stimulus_ids)}
    unknown = next((stimulus_id for stimulus_id in trial_ids if stimulus_id not in position), None)
    if unknown is not None:
        raise UserError(f"stimulus_id '{unknown}' of the assembly is not in its stimulus set; delete both files")
    positions = np.array([position[stimulus_id] for stimulus_id in trial_ids], dtype=np.intp)
    stimuli, rows = np.unique(positions, return_inverse=True)
    counts = np.bincount(rows)
    order = np.argsort(rows, kind="stable")
    number = np.empty(len(rows), dtype=np.intp)
    number[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    repetitions = np.full((counts.max(), len(stimuli), trials.shape[1]), np.nan)
    repetitions[number, rows] = trials
    return stimuli, repetitions


def complete_repetitions(repetitions: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Repetitions that all neuroids have, or None where they leave some stimulus without any.

    Where a trial is missing for some neuroids only (NaN), each neuroid's trials of a stimulus move up,
    and as many are kept as the neuroid with the fewest has: trials of neuroids that were recorded on
    different days have no partner anyway. Ceilings are then of fewer trials than the averages, so they err on the low
    side.
    """
    missing = np.isnan(repetitions)
    if np.array_equal(missing.any(axis=2), missing.all(axis=2)):
        return repetitions
    order = np.argsort(missing, axis=0, kind="stable")
    packed = np.take_along_axis(repetitions, order, axis=0)
    fewest = (~missing).sum(axis=0).min(axis=1)
    packed[np.arange(len(packed))[:, None] >= fewest] = np.nan
    return packed[: int(fewest.max())] if fewest.min() > 0 else None
