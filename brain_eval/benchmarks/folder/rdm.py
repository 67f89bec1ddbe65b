"""Read rdm.nc of a benchmark folder as a recording; refuse what is not a matrix of dissimilarities."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Recording
from brain_eval.benchmarks.folder.netcdf import read_content
from brain_eval.benchmarks.folder.stimuli import counted, places_of, unique_ids
from nmnc.errors import UserError

#: What is rounding, as part of the largest distance: a diagonal off 0, two triangles that differ, a negative distance.
ROUNDING = 1e-5
#: Distances of these kinds are at most 2.
ANGLES = ("correlation", "cosine")

Array = NDArray[np.float64]


def read_rdm(
    path: Path, labels: dict[str, str], stimulus_ids: Sequence[str], distance: str = ""
) -> tuple[tuple[Recording, ...], list[str]]:
    """Read `rdm`, an (n, n) symmetric matrix of dissimilarities with a vector stimulus_id of length n.

    Args:
        path: NetCDF.
        labels: session, animal, species, region.
        stimulus_ids: of the stimulus set.
        distance: a name in brain_eval.metrics.RDMS, or "": correlation and cosine distances are at most 2, all but
            crossnobis are not negative.

    Returns:
        The recording, and notes on what of the file is not used.

    Raises:
        UserError: unreadable, or not such a matrix (names the stimulus_id).
    """
    content = read_content(path, "rdm", ("stimulus_id",))
    rdm = content.values
    _refuse_other_shapes(rdm, path, content.name)
    ids_of_rows = content.labels.get("stimulus_id")
    if ids_of_rows is None or len(ids_of_rows.values) != len(rdm):
        raise UserError(f"{path} has no coordinate stimulus_id of length {len(rdm)}; name each row's image")
    stimuli = places_of(unique_ids(ids_of_rows.values, path), stimulus_ids, path)
    if len(stimuli) < 3:
        raise UserError(f"{path} has {len(stimuli)} stimuli; add stimuli, comparing RDMs needs at least 3")
    ids = [stimulus_ids[i] for i in stimuli]
    _refuse_one_triangle(rdm, path)
    diagonal = np.diag(rdm).copy()
    np.fill_diagonal(rdm, 0.0)
    wrong = ~np.isfinite(rdm)
    if wrong.any():
        # Both images of a missing pair are suspect: name the one with the most gaps.
        worst = ids[int(wrong.sum(axis=1).argmax())]
        raise UserError(f"{path} has NaN or infinity in the row of stimulus_id '{worst}'; remove that stimulus")
    scale = float(np.abs(rdm).max())
    _refuse_diagonal(diagonal, rdm, scale, path, ids)
    apart = np.abs(rdm - rdm.T)
    if apart.max() > ROUNDING * scale:
        worst = ids[int(apart.max(axis=1).argmax())]
        raise UserError(f"{path} is not symmetric in the row of stimulus_id '{worst}'; fix that row")
    _refuse_range(rdm, scale, path, ids, distance)
    unused = [f"{path.name}: {counted(content.unused, 'variable')} not used"] if content.unused else []
    without = [name for i, name in enumerate(stimulus_ids) if i not in set(stimuli.tolist())]
    if without:
        unused.append(f"{path.name}: {counted(without, 'stimulus', 'stimuli')} of stimuli.csv without distances")
    who = (labels["session"], labels["animal"], labels["species"], labels["region"])
    symmetric = (rdm + rdm.T) / 2
    return (Recording(*who, stimuli=stimuli, n_neuroids=None, rdm=symmetric, distance=distance),), unused


def _refuse_other_shapes(rdm: Array, path: Path, name: str) -> None:
    if rdm.ndim == 2 and rdm.shape[0] == rdm.shape[1]:
        return
    hint = "an RDM is square"
    if rdm.ndim == 1:
        n = (1 + np.sqrt(1 + 8 * rdm.size)) / 2
        if n == int(n):
            hint += f": these are the pairs of {int(n)} stimuli, make the matrix with scipy.spatial.distance.squareform"
    elif rdm.ndim > 2:
        hint += ": average over the other dimensions, or write a folder for each"
    raise UserError(f"{path}: '{name}' has shape {rdm.shape}; {hint}")


def _refuse_one_triangle(rdm: Array, path: Path) -> None:
    """Raise UserError if one triangle is filled and the other is 0 or NaN."""
    upper, lower = (rdm[np.triu_indices(len(rdm), 1)], rdm.T[np.triu_indices(len(rdm), 1)])
    for name, filled, other in (("upper", upper, lower), ("lower", lower, upper)):
        if np.isin(np.nan_to_num(other), 0.0).all() and np.isfinite(filled).all() and filled.any():
            raise UserError(f"{path} has only its {name} triangle; fill the other with the same distances")


def _refuse_diagonal(diagonal: Array, rdm: Array, scale: float, path: Path, ids: Sequence[str]) -> None:
    """Raise UserError unless the distance of each stimulus from itself is 0, or not given (NaN)."""
    known = np.where(np.isnan(diagonal), 0.0, diagonal)
    worst = int(np.abs(known).argmax())
    if abs(known[worst]) <= ROUNDING * scale:
        return
    value = diagonal[worst]
    alike = np.isfinite(known).all() and np.ptp(known) <= ROUNDING * abs(value)
    advice = "set the diagonal to 0, and check what the matrix is"
    if alike and value > 0 and rdm.max() <= value * (1 + ROUNDING):
        advice = f"this looks like similarities, give {value:.4g} - them"
    raise UserError(
        f"{path}: the distance of stimulus_id '{ids[worst]}' from itself is {value:.4g} and not 0; {advice}"
    )


def _refuse_range(rdm: Array, scale: float, path: Path, ids: Sequence[str], distance: str) -> None:
    if distance != "crossnobis" and rdm.min() < -ROUNDING * scale:
        row, column = divmod(int(rdm.argmin()), len(rdm))
        raise UserError(
            f"{path}: the distance of stimulus_id '{ids[row]}' and '{ids[column]}' is {rdm.min():.4g}, below 0; give "
            "1 - them if they are similarities, or 'distance: crossnobis' in benchmark.yaml if they are that"
        )
    if distance in ANGLES and rdm.max() > 2 + ROUNDING * scale:
        row, column = divmod(int(rdm.argmax()), len(rdm))
        raise UserError(
            f"{path}: the distance of stimulus_id '{ids[row]}' and '{ids[column]}' is {rdm.max():.4g}, and {distance} "
            "distances are at most 2; fix 'distance' in benchmark.yaml or the matrix"
        )
    pairs = rdm[np.triu_indices(len(rdm), 1)]
    if np.ptp(pairs) <= 1e-12 * scale:
        raise UserError(f"{path}: all distances are {pairs[0]:.4g}, so nothing can be compared; check the matrix")
