"""Kill stages with kill -9 at random moments, run them again, and compare every byte with an undisturbed run.

    python bench/kills.py [--kills 100] [--seed 0] [--out FILE.csv]

Three quarters of the kills hit trainings (several rules, with states every half second), the rest extraction and
scoring of a trained network. A trial kills its command one to three times, each time within the time that an
undisturbed run takes, then lets it finish. Then the files must have the same bytes, and no temporary file may be left.
One CSV row per trial; the last line of the output counts them.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nmnc.files.writing import write_csv
from nmnc.training.provenance import git_commit, hardware

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("stage", "case", "kills", "seconds_before_each_kill", "identical", "left_behind", "cpu", "torch", "git")
KINDS = ("backprop", "nmnc", "vnc", "weight_mirror")
STUDY: dict[str, Any] = {
    "study": "kills",
    "dataset": {"name": "digits", "image_size": 16},
    "networks": {"net": {"kind": "convnet", "arguments": {"channels": [8, 16], "hidden": [32], "batch_norm": True}}},
    "training": {"epochs": 5, "batch_size": 32, "checkpoint_minutes": 0.01},
    "noise": {"dimensions": 16, "basis_images": 128},
    "rules": {kind: {"kind": kind} for kind in KINDS},
}
#: Files compared byte by byte. timing.csv and provenance.json are left out because they record times.
COMPARED = ("network.pt", "epochs.csv", "alignment.csv", "simulated.nc", "scores.csv", "rdms.nc", "draws.nc")


def commands(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Case -> (command, folders it writes to)."""
    model = f"{folder}/network/network.pt"
    found: dict[str, tuple[list[str], list[str]]] = {}
    for kind in KINDS:
        train = ["nmnc", "train", "--config", "kills.yaml", "--network", "net", "--rule", kind]
        found[kind] = (train, ["results"])
    extract = ["brain_eval", "extract", "--model", model, "--benchmark", "simulated", "--out", "activations"]
    found["extract"] = (extract, ["activations"])
    score = ["--activations", f"{folder}/extracted", "--out", "scores/scores.csv", "--rdms", "scores/rdms.nc"]
    found["score"] = (
        ["brain_eval", "score", "--benchmark", "simulated", *score, "--draws-file", "scores/draws.nc"], ["scores"],
    )  # fmt: skip
    return found


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Begin `python -m COMMAND` in `folder`, in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the compared files below `folder`; the states of checkpoints are no result."""
    files = [path for path in folder.rglob("*") if path.name in COMPARED and ".checkpoints" not in path.parts]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def finish(command: Sequence[str], folder: Path) -> float:
    """Run a command to its end; returns seconds."""
    started = time.monotonic()
    if start(command, folder).wait() != 0:
        raise SystemExit(f"kills: python -m {' '.join(command)} failed in {folder}; run it by hand there")
    return time.monotonic() - started


def trial(command: Sequence[str], folder: Path, seconds: float, moments: random.Random) -> list[float]:
    """Kill a command one to three times, then let it finish; returns the seconds before each kill that hit."""
    hits = []
    for _ in range(moments.randint(1, 3)):
        wait = moments.uniform(0.1, 1) * seconds
        process = start(command, folder)
        try:
            process.wait(timeout=wait)
            break  # it was faster than the kill
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            hits.append(wait)
    finish(command, folder)
    return hits


def main() -> None:
    """Make the undisturbed runs, then the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="CSV to write")
    asked = parser.parse_args()
    moments, rows, kills = random.Random(asked.seed), [], 0
    facts = {"cpu": hardware(torch.device("cpu"))["cpu"], "torch": torch.__version__, "git": git_commit()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kills.yaml").write_text(yaml.safe_dump(STUDY))
        cases, seconds, right = commands(folder), {}, {}
        for case, (command, places) in cases.items():
            seconds[case] = finish(command, folder)
            right[case] = {key: value for place in places for key, value in digests(folder / place).items()}
            if case == KINDS[-1]:
                shutil.copytree(next((folder / "results").rglob("network.pt")).parent, folder / "network")
            if case == "extract":
                shutil.copytree(folder / "activations", folder / "extracted")
            shutil.rmtree(folder / places[0])
        while kills < asked.kills:
            case = moments.choice([*KINDS * 3, "extract", "extract", "score", "score"])
            command, places = cases[case]
            hits = trial(command, folder, seconds[case], moments)
            kills += len(hits)
            found = digests(folder / places[0])
            left = [path.name for path in (folder / places[0]).rglob("*") if ".part" in path.name]
            rows.append({
                "stage": case if case in ("extract", "score") else "train", "case": case, "kills": len(hits),
                "seconds_before_each_kill": " ".join(f"{hit:.2f}" for hit in hits),
                "identical": "yes" if found == right[case] else "no", "left_behind": len(left), **facts,
            })  # fmt: skip
            print(*list(rows[-1].values())[:6], flush=True)
            shutil.rmtree(folder / places[0])
            if asked.out:
                write_csv(asked.out, COLUMNS, rows)
    same = sum(row["kills"] for row in rows if row["identical"] == "yes")
    print(
        f"{same} of {kills} kills ended in the same bytes, {sum(row['left_behind'] for row in rows)} files left behind"
    )


if __name__ == "__main__":
    main()
