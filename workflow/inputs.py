"""Files of the user that jobs depend on, declared as inputs so that changing them reruns the jobs."""

from collections.abc import Iterator
from pathlib import Path

from nmnc.modules import module_files
from nmnc.runs import data_folder
from workflow.study import Study


def _below(folder: Path) -> list[Path]:
    """Return all visible files below a folder, in name order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def dataset_files(study: Study) -> list[Path]:
    """Return the existing files of the training data: an .npz file, a folder's images, or cifar10.npz."""
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
    """Return the files of the user's benchmark folders in the study; built-in benchmarks are pinned by hash."""
    folders = study.evaluation.benchmark_folders
    return [path for name in study.evaluation.benchmarks if name in folders for path in _below(folders[name])]


def network_files(study: Study, network: str) -> list[Path]:
    """Return the files of the MODULE:FUNCTION that builds a trained network."""
    return module_files(study.networks[network].kind)


def model_files(study: Study, name: str) -> list[Path]:
    """Return the code and weight files of a reference model, whether they exist or not."""
    model = study.evaluation.models[name]
    files = (
        module_files(model.network) if ":" in model.network else [Path(model.network), *module_files(model.kind or "")]
    )
    return files + ([data_folder(study) / model.weights] if model.weights else [])


def stamps(study: Study) -> Iterator[str]:
    """Yield path, modification time and size of each user's file that the checks read."""
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
