"""How long activations and scores take and how large they are, measured on a few stimuli of each benchmark."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from math import nan, prod
from pathlib import Path

import numpy as np
import torch

from brain_eval.activations import writer as activation_files
from brain_eval.activations.extraction import layer_shapes
from brain_eval.activations.models import Model
from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import Benchmark, Recording
from brain_eval.benchmarks.recorded_rdms import CORRELATION, source_of
from brain_eval.benchmarks.sources import state
from brain_eval.metrics.base import metrics_of_rdms, metrics_of_responses
from brain_eval.metrics.rdms import euclidean_rdm
from brain_eval.metrics.similarity import correlation_rdm, upper_triangle
from brain_eval.scoring.ceilings import split_half_all
from brain_eval.scoring.response_scores import ResponseTarget
from brain_eval.scoring.scores import MOST_STIMULI_STORED
from brain_eval.scoring.targets import SPLITS, Target
from brain_eval.settings import Evaluation
from nmnc.data.images import Pixels
from workflow.cost_of_training import Shape, once, seconds_of

CPU = torch.device("cpu")
#: Stimuli shown to a model; stimuli of a recording, and splits of its repetitions, that are compared;
#: bytes of activations that are written.
SHOWN, COMPARED, SPLIT, WRITTEN = 32, 300, 4, 2**24
#: Bytes of a row of scores, which stands in the model's own table and in that of the study.
ROW = 2 * 400
#: Pixels a side of a stimulus of a benchmark that is not here to be looked at.
UNSEEN_SIZE = 128


@dataclass(frozen=True)
class ModelCost:
    """One model on all benchmarks; NaN: cannot be told.

    Attributes:
        extract, score: seconds.
        sizes: bytes of its activations, by benchmark.
        scores_size: bytes of its scores and RDMs.
    """

    extract: float
    score: float
    sizes: dict[str, float]
    scores_size: float


class BenchmarkCost:
    """What a benchmark costs, measured once for all models.

    Attributes:
        name: of the benchmark.
        benchmark: None where its data are not here: then what scoring costs cannot be told (NaN).
        n_stimuli: number of its stimuli, None where it cannot be told.
        reading: seconds in which a job loads it, 0 where it is not here.
        preparing: seconds in which a scoring job makes its ranks, bootstrap and ceilings.
        rows: rows of scores per layer.
        draws_size: bytes of the draws of a layer, kept beside its scores.
    """

    def __init__(self, spec: str, data: Path, evaluation: Evaluation) -> None:
        """Load and measure a benchmark, or look up its description; nothing is downloaded.

        Raises:
            UserError: damaged data, or a folder that is no benchmark (brain_eval.errors).
        """
        self.name, _, folder = spec.partition("=")
        self.benchmark: Benchmark | None = None
        self.reading, self.preparing, self.rows, self.draws_size = 0.0, nan, nan, nan
        about = None if folder else import_module(f"brain_eval.benchmarks.{self.name}").DESCRIPTION
        if about is not None and state(about.files, data) == "no":
            self.n_stimuli: int | None = about.n_stimuli
            return
        loaded: list[Benchmark] = []
        self.reading = once(lambda: loaded.append(load_benchmark(spec, data)), CPU)
        self.benchmark = loaded[0]
        self.n_stimuli = len(self.benchmark.stimulus_set.stimulus_ids)
        self._prepare(self.benchmark, evaluation)

    def _prepare(self, benchmark: Benchmark, evaluation: Evaluation) -> None:
        """Recordings cut to few stimuli: time grows with the number of pairs."""
        metrics = metrics_of_rdms(evaluation.metrics)
        kinds = evaluation.recorded_rdms
        cut = replace(benchmark, recordings=tuple(_cut(recording) for recording in benchmark.recordings))
        self._scale = sum(_pairs(benchmark, kind) for kind in kinds) / _pairs(cut)
        targets: list[Target] = []
        draws, seed = evaluation.bootstrap_draws, evaluation.seed
        self.preparing = once(lambda: targets.append(Target(cut, metrics, draws, seed)), CPU) * self._scale
        self.draws_size = 4 * len(metrics) * sum(len(recording.stimuli) + draws for recording in benchmark.recordings)
        self._target, self._layers = targets[0], dict[int, float]()
        self.draws_size *= len(kinds)
        self.rows = len(kinds) * len(metrics) * (len(benchmark.recordings) + len(self._target.regions))
        for recording in benchmark.recordings:
            if recording.repetitions is not None:
                halves = partial(split_half_all, recording.repetitions, list(metrics), SPLIT, seed)
                self.preparing += sum(once(partial(halves, kind), CPU) for kind in kinds) * SPLITS / SPLIT
        self._prepare_responses(benchmark, evaluation)

    def _prepare_responses(self, benchmark: Benchmark, evaluation: Evaluation) -> None:
        """CKA, ridge and PLS: one recording cut to few stimuli; from 300 to 1,200 their sum grew 15 times."""
        metrics = [metric.name for metric in metrics_of_responses(evaluation.metrics)]
        recordings = [one for one in benchmark.recordings if one.responses is not None]
        self._responses: list[ResponseTarget] = []
        if not (metrics and recordings):
            return
        cut = _cut(max(recordings, key=lambda one: len(one.stimuli)))
        self._response_scale = sum(len(one.stimuli) ** 2 for one in recordings) / len(cut.stimuli) ** 2
        draws = evaluation.bootstrap_draws
        target = Target(replace(benchmark, recordings=(cut,)), {}, draws, 0)

        def prepare() -> None:
            self._responses.append(ResponseTarget(target, metrics, draws))

        self.preparing += once(prepare, CPU) * self._response_scale
        self._responses[0].score([0], np.eye(len(cut.stimuli), 8, dtype=np.float32))  # the first call imports
        regions = {(one.species, one.region) for one in recordings}
        self.rows += len(metrics) * (len(recordings) + len(regions))

    @property
    def rdm_size(self) -> int:
        """Bytes of the RDM of a layer, which is stored for small benchmarks."""
        n = self.n_stimuli or 0
        return 8 * n * n if n <= MOST_STIMULI_STORED else 0

    def scoring(self, units: int) -> float:
        """Seconds in which one layer of so many units is scored."""
        if self.benchmark is None:
            return nan
        if units not in self._layers:
            rng = np.random.default_rng(0)
            features = rng.random((COMPARED, units), dtype=np.float32)

            def score() -> None:
                for number, group in enumerate(self._target.groups):
                    rdm = correlation_rdm(features[: len(self._target.stimuli(group))])
                    self._target.compare(number, upper_triangle(rdm))

            self._layers[units] = once(score, CPU) * self._scale
            for one in self._responses:
                few = features[: len(one.target.stimuli([0]))]
                self._layers[units] += once(partial(one.score, [0], few), CPU) * self._response_scale
        return self._layers[units]

    def showing(self, model: Model, device: torch.device) -> float:
        """Seconds in which a model's activations to one stimulus are computed, its image read and resized."""
        images: Sequence[Pixels] = [np.zeros((UNSEEN_SIZE, UNSEEN_SIZE, 3), np.uint8)] * SHOWN
        reading = 0.0
        if self.benchmark is not None:
            read, first = self.benchmark.stimulus_set.read, np.arange(min(SHOWN, self.n_stimuli or 0))
            images, reading = read(first), seconds_of(lambda: read(first), CPU)

        def show() -> None:
            with torch.inference_mode():
                model.module(model.preprocessing(images).to(device))

        return (reading + seconds_of(show, device)) / len(images)


