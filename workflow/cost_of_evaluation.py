"""Estimate time and size of activations and scores from a few stimuli of each benchmark."""

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
#: Stimuli shown to a model; stimuli of a recording, and splits of its repetitions, for comparison; bytes of
#: activations written.
SHOWN, COMPARED, SPLIT, WRITTEN = 32, 300, 4, 2**24
#: Bytes of a row of scores, which is in the model's table and in the study's.
ROW = 2 * 400
#: Assumed side, in pixels, of the stimuli of a benchmark without local data.
UNSEEN_SIZE = 128


@dataclass(frozen=True)
class ModelCost:
    """Cost of one model on all benchmarks; unknown values are NaN.

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
    """Cost of a benchmark, measured once for all models.

    Attributes:
        name: name of the benchmark.
        benchmark: the benchmark; None without local data, in which case the cost of scoring is unknown (NaN).
        n_stimuli: number of its stimuli; None if unknown.
        reading: seconds for loading it; 0 without local data.
        preparing: seconds for computing its ranks, bootstrap and ceilings.
        rows: rows of scores per layer.
        draws_size: bytes of the stored draws of a layer.
    """

    def __init__(self, spec: str, data: Path, evaluation: Evaluation) -> None:
        """Load and measure a benchmark, or look up its description; nothing is downloaded.

        Raises:
            UserError: damaged data, or a folder that is not a benchmark.
        """
        self.name, _, folder = spec.partition("=")
        self.benchmark: Benchmark | None = None
        self.reading, self.preparing, self.rows, self.draws_size = 0.0, nan, nan, nan
        description = None if folder else import_module(f"brain_eval.benchmarks.{self.name}").DESCRIPTION
        if description is not None and state(description.files, data) == "no":
            self.n_stimuli: int | None = description.n_stimuli
            return
        loaded: list[Benchmark] = []
        self.reading = once(lambda: loaded.append(load_benchmark(spec, data)), CPU)
        self.benchmark = loaded[0]
        self.n_stimuli = len(self.benchmark.stimulus_set.stimulus_ids)
        self._prepare(self.benchmark, evaluation)

    def _prepare(self, benchmark: Benchmark, evaluation: Evaluation) -> None:
        """Measure on recordings cut to few stimuli; time is proportional to the number of pairs."""
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
        """Measure CKA, ridge and PLS on one recording cut to few stimuli; time is about quadratic in their number."""
        metrics = [metric.name for metric in metrics_of_responses(evaluation.metrics)]
        recordings = [recording for recording in benchmark.recordings if recording.responses is not None]
        self._responses: list[ResponseTarget] = []
        if not (metrics and recordings):
            return
        cut = _cut(max(recordings, key=lambda recording: len(recording.stimuli)))
        self._response_scale = sum(len(recording.stimuli) ** 2 for recording in recordings) / len(cut.stimuli) ** 2
        draws = evaluation.bootstrap_draws
        target = Target(replace(benchmark, recordings=(cut,)), {}, draws, 0)

        def prepare() -> None:
            self._responses.append(ResponseTarget(target, metrics, draws))

        self.preparing += once(prepare, CPU) * self._response_scale
        self._responses[0].score([0], np.eye(len(cut.stimuli), 8, dtype=np.float32))  # the first call imports
        regions = {(recording.species, recording.region) for recording in recordings}
        self.rows += len(metrics) * (len(recordings) + len(regions))

    @property
    def rdm_size(self) -> int:
        """Bytes of a layer's RDM, which is stored only for small benchmarks."""
        n = self.n_stimuli or 0
        return 8 * n * n if n <= MOST_STIMULI_STORED else 0

    def scoring(self, units: int) -> float:
        """Return the seconds for scoring one layer of `units` units."""
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
            for target in self._responses:
                part = features[: len(target.target.stimuli([0]))]
                self._layers[units] += once(partial(target.score, [0], part), CPU) * self._response_scale
        return self._layers[units]

    def showing(self, model: Model, device: torch.device) -> float:
        """Return the seconds for one stimulus: reading, resizing and computing a model's activations."""
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
    """Return the cost of one model on all benchmarks, without starting the processes."""
    model.module.to(device)
    shapes = layer_shapes(model, device)
    rate = _bytes_per_second(shapes, batch_size)
    sizes: dict[str, float] = {}
    extract = score = stored = 0.0
    for benchmark in benchmarks:
        sizes[benchmark.name] = (
            activation_files.bytes_needed(benchmark.n_stimuli, shapes, batch_size) if benchmark.n_stimuli else nan
        )
        moving = benchmark.reading + sizes[benchmark.name] / rate
        extract += moving + (benchmark.n_stimuli or nan) * benchmark.showing(model, device)
        score += moving + benchmark.preparing + sum(benchmark.scoring(prod(shape)) for shape in shapes.values())
        stored += len(shapes) * (benchmark.rows * ROW + benchmark.rdm_size + benchmark.draws_size)
    return ModelCost(extract, score, sizes, stored)


def _cut(recording: Recording) -> Recording:
    few = slice(COMPARED)
    responses = None if recording.responses is None else recording.responses[few]
    rdm = None if recording.rdm is None else recording.rdm[few, few]
    if rdm is None and responses is not None:  # where correlation is undefined; comparing any other RDM takes as long
        rdm = euclidean_rdm(responses)
    return replace(recording, stimuli=recording.stimuli[few], rdm=rdm, responses=responses, repetitions=None)


def _pairs(benchmark: Benchmark, kind: str = CORRELATION) -> int:
    """Return the number of pairs of stimuli in recordings with an RDM of this kind."""
    included = (
        recording for recording in benchmark.recordings if kind == CORRELATION or source_of(recording, kind) is not None
    )
    return sum(len(recording.stimuli) ** 2 for recording in included)


def _bytes_per_second(shapes: dict[str, Shape], batch_size: int) -> float:
    """Return the speed of writing activations in their stored layout, in bytes per second."""
    units = activation_files.neuroids(shapes)
    n = max(1, min(batch_size, WRITTEN // (4 * units)))
    _, chunk = activation_files.layout(n, shapes, batch_size)
    block, ids = np.zeros((n, units), np.float32), [str(number) for number in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "activations.nc"
        return block.nbytes / seconds_of(
            lambda: activation_files.write(path, ids, shapes, {}, [(0, block)], chunk), CPU
        )
