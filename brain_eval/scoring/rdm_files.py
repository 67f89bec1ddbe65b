"""The model's RDMs over whole stimulus sets, for the figures."""

from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from brain_eval.metrics.rdms import UndefinedSimilarity, correlation_rdm

#: Per benchmark: stimulus ids, and an (n, n) RDM per layer.
Rdms = dict[str, tuple[tuple[str, ...], dict[str, NDArray[np.float64]]]]


def whole_rdm(features: NDArray[np.float32]) -> NDArray[np.floating]:
    """RDM over the whole stimulus set, NaN where it is undefined."""
    try:
        return correlation_rdm(features)
    except UndefinedSimilarity:
        return np.full((len(features), len(features)), np.nan)


def write_rdms(path: Path, who: dict[str, str], stored: Rdms) -> None:
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
