"""Brain-Score's public assemblies as benchmarks of ours: one recording per region, repetitions included.

The files are Brain-Score's own (bucket brainscore-storage, no credentials), pinned by the sha1 that
brainscore_vision registers, and read by its loaders. They lie where Brain-Score looks for them,
$BRAINIO_HOME/<sha1>/<filename>, by default in the folder brainio below the data folder; a file put there
by hand is taken after its sha1 was checked.

Steps as in brainscore_vision's benchmarks: the neuroids of one region; the only time bin, or the mean
over the bins of a window; the mean over repetitions. Responses are used as they are, so that an RDM
here is that of Brain-Score's own metric `rdm` on the same assembly. All animals' neuroids are pooled. A
recording's stimuli stand in the order of Brain-Score's averaged assembly, on which its seeded splits depend.
"""

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from brain_eval.benchmarks.base import Benchmark, DataFile, Description, Recording, StimulusSet, stimuli_from_files
from brain_eval.benchmarks.public.environment import brainscore
from brain_eval.benchmarks.public.trials import averaged_order, by_repetition, complete_repetitions, one_bin
from brain_eval.benchmarks.sources import brainio_home, ensure
from nmnc.errors import UserError
from nmnc.files.writing import private_folder

BUCKET = "brainscore-storage/brainio-brainscore"
_URL = "https://brainscore-storage.s3.amazonaws.com/brainio-brainscore/"


@dataclass(frozen=True)
class Pin:
    """One stored object of Brain-Score's bucket: its hex sha1 and its version there."""

    sha1: str
    version: str = "null"


@dataclass(frozen=True)
class PublicAssembly:
    """What Brain-Score knows of an assembly and its stimulus set, and how it is read.

    Attributes:
        identifier, stimulus_set: e.g. "dicarlo.MajajHong2015.public" and "hvm-public".
        assembly, table, images: pins of the .nc, .csv and .zip file.
        species: of the animals.
        degrees: width of the images in degrees of visual angle.
        category: column of the stimulus set that groups the images.
        window: milliseconds (start, end) to average one-millisecond bins over, or None for one bin.
        pls: region -> identifier of Brain-Score's own PLS benchmark.
    """

    identifier: str
    stimulus_set: str
    assembly: Pin
    table: Pin
    images: Pin
    species: str
    degrees: float
    category: str
    window: tuple[int, int] | None = None
    pls: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[DataFile, DataFile, DataFile]:
        """Assembly (.nc), table of the stimuli (.csv) and their images (.zip)."""
        return (
            _file(f"assy_{self.identifier}.nc", self.assembly),
            _file(f"stimulus_{self.stimulus_set}.csv", self.table),
            _file(f"stimulus_{self.stimulus_set}.zip", self.images),
        )


def _file(name: str, pin: Pin) -> DataFile:
    stem, _, ending = name.rpartition(".")
    name = f"{stem.replace('.', '_')}.{ending}"
    version = "" if pin.version == "null" else f"?versionId={pin.version}"
    return DataFile(f"brainio/{pin.sha1}/{name}", _URL + name + version, None, sha1=pin.sha1)


def load(description: Description, source: PublicAssembly, data_folder: Path) -> Benchmark:
    """Load the stimuli and one recording per region of the description.

    Raises:
        UserError: a file is absent and cannot be downloaded (names place, sha1 and URL), or is not the
            one Brain-Score registers; a stimulus was never recorded by some neuroid.
    """
    ensure_files(source, data_folder)
    with brainscore(brainio_home(data_folder)):
        assembly = load_assembly(source)
        table = assembly.attrs["stimulus_set"]
        stimulus_set = _stimuli(description.name, table, source)
        recordings = tuple(_recording(assembly, region, stimulus_set, source) for region in description.regions)
    return Benchmark(description, stimulus_set, recordings)


def ensure_files(source: PublicAssembly, data_folder: Path) -> None:
    """Find or download the three files, check them, and unpack the images next to their archive."""
    archive = ensure(source.files, data_folder)[2]
    _unpack(archive)


