"""A benchmark of random recordings, and layers that share something with them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.metrics.similarity import correlation_rdm

N = 24


def recording(
    session: str,
    animal: str,
    stimuli: Any,
    features: NDArray[Any],
    species: str = "macaque",
    region: str = "IT",
    **others: Any,
) -> Recording:
    return Recording(
        session, animal, species, region, np.asarray(stimuli, dtype=np.intp), 50, correlation_rdm(features), **others
    )


def make_benchmark(
    recordings: list[Recording], n: int = N, name: str = "fake", ids: list[str] | None = None
) -> Benchmark:
    names = tuple(ids) if ids is not None else tuple(f"image{i:02d}" for i in range(n))
    about = Description(name, 3, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    return Benchmark(about, StimulusSet(name, names, lambda indices: [], f"sha of {names}"), tuple(recordings))


def code(n: int = N, width: int = 8, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((n, width))


def layers_of(n: Any = N) -> dict[str, NDArray[np.float32]]:
    """Two layers that share a code with the recordings below, the second less."""
    rng = np.random.default_rng(1)
    return {
        "conv": (code(n) + rng.standard_normal((n, 8))).astype(np.float32),
        "fc": (code(n)[:, :5] + 3 * rng.standard_normal((n, 5))).astype(np.float32),
    }


def two_sessions() -> list[Recording]:
    """Session A shows images 0-15, session B images 10-23: 6 are shared."""
    rng = np.random.default_rng(2)
    return [
        recording(session, "M1", stimuli, code()[stimuli] + rng.standard_normal((len(stimuli), 8)))
        for session, stimuli in (("A", np.arange(16)), ("B", np.arange(10, 24)))
    ]


def cells(rows: list[dict[str, str]], *columns: str) -> list[Any]:
    return [tuple(row[column] for column in columns) for row in rows]
