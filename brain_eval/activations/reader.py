"""Read a model's activations layer by layer, as `extract` wrote them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark
from brain_eval.files import READING_ERRORS
from nmnc.errors import UserError
from nmnc.files.digests import check_seal
from nmnc.files.reading import read_json


@dataclass(frozen=True)
class Activations:
    """An open file of activations; layers are read one at a time.

    Attributes:
        path: of the file.
        values: (presentation, neuroid) float32, on disk.
        layers: name -> its neuroids, in the file's order.
        stimulus_ids: one per presentation.
        preprocessing: how the model saw the images.
    """

    path: Path
    values: netCDF4.Variable
    layers: dict[str, slice | NDArray[np.intp]]
    stimulus_ids: tuple[str, ...]
    preprocessing: str

    def read(self, layer: str, stimuli: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return (len(stimuli), neuroids) float32, finite, without loading rows outside their range.

        Raises:
            UserError: a damaged file; NaN or infinity (names layer and stimulus).
        """
        first, last = int(stimuli.min()), int(stimuli.max())
        try:
            block = np.asarray(self.values[first : last + 1, self.layers[layer]])
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{self.path}: damaged, layer '{layer}' cannot be read or fails its checksum ({error}); "
                "delete it and rerun extract"
            ) from None
        features = block if len(stimuli) == len(block) and _ascending(stimuli) else block[stimuli - first]
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            stimulus = self.stimulus_ids[stimuli[int(np.argmin(finite))]]
            raise UserError(
                f"{self.path}: layer '{layer}' contains NaN or infinity for stimulus '{stimulus}'; "
                "check the network's training, then rerun extract"
            )
        return features


def _ascending(stimuli: NDArray[np.intp]) -> bool:
    return bool((np.diff(stimuli) > 0).all())


def _texts(variable: netCDF4.Variable) -> list[str]:
    """Return strings, also from rows of UTF-8 bytes (netCDF4 shifts what follows a multi-byte character)."""
    if variable.dtype is str:
        return [str(text) for text in variable[:]]
    variable.set_auto_chartostring(False)
    characters = np.ascontiguousarray(variable[:])
    return [text.decode("utf-8") for text in characters.view(f"S{characters.shape[1]}")[:, 0].tolist()]


@contextmanager
def open_activations(path: Path, benchmark: Benchmark) -> Iterator[Activations]:
    """Open BENCHMARK.nc and check that it has this benchmark's stimuli, in its order.

    Raises:
        UserError: missing, broken or of other stimuli; names the command that makes it.
    """
    again = f"run: python -m brain_eval extract --benchmark {benchmark.description.name}"
    if not path.exists():
        raise UserError(f"{path} is missing; {again}")
    check_seal(path)
    try:
        file = netCDF4.Dataset(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is not a readable NetCDF file ({error}); delete it and {again}") from None
    with file:
        file.set_auto_mask(False)
        try:
            ids, names = tuple(_texts(file["stimulus_id"])), np.array(_texts(file["layer"]))
            digest, values = file.getncattr("stimulus_set_sha256"), file["activations"]
            preprocessing = str(file.getncattr("preprocessing"))
            if values.shape != (len(ids), len(names)):
                raise ValueError(
                    f"activations of shape {values.shape} for {len(ids)} stimuli and {len(names)} neuroids"
                )
        except READING_ERRORS as error:
            raise UserError(f"{path} lacks a part that extract writes ({error}); {again}") from None
        _refuse_another_network(path, getattr(file, "weights_sha256", None), again)
        if ids != benchmark.stimulus_set.stimulus_ids or digest != benchmark.stimulus_set.sha256:
            raise UserError(f"{path} was made from other stimuli than the benchmark has now; {again}")
        layers: dict[str, slice | NDArray[np.intp]] = {}
        for layer in dict.fromkeys(names.tolist()):
            columns = np.flatnonzero(names == layer)
            contiguous = columns[-1] - columns[0] + 1 == len(columns)
            layers[layer] = slice(int(columns[0]), int(columns[-1]) + 1) if contiguous else columns
        yield Activations(path, values, layers, ids, preprocessing)


def _refuse_another_network(path: Path, weights: str | None, again: str) -> None:
    """Raise UserError if activations/NETWORK/RULE/seedN/ are of another network than networks/NETWORK/RULE/seedN."""
    folder = path.absolute().parent  # results/STUDY/activations/NETWORK/RULE/seedN
    if len(folder.parts) < 5 or folder.parts[-4] != "activations":
        return
    network = folder.parents[3].joinpath("networks", *folder.parts[-3:])
    if not (network / "network.pt").is_file() or not (network / "provenance.json").is_file():
        return
    provenance = read_json(network / "provenance.json")
    expected = provenance.get("weights_sha256") if isinstance(provenance, dict) else None
    if None not in (weights, expected) and weights != expected:
        raise UserError(f"{path}: of another network than {network / 'network.pt'}; delete it and {again}")
