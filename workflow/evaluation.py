"""What a study is scored with, as `python -m brain_eval check` is given it, and which files that is made of."""

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from nmnc import runs
from nmnc.config import Study
from workflow.inputs import benchmark_files


def check_options(study: Study, specs: Sequence[str]) -> list[str]:
    """Options of `brain_eval check` for reference models and the user's benchmark folders; [] where there are none.

    Args:
        study: the study.
        specs: its benchmarks, NAME or NAME=FOLDER.
    """
    options = [f"--benchmark={spec}" for spec in specs if "=" in spec]
    for name, model in study.evaluation.models.items():
        options.append(f"--model-spec={json.dumps({'name': name, **model.model_dump(mode='json')})}")
    return [*options, f"--data={runs.data_folder(study)}"] if options else []


def stamps(study: Study) -> Iterator[str]:
    """Path, time of change and size of each file of the user's that the checks read."""
    networks = [entry.kind for entry in study.networks.values()]
    for model in study.evaluation.models.values():
        networks.append(model.network)
        if model.weights is not None:
            yield _stamp(runs.data_folder(study) / model.weights)
    for network in networks:
        module, is_function, _ = network.partition(":")
        if not is_function:
            yield _stamp(Path(network))  # a network.pt, or a network of ours, which has no such file
        elif module != "torchvision":
            yield from (_stamp(file) for file in module_files(module))
    yield from (_stamp(file) for file in benchmark_files(study))


def module_files(module: str) -> list[Path]:
    """Files that importing `module` runs, its packages' first; [] where it is not found.

    Nothing is imported: a mistake in the user's code is found by the check, in its own process.
    """
    files: list[Path] = []
    places = [str(Path.cwd()), *sys.path]
    for part in module.split("."):
        # By the last name alone: of a.b, without an __init__.py, Python looks up a among what is imported.
        found = PathFinder.find_spec(part, places)
        if found is None:
            return []
        if found.has_location and found.origin:
            files.append(Path(found.origin))
        places = list(found.submodule_search_locations or [])
    return files


def _stamp(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return f"{path} absent\n"
    return f"{path} {state.st_mtime_ns} {state.st_size}\n"
