"""What happens before the first job: the study is checked, a lock left by a killed Snakemake is cleared."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from brain_eval.benchmarks import MODULES
from nmnc.config import Study, load_study
from nmnc.errors import UserError, did_you_mean
from workflow.sources import closure

DEFAULT = Path("config/default.yaml")


def begin(configfiles: Sequence[str | Path], overrides: Mapping[str, Any]) -> tuple[Path, Study, list[str]]:
    """The study's file, the checked study, and its benchmarks as NAME or NAME=FOLDER.

    A mistake ends Snakemake here, before any job, with one line and exit status 2.
    """
    try:
        if len(configfiles) > 1 or overrides:
            raise UserError("a study is one whole file; give one --configfile and no --config")
        path = _shortest(Path(configfiles[0])) if configfiles else DEFAULT
        study = load_study(path)
        specs = [_benchmark(name, study, path) for name in study.evaluation.benchmarks]
        _check_once(path)
    except UserError as error:
        print(f"nmnc-brain: {error}", file=sys.stderr)
        # Snakemake would wrap SystemExit and a traceback around the line.
        sys.stderr.flush()
        os._exit(2)
    clear_stale_lock()
    return path, study, specs


def _shortest(path: Path) -> Path:
    """`path` relative to the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _benchmark(name: str, study: Study, path: Path) -> str:
    """NAME, or NAME=FOLDER for a folder of the user's; UserError for an unknown name."""
    folder = study.evaluation.benchmark_folders.get(name)
    if folder is None and name not in MODULES:
        known = [*MODULES, *study.evaluation.benchmark_folders]
        raise UserError(f"{path}: evaluation.benchmarks: unknown benchmark {name!r}{did_you_mean(name, known)}")
    return name if folder is None else f"{name}={folder}"


def _check_once(path: Path) -> None:
    """Check networks and rules; needs torch, so once per content of the study and of the sources."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(path.read_bytes() + os.environ.get("NMNC_DATA", "").encode())
    for source in closure(root, ["nmnc.job"]):
        digest.update((root / source).read_bytes())
    passed = Path(".snakemake/nmnc-brain") / f"checked-{digest.hexdigest()[:16]}"
    if passed.exists():
        return
    run = subprocess.run(
        [sys.executable, "-m", "nmnc", "check", "--config", str(path)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"{path}: the check ended with status {run.returncode}"]
        raise UserError(lines[-1].removeprefix("nmnc: "))
    passed.parent.mkdir(parents=True, exist_ok=True)
    passed.touch()


def prepare_environment(data: str) -> None:
    """Jobs run the python that runs Snakemake (or their conda environment's) and find the data where we do."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["NMNC_DATA"] = data


def gpu_present() -> bool:
    """Whether this machine has an NVIDIA GPU, without the seconds that importing torch costs."""
    return Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists()


def owner_file() -> Path:
    """Says which process holds Snakemake's lock of this folder."""
    return Path(".snakemake/nmnc-brain/owner.json")


def remember_owner() -> None:
    """Write down that this process holds the lock."""
    process = psutil.Process()
    owner_file().parent.mkdir(parents=True, exist_ok=True)
    owner_file().write_text(json.dumps({"pid": process.pid, "started": process.create_time()}))


def clear_stale_lock() -> None:
    """Remove Snakemake's lock when the process that held it is known and gone."""
    locks = Path(".snakemake/locks")
    if not owner_file().exists() or not locks.is_dir():
        return
    owner = json.loads(owner_file().read_text())
    try:
        if abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1:
            return
    except psutil.NoSuchProcess:
        pass
    for lock in locks.iterdir():
        lock.unlink()
    owner_file().unlink(missing_ok=True)
