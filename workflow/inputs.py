"""Files of the user's that jobs depend on: declared as inputs, so that a change of them reruns what it must."""

from collections.abc import Iterator
from pathlib import Path

from nmnc.modules import module_files
from nmnc.runs import data_folder
from workflow.study import Study


def _below(folder: Path) -> list[Path]:
    """All visible files of a folder and its folders, in name order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def dataset_files(study: Study) -> list[Path]:
    """The files of the training data that are there: an .npz file, a folder's images, CIFAR-10's file."""
    if study.dataset is None:
        return []
    name, data = study.dataset.name, data_folder(study)
    candidates = [data / "cifar10.npz"] if name == "cifar10" else [Path(name), data / name]
    for path in candidates:
        if path.is_file():
            return [path]
        if path.is_dir():
            return _below(path)
    return []


def benchmark_files(study: Study) -> list[Path]:
    """Every file of the user's own benchmark folders that the study scores on; ours are pinned by hash."""
    folders = study.evaluation.benchmark_folders
    return [path for name in study.evaluation.benchmarks if name in folders for path in _below(folders[name])]


def network_files(study: Study, network: str) -> list[Path]:
    """The files behind a MODULE:FUNCTION that a trained network is built by."""
    return module_files(study.networks[network].kind)


def model_files(study: Study, name: str) -> list[Path]:
    """Code and weights of a reference model, there or not."""
    model = study.evaluation.models[name]
    own = (
        module_files(model.network) if ":" in model.network else [Path(model.network), *module_files(model.kind or "")]
    )
    return own + ([data_folder(study) / model.weights] if model.weights else [])


def stamps(study: Study) -> Iterator[str]:
    """Path, time of change and size of each file of the user's that the checks read."""
    for name in study.networks:
        yield from (_stamp(file) for file in network_files(study, name))
    for name in study.evaluation.models:
        yield from (_stamp(file) for file in model_files(study, name))
    yield from (_stamp(file) for file in (*benchmark_files(study), *dataset_files(study)))


def _stamp(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return f"{path} absent\n"
    return f"{path} {state.st_mtime_ns} {state.st_size}\n"
