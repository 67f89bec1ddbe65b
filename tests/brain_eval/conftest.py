"""What several tests of brain_eval need."""

import csv
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from PIL import Image

from brain_eval import benchmarks
from brain_eval.activations import writer as activation_files
from brain_eval.benchmarks.folder import benchmark as folder
from brain_eval.scoring.scores import Outputs, score_model
from tests.sections import scoring


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

    def __init__(self, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = place
        self.known: dict[str, Any] = {}
        monkeypatch.setattr(benchmarks, "load_benchmark", lambda spec, data: self.known[spec.partition("=")[0]])

    def write(self, benchmark: Any, layers: Any, **attributes: Any) -> Any:
        self.known[benchmark.description.name] = benchmark
        stimuli = benchmark.stimulus_set
        attributes = {"preprocessing": "32 px", "stimulus_set_sha256": stimuli.sha256} | attributes
        shapes = {layer: (values.shape[1], 1, 1) for layer, values in layers.items()}
        block = np.concatenate(list(layers.values()), axis=1)
        path = self.folder / f"{benchmark.description.name}.nc"
        activation_files.write(path, stimuli.stimulus_ids, shapes, attributes, [(0, block)], (3, 3))
        return path

    def score(
        self,
        *specs: Any,
        out: str = "scores.csv",
        metrics: tuple[str, ...] = ("spearman", "rho-a"),
        identity: str = "net,nmnc,nmnc,7",
        **options: Any,
    ) -> Any:
        ceilings = options.pop("ceilings", None)
        outputs = Outputs(self.folder / out, self.folder / "rdms.nc", options.pop("draws_out", None))
        if "draws" in options:
            options["bootstrap_draws"] = options.pop("draws")
        settings = scoring(metrics=list(metrics), **options)
        specs = specs or tuple(self.known)
        score_model(self.folder, specs, self.folder, outputs, identity=identity, settings=settings, ceilings=ceilings)
        with (self.folder / out).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with (self.folder / out.replace(".csv", "_codebook.csv")).open(newline="", encoding="utf-8") as file:
            meanings = {(row["column"], row["code"]): row["meaning"] for row in csv.DictReader(file)}
        return [{column: meanings.get((column, cell), cell) for column, cell in row.items()} for row in rows]

    def score_of(self, benchmark: Any, layers: Any, **options: Any) -> Any:
        self.write(benchmark, layers)
        return self.score(benchmark.description.name, **options)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    return Study(tmp_path, monkeypatch)


class OwnBenchmark:
    """A benchmark folder of the user's own, `mine`, whose parts are written one by one."""

    def __init__(self, path: Any, n: int = 6) -> None:
        self.path, self.n = path, n
        self.ids = [f"s{i}" for i in range(n)]
        self.about()
        self.table()

    def about(self, **keys: Any) -> None:
        """benchmark.yaml, each value as it would be typed."""
        given = {"name": "mine", "species": "macaque", "region": "V4", "citation": "Me (2026)", "licence": "CC0"}
        self.path.mkdir(exist_ok=True)
        lines = [f"{key}: {value}" for key, value in (given | keys).items()]
        (self.path / "benchmark.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def table(self, ids: Any = None, names: Any = None, columns: str = "stimulus_id,filename,degrees") -> None:
        """stimuli.csv and its images."""
        self.ids = ids or self.ids
        names = names or [f"{i}.png" for i in range(len(self.ids))]
        (self.path / "stimuli").mkdir(exist_ok=True)
        for i, name in enumerate(names):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.path / "stimuli" / name, format="png")
        rows = [[one, name, "8"] for one, name in zip(self.ids, names, strict=True)]
        with (self.path / "stimuli.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([columns.split(","), *rows])

    def responses(
        self,
        values: Any,
        ids: Any = None,
        dims: tuple[str, ...] = ("neuroid", "presentation", "repetition"),
        encoding: Any = None,
        **coords: Any,
    ) -> None:
        """responses.nc: `values` along `dims`, labels as name=values along neuroid, or name=(dim, values)."""
        along = {"stimulus_id": ("presentation", self.ids if ids is None else ids)}
        along |= {key: one if isinstance(one, tuple) else ("neuroid", one) for key, one in coords.items()}
        data = xarray.Dataset({"responses": (dims[: np.ndim(values)], values)}, along)
        data.to_netcdf(self.path / "responses.nc", encoding=encoding or {})

    def rdm(self, matrix: Any, ids: Any = None) -> None:
        """rdm.nc."""
        own = {"stimulus_id": ("row", self.ids if ids is None else ids)}
        data = {"rdm": (("row", "column", "more")[: np.ndim(matrix)], matrix)}
        xarray.Dataset(data, own).to_netcdf(self.path / "rdm.nc")

    def load(self) -> Any:
        return folder.load("mine", self.path)

    def recordings(self) -> Any:
        return self.load().recordings


@pytest.fixture
def mine(tmp_path: Path) -> OwnBenchmark:
    """A folder without recordings so far; 6 stimuli, s0 to s5."""
    return OwnBenchmark(tmp_path / "mine")
