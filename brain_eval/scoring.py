"""One model against the benchmarks: its RDMs, layer by layer, compared with every recording."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import brain_eval.benchmarks
from brain_eval.benchmarks.base import Benchmark, Ceiling
from brain_eval.errors import UserError
from brain_eval.files import netcdf_errors, replacing
from brain_eval.similarity import UndefinedSimilarity, correlation_rdm, find_metric, upper_triangle
from brain_eval.statistics import percentile_interval
from brain_eval.targets import UNKNOWN, Score, Scores, Target

COLUMNS = (
    "network", "rule", "kind", "seed", "layer", "benchmark", "version", "session", "animal", "species",
    "region", "metric", "raw", "ci_low", "ci_high", "interval_method", "n_draws", "ceiling_lower",
    "ceiling_upper", "ceiled", "ceiling_definition", "n_stimuli", "n_neuroids", "preprocessing",
)  # fmt: skip
#: RDMs of benchmarks with more stimuli than this are not written: nobody can look at them.
MOST_STIMULI_STORED = 200


def score_model(
    activations_folder: Path, specs: Sequence[str], data: Path, out: Path, rdms_out: Path, *,
    identity: str, metrics: Sequence[str], draws: int, seed: int, confidence: float,
) -> None:  # fmt: skip
    """Compare one model's RDMs with every recording of the benchmarks and write the scores.

    Args:
        activations_folder: holds BENCHMARK.nc, as `extract` writes it.
        specs: benchmarks, each NAME or NAME=FOLDER.
        data: folder of the data sets.
        out: CSV to write, columns COLUMNS; one row per layer, recording and metric, then the means over
            the recordings of an animal and of a region.
        rdms_out: NetCDF to write: per benchmark of at most 200 stimuli a variable of its name,
            (layer, row, column) float64, NaN for a layer without an RDM.
        identity: "network,rule,kind,seed".
        metrics: names in similarity.METRICS.
        draws, seed, confidence: of the bootstrap. Its draws depend on the seed and the benchmark, not
            on the model, so that models are compared on the same resampled stimuli.

    Raises:
        UserError: unknown metric or benchmark, activations missing or of other stimuli, NaN in them, a full disk.
    """
    who = _identity(identity)
    names = [name.strip() for name in metrics]
    chosen = {name: find_metric(name) for name in names}
    rows: list[dict[str, Any]] = []
    stored: dict[str, tuple[tuple[str, ...], dict[str, NDArray[np.float64]]]] = {}
    for spec in specs:
        benchmark = brain_eval.benchmarks.load_benchmark(spec, data)
        name = benchmark.description.name
        ids = benchmark.stimulus_set.stimulus_ids
        with _activations(activations_folder / f"{name}.nc", benchmark) as activations:
            target = Target(benchmark, chosen, draws, seed)
            pictures = {}
            for layer in tqdm(activations.layers, f"score {name}", disable=None):
                scores = _score_layer(target, activations, layer)
                shared: dict[str, Any] = {**who, "layer": layer, "preprocessing": activations.preprocessing}
                shared |= {"benchmark": name, "version": benchmark.description.version}
                rows += [shared | row for row in _rows(target, scores, confidence)]
                if len(ids) <= MOST_STIMULI_STORED:
                    pictures[layer] = _whole_rdm(activations.read(layer, np.arange(len(ids))))
        if pictures:
            stored[name] = (ids, pictures)
    # The larger file first: where the disk is full, the old scores stay beside the old RDMs.
    with replacing(rdms_out) as temporary, netcdf_errors(rdms_out):
        _write_rdms(temporary, who, stored)
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: _cell(row[column]) for column in COLUMNS} for row in rows)


def _identity(text: str) -> dict[str, str]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(parts) or not parts[3].isdecimal():
        raise UserError(f"--identity '{text}' is not network,rule,kind,seed; e.g. convnet,nmnc,nmnc,0")
    return dict(zip(("network", "rule", "kind", "seed"), parts, strict=True))


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class _Activations:
    """An open file of activations; layers are read one at a time."""

    path: Path
    values: netCDF4.Variable
    layers: dict[str, slice | NDArray[np.intp]]
    stimulus_ids: tuple[str, ...]
    preprocessing: str

    def read(self, layer: str, stimuli: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return (len(stimuli), neuroids) float32, finite, without loading rows outside their range."""
        first, last = int(stimuli.min()), int(stimuli.max())
        try:
            block = np.asarray(self.values[first : last + 1, self.layers[layer]])
        except (OSError, RuntimeError) as error:
            raise UserError(f"{self.path} is damaged ({error}); delete it and extract again") from None
        features = block if len(stimuli) == len(block) and _ascending(stimuli) else block[stimuli - first]
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            stimulus = self.stimulus_ids[stimuli[int(np.argmin(finite))]]
            raise UserError(
                f"{self.path}: layer '{layer}' holds NaN or infinity for stimulus '{stimulus}'; "
                "look at the network's training, then extract again"
            )
        return features


