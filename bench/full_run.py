"""Seconds of a whole training run: width 64, 30 epochs of 50,000 images; evaluation and diagnosis included.

    python bench/full_run.py [--quick] [--device cuda] [--rule vnc] [--precision bfloat16] [--out FILE.csv]

Images are CIFAR-10's where NMNC_DATA has them; elsewhere random ones of the same size, whose accuracy says nothing.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import facts, write
from step_time import images

from nmnc.data.dataset import Dataset, load_dataset
from nmnc.device import prepare_torch
from nmnc.errors import UserError
from nmnc.settings import Dataset as DatasetSection
from nmnc.settings import Diagnostics, NetworkEntry, Noise, Run, Training
from nmnc.training.trainer import Trainer

COLUMNS = (
    "bench", "rule", "precision", "images", "epochs", "batch", "channels", "data", "seconds", "test_accuracy", "goal",
    "threads", "cpu", "gpu", "platform", "torch", "numpy", "git",
)  # fmt: skip
GOAL = "nmnc: under 60 s on an H200-class card"


def dataset(quick: bool) -> Dataset:
    """CIFAR-10 where it is; else random images."""
    if not quick:
        try:
            return load_dataset(DatasetSection(name="cifar10"), Path(os.environ.get("NMNC_DATA", "data")))
        except UserError as error:
            print(f"random images: {error}")
    return images(512 if quick else 50_000)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Train once; a row of COLUMNS."""
    device = prepare_torch(given.device, 1)
    channels, batch, epochs = ([4, 8, 16], 64, 2) if given.quick else ([64, 128, 256], 512, 30)
    shown = dataset(given.quick)
    training = Training.model_validate(
        {"epochs": epochs, "batch_size": batch, "learning_rate": 0.02, "schedule": "cosine",
         "augmentation": "crop_flip", "precision": given.precision, "checkpoint_minutes": None}
    )  # fmt: skip
    noise = Noise(dimensions=16 if given.quick else 64, images=8, rate=0.06, basis_images=64 if given.quick else 512)
    run = Run(kind=given.rule, training=training, noise=noise, diagnostics=Diagnostics())
    entry = NetworkEntry(kind="convnet", arguments={"channels": channels, "hidden": [channels[-1]], "batch_norm": True})
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        made = Trainer(shown, entry, run, 0, device)
        made.train(Path(folder) / "state.pt")
        seconds = time.perf_counter() - started
    return {
        "bench": "full run", "rule": given.rule, "precision": given.precision, "images": len(shown.train_images),
        "epochs": epochs, "batch": batch, "channels": "/".join(map(str, channels)), "data": shown.name,
        "seconds": seconds, "test_accuracy": made.epochs[-1]["test_accuracy"], "goal": GOAL, **facts(given.device, 1),
    }  # fmt: skip


def main() -> None:
    """Measure one run and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few small random images, to see that it runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rule", default="nmnc", help="kind of rule")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, help="CSV file to write")
    given = parser.parse_args()
    row = measure(given)
    print(
        "{bench}, {rule}, {precision}, {images} images of {data}, {epochs} epochs, batch {batch}, channels {channels}: "
        "{seconds:.1f} s, test accuracy {test_accuracy:.3f}; goal: {goal}".format(**row)
        + f" ({row['gpu'] or row['cpu']})"
    )
    write(given.out, [row], COLUMNS)


if __name__ == "__main__":
    main()
