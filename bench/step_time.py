"""Time of a training step: NMNC and VNC against backprop, and NMNC against its formulas written out plainly.

    python bench/step_time.py [--quick] [--device cuda] [--out FILE.csv]

A round is `basis_every` steps of each side, so the refresh of the basis is included. Both sides do the same clean
passes, clipping and optimiser steps on the same images.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from plain_nmnc import PlainNmnc, gram_basis, svd_basis
from side_by_side import compare, write

from nmnc.data.dataset import Dataset
from nmnc.device import prepare_torch
from nmnc.settings import Diagnostics, NetworkEntry, Noise, Run, Training
from nmnc.training.trainer import Trainer

Steps = Callable[[], None]


def images(count: int, classes: int = 10, side: int = 32) -> Dataset:
    """Random pixels and labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    half = torch.full((3,), 0.5)
    return Dataset("random images", pixels, labels, pixels[:256], labels[:256], half, half / 2, classes, "", "", "")


def trainer(
    kind: str, noise: Noise, channels: list[int], batch: int, device: torch.device, precision: str = "float32"
) -> Trainer:
    """A trainer that is ready for its first step."""
    entry = NetworkEntry(kind="convnet", arguments={"channels": channels, "hidden": [channels[-1]]})
    training = Training.model_validate({"batch_size": batch, "precision": precision})
    run = Run(kind=kind, training=training, noise=noise, diagnostics=Diagnostics())
    made = Trainer(images(max(noise.basis_images, 4 * batch)), entry, run, 0, device)
    made.rule.start(made._first_outputs())
    return made


def round_of(made: Trainer, steps: int) -> Steps:
    """Function that does so many steps and waits for the device."""
    batch = made.run.training.batch_size

    def work() -> None:
        made.network.train()
        for number in range(steps):
            start = number * batch % (len(made.images) - batch + 1)
            made._step(made.images[start : start + batch], made.labels[start : start + batch])
        if made.device.type == "cuda":
            torch.cuda.synchronize()

    return work


def plain_round(made: Trainer, noise: Noise, steps: int, svd: bool) -> Steps:
    """The same of the plain implementation, on a trainer's network and optimiser."""
    batch = made.run.training.batch_size
    generator = torch.Generator(made.device).manual_seed(1)
    plain = PlainNmnc(made.network, noise, svd_basis if svd else gram_basis, generator)
    done = 0

    def work() -> None:
        nonlocal done
        for number in range(steps):
            start = number * batch % (len(made.images) - batch + 1)
            made.optimiser.zero_grad(set_to_none=True)
            chosen = made.dataset.normalise(made.images[start : start + batch])
            plain.gradients(done, chosen, made.labels[start : start + batch])
            torch.nn.utils.clip_grad_norm_(made.weights, 1.0)
            made.optimiser.step()
            done += 1
        if made.device.type == "cuda":
            torch.cuda.synchronize()

    return work


def cases(batch: int) -> list[tuple[str, str, str, int, int, str]]:
    """(kind, name, estimator, b, M, goal) of each comparison with backprop."""
    whole = batch
    return [
        (kind, f"{kind} b={b} M={m} {estimator}", estimator, b, m, goal)
        for kind in ("nmnc", "vnc")
        for estimator, b, m, goal in (
            ("antithetic", 10, whole, "at most 1.0, aim 0.85"),
            ("one_sided", 10, whole, "at most 1.0, aim 0.85"),
            ("one_sided", 1, whole, "at most 1.6"),
            ("antithetic", 1, whole, "at most 2.2"),
            ("one_sided", 1, 8, "at most 1.05"),
            ("antithetic", 1, 8, "at most 1.05"),
        )
    ]


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="CSV file to write")
    given = parser.parse_args()
    device = prepare_torch(given.device, 1)
    channels, batch, steps = ([8, 16, 32], 16, 20) if given.quick else ([64, 128, 256], 128, 20)
    repeats = 2 if given.quick else given.repeats
    name = f"convnet {'/'.join(map(str, channels))}, batch {batch}"
    base = {"dimensions": 16 if given.quick else 64, "basis_images": 64 if given.quick else 512, "basis_every": steps}
    rows = []
    # On a CPU bfloat16 is emulated, or slower than float32 at these sizes: it is a GPU's question.
    for precision in ("float32", "bfloat16")[: 1 + (given.device == "cuda")]:
        for kind, what, estimator, b, m, goal in cases(batch):
            noise = Noise(**base, images=m, refresh_every=b, estimator=estimator)
            sides = (trainer(rule, noise, channels, batch, device, precision) for rule in (kind, "backprop"))
            ours, backprop = (round_of(side, steps) for side in sides)
            rows.append(
                compare(
                    "step time", f"{name}, {precision}", (what, ours), ("backprop", backprop),
                    repeats=repeats, goal=goal, threads=1, faster=False, device=given.device,
                )
            )  # fmt: skip
            write(given.out, rows)  # a run that is cut keeps what it measured
    noise = Noise(**base, images=batch)
    for svd in (False, True):
        rule, other = (trainer("nmnc", noise, channels, batch, device) for _ in range(2))
        basis = "thin SVD" if svd else "the same Gram basis"
        rows.append(
            compare(
                "step time", f"{name}, float32", ("nmnc b=1", round_of(rule, steps)),
                (f"plain formulas, {basis}", plain_round(other, noise, steps, svd)),
                repeats=repeats, goal="3 on a GPU with the Gram basis", threads=1, device=given.device,
            )
        )  # fmt: skip
    write(given.out, rows)


if __name__ == "__main__":
    main()
