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
#: Size and sha256 of image_01.jpg to image_78.jpg, in order.
IMAGES = (
    (33223, "30d2e63e5d7a68dac3df99e0cbc4844df44ef4a7f6fe0e0d4ac5baa6d32ea019"),
    (48090, "8bdd5e4b246ca79df9f692b4103daf29dcb707a1e0f029c47fdb7a9d1a334e74"),
    (26326, "e21b0e582660eab7116d0629ace1bc1e9d01c20668f4b3ace99c4a6c5bcbbc0c"),
    (31852, "8a0302a12f94551d341a01e76a30f614dccedb2a50b878444577958fd6ce87c7"),
    (43120, "efe100e81b0bc2fe625aa3c56bc98ec6da838ff6f2d329a74ca215590c71f670"),
    (40305, "e8f92df94aeb33b326b069b3ef1ffaed457f5b28357f3b3c3d35f7c6ff63b9b5"),
    (28389, "2bc8aaca8c63312fd1d853d261a718f22411a2fe7c279544e13aa33a15edfccb"),
    (55546, "d2acfc929c7f2a6c46f9e637ada958ea944b09a005e3455b6231237d1603ddae"),
    (17907, "64c3f778e5e5258510a176d8be35d72e183dd1dbf7470f439d077c94a3baa978"),
    (33789, "661755225248093c573ca60272f9f274edced7ad2cf5664e3f8166097600536e"),
    (21003, "d1b91740632811e54a5e995ba90acb67e1db54f790ebe8fbd597aadfa208c2af"),
    (19324, "ed021fdeddffb68708193902e31c85702a4147e381623d015b6ed63f734f7d62"),
    (24104, "29e122b5979d45dde7e6a61df32d9d64aa3ff70c034bb38d048ee783df8d028e"),
    (22398, "60a8cbb13997afa0b78df4fbcfd8f312197177dfe86c3f73d31dde54b08c4aae"),
    (18709, "9e944f16cd4bdabd073012bc29c90558cfbc8fb6069336680fa96359e60497a7"),
    (19554, "3c602eeab4e924216984f07620f233075a361428a1f78012c33ae789b8f3b9ba"),
    (14580, "3a1b90ce18586be23759ebd312734efa2ce50675dc60e5af0bfd2f5b08b37783"),
    (52635, "f7a936c4b96ee88eb5e155fe49385eea8afc303c18e07adce6824890e9b1415c"),
    (36646, "c0bf5efb685e1cffce8d9befee11293fddb89b2899181589b73e96c76b26ac58"),
    (26165, "098c7401b32026b9a0ac82e8e02071a825b5ed8ab12b22082be1d3be8291f5b1"),
    (22922, "80cf9cf6c409195e5ca33eb297e64943c2d4f26baa1cdb0f0337d643ca5a7933"),
    (26626, "c93b9ecd9a909a807be888e915370764925b5b2e5d23ef69e236051e8d413950"),
    (28725, "66140db09d983f1e4a5b5f0d4fdad4d900b8a6715b185c0bee436593c73a6bb2"),
    (13069, "1c623db6c45a955225f20c43e4cf0f39d4d39a272837458c17eca40bc902b8c5"),
    (18418, "611586d40d970867060eddeefd3fe70177ba8d89f132514dde27ee48f6487436"),
    (33576, "3e0ac4d060203e9d00a04162ccc6ba9b655893c414dcd4ac4ab42f091be80e02"),
    (25322, "84899e20ce2363f9b2803054cf0684464f43dcae4bb1a238334b1e0eb8677cf8"),
    (21950, "2d74dca48370a72f6b3f6fd5b6e82324f1d32bfb83c369ac23c10858b81d7e46"),
    (22793, "231765321c8c8add4fc1b2c6c19dc8a6d49c1c518ccfaae15fc88a0845096162"),
    (47911, "d348716e6ef1e80482118f956b1c1c70af19d4ffd21b4687b315d7144ba9ffbf"),
    (39073, "a535df4798ca442c164cf89c15f1c0f4af99e488611a14ef93ad5133c346b712"),
    (30545, "32c69937f56206e9575c16c8ccf9b82280772c6677bc3a9e177c7ed73baeab1a"),
    (20807, "17e19ccc96daa3bd6bcb0853ffa38ecd3b21b3e7df00231e2bdb98fece3e3d88"),
    (19224, "154687874955ab87b081641c217545414b63aa306996d5aa5654238a498fcd2b"),
    (20633, "472dc5e216beced4f21100f2630c1c428c04c267c61ebd3c7260781debeedcea"),
    (31463, "dbbc72aa836595c7be5f29e124b2cb5948b649702427a2d9141d1bdb54a3c8c0"),
    (22577, "c4972b7c00b1cb1d5cd1c5a37a9404bffc8611f80f745f35c12a80c8a1b3d627"),
    (23422, "9894cdc20966804c5ca41168b3e14343c349967b00ab9373e5e0aa0843445097"),
    (32521, "63884bc6464ee6ca907e486a2a870507bdcb278ea1da770659395e3d15cc6e27"),
    (24269, "e58175c1b5d244da0fc3c177e1bffe416667bf37fd78425de473f28320d3cddf"),
    (38725, "8d5abb0537b689a4417cf8735c00eda0487c4fc199e68dff545ed8e7dd2ea4f8"),
    (35826, "406dea4d8357fd5fa2ed5e6ccc4ce69aa787fa77a20f41a4c230bbfebad5b285"),
    (20278, "fd804caecb0ee326be1d36ee914a725cb11622ce6adafb324bf3a7cfaf4298fd"),
    (34368, "012ab3f8cb59de177b3e30563006559d8542ea8aa486477c9dba552cf910e70a"),
    (26696, "74167b576ed5907a4f52d11535a6020982a1162245739564290d8fce44eab6ed"),
    (43660, "c9c90a1540378d97a2229f1297c08ef22a2cca131f3df594ad1f9da4e48ebfae"),
    (33910, "bcb75e20935ad5bb501714ba7e4248928e3ad1c0279cfb033ef4676dea260ce8"),
    (37449, "f787e42ca5490392aaacf058f5ef10833b1aecee365e544bc24aa5766aebd90e"),
    (19043, "1e0391f9c522dd1c1ac4e86a4fdaad943aa83427dc0c0ad45ba96f67f73d5458"),
    (72629, "d41e40fe5d5e6a15ac117c24b85c33c3747cae610dc94c8925beb5804eebc585"),
    (38741, "dadf1804b90ad9365ed3ee3f8f89c452dd45c82be857f41892e9d5e8a6821656"),
    (25849, "f460f4cc520243643cdcce62382629a6697eeb6bb10105ad6337c522c66c64a2"),
    (29590, "56ff677b9bec4ce199f39540e7efad4ddebf5fc1e8d7e679602afa961fd59ab3"),
    (27504, "981d0d8348e31775070bddc86370567b2ef1184e030956ca380e5080942a7e7e"),
    (23018, "90eceddef2987516b984ab28c1ceecbcf4b5e1b2313ab83217ab8f3c33c47ff7"),
    (31280, "098d68d548eebf0a1b421d2a6e76f2f8d67856e34091c2290c89a95141ebea82"),
    (27206, "861949cb3be70fd21f03989fbe647e6aeb43543bedf002e9acee63f2801624e9"),
    (38356, "8a79a2d4c33f91085e066d6c27e8cd27d248c1d219fa9d9c8936d203cbc8edb9"),
    (31772, "61be7db14c7c4e23547bbbbe535aaaa156ed0e65feb50feefff1476e22c352ac"),
    (27391, "9ce1f6fa2b8f491eebb682d4eb77d3fbec52e8e6a59065362dc7e29a8208303f"),
    (43956, "536ae8c253c88598c8d698e7a4460c9531ab288aa182bdcc97a4be3f5cbae2ab"),
    (29986, "6ce5d46c5823f24f8d94ad0623e3f1b9869103c017e5caa878bfa8166c8082c2"),
    (19849, "863014cc72df5501af25b21058e39e8a90413d55f35a2b7b9da8a5891d4e8dc3"),
    (23821, "b8741d57815d71c14c32920e2dc133631e155d6f88d7350c4b51c5db6d00d082"),
    (19976, "bfe4fd1fab9e49a9810865cc7d908a74720e8d04a43092782d98d077facc7074"),
    (16228, "9f26ab2ebb9f8385b22450ceff22a8d0072c2d87a307e8aa94345c2af796d3c2"),
    (18320, "b9678d61f18554bdfd040c43369247c12101a6f543cbd91ea5c8931525de9aa2"),
    (21014, "060fbf6553dc36acc36a5c5e67c7f7bb571910022bb65fc6495a28d566d26adf"),
    (29797, "0653eb4d3cb6e50cdb0b993e31a2824157ca3bf2f8cc93cde9fd85eff9fa7254"),
    (19717, "a8aa6b7efbf8642045602571845ff19d1f01b85d017481d7b304e3e5ae63903c"),
    (17990, "3320f26bc6419dd5418215fdb9595bb47e8ecbc8afcff11001c8ff595f270518"),
    (22200, "e483a537c73d5f1e4011d945a4d2524d168317203a253983c5598f573cacaae7"),
    (23639, "2225be5d234e9329c2c359f6360ea8d25f552032e5b463dffa94520869724e5f"),
    (22647, "f25fe54e6f45ca150f40ab9fc7763c159d56597b7a4ce65d64dbe5c668c37173"),
    (20496, "043dc44085d5d76f9180752c218ac69c20602771ceb65d3c4f0359ee65c4e585"),
    (23490, "94ea5cd15126c4370b891e5e289067f2a85737f307dc63ec906775018f358cc7"),
    (30860, "d9ce76da3c236653ea77378e7d7739ff594220323abe49c38e1100431aa7e2b8"),
    (17144, "2d4ae82b61345cee476fe705c799d3379ad8d1ebc41ed40e0d9564ea99172ee5"),
)
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
        raise UserError(f"{path} has an array of shape {stack.shape}, not one RDM per subject; delete it and rerun")
    return stack
