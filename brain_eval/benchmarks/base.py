"""What a benchmark is: one stimulus set and the recordings made with it."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nmnc.data.images import Pixels, read_file, read_image


@dataclass(frozen=True)
class StimulusSet:
    """Images in a fixed order, read a few at a time.

    Attributes:
        name: unique name, e.g. "kriegeskorte2008".
        stimulus_ids: one unique string per image.
        read: indices (any integer sequence) -> list of arrays, each (height, width, 3) as of nmnc.data.images.
        sha256: `stimulus_digest` over the ids and the pixels (or the files' bytes), in order.
        categories: one category label per image, or empty.
        degrees: width of each image in degrees of visual angle, or empty where unknown.
    """

    name: str
    stimulus_ids: tuple[str, ...]
    read: Callable[[NDArray[np.intp]], list[Pixels]]
    sha256: str
    categories: tuple[str, ...] = ()
    degrees: tuple[float, ...] = ()


def stimulus_digest(stimulus_ids: Sequence[str], contents: Iterable[bytes]) -> str:
    """Return the hex SHA-256 over (id, SHA-256 of the image's content), in order.

    Hashing hashes keeps neighbours apart: no two sets run together to the same bytes.
    """
    digest = hashlib.sha256()
    for stimulus_id, content in zip(stimulus_ids, contents, strict=True):
        digest.update(hashlib.sha256(stimulus_id.encode()).digest())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def stimuli_in_memory(
    name: str, stimulus_ids: Sequence[str], images: NDArray[np.uint8], categories: Sequence[str] = ()
) -> StimulusSet:
    """Return the stimulus set of a small array of images, (n, height, width, 3) uint8."""

    def read(indices: NDArray[np.intp]) -> list[Pixels]:
        return [images[i].copy() for i in indices]

    contents = (repr(image.shape).encode() + image.tobytes() for image in images)
    return StimulusSet(name, tuple(stimulus_ids), read, stimulus_digest(stimulus_ids, contents), tuple(categories))


def stimuli_from_files(
    name: str,
    stimulus_ids: Sequence[str],
    paths: Sequence[Path],
    categories: Sequence[str] = (),
    degrees: Sequence[float] = (),
) -> StimulusSet:
    """Return the stimulus set of image files, one per id, decoded when read; its sha256 is of the files' bytes.

    Raises:
        UserError: a file that cannot be read; when images are read, one that cannot be decoded.
    """

    names = [f"{path} (stimulus_id '{stimulus_id}')" for path, stimulus_id in zip(paths, stimulus_ids, strict=True)]

    def read(indices: NDArray[np.intp]) -> list[Pixels]:
        return [read_image(paths[i], names[i]) for i in indices]

    contents = (read_file(path, name) for path, name in zip(paths, names, strict=True))
    sha256 = stimulus_digest(stimulus_ids, contents)
    return StimulusSet(name, tuple(stimulus_ids), read, sha256, tuple(categories), tuple(degrees))


@dataclass(frozen=True)
class Recording:
    """One session (or one subject) of a benchmark: an RDM, or the responses behind it.

    Attributes:
        session, animal, species, region: labels for the tables.
        stimuli: (n,) positions in the benchmark's stimulus set, in the order of the RDM's rows.
        n_neuroids: neurons, sites or voxels; None where the source does not say.
        rdm: (n, n) float64 dissimilarities, zero diagonal: 1 - Pearson, or what was published; None where there are
            responses whose correlation is undefined, e.g. of one neuroid.
        repetitions: (repetitions, n, neuroids) float64 single-trial responses, NaN where a trial is missing, for all
            neuroids or for some; None where only averages or an RDM were published. `responses` are each neuroid's
            mean over those it has, or over more where a source keeps only trials that all neuroids have
            (Brain-Score's assemblies: ceilings are then a little too low).
        responses: (n, neuroids) float64, averaged over repetitions; None where only an RDM was published.
        distance: of a published `rdm`, a name in brain_eval.metrics.RDMS; "" where the source does not say.
    """

    session: str
    animal: str
    species: str
    region: str
    stimuli: NDArray[np.intp]
    n_neuroids: int | None
    rdm: NDArray[np.float64] | None
    repetitions: NDArray[np.float64] | None = None
    responses: NDArray[np.float64] | None = None
    distance: str = ""

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"session {self.session}, animal {self.animal}"


def without_means(
    responses: NDArray[np.float64], repetitions: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Subtract each neuroid's mean over the stimuli of `responses` (n, neuroids) from them and from any single trials.

    Uncentred, all stimuli correlate where some neuroids fire more than others whatever is shown.
    """
    means = responses.mean(axis=0)
    return responses - means, None if repetitions is None else repetitions - means


@dataclass(frozen=True)
class DataFile:
    """A file of a source: where it is below the data folder, and what it must be.

    Attributes:
        path: below the data folder; brainio/... is in $BRAINIO_HOME where that is set.
        url: where it can be downloaded without credentials.
        size: bytes, None where the source does not say.
        sha256, sha1: hex digests; one of them, or both, checked where given.
    """

    path: str
    url: str
    size: int | None
    sha256: str = ""
    sha1: str = ""

    @property
    def digest(self) -> str:
        """The hash that identifies the file, with its kind."""
        return f"sha256 {self.sha256}" if self.sha256 else f"sha1 {self.sha1}"


@dataclass(frozen=True)
class Description:
    """Description of a benchmark, available without its data.

    `n_stimuli` and `n_neuroids` (in words) are for listings; loading counts anew. `note` is what a
    reader of the scores must know, e.g. that the data are very noisy. `stratified`: the splits of encoding
    models keep the share of each of the stimulus set's categories, as Brain-Score's do for its assemblies.
    """

    name: str
    version: int
    species: tuple[str, ...]
    regions: tuple[str, ...]
    citation: str
    licence: str
    files: tuple[DataFile, ...] = ()
    simulated: bool = False
    n_stimuli: int | None = None
    n_neuroids: str = ""
    note: str = ""
    stratified: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A description, its stimuli and its recordings, loaded and checked.

    Attributes:
        description: what is known without its data.
        stimulus_set: its images.
        recordings: made with them.
        file: what errors about recordings name, e.g. the path of responses.nc; "": the benchmark's name.
        notes: what its files have that is not used, a line each.
    """

    description: Description
    stimulus_set: StimulusSet
    recordings: tuple[Recording, ...] = field(default_factory=tuple)
    file: str = ""
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """What errors about its recordings name."""
        return self.file or f"benchmark {self.description.name}"

    def ids_of(self, recording: Recording) -> list[str]:
        """The stimulus_id of each row of a recording's RDM."""
        return [self.stimulus_set.stimulus_ids[position] for position in recording.stimuli]
