"""What several tests of brain_eval need."""

import csv
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

from brain_eval import activation_files, benchmarks
from brain_eval.scoring import score_model


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """A disk that is full as soon as a file is longer than so many bytes."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


class Study:
    """A folder with activations, and the scores made from them."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.known = folder, {}
        monkeypatch.setattr(benchmarks, "load_benchmark", lambda spec, data: self.known[spec.partition("=")[0]])

    def write(self, benchmark, layers, **attributes):
        self.known[benchmark.description.name] = benchmark
        stimuli = benchmark.stimulus_set
        attributes = {"preprocessing": "32 px", "stimulus_set_sha256": stimuli.sha256} | attributes
        shapes = {layer: (values.shape[1], 1, 1) for layer, values in layers.items()}
        block = np.concatenate(list(layers.values()), axis=1)
        path = self.folder / f"{benchmark.description.name}.nc"
        activation_files.write(path, stimuli.stimulus_ids, shapes, attributes, [(0, block)], (3, 3))
        return path

    def score(self, *specs, out="scores.csv", metrics=("spearman", "rho-a"), identity="net,nmnc,nmnc,7", **options):
        options = {"draws": 60, "seed": 0, "confidence": 0.95} | options
        specs = specs or list(self.known)
        score_model(
            self.folder, specs, self.folder, self.folder / out, self.folder / "rdms.nc",
            identity=identity, metrics=metrics, **options,
        )  # fmt: skip
        with (self.folder / out).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def score_of(self, benchmark, layers, **options):
        self.write(benchmark, layers)
        return self.score(benchmark.description.name, **options)


@pytest.fixture
def study(tmp_path, monkeypatch):
    return Study(tmp_path, monkeypatch)
