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

from nmnc.training.provenance import git_commit, hardware, versions

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


def timed(function: Callable[[], Any], *clocks: Callable[[], float]) -> list[float]:
    """Seconds of one call by each clock."""
    started = [clock() for clock in clocks]
    function()
    return [clock() - start for clock, start in zip(clocks, started, strict=True)]


def compare(
    bench: str, case: str, ours: tuple[str, Callable[[], Any]], other: tuple[str, Callable[[], Any]], *,
    repeats: int, goal: str, threads: int, faster: bool = True, device: str = "cpu",
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

    Returns:
        Median seconds of both; the ratio is the median of the rounds' own ratios, with their lowest and
        highest: what slows the machine for a while slows both sides of a round.
    """
    clock = time.process_time if threads == 1 and device == "cpu" else time.perf_counter
    (rounds,) = _rounds(ours[1], other[1], repeats, [clock])
    return _row(bench, case, (ours[0], other[0]), rounds, goal, faster, facts(device, threads))


def compare_by_both_clocks(
    bench: str, case: str, ours: tuple[str, Callable[[], Any]], other: tuple[str, Callable[[], Any]], *,
    repeats: int, goal: str, threads: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """`compare` on the CPU, where one side works in threads beside: two rows from the same rounds.

    Elapsed time, of a machine with cores free for them; and the processor time of all threads, which charges
    their work in full.
    """
    clocks = {"elapsed time": time.perf_counter, "processor time": time.process_time}
    timed_rounds = _rounds(ours[1], other[1], repeats, list(clocks.values()))
    names, where = (ours[0], other[0]), facts("cpu", threads)
    return [
        _row(bench, f"{case}, {name}", names, rounds, goal, True, where)
        for name, rounds in zip(clocks, timed_rounds, strict=True)
    ]


def _rounds(
    ours: Callable[[], Any], other: Callable[[], Any], repeats: int, clocks: Sequence[Callable[[], float]]
) -> list[list[tuple[float, float]]]:
    """For each clock the seconds (ours, other) of every round; the first round, which warms up, is not among them."""
    ours(), other()
    both = [[timed(function, *clocks) for function in (ours, other)] for _ in range(repeats)]
    return [[(a[i], b[i]) for a, b in both] for i in range(len(clocks))]


def _row(
    bench: str, case: str, names: tuple[str, str], rounds: Sequence[tuple[float, float]], goal: str, faster: bool,
    where: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    ratios = [b / a if faster else a / b for a, b in rounds]
    row: dict[str, Any] = {
        "bench": bench, "case": case, "ours": names[0], "other": names[1],
        "seconds_ours": statistics.median(a for a, _ in rounds),
        "seconds_other": statistics.median(b for _, b in rounds),
        "ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios),
        "goal": goal, "repeats": len(rounds), **where,
    }  # fmt: skip
    what = f"{names[1]} / {names[0]}" if faster else f"{names[0]} / {names[1]}"
    threads = row["threads"]
    print(
        f"{bench}, {case}: {what} = {row['ratio']:.3g} ({row['ratio_low']:.3g} to {row['ratio_high']:.3g}, "
        f"{len(rounds)} rounds; {row['seconds_ours']:.4g} s against {row['seconds_other']:.4g} s; goal: {goal}; "
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
