"""Write the draws of a model's scores; `brain_eval.inference.draws` documents the format and reads it."""

from collections.abc import Sequence
from pathlib import Path

import netCDF4
import numpy as np

from brain_eval.benchmarks.recorded_rdms import metric_label
from brain_eval.inference.draws import LABELS
from brain_eval.inference.variation import Variation
from brain_eval.scoring.targets import Score, Scores, Target


def write_draws(path: Path, who: dict[str, str], scored: Sequence[tuple[Target, str, dict[str, Scores]]]) -> None:
    """Write the scores' variations.

    Args:
        path: file to write.
        who: attributes, the model's identity.
        scored: per benchmark its target, the name of its draws, and the scores of each layer.
    """
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(who)
        for target, sampling, layers in scored:
            for metric in dict.fromkeys(name for scores in layers.values() for _, name in scores):
                _write_metric(file, target, sampling, metric, layers)


def _write_metric(file: netCDF4.Dataset, target: Target, sampling: str, metric: str, layers: dict[str, Scores]) -> None:
    every = list(dict.fromkeys(index for scores in layers.values() for index, name in scores if name == metric))
    table = {index: [scores.get((index, metric)) for scores in layers.values()] for index in every}
    known = {index: found for index in every for score in table[index] if (found := _variation(score)) is not None}
    if not known:
        return
    # A recording that is too small for the metric is kept without units, since its region's mean includes it.
    units = [known[index].units if index in known else np.zeros(0, dtype=np.intp) for index in every]
    draws = len(next(iter(known.values())).remainder)
    group = file.createGroup(f"{target.name}/{metric_label(target.kind, metric)}")
    group.setncatts({"sampling": sampling, "units": len(target.stimulus_ids)})
    sizes = {"layer": len(layers), "recording": len(every), "entry": sum(len(found) for found in units), "draw": draws}
    sizes["side"] = len(target.halves)
    for name, size in sizes.items():
        group.createDimension(name, size)
    group.createVariable("layer", str, ("layer",))[:] = np.array(list(layers), dtype=object)
    for label in LABELS:
        values = np.array([getattr(target.recordings[index], label) for index in every], dtype=object)
        group.createVariable(label, str, ("recording",))[:] = values
    recording = np.repeat(np.arange(len(units)), [len(found) for found in units])
    group.createVariable("recording", "i4", ("entry",))[:] = recording
    group.createVariable("unit", "i4", ("entry",))[:] = np.concatenate(units)
    raw = group.createVariable("raw", "f8", ("layer", "recording"))
    influence = group.createVariable("influence", "f4", ("layer", "entry"))
    remainder = group.createVariable("remainder", "f4", ("layer", "recording", "draw"))
    half = group.createVariable("half", "f8", ("layer", "recording", "side"))
    for column, index in enumerate(every):
        for row, score in enumerate(table[index]):
            variation = _variation(score)
            raw[row, column] = np.nan if score is None or score.raw is None else score.raw
            half[row, column] = np.nan if score is None or score.halves is None else score.halves
            influence[row, recording == column] = np.nan if variation is None else variation.influence
            remainder[row, column] = np.nan if variation is None else variation.remainder


def _variation(score: Score | None) -> Variation | None:
    return None if score is None else score.variation
