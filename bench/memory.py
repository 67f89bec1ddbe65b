"""Peak memory of training AlexNet at 224 pixels by NMNC and by VNC against backprop.

    python bench/memory.py [--quick] [--device cuda] [--repeats N] [--out FILE.csv]

Every rule trains for some steps in a process of its own, rule after rule and round after round. Counted is the peak
resident memory (on a GPU: the peak of torch's allocator) less what the process held before it built the network:
libraries and images.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import side_by_side
import torch
from peak_memory import peak_resident
from step_time import images

from nmnc.device import prepare_torch
from nmnc.settings import Diagnostics, NetworkEntry, Noise, Run, Training
from nmnc.training.provenance import git_commit, hardware
from nmnc.training.trainer import Trainer

COLUMNS = (
    "bench", "rule", "batch", "d", "basis_images", "peak_mb", "ratio", "ratio_low", "ratio_high", "repeats", "goal",
    "device", "cpu", "gpu", "git",
)  # fmt: skip
GOAL = "at most 1.2 times backprop's"


def peak_of(kind: str, batch: int, side: int, basis_images: int, device_name: str) -> float:
    """Megabytes that steps of a rule take until a full window has made a basis; run in a process of its own."""
    device = prepare_torch(device_name, 1)
    dataset = images(max(basis_images, batch), side=side)
    before = peak_resident()
    window = -(-basis_images // batch)
    noise = Noise(dimensions=64, basis_images=basis_images, basis_every=window, images=8)
    entry = NetworkEntry(kind="alexnet")
    run = Run(kind=kind, training=Training(batch_size=batch), noise=noise, diagnostics=Diagnostics())
    made = Trainer(dataset, entry, run, 0, device)
    made.rule.start(made._first_outputs())
    made.network.train()
    for step in range(max(window + 1, 3)):
        start = step * batch % (len(made.images) - batch + 1)
        made._step(made.images[start : start + batch], made.labels[start : start + batch])
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return (peak_resident() - before) / 1e6


def in_a_process(*work: str | int) -> float:
    """`peak_of` in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(work)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Measure every rule and print its ratio to backprop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small batch, to see that it runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(peak_of(*json.loads(given.one)))
        return
    batch, side = (8, 64) if given.quick else (128, 224)
    rules = (("backprop", 128), ("vnc", 128), ("nmnc", 128), ("nmnc", 512))
    rounds = [
        [in_a_process(kind, batch, side, basis_images, given.device) for kind, basis_images in rules]
        for _ in range(1 if given.quick else given.repeats)
    ]
    machine, rows = hardware(torch.device(given.device)), []
    for number, (kind, basis_images) in enumerate(rules):
        peaks = [peaks_of_round[number] for peaks_of_round in rounds]
        ratios = [peaks_of_round[number] / peaks_of_round[0] for peaks_of_round in rounds]
        row = {
            "bench": f"memory, AlexNet at {side} pixels", "rule": kind, "batch": batch, "d": 64,
            "basis_images": basis_images, "peak_mb": round(median(peaks), 1), "ratio": round(median(ratios), 3),
            "ratio_low": round(min(ratios), 3), "ratio_high": round(max(ratios), 3), "repeats": len(rounds),
            "goal": GOAL, "device": given.device, "cpu": machine["cpu"], "gpu": machine["gpu"], "git": git_commit(),
        }  # fmt: skip
        rows.append(row)
        print(
            "{bench}, {rule}, basis of {basis_images} images: {peak_mb:.0f} MB = {ratio:.3g} of backprop "
            "({ratio_low:.3g} to {ratio_high:.3g}, {repeats} rounds); goal: {goal}".format(**row)
        )
    side_by_side.write(given.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
