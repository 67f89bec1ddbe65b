"""What a study is scored with, as `python -m brain_eval check` is given it, and stamps of the files behind it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from nmnc import runs
from nmnc.config import Study
from workflow.inputs import benchmark_files, dataset_files, model_files, network_files


def check_options(study: Study, specs: Sequence[str]) -> list[str]:
    """Options of `brain_eval check` for reference models and the user's benchmark folders; [] where there are none.

    Args:
        study: the study.
        specs: its benchmarks, NAME or NAME=FOLDER.
    """
    options = [f"--benchmark={spec}" for spec in specs if "=" in spec]
    if options:
        options = [f"--benchmark={spec}" for spec in specs]  # others may have what a folder lacks
        options.append(f"--metrics={','.join(study.evaluation.metrics)}")
        options.append(f"--recorded-rdms={','.join(study.evaluation.recorded_rdms)}")
    for name, model in study.evaluation.models.items():
        options.append(f"--model-spec={json.dumps({'name': name, **model.model_dump(mode='json')})}")
    kept = study.evaluation.activations
    if study.evaluation.models:
        options += [f"--reduction={kept.reduction}"] * (kept.reduction != "none")
        options += [f"--channel-axis={kept.channel_axis}"] * (kept.channel_axis is not None)
    return [*options, f"--data={runs.data_folder(study)}"] if options else []


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
