"""Check the study before the first job, and clear a lock left by a killed Snakemake."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brain_eval.benchmarks import MODULES
from nmnc import runs
from nmnc.command_line import system_error
from nmnc.errors import UserError, did_you_mean
from nmnc.files.sources import closure
from nmnc.rule_kinds import modules_of
from workflow.inputs import stamps
from workflow.owners import clear_stale_lock, locks, remember_owner
from workflow.records import brought_back
from workflow.study import Study, load_study

DEFAULT = Path("config/default.yaml")


def begin(configfiles: Sequence[str | Path], overrides: Mapping[str, Any]) -> tuple[Path, Study]:
    """Return the study's file and the checked study.

    An error ends Snakemake before any job, with one line and exit status 2.
    """
    try:
        if len(configfiles) > 1 or overrides:
            raise UserError("a study is a single file; set one --configfile and no --config")
        path = shortest(Path(configfiles[0])) if configfiles else DEFAULT
        study = load_study(path)
        specs = benchmark_specs(study, path)
        _check_once(path, study, specs)
        brought_back(study)
        results = runs.results_folder(study)
        clear_stale_lock(results)
        if not locks(results):
            # Recorded before Snakemake locks, so that the owner of a lock is known after a kill at any time.
            remember_owner(results)
    except (UserError, OSError) as error:
        line = system_error(error) if isinstance(error, OSError) else str(error)
        print(f"nmnc-brain: {line}", file=sys.stderr)
        # Snakemake would wrap SystemExit and a traceback around the line.
        sys.stderr.flush()
        os._exit(2)
    return path, study


def shortest(path: Path) -> Path:
    """Return `path` relative to the working directory if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def benchmark_specs(study: Study, path: Path) -> list[str]:
    """Return the study's benchmarks, NAME or NAME=FOLDER for a user's folder; UserError for an unknown name."""
    folders = study.evaluation.benchmark_folders
    for name in study.evaluation.benchmarks:
        if name not in folders and name not in MODULES:
            hint = did_you_mean(name, [*MODULES, *folders])
            raise UserError(f"{path}: evaluation.benchmarks: unknown benchmark {name!r}{hint}")
    return study.evaluation.specs()


def _check_once(path: Path, study: Study, specs: Sequence[str]) -> None:
    """Check networks and rules, reference models and benchmark folders.

    The check imports torch, so it is cached by the content of the study, the sources and the user's files.
    """
    root = Path(__file__).resolve().parent.parent
    evaluation = bool(study.evaluation.models or any("=" in spec for spec in specs))
    digest = hashlib.sha256(path.read_bytes() + os.environ.get("NMNC_DATA", "").encode())
    kinds = {study.run(label).kind for label in study.labels()}
    training = ["nmnc.training.job", *(module for kind in kinds for module in modules_of(kind))]
    for source in closure(root, [*training, *(["brain_eval.check"] if evaluation else [])]):
        digest.update((root / source).read_bytes())
    for stamp in stamps(study):
        digest.update(stamp.encode())
    passed = Path(".snakemake/nmnc-brain") / f"checked-{digest.hexdigest()[:16]}"
    if passed.exists():
        return
    _pass_or_refuse(["nmnc", "check", "--config", str(path)], path)
    if evaluation:
        data = str(runs.data_folder(study))
        _pass_or_refuse(["brain_eval", "check", "--config", str(path), "--data", data], path)
    passed.parent.mkdir(parents=True, exist_ok=True)
    passed.touch()


def _pass_or_refuse(command: list[str], path: Path) -> None:
    """Run python -m COMMAND; on failure raise UserError with its last line and the study's file."""
    run = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"the check ended with status {run.returncode}"]
        line = lines[-1].removeprefix(f"{command[0]}: ").removeprefix(f"{path}: ")
        raise UserError(f"{path}: {line}")
    sys.stderr.write(run.stderr)  # warnings


def prepare_environment(data: str) -> None:
    """Set PATH and NMNC_DATA, so that jobs use the same Python and the same data folder."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["NMNC_DATA"] = data


def gpu_present() -> bool:
    """Return whether this machine has an NVIDIA GPU, without importing torch, which takes seconds."""
    return Path("/proc/driver/nvidia/gpus").is_dir() or any(Path("/dev").glob("nvidia[0-9]*"))