def evaluation_cost(
    model: Model, benchmarks: Sequence[BenchmarkCost], batch_size: int, device: torch.device
) -> ModelCost:
    """What one model costs on all benchmarks, without the start of the processes."""
    model.module.to(device)
    shapes = layer_shapes(model, device)
    rate = _bytes_per_second(shapes, batch_size)
    sizes: dict[str, float] = {}
    extract = score = stored = 0.0
    for one in benchmarks:
        sizes[one.name] = activation_files.bytes_needed(one.n_stimuli, shapes, batch_size) if one.n_stimuli else nan
        moving = one.reading + sizes[one.name] / rate
        extract += moving + (one.n_stimuli or nan) * one.showing(model, device)
        score += moving + one.preparing + sum(one.scoring(prod(shape)) for shape in shapes.values())
        stored += len(shapes) * (one.rows * ROW + one.rdm_size + one.draws_size)
    return ModelCost(extract, score, sizes, stored)


def _cut(recording: Recording) -> Recording:
    few = slice(COMPARED)
    responses = None if recording.responses is None else recording.responses[few]
    rdm = None if recording.rdm is None else recording.rdm[few, few]
    if rdm is None and responses is not None:  # no correlation is defined; any other RDM takes as long to compare
        rdm = euclidean_rdm(responses)
    return replace(recording, stimuli=recording.stimuli[few], rdm=rdm, responses=responses, repetitions=None)


def _pairs(benchmark: Benchmark, kind: str = CORRELATION) -> int:
    """Pairs of stimuli of the recordings that have an RDM of this kind."""
    here = (one for one in benchmark.recordings if kind == CORRELATION or source_of(one, kind) is not None)
    return sum(len(recording.stimuli) ** 2 for recording in here)


def _bytes_per_second(shapes: dict[str, Shape], batch_size: int) -> float:
    """Speed at which activations are written in the form they are kept in."""
    units = activation_files.neuroids(shapes)
    n = max(1, min(batch_size, WRITTEN // (4 * units)))
    _, chunk = activation_files.layout(n, shapes, batch_size)
    block, ids = np.zeros((n, units), np.float32), [str(number) for number in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "activations.nc"
        return block.nbytes / seconds_of(
            lambda: activation_files.write(path, ids, shapes, {}, [(0, block)], chunk), CPU
        )
