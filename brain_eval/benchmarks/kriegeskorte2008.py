"""92 object images: macaque IT (674 neurons of two monkeys) and human IT (fMRI, four subjects).

Kriegeskorte et al. 2008 (Neuron 60:1126-1141); the neurons are those of Kiani et al. 2007. Published
are RDMs (1 - Pearson over neurons or voxels), not responses, so there are no repetitions, and the
monkeys' RDM is one for both animals together. Human subjects have one RDM per session; a subject's
recording here is the mean of the two.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, DataFile, Description, Recording, stimuli_in_memory
from brain_eval.benchmarks.sources import ensure

_URL = (
    "https://raw.githubusercontent.com/rsagroup/rsatoolbox/f1f83cadb7243492a1aae7460466e0f0140b20ac/demos/92imageData/"
)
_NEURON = DataFile(
    path="kriegeskorte2008/Kriegeskorte_Neuron2008_supplementalData.mat",
    url=_URL + "Kriegeskorte_Neuron2008_supplementalData.mat",
    size=3603779,
    sha256="06f21214399a5d43dc264eed19a7f4b8daf11c8622a59eec3e106064ce5e3504",
)
_SUBJECTS = DataFile(
    path="kriegeskorte2008/92_brainRDMs.mat",
    url=_URL + "92_brainRDMs.mat",
    size=224663,
    sha256="1743f90a15e895798a94318649e80e1123a7e5943a1703fa1dd7c31ea5780b7c",
)
#: Neurons, and voxels of the human ROI, as the RDMs' own names give them.
_NEURONS, _VOXELS = 674, 316

DESCRIPTION = Description(
    name="kriegeskorte2008",
    version=1,
    species=("macaque", "human"),
    regions=("IT",),
    citation=(
        "Kriegeskorte et al. (2008) Matching categorical object representations in inferior temporal "
        "cortex of man and monkey. Neuron 60:1126-1141. doi:10.1016/j.neuron.2008.10.043; neurons: Kiani "
        "et al. (2007) J Neurophysiol 97:4296-4309"
    ),
    licence="MIT (rsatoolbox)",
    files=(_NEURON, _SUBJECTS),
    n_stimuli=92,
    n_neuroids="674 neurons; 316 voxels x 4 subjects",
)


def load(data_folder: Path) -> Benchmark:
    """Load the images, the macaque RDM and one RDM per human subject.

    Raises:
        UserError: a file is absent and cannot be downloaded, or is not the published one.
    """
    from scipy.io import loadmat

    neuron_path, subjects_path = ensure(DESCRIPTION.files, data_folder)
    published, subjects = loadmat(neuron_path), loadmat(subjects_path)
    objects = published["stimuli_92objs"].ravel()
    images = np.stack([entry["image"] for entry in objects])
    ids = [f"object{number:02d}" for number in range(1, len(objects) + 1)]
    categories = [str(entry["category"].item()) for entry in objects]
    stimulus_set = stimuli_in_memory(DESCRIPTION.name, ids, images, categories)
    macaque = _square(published["RDMs_mIT_hIT_fig1"].ravel()[0]["RDM"])
    recordings = [_recording("average", "2 animals", "macaque", macaque, _NEURONS)]
    # (1, subjects, sessions) of structs with name, colour and RDM.
    for number, sessions in enumerate(subjects["RDMs"][0], start=1):
        human = np.mean([_square(session["RDM"]) for session in sessions], axis=0)
        recordings.append(_recording("mean of 2", f"S{number}", "human", human, _VOXELS))
    return Benchmark(DESCRIPTION, stimulus_set, tuple(recordings))


def _square(values: NDArray[Any]) -> NDArray[np.float64]:
    """(92, 92) float64 from a square matrix or from its 4,186 upper-triangle values."""
    from scipy.spatial.distance import squareform

    values = np.asarray(values, dtype=np.float64)
    return values if values.shape[0] == values.shape[1] else squareform(values.ravel())


def _recording(session: str, animal: str, species: str, rdm: NDArray[np.float64], n_neuroids: int) -> Recording:
    return Recording(session, animal, species, "IT", np.arange(len(rdm)), n_neuroids, rdm)