def _unpack(archive: Path) -> None:
    """Unpack to where Brain-Score expects the images, in one move: it takes any folder there for complete."""
    folder = archive.with_suffix("")
    try:
        with zipfile.ZipFile(archive) as content:
            names = {name for name in content.namelist() if not name.endswith("/")}
            if folder.exists():
                missing = sorted(name for name in names if not (folder / name).is_file())
                if missing:
                    raise UserError(f"{folder} lacks {len(missing)} images, first {missing[0]}; delete it and rerun")
                return
            with private_folder(archive.parent) as temporary:
                content.extractall(temporary / "images")
                try:
                    (temporary / "images").rename(folder)
                except OSError:
                    # Another process was quicker: its folder is as good.
                    if not folder.is_dir():
                        raise
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is not a readable zip archive ({error}); delete it and rerun") from error
    except OSError as error:
        free = shutil.disk_usage(archive.parent).free / 1e9
        reason = error.strerror or error
        raise UserError(
            f"{archive} cannot be unpacked ({reason}), {free:.2f} GB are available; free disk space or fix permissions"
        ) from error


def load_assembly(source: PublicAssembly) -> Any:
    """Return Brain-Score's NeuronRecordingAssembly with its stimulus set; call inside `brainscore`."""
    from brainscore_core.supported_data_standards.brainio import assemblies, s3

    def stimuli() -> Any:
        return s3.load_stimulus_set_from_s3(
            identifier=source.stimulus_set,
            bucket=BUCKET,
            csv_sha1=source.table.sha1,
            zip_sha1=source.images.sha1,
            csv_version_id=source.table.version,
            zip_version_id=source.images.version,
        )

    return s3.load_assembly_from_s3(
        identifier=source.identifier,
        version_id=source.assembly.version,
        sha1=source.assembly.sha1,
        bucket=BUCKET,
        cls=assemblies.NeuronRecordingAssembly,
        stimulus_set_loader=stimuli,
    )


def _stimuli(name: str, table: Any, source: PublicAssembly) -> StimulusSet:
    ids = [str(stimulus_id) for stimulus_id in table["stimulus_id"]]
    paths = [Path(table.get_stimulus(stimulus_id)) for stimulus_id in table["stimulus_id"]]
    categories = [str(value) for value in table[source.category]]
    return stimuli_from_files(name, ids, paths, categories, [source.degrees] * len(ids))


def _recording(assembly: Any, region: str, stimulus_set: StimulusSet, source: PublicAssembly) -> Recording:
    from brain_eval.metrics.similarity import correlation_rdm

    units = assembly.isel(neuroid=np.flatnonzero(assembly["region"].values == region))
    if not units.sizes["neuroid"]:
        raise UserError(f"{source.identifier} contains no neuroids of region {region}; delete its file and rerun")
    trials = (
        one_bin(units, source.identifier, source.window).transpose("presentation", "neuroid").values.astype(np.float64)
    )
    ids = [str(stimulus_id) for stimulus_id in units["stimulus_id"].values]
    stimuli, repetitions = by_repetition(trials, ids, stimulus_set.stimulus_ids)
    order = averaged_order(units, ids)
    stimuli, repetitions = stimuli[order], repetitions[:, order]
    missing = np.isnan(repetitions).all(axis=0).any(axis=1)
    if missing.any():
        first = stimulus_set.stimulus_ids[stimuli[int(missing.argmax())]]
        raise UserError(f"{source.identifier}, region {region}: stimulus '{first}' has no response of some neuroid")
    responses = np.nanmean(repetitions, axis=0)
    # In this version of xarray the levels of an index are not in .coords.
    animals = list(dict.fromkeys(str(animal) for animal in units["animal"].values)) if hasattr(units, "animal") else []
    return Recording(
        session="pooled",
        animal=animals[0] if len(animals) == 1 else f"{len(animals) or 'several'} animals",
        species=source.species,
        region=region,
        stimuli=stimuli,
        n_neuroids=repetitions.shape[2],
        rdm=correlation_rdm(responses),
        repetitions=complete_repetitions(repetitions),
        responses=responses,
    )
