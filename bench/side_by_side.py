"""What every bench shares: timing two or more functions in turn within one process, and saying so."""

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nmnc.provenance import git_commit, hardware, versions

COLUMNS = (
    "bench", "case", "ours", "other", "seconds_ours", "seconds_other", "ratio", "ratio_low", "ratio_high", "goal",
    "repeats", "threads", "cpu", "gpu", "platform", "torch", "numpy", "git",
)  # fmt: skip


def options(
    description: str | None, parts: Sequence[str], arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Command line of a bench in parts: quick, part, repeats, threads and out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that both sides agree")
    parser.add_argument("--part", choices=parts, action="append", help="only this; may be repeated")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each timed comparison")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="BLAS threads of both sides")
    parser.add_argument("--out", type=Path, help="CSV to write")
    return parser.parse_args(arguments)


def facts(device: str, threads: int) -> dict[str, Any]:
    """Where a row was measured: its columns from `threads` on."""
    import torch

    machine, installed = hardware(torch.device(device)), versions()
    return {
        "threads": threads, "cpu": machine["cpu"], "gpu": machine["gpu"], "platform": platform.system(),
        "torch": installed.get("torch"), "numpy": installed.get("numpy"), "git": git_commit(),
    }  # fmt: skip


def timed(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call."""
    started = clock()
    function()
    return clock() - started


def compare(
    bench: str, case: str, ours: tuple[str, Callable[[], Any]], other: tuple[str, Callable[[], Any]], *,
    repeats: int, goal: str, threads: int, faster: bool = True, device: str = "cpu", wall: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Time two functions alternately and print their ratio; returns a row of COLUMNS.

    Args:
        bench, case: names of the bench and of the sizes it runs at.
        ours, other: (name, function of no arguments that waits for its device).
        repeats: rounds after one round of warming up; each round calls one after the other.
        goal: what the project asks of the ratio, in words.
        threads: threads both sides may use. One thread on the CPU is given processor time: what else runs on
            the machine meanwhile does not count.
        faster: True: ratio = other / ours (how many times faster we are); False: ratio = ours / other.
        device: "cpu" or "cuda".
        wall: give elapsed time in any case: for what works in threads beside, on a machine with cores free for them.

    Returns:
        Median seconds of both; the ratio is the median of the rounds' own ratios, with their lowest and
        highest: what slows the machine for a while slows both sides of a round.
    """
    ours[1](), other[1]()
    clock = time.process_time if threads == 1 and device == "cpu" and not wall else time.perf_counter
    rounds = [(timed(ours[1], clock), timed(other[1], clock)) for _ in range(repeats)]
    ratios = [b / a if faster else a / b for a, b in rounds]
    row: dict[str, Any] = {
        "bench": bench, "case": case, "ours": ours[0], "other": other[0],
        "seconds_ours": statistics.median(a for a, _ in rounds),
        "seconds_other": statistics.median(b for _, b in rounds),
        "ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios),
        "goal": goal, "repeats": repeats, **facts(device, threads),
    }  # fmt: skip
    what = f"{other[0]} / {ours[0]}" if faster else f"{ours[0]} / {other[0]}"
    print(
        f"{bench}, {case}: {what} = {row['ratio']:.3g} ({row['ratio_low']:.3g} to {row['ratio_high']:.3g}, "
        f"{repeats} rounds; {row['seconds_ours']:.4g} s against {row['seconds_other']:.4g} s; goal: {goal}; "
        f"{row['gpu'] or row['cpu']}, {threads} thread{'s' * (threads > 1)})",
        flush=True,
    )
    return row


def write(out: Path | None, rows: Sequence[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """Write the rows as CSV where `out` is given, numbers with six digits."""
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
