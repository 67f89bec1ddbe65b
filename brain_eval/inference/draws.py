"""The file next to a model's scores with which models are compared on the same resampled stimuli.

One group BENCHMARK/METRIC per metric whose scores vary with the stimuli; a recording whose own do not (it is too small
for the metric) has no entries:

    raw        (layer, recording) float64, NaN where undefined
    influence  (layer, entry) float32, the recordings' influences one after the other
    remainder  (layer, recording, draw) float32
    half       (layer, recording, side) float64, scores of a half and of the other half of the stimuli, split by split
    recording, unit  (entry,) to which recording an entry belongs and which unit of the benchmark it is
    session, animal, species, region  (recording,)

See brain_eval.inference.variation for influence and remainder. The draws depend on the seed and the benchmark
alone, which `sampling` names: files with equal `sampling` have the same draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import netCDF4
import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.whole_regions import ALL, MEAN
from brain_eval.files import open_netcdf, refuse_another
from nmnc.errors import UserError

LABELS = ("session", "animal", "species", "region")


class Recordings(NamedTuple):
    """Which recordings of a benchmark: a region's, all of them (MEAN of ALL), those of one animal, or one session."""

    species: str
    region: str
    session: str = MEAN
    animal: str = ALL

    def among(self, labels: Sequence[tuple[str, ...]]) -> list[int]:
        """Their positions among recordings of these LABELS."""
        return [
            position for position, (session, animal, *where) in enumerate(labels)
            if where == [self.species, self.region]
            and self.session in (MEAN, session) and self.animal in (ALL, animal)
        ]  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """All recordings' scores of one benchmark by one metric, layer by layer; see the module's head.

    Attributes:
        sampling: names the draws.
        layers: names.
        labels: per recording session, animal, species, region.
        raw: (layers, recordings) float64.
        influence: (layers, recordings, units) float32, for as many units as the benchmark has stimuli; 0 where a
            recording lacks them.
        remainder: (layers, recordings, draws) float32.
        half: (layers, recordings, 2 * splits) float64.
        recorded: (recordings, units) bool, which units are behind each recording.
    """

    sampling: str
    layers: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    raw: NDArray[np.float64]
    influence: NDArray[np.float32]
    remainder: NDArray[np.float32]
    half: NDArray[np.float64]
    recorded: NDArray[np.bool_]


def read_draws(path: Path, who: Mapping[str, str] | None = None) -> dict[tuple[str, str], Drawn]:
    """Read what `write_draws` wrote, by (benchmark, metric).

    Args:
        path: the file.
        who: the model's identity; None: any.

    Raises:
        UserError: missing, not such a file, or of another model.
    """
    again = "run: python -m brain_eval score"
    if not path.exists():
        raise UserError(f"{path} is missing; {again}")
    with open_netcdf(path, f"delete it and {again}") as file:
        refuse_another(file, path, who or {}, again)
        return {
            (benchmark, metric): _read_metric(group)
            for benchmark, groups in file.groups.items()
            for metric, group in groups.groups.items()
        }


def _read_metric(group: netCDF4.Group) -> Drawn:
    recording, unit = (np.asarray(group[name][:], dtype=np.intp) for name in ("recording", "unit"))
    raw = np.asarray(group["raw"][:])
    influence = np.zeros((*raw.shape, int(group.getncattr("units"))), dtype=np.float32)
    influence[:, recording, unit] = group["influence"][:]
    recorded = np.zeros(influence.shape[1:], dtype=bool)
    recorded[recording, unit] = True
    return Drawn(
        str(group.getncattr("sampling")),
        tuple(str(name) for name in group["layer"][:]),
        tuple(zip(*([str(name) for name in group[label][:]] for label in LABELS), strict=True)),
        raw,
        influence,
        np.asarray(group["remainder"][:]),
        np.asarray(group["half"][:]),
        recorded,
    )


@dataclass(frozen=True)
class RegionDraws:
    """What several runs, each a layer or a mixture of layers, score with the recordings of one region.

    Attributes:
        values: (runs, recordings) float64.
        influence: (runs, recordings, units) float64, of the units behind any of the recordings.
        remainder: (runs, recordings, draws) float64.
        smallest: least number of units behind a recording.
    """

    values: NDArray[np.float64]
    influence: NDArray[np.float64]
    remainder: NDArray[np.float64]
    smallest: int

    @property
    def factors(self) -> list[str]:
        """Sources of variation in an interval of the mean: seeds and recordings count if there are several."""
        runs, recordings = self.values.shape
        return ["seeds"] * (runs > 1) + ["stimuli"] + ["recordings"] * (recordings > 1)

    def paired_differences(self) -> "RegionDraws":
        """Return the first half of the runs minus the second, run by run."""
        half = len(self.values) // 2
        values, influence, remainder = (
            part[:half] - part[half:] for part in (self.values, self.influence, self.remainder)
        )
        return RegionDraws(values, influence, remainder, self.smallest)


def draws_of_region(
    drawn: Sequence[Drawn | None], shares: Sequence[Mapping[str, float]], which: Recordings
) -> RegionDraws | None:
    """Select the draws of a region's recordings.

    Args:
        drawn: the draws of each run, None where there are none.
        shares: per run how much of its score comes from each layer; they add up to 1.
        which: the recordings that count.

    Returns:
        None where a run lacks draws of these layers, has other draws than the first, or an undefined score, or where
        a recording's scores have no draws in one of the runs.
    """
    known = [run for run in drawn if run is not None]
    if not known or len(known) < len(drawn) or len({(run.sampling, run.labels) for run in known}) != 1:
        return None
    chosen = which.among(known[0].labels)
    pairs = list(zip(known, shares, strict=True))
    if not chosen or any(layer not in run.layers for run, part in pairs for layer in part):
        return None

    def stack(name: str) -> NDArray[np.float64]:
        return np.stack([_mixed(getattr(run, name), run.layers, part, chosen) for run, part in pairs])

    recorded = known[0].recorded[chosen]
    smallest = int(recorded.sum(axis=1).min())
    if not smallest or not all(np.array_equal(run.recorded[chosen], recorded) for run in known):
        return None
    values, influence = stack("raw"), stack("influence")[..., recorded.any(axis=0)]
    if not np.isfinite(values).all() or not np.isfinite(influence).all():
        return None
    return RegionDraws(values, influence, stack("remainder"), smallest)


def _mixed(
    values: NDArray[np.floating], layers: Sequence[str], shares: Mapping[str, float], recordings: Sequence[int]
) -> NDArray[np.float64]:
    """Layers' values (layers, recordings, ...) in these shares; a layer of no share may be undefined."""
    parts = [
        share * values[layers.index(layer), recordings].astype(np.float64) for layer, share in shares.items() if share
    ]
    return np.asarray(sum(parts))
