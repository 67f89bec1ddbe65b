"""Peak memory of training AlexNet at 224 pixels by NMNC and by VNC against backprop.

    python bench/memory.py [--quick] [--device cuda] [--out FILE.csv]

Every rule trains for some steps in a process of its own. Counted is the peak resident memory (on a GPU: the peak of
torch's allocator) less what the process held before it built the network: libraries and images.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import side_by_side
import torch
from step_time import images

from nmnc.config import Diagnostics, NetworkEntry, Noise, Run, Training
from nmnc.device import prepare_torch
from nmnc.provenance import git_commit, hardware
from nmnc.training import Trainer

COLUMNS = ("bench", "rule", "batch", "d", "basis_images", "peak_mb", "ratio", "goal", "device", "cpu", "gpu", "git")
GOAL = "at most 1.2 times backprop's"


def peak_of(kind: str, batch: int, side: int, basis_images: int, device_name: str) -> float:
    """Megabytes that some steps of a rule take at most; run in a process of its own."""
    device = prepare_torch(device_name, 1)
    dataset = images(max(basis_images, batch), side=side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    noise = Noise(dimensions=64, basis_images=basis_images, basis_every=2, images=8)
    entry = NetworkEntry(kind="alexnet")
    run = Run(kind=kind, training=Training(batch_size=batch), noise=noise, diagnostics=Diagnostics())
    made = Trainer(dataset, entry, run, 0, device)
    made.rule.start(made._first_outputs())
    made.network.train()
    for step in range(3):
        start = step * batch % (len(made.images) - batch + 1)
        made._step(made.images[start : start + batch], made.labels[start : start + batch])
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3


def main() -> None:
    """Measure every rule and print its ratio to backprop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small batch, to see that it runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="CSV file to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(peak_of(*json.loads(given.one)))
        return
    batch, side = (8, 64) if given.quick else (128, 224)
    machine = hardware(torch.device(given.device))
    rows = []
    for kind, basis_images in (("backprop", 128), ("vnc", 128), ("nmnc", 128), ("nmnc", 512)):
        work = json.dumps([kind, batch, side, basis_images, given.device])
        child = subprocess.run([sys.executable, __file__, "--one", work], capture_output=True, text=True, check=True)
        peak = float(child.stdout.split()[-1])
        ratio = peak / rows[0]["peak_mb"] if rows else 1.0
        rows.append(
            {
                "bench": f"memory, AlexNet at {side} pixels", "rule": kind, "batch": batch, "d": 64,
                "basis_images": basis_images, "peak_mb": round(peak, 1), "ratio": round(ratio, 3), "goal": GOAL,
                "device": given.device, "cpu": machine["cpu"], "gpu": machine["gpu"], "git": git_commit(),
            }
        )  # fmt: skip
        print(f"memory, {kind}, basis of {basis_images} images: {peak:.0f} MB = {ratio:.3g} of backprop; goal: {GOAL}")
    side_by_side.write(given.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
