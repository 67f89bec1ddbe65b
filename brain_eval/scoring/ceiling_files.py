"""Noise ceilings that are computed once for a benchmark and kept, whatever the number of networks."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from brain_eval.benchmarks.base import Benchmark
from brain_eval.benchmarks.recorded_rdms import CORRELATION
from brain_eval.codes import Code
from brain_eval.metrics import METRICS, RDMS
from brain_eval.scoring.ceilings import UNKNOWN, Ceiling, split_half_all
from nmnc.errors import UserError
from nmnc.files.reading import read_json
from nmnc.files.sources import code_digest
from nmnc.files.writing import write_text

#: Random splits of the repetitions behind a split-half ceiling.
SPLITS = 20


def ceilings_of(
    benchmark: Benchmark, metrics: Sequence[str], seed: int, folder: Path | None, kind: str = CORRELATION
) -> list[dict[str, Ceiling]]:
    """Return the split-half ceiling of every recording, in order, per metric; unknown without repetitions.

    Args:
        benchmark: with its recordings.
        metrics: names of comparisons of RDMs.
        seed: of the splits.
        folder: ceilings are kept here as NAME-HASH.json, where the hash is of the repetitions, the
            settings and the code; None: computed in every call.
        kind: of the RDMs, a name in brain_eval.metrics.RDMS.

    Raises:
        UserError: repetitions that cannot be split.
    """
    if folder is None:
        return _made(benchmark, metrics, seed, kind)
    path = folder / f"{benchmark.description.name}-{_digest(benchmark, metrics, seed, kind)[:16]}.json"
    found = _read(path, len(benchmark.recordings), metrics)
    if found is None:
        found = _made(benchmark, metrics, seed, kind)
        content = [{name: dataclasses.asdict(known) for name, known in ceiling.items()} for ceiling in found]
        write_text(path, json.dumps(content, indent=1) + "\n", digest=True)
    return found


def _made(benchmark: Benchmark, metrics: Sequence[str], seed: int, kind: str) -> list[dict[str, Ceiling]]:
    progress = tqdm(benchmark.recordings, f"ceilings of {benchmark.description.name}", disable=None)
    found = []
    for recording in progress:
        if recording.repetitions is None or not metrics:
            found.append(dict.fromkeys(metrics, UNKNOWN))
            continue
        ids = benchmark.ids_of(recording)
        found.append(split_half_all(recording.repetitions, list(metrics), SPLITS, seed, kind, ids))
    return found


def _digest(benchmark: Benchmark, metrics: Sequence[str], seed: int, kind: str) -> str:
    """Hex SHA-256 of all that a ceiling depends on: repetitions, settings and the modules that compute it."""
    digest = hashlib.sha256(json.dumps([list(metrics), seed, SPLITS, kind]).encode())
    registered = (*map(METRICS.module, metrics), RDMS.module(kind))
    digest.update(code_digest(__name__, *registered).encode())
    for recording in benchmark.recordings:
        trials = np.zeros(0) if recording.repetitions is None else recording.repetitions
        digest.update(repr((trials.shape, str(trials.dtype), benchmark.ids_of(recording))).encode())
        digest.update(np.ascontiguousarray(trials).tobytes())
    return digest.hexdigest()


def _read(path: Path, recordings: int, metrics: Sequence[str]) -> list[dict[str, Ceiling]] | None:
    """Read kept ceilings; None where there are none, or none that can be read: they are made again."""
    try:
        content = read_json(path)
        found = [{name: _ceiling(kept[name]) for name in metrics} for kept in content]
    except (UserError, TypeError, KeyError):
        return None
    return found if len(found) == recordings else None


def _ceiling(kept: dict[str, Any]) -> Ceiling:
    definition = kept["definition"]
    return Ceiling(kept["lower"], kept["upper"], None if definition is None else Code(**definition))
