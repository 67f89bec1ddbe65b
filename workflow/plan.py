"""Estimate the cost of a study before it is run: number of runs, hours, disk space.

Times are measured on small parts of the work, in some seconds. Nothing is downloaded,
and nothing is written to the study's results. By hand: python workflow/plan.py --config FILE --cores 2
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import typer
from tqdm import tqdm

from nmnc import runs
from nmnc.command_line import run_command
from nmnc.errors import UserError
from workflow.study import Study, diagnosed, load_study

if TYPE_CHECKING:
    import torch

    from brain_eval.activations.models import Model
    from nmnc.networks import Network
    from workflow.cost_of_evaluation import BenchmarkCost
    from workflow.cost_of_training import Images

#: Data sets that a plan does not need, and files that show that they are present.
DOWNLOADED = {"cifar10": ("cifar10.npz", "cifar-10-batches-py")}
#: Assumed seconds of Snakemake itself, and of the tables and the report without starting Python.
SNAKEMAKE, TABLES, REPORT = 4.0, 1.0, 12.0
#: Slow-down of jobs that run in parallel on all cores: training steps took 3.1 to 3.4 ms alone and 3.7 to 4.5 ms in
#: pairs (2 virtual cores).
CROWDED = 1.25
#: Bytes of figures and report.
PAGE = 5e6
#: Images in a pass of `extract`.
BATCH_SIZE = 256


@dataclass(frozen=True)
class Part:
    """Jobs of one kind, or files of one kind.

    Attributes:
        name: name in the table.
        number: number of jobs or files.
        each: seconds of a job, including its start, or bytes of a file; NaN if unknown.
        alone: whether the other jobs wait for these.
        training: whether they use the threads of a training job, or the GPU.
    """

    name: str
    number: int
    each: float
    alone: bool = False
    training: bool = False

    @property
    def all(self) -> float:
        """Seconds of work, or bytes."""
        return self.number * self.each


def measure(study: Study, specs: list[str]) -> tuple[list[Part], list[Part], str]:
    """Measure everything that a study does.

    Returns:
        Jobs in the order in which they run; files; the kind of device.

    Raises:
        UserError: of nmnc or brain_eval: settings that do not fit, damaged data.
    """
    import brain_eval.scoring.scores  # noqa: F401

    light = time.process_time()  # time of a process until it can begin to score

    from nmnc.device import prepare_torch
    from nmnc.training.job import check
    from workflow.cost_of_evaluation import BenchmarkCost

    heavy = time.process_time()  # and until it can begin to train
    check(study)
    device = prepare_torch(study.device, study.threads)
    benchmarks = [BenchmarkCost(spec, runs.data_folder(study), study.evaluation) for spec in specs]
    training, checkpoints, models = _training(study, device, heavy)
    evaluation, results = _evaluation(study, models, benchmarks, device, light, heavy)
    reading = sum(benchmark.reading for benchmark in benchmarks)
    start = Part("start, check, fetch", 1, SNAKEMAKE + 2 * heavy + light + reading, alone=True)
    end = Part("tables, report", 1, 2 * light + TABLES + REPORT, alone=True)
    return [start, *training, *evaluation, end], [*checkpoints, *results], device.type


def _training(
    study: Study, device: "torch.device", start: float
) -> tuple[list[Part], list[Part], dict[str, tuple[int, "Model"]]]:
    """Return training jobs, their files and, per network, the number of scored runs and the network as a model."""
    from workflow.cost_of_training import manifold_seconds, training_cost

    jobs, files, models = [], [], {}
    for name, entry in study.networks.items():
        images, loading = _images(study)
        labels = study.labels(name)
        if not labels:
            continue
        costs = {
            label: training_cost(study.run(label), entry, images, device)
            for label in tqdm(labels, f"measuring {name}", disable=None, leave=False)
        }
        for label, cost in costs.items():
            seconds = start + loading + cost.seconds
            jobs.append(Part(f"train {name}, {label}", len(study.seeds_of(label)), seconds, training=True))
        number = sum(len(study.seeds_of(label)) for label in labels)
        files.append(Part(f"checkpoints of {name}", number, mean(cost.size for cost in costs.values())))
        # The target `claims` measures manifolds; studies for it set `diagnosed`.
        measured = 0 if study.diagnosed is None else sum(run.network == name for run in diagnosed(study))
        if measured:
            network = costs[labels[0]].network
            seconds = start + loading + manifold_seconds(network, images, study.diagnostics.images, device)
            jobs.append(Part(f"diagnose {name}", measured, seconds, training=True))
        compared = sum(identity.network == name for identity in study.scored())
        if compared:
            models[name] = compared, _as_model(costs[labels[0]].network, images)
    return jobs, files, models


def _evaluation(
    study: Study, trained: dict[str, tuple[int, "Model"]], benchmarks: list["BenchmarkCost"], device: "torch.device",
    light: float, heavy: float,
) -> tuple[list[Part], list[Part]]:  # fmt: skip
    """Return the jobs that extract and score, and their files."""
    from workflow.cost_of_evaluation import evaluation_cost

    models = dict(trained)
    if benchmarks:
        seen = [model for _, model in trained.values()]
        models |= {name: (1, model) for name, model in _references(study, seen)}
    costs = {
        name: evaluation_cost(models[name][1], benchmarks, BATCH_SIZE, device)
        for name in tqdm(models, "measuring benchmarks", disable=None, leave=False)
    }
    numbers = {name: number for name, (number, _) in models.items()}
    jobs = [Part(f"extract {name}", numbers[name], heavy + costs[name].extract, training=True) for name in models]
    jobs += [Part(f"score {name}", numbers[name], light + costs[name].score) for name in models]
    files = [
        Part(f"activations of {name}, {benchmark}", numbers[name], size)
        for name in models
        for benchmark, size in costs[name].sizes.items()
    ]
    files += [Part(f"scores of {name}", numbers[name], costs[name].scores_size) for name in models]
    return jobs, [*files, Part("figures, report", 1, PAGE)]


def _images(study: Study) -> tuple["Images", float]:
    """Return the properties of the training images, and the seconds for loading them."""
    from nmnc.data.dataset import extent_of, load_dataset
    from workflow.cost_of_training import Images

    assert study.dataset is not None  # a study with networks has one (nmnc.config)
    dataset, data = study.dataset, runs.data_folder(study)
    marks = DOWNLOADED.get(dataset.name, ())
    if marks and not any((data / mark).exists() for mark in marks):
        return Images(*extent_of(dataset, data)), 0.0
    started = time.perf_counter()
    loaded = load_dataset(dataset, data)
    seconds = time.perf_counter() - started
    return Images(loaded.image_shape, loaded.classes, len(loaded.train_labels), len(loaded.test_labels)), seconds


def _as_model(network: "Network", images: "Images") -> "Model":
    """Return a network of the study as the model that `extract` loads."""
    from brain_eval.activations.models import Model
    from brain_eval.activations.preprocessing import Preprocessing

    channels, size, _ = images.shape
    layers = dict(zip(network.stage_names, network.stages, strict=True))
    preprocessing = Preprocessing(size, channels, (0.5,) * channels, (0.25,) * channels)
    return Model("network", network.eval(), layers, preprocessing, "", "")


def _references(study: Study, trained: list["Model"]) -> Iterator[tuple[str, "Model"]]:
    """Yield the reference models, without their weights, and the pixels."""
    from brain_eval.activations.models import load_model

    seen = [json.dumps(asdict(model.preprocessing)) for model in trained]
    for name, model in study.evaluation.models.items():
        preprocessing = model.preprocessing.model_dump_json() if model.preprocessing else ""
        seen += [preprocessing] * bool(preprocessing)
        arguments = json.dumps(model.arguments)
        # The tag of a timm name is removed because it selects weights.
        network = model.network.partition(".")[0] if model.network.startswith("timm:") else model.network
        layers = ",".join(model.layers)
        yield name, load_model(network, layers, None, arguments, preprocessing, kind=model.kind or "")
    # As in workflow/rules/common.smk.
    plain = json.dumps({"image_size": 32, "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3})
    yield "pixels", load_model("pixels", preprocessing=[*seen, plain][0])


def hours(jobs: Iterable[Part], cores: int, threads: int, gpu: bool) -> float:
    """Return the hours until all jobs are done; jobs of unknown time are left out."""
    known = [job for job in jobs if not isnan(job.all)]
    together = [job for job in known if not job.alone]
    # A job with more threads than cores uses all of them; jobs on the GPU wait for each other.
    at_once = 1 if gpu else max(1, cores // threads)
    shared = sum(job.all / (at_once if job.training else cores) for job in together) * (CROWDED if cores > 1 else 1.0)
    longest = max((job.each for job in together), default=0.0)
    return (sum(job.all for job in known if job.alone) + max(shared, longest)) / 3600


def table(title: str, parts: Sequence[Part], as_text: Callable[[float], str]) -> str:
    """Return aligned lines of name, number, each and all; the last line is the sum of known values."""
    known = [part.all for part in parts if not isnan(part.all)]
    least = "at least " if len(known) < len(parts) else ""
    rows = [(title, "number", "each", "all")]
    rows += [(part.name, str(part.number), as_text(part.each), as_text(part.all)) for part in parts]
    rows.append(("sum", str(sum(part.number for part in parts)), "", least + as_text(sum(known))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def duration(seconds: float) -> str:
    """Return a duration as text: 1.2 s, 5.6 min, 7.8 h, or unknown."""
    if isnan(seconds):
        return "unknown"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def amount(size: float) -> str:
    """Return a size as text: 1.0 MB, 2.34 GB, or unknown."""
    if isnan(size):
        return "unknown"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def main(
    config: Annotated[Path, typer.Option(help="The study's YAML file.")],
    cores: Annotated[int, typer.Option(min=1, help="Number of cores for Snakemake.")] = 2,
) -> None:
    """Print the estimated cost of a study: runs, hours and disk space."""
    study = load_study(config)
    # As in the workflow's jobs, numpy has one thread; the number is fixed when numpy is imported.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    from workflow.start import benchmark_specs

    specs = benchmark_specs(study, config)
    try:
        jobs, files, device = measure(study, specs)
    except UserError as error:
        raise UserError(f"{config}: {error}") from None
    needed = hours(jobs, cores, study.threads, device == "cuda")
    counts = f"networks: {len(study.networks)}, rules: {len(study.labels())}, seeds: {len(study.seeds)}"
    results = study.paths.results if study.paths.results.is_dir() else Path()
    print(f"{config}: {len(runs.trained(study))} runs ({counts}), scored on {', '.join(specs) or 'nothing'}\n")
    print(table("jobs", jobs, duration), table("files", files, amount), sep="\n\n")
    least = "at least " if any(isnan(job.all) for job in jobs) else ""
    print(f"\n{least}{needed:.2f} hours ({duration(needed * 3600)}) on {cores} cores of this machine, {device}")
    print(f"{amount(sum(file.all for file in files if not isnan(file.all)))} of disk", end="")
    print(f", {amount(shutil.disk_usage(results).free)} are free here")


if __name__ == "__main__":
    run_command(lambda: typer.run(main), "plan")
