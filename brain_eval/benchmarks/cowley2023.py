"""Macaque V4: seven sessions of three animals, 33-89 neurons x 640-1,200 images of 112 x 112.

Cowley et al. 2023. Responses are spike counts in 100 ms, averaged over repeats; for session 210325
the single repetitions are used too, for its noise ceiling.

RDMs are per session, since neurons differ from session to session: 1 - Pearson over neurons of the
repeat-averaged counts, after each neuron's mean over the session's images is subtracted. Uncentred,
all pairs of images correlate, at .7 on average, only because some neurons fire more than others
whatever is shown; z-scored, neurons that hardly respond weigh as much as those that do. The choice
was made without a model, from the 600 images that sessions 210322 and 210325 share: the Spearman
correlation of the two sessions' RDMs, of other neurons, is .62 centred, .61 uncentred and .52
z-scored. Between random halves of one session's neurons, which share noise, it is .25, .25 and .27 (mean
of the seven sessions).
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import (
    Benchmark,
    DataFile,
    Description,
    Recording,
    StimulusSet,
    stimulus_digest,
    without_means,
)
from brain_eval.benchmarks.sources import ensure
from nmnc.data.images import Pixels, decode_image

_URL = (
    "https://raw.githubusercontent.com/cowleygroup/V4_compact_models/"
    "f4552ad9d34a466ebc66658f72a08a8e5038f1cf/data_V4_responses/"
)


class _Image(NamedTuple):
    archive: Path
    member: str
    sha256: bytes


def _file(path: str, size: int, sha256: str) -> DataFile:
    return DataFile(f"cowley2023/{path}", _URL + path, size, sha256)


_ANIMALS = {
    "190923": "WE",
    "201025": "PE",
    "210224": "PE",
    "210225": "PE",
    "210322": "PE",
    "210325": "PE",
    "210621": "RA",
}
#: Size and sha256 of images/images_SESSION.zip, in the order of _ANIMALS.
_IMAGES = (
    (4024034, "e99a4df1c7476bdc4d565ff4408bc421976ecc3a22c41af6bfd0cfbddb508c0c"),
    (4131376, "3abb63679107665eab7220bdeaf7863832a1df943bf3d7792501f5082a55b2e8"),
    (2782116, "e2690810bee34c2e2821e5dd504c7970f3441579bc57659f27d2c11678b52c6b"),
    (4137526, "79bfb1066949a7f7bbd3c632ab420c2230b966b80cade76593d8745aea49b7f6"),
    (3785781, "a72f357c73381fc6e496403820b38abe38c78b92f6d1c0b7153d6fe6d3986c32"),
    (1841475, "992774eca3508a2ad01accb1a31f5f3e3d90248c49f4eec314f2a915a263e454"),
    (4109414, "aff4d1639a04fb0d964ee09f8e76b07707e8435283c8e0ea47b0fd398ffcc233"),
)
#: The same of responses_repeat_averaged/responses_SESSION.npy.
_AVERAGES = (
    (316928, "741672d36541ce39930c8a3b5bd1cfd33c187aa47b1549c9c5569bc21aa97a28"),
    (854528, "f729f3dc0d29aa38bd380c0da9e39aba916f9e2580949929b65d1714e7217a8a"),
    (428928, "4dbb7367707a5ca47ab4cea863bbf4e9765b8409cb30216693721bddfad7abfe"),
    (528128, "853f196247504fa2526b507f56ee5237711ed166f295f7cb23ec5441a7bf789b"),
    (566528, "1d643594633c7ad6d5281147bf1742275135507c8b283550e00e7028c65a5373"),
    (256128, "555e67037182611969ab90da291dcc39601de4411f651a64ad60e90572cf59d3"),
    (489728, "28e57e8eefe774b455087a62f039931b9547b2300908a0af85eee5baa49aa1ba"),
)
_REPEATED = "210325"
_RAW = _file(
    f"responses_raw/responses_{_REPEATED}.npy",
    2560128,
    "4008dbbf31a47d9b1b8d8da609f4a7a3433c7071f0e45c611c220b217dd75b76",
)
_IMAGE_FILES = tuple(
    _file(f"images/images_{session}.zip", *pin) for session, pin in zip(_ANIMALS, _IMAGES, strict=True)
)
_AVERAGE_FILES = tuple(
    _file(f"responses_repeat_averaged/responses_{session}.npy", *pin)
    for session, pin in zip(_ANIMALS, _AVERAGES, strict=True)
)

DESCRIPTION = Description(
    name="cowley2023",
    version=1,
    species=("macaque",),
    regions=("V4",),
    citation=(
        "Cowley et al. (2023) Compact deep neural network models of visual cortex. bioRxiv. "
        "doi:10.1101/2023.11.22.568315; published as Cowley et al. (2026) Nature. "
        "doi:10.1038/s41586-026-10150-1"
    ),
    licence="GPL-3.0",
    files=(*_IMAGE_FILES, *_AVERAGE_FILES, _RAW),
    n_stimuli=6839,
    n_neuroids="33-89 neurons x 7 sessions",
)


def load(data_folder: Path) -> Benchmark:
    """Load seven recordings; images stay in their archives until they are read.

    Raises:
        UserError: a file is absent and cannot be downloaded, or is not the published one.
    """
    paths = ensure(DESCRIPTION.files, data_folder)
    archives, averages, raw = paths[:7], paths[7:14], paths[14]
    per_session = {session: _images_of(archive) for session, archive in zip(_ANIMALS, archives, strict=True)}
    ids, images, positions = union_of_sessions(per_session)
    stimulus_set = StimulusSet(
        name=DESCRIPTION.name,
        stimulus_ids=ids,
        read=_reader(images),
        # The digest of the files' digests: the bytes themselves need not be read twice.
        sha256=stimulus_digest(ids, (image.sha256 for image in images)),
    )
    recordings = tuple(
        _recording(session, positions[session], average, raw if session == _REPEATED else None)
        for session, average in zip(_ANIMALS, averages, strict=True)
    )
    return Benchmark(DESCRIPTION, stimulus_set, recordings)


def union_of_sessions(
    sessions: dict[str, list[_Image]],
) -> tuple[tuple[str, ...], list[_Image], dict[str, NDArray[np.intp]]]:
    """Return one stimulus per image file, shared between the sessions that showed the same bytes.

    Sessions 210322 and 210325 share 600 images, 210225 and 210621 share one: each is one stimulus, named by the
    session that comes first ("210322_image0601"). 210621 has two pairs of equal files, recorded as two presentations
    each: those keep two ids, as no recording may point to a stimulus twice.

    Args:
        sessions: name -> its images, in the order of its responses.

    Returns:
        The ids, the images behind them, and for every session the position of each of its images.
    """
    ids: list[str] = []
    images: list[_Image] = []
    known: dict[bytes, list[int]] = {}
    positions = {}
    for session, shown in sessions.items():
        taken: list[int] = []
        for image in shown:
            equal = known.setdefault(image.sha256, [])
            position = next((i for i in equal if i not in taken), len(ids))
            if position == len(ids):
                ids.append(f"{session}_{Path(image.member).stem}")
                images.append(image)
                equal.append(position)
            taken.append(position)
        positions[session] = np.array(taken, dtype=np.intp)
    return tuple(ids), images, positions


def _images_of(archive: Path) -> list[_Image]:
    """The images of one session by number, imageNNNN.jpg with NNNN = 1-based column of the responses."""
    with zipfile.ZipFile(archive) as file:
        # A Mac's archiver adds a shadow of every file under __MACOSX.
        members = [name for name in file.namelist() if name.endswith(".jpg") and "__MACOSX" not in name]
        members.sort(key=lambda name: Path(name).name)
        return [_Image(archive, name, hashlib.sha256(file.read(name)).digest()) for name in members]


def _reader(images: Sequence[_Image]) -> Callable[[NDArray[np.intp]], list[Pixels]]:
    def read(indices: NDArray[np.intp]) -> list[Pixels]:
        opened: dict[Path, zipfile.ZipFile] = {}
        try:
            decoded = []
            for i in indices:
                archive, member, _ = images[i]
                if archive not in opened:
                    opened[archive] = zipfile.ZipFile(archive)
                decoded.append(decode_image(opened[archive].read(member), f"{archive}:{member}"))
            return decoded
        finally:
            for file in opened.values():
                file.close()

    return read


def _recording(session: str, stimuli: NDArray[np.intp], average: Path, raw: Path | None) -> Recording:
    from brain_eval.metrics.similarity import correlation_rdm

    # Published as (neurons, images) and (neurons, images, repetitions).
    counts = np.load(average, allow_pickle=False).T.astype(np.float64)
    trials = None if raw is None else np.load(raw, allow_pickle=False).T.astype(np.float64)
    responses, repetitions = without_means(counts, trials)
    return Recording(
        session=session,
        animal=_ANIMALS[session],
        species="macaque",
        region="V4",
        stimuli=stimuli,
        n_neuroids=counts.shape[1],
        rdm=correlation_rdm(responses),
        repetitions=repetitions,
        responses=responses,
    )
