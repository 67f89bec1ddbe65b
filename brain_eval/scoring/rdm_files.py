"""The model's RDMs over whole stimulus sets, for the figures."""

from pathlib import Path

import numpy as np
import xarray
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
    content = xarray.Dataset(attrs=who | {"dissimilarity": "1 - Pearson correlation over neuroids"})
    for name, (ids, rdms) in stored.items():
        # One model may have other layers for another benchmark, and row counts differ.
        dims = (f"layer_{name}", f"row_{name}", f"column_{name}")
        content[name] = dims, np.stack(list(rdms.values()))
        content[dims[0]], content[f"stimulus_id_{name}"] = (dims[0], list(rdms)), (dims[1], list(ids))
    content.to_netcdf(path, encoding={name: {"zlib": True, "complevel": 4} for name in stored})
