"""78 natural images: RDMs of early visual cortex and IT of 15 human subjects (fMRI), very noisy.

As bundled by Net2Brain, which calls the set "78images"; that it is the test set of the Algonauts 2019
challenge (Cichy et al. 2019) is our reading. Published are RDMs, one per subject and region, whose
distances the files do not name; there are no responses and no repetitions. A subject's RDM correlates
below .02 with the mean of the other subjects' (Spearman, early visual cortex and IT): almost nothing is
shared, so the scores test the pipeline and cannot rank networks.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.algonauts2019_files import IMAGES
from brain_eval.benchmarks.base import Benchmark, DataFile, Description, Recording, stimuli_from_files
from brain_eval.benchmarks.sources import ensure
from nmnc.errors import UserError

_URL = (
    "https://raw.githubusercontent.com/cvai-roig-lab/Net2Brain/"
    "b59ed47dc88e3c120e43f5726ede126e902843e8/net2brain/tests/data/"
)


def _file(folder: str, name: str, size: int, sha256: str) -> DataFile:
    return DataFile(f"algonauts2019/{name}", f"{_URL}{folder}/{name}", size, sha256)


_RDMS = {
    "EVC": _file(
        "brain_data", "fmri_EVC_RDMs.npz", 730344, "c927ba9793234c4bf4845320ac66fbfbe85ec9afc4df9b12ca2a006dae753672"
    ),
    "IT": _file(
        "brain_data", "fmri_IT_RDMs.npz", 730344, "b27cc1c7f87428516fabb4a67e0c1aafe3e6a7de4667e35b5b141e3582e53900"
    ),
}
_IMAGES = tuple(_file("stimuli_data", f"image_{number:02d}.jpg", *pin) for number, pin in enumerate(IMAGES, start=1))

DESCRIPTION = Description(
    name="algonauts2019",
    version=1,
    species=("human",),
    regions=("EVC", "IT"),
    citation=(
        "Cichy et al. (2019) The Algonauts Project: a platform for communication between the sciences of "
        "biological and artificial intelligence. arXiv:1905.05675; as bundled by Net2Brain: Bersch et al. "
        "(2022) arXiv:2208.09677"
    ),
    licence="BSD-style (Net2Brain)",
    files=(*_RDMS.values(), *_IMAGES),
    n_stimuli=78,
    n_neuroids="fMRI x 15 subjects",
    note=(
        "very noisy: leave-one-subject-out ceilings below .02 (EVC and IT, Spearman); a test of the pipeline, "
        "not a ranking of networks"
    ),
)


def load(data_folder: Path) -> Benchmark:
    """Load the images and, for either region, one RDM per subject.

    Raises:
        UserError: a file is absent and cannot be downloaded, or is not the published one.
    """
    paths = ensure(DESCRIPTION.files, data_folder)
    rdms, images = dict(zip(_RDMS, paths, strict=False)), paths[len(_RDMS) :]
    stimulus_set = stimuli_from_files(DESCRIPTION.name, [path.stem for path in images], images)
    recordings = [
        Recording("fMRI", f"S{subject}", "human", region, np.arange(len(rdm)), None, (rdm + rdm.T) / 2)
        for region, path in rdms.items()
        for subject, rdm in enumerate(_stack(path), start=1)
    ]
    return Benchmark(DESCRIPTION, stimulus_set, tuple(recordings))


def _stack(path: Path) -> NDArray[np.float64]:
    """(subjects, 78, 78) float64 of one region."""
    with np.load(path, allow_pickle=False) as content:
        stack = content["arr_0"].astype(np.float64)
    if stack.ndim != 3 or stack.shape[1:] != (len(IMAGES), len(IMAGES)):
        raise UserError(f"{path} holds an array of shape {stack.shape}, not one RDM per subject; delete it")
    return stack