def _ascending(stimuli: NDArray[np.intp]) -> bool:
    return bool((np.diff(stimuli) > 0).all())


@contextmanager
def _activations(path: Path, benchmark: Benchmark) -> Iterator[_Activations]:
    """Open BENCHMARK.nc and check that it holds this benchmark's stimuli, in its order."""
    again = f"run: python -m brain_eval extract --benchmark {benchmark.description.name}"
    if not path.exists():
        raise UserError(f"{path} is missing; {again}")
    try:
        file = netCDF4.Dataset(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is no readable NetCDF file ({error}); delete it and {again}") from None
    with file:
        file.set_auto_mask(False)
        try:
            ids = tuple(str(name) for name in file["stimulus_id"][:])
            names = np.array([str(name) for name in file["layer"][:]])
            digest, values = file.getncattr("stimulus_set_sha256"), file["activations"]
            preprocessing = str(file.getncattr("preprocessing"))
        except (IndexError, KeyError, AttributeError) as error:
            raise UserError(f"{path} lacks a part that extract writes ({error}); {again}") from None
        if ids != benchmark.stimulus_set.stimulus_ids or digest != benchmark.stimulus_set.sha256:
            raise UserError(f"{path} was made from other stimuli than the benchmark has now; {again}")
        layers: dict[str, slice | NDArray[np.intp]] = {}
        for layer in dict.fromkeys(names.tolist()):
            columns = np.flatnonzero(names == layer)
            contiguous = columns[-1] - columns[0] + 1 == len(columns)
            layers[layer] = slice(int(columns[0]), int(columns[-1]) + 1) if contiguous else columns
        yield _Activations(path, values, layers, ids, preprocessing)


def _score_layer(target: Target, activations: _Activations, layer: str) -> Scores:
    """Compare one layer with every recording; a layer without an RDM is warned of, not fatal."""
    scores: Scores = {}
    for number, group in enumerate(target.groups):
        stimuli = target.stimuli(group)
        try:
            rdm = correlation_rdm(activations.read(layer, stimuli))
            scores |= target.compare(number, upper_triangle(rdm))
        except UndefinedSimilarity as error:
            reason = "the RDM is constant"
            if error.row is not None:
                stimulus = target.stimulus_ids[stimuli[error.row]]
                reason = f"activity is constant for stimulus '{stimulus}'"
            sessions = ", ".join(target.recordings[index].session for index in group)
            where = f"{activations.path}, layer '{layer}', session {sessions}"
            # tqdm's own way past its progress bar.
            tqdm.write(f"brain_eval: warning: {where}: {reason}; its scores stay empty", file=sys.stderr)
            empty = Score(None, None, f"none: {reason}")
            scores |= {(index, name): empty for index in group for name in target.metrics}
    return scores


def _rows(target: Target, scores: Scores, confidence: float) -> Iterator[dict[str, Any]]:
    """Yield the rows of one layer: region by region its recordings, its animals' means, its mean."""
    for indices in target.regions:
        for index in indices:
            yield from _recording_rows(target, index, scores, confidence)
        animals: dict[str, list[int]] = {}
        for index in indices:
            animals.setdefault(target.recordings[index].animal, []).append(index)
        means = {animal: own for animal, own in animals.items() if len(own) > 1}
        if len(indices) > 1:
            means["all"] = indices
        for animal, own in means.items():
            yield from _mean_rows(target, animal, own, scores, confidence)


def _recording_rows(target: Target, index: int, scores: Scores, confidence: float) -> Iterator[dict[str, Any]]:
    recording = target.recordings[index]
    for name in target.metrics:
        yield {
            "session": recording.session,
            "animal": recording.animal,
            "species": recording.species,
            "region": recording.region,
            "n_stimuli": len(recording.stimuli),
            "n_neuroids": recording.n_neuroids,
            **_numbers(target, name, scores[index, name], "stimuli", target.ceilings[index][name], confidence),
        }


def _mean_rows(
    target: Target, animal: str, indices: Sequence[int], scores: Scores, confidence: float
) -> Iterator[dict[str, Any]]:
    """Yield the mean over some recordings per metric; neuroids add up, shared stimuli count once."""
    recordings = [target.recordings[index] for index in indices]
    neuroids = [recording.n_neuroids for recording in recordings if recording.n_neuroids is not None]
    stimuli = np.unique(np.concatenate([recording.stimuli for recording in recordings]))
    for name in target.metrics:
        score = target.mean(indices, animal, name, scores)
        ceiling = target.ceiling_of_subjects(indices, name) if animal == "all" else UNKNOWN
        yield {
            "session": "mean",
            "animal": animal,
            "species": recordings[0].species,
            "region": recordings[0].region,
            "n_stimuli": len(stimuli),
            "n_neuroids": sum(neuroids) if len(neuroids) == len(recordings) else None,
            **_numbers(target, name, score, "stimuli and recordings jointly", ceiling, confidence),
        }


def _numbers(
    target: Target, metric: str, score: Score, resampled: str, ceiling: Ceiling, confidence: float
) -> dict[str, Any]:
    """Return the cells of a score: raw, interval, ceilings, and how they were made."""
    cells: dict[str, Any] = dict.fromkeys(("ci_low", "ci_high", "n_draws", "ceiled"))
    cells |= {"metric": metric, "raw": score.raw, "interval_method": score.reason}
    cells |= {"ceiling_lower": ceiling.lower, "ceiling_upper": ceiling.upper}
    cells["ceiling_definition"] = ceiling.definition
    if score.raw is not None and ceiling.upper is not None and ceiling.upper > 0:
        cells["ceiled"] = score.raw / ceiling.upper
        cells["ceiling_definition"] += "; ceiled = raw / ceiling_upper"
    if score.draws is not None:
        low, high, usable = percentile_interval(score.draws, confidence)
        words = f"percentile {100 * confidence:g} % of bootstrap over {resampled}"
        stratified = "; stimuli stratified by the recordings that share them" if target.stratified else ""
        words += f"{stratified}; {target.metrics[metric].words}"
        cells |= {"ci_low": low, "ci_high": high, "n_draws": usable, "interval_method": words}
    return cells


def _whole_rdm(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """RDM over the whole stimulus set, NaN where it is undefined."""
    try:
        return correlation_rdm(features)
    except UndefinedSimilarity:
        return np.full((len(features), len(features)), np.nan)


def _write_rdms(
    path: Path, who: dict[str, str], stored: dict[str, tuple[tuple[str, ...], dict[str, NDArray[np.float64]]]]
) -> None:
    """Write each benchmark's (layer, row, column) RDMs under its name, with their stimulus ids."""
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(who | {"dissimilarity": "1 - Pearson correlation over neuroids"})
        for name, (ids, rdms) in stored.items():
            # One model may have other layers for another benchmark, and row counts differ.
            dims = (f"layer_{name}", f"row_{name}", f"column_{name}")
            for dim, size in zip(dims, (len(rdms), len(ids), len(ids)), strict=True):
                file.createDimension(dim, size)
            file.createVariable(dims[0], str, dims[:1])[:] = np.array(list(rdms), dtype=object)
            file.createVariable(f"stimulus_id_{name}", str, dims[1:2])[:] = np.array(ids, dtype=object)
            variable = file.createVariable(name, "f8", dims, zlib=True, complevel=4, fill_value=np.nan)
            variable[:] = np.stack(list(rdms.values()))
