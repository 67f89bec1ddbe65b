"""The plan: what is counted and added up, and that it says what it cannot know."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from threadpoolctl import threadpool_limits
from torch.utils.flop_counter import FlopCounterMode

from brain_eval.activations.models import load_model
from brain_eval.settings import Evaluation
from nmnc.data.dataset import Dataset, extent_of, load_dataset
from nmnc.settings import Dataset as DatasetConfig
from nmnc.settings import Diagnostics, NetworkEntry, Noise, Run, Training
from tests.places import ROOT
from workflow import cost_of_training, plan
from workflow.cost_of_evaluation import BenchmarkCost, evaluation_cost
from workflow.cost_of_training import Images, seconds_of, training_cost

CPU = torch.device("cpu")
IMAGES = Images((1, 8, 8), 10, 640, 100)
ENTRY = NetworkEntry(kind="convnet", arguments={"channels": [4], "hidden": [16]})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch's number of threads is the process's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_of(kind: str, **noise: Any) -> Run:
    settings = {"dimensions": 4, "images": 4, "basis_images": 64} | noise
    return Run(
        kind=kind,
        training=Training(epochs=3, batch_size=32),
        noise=Noise(**settings),
        diagnostics=Diagnostics(images=8),
    )


def test_side_by_side_jobs_share_the_cores() -> None:
    jobs = [
        plan.Part("start", 1, 10.0, alone=True),
        plan.Part("train", 8, 36.0, training=True),
        plan.Part("score", 8, 9.0),
    ]
    assert plan.hours(jobs, 1, 1, gpu=False) == pytest.approx((10 + 8 * 36 + 8 * 9) / 3600)
    pairs = plan.CROWDED * (8 * 36 + 8 * 9) / 2
    assert plan.hours(jobs, 2, 1, gpu=False) == pytest.approx((10 + pairs) / 3600)
    # Two threads a training job: one of them at a time on two cores.
    assert plan.hours(jobs, 2, 2, gpu=False) == pytest.approx((10 + plan.CROWDED * (8 * 36 + 8 * 9 / 2)) / 3600)
    assert plan.hours(jobs, 2, 1, gpu=True) == plan.hours(jobs, 2, 2, gpu=False)


def test_no_number_of_cores_beats_the_longest_job() -> None:
    jobs = [plan.Part("train", 2, 3600.0, training=True)]
    assert plan.hours(jobs, 64, 1, gpu=False) == 1.0


def test_what_cannot_be_told_is_said() -> None:
    parts = [plan.Part("train a", 2, 5.0), plan.Part("score", 3, nan)]
    lines = plan.table("jobs", parts, plan.duration).splitlines()
    assert [line.split() for line in lines] == [
        ["jobs", "number", "each", "all"],
        ["train", "a", "2", "5.0", "s", "10.0", "s"],
        ["score", "3", "unknown", "unknown"],
        ["sum", "5", "at", "least", "10.0", "s"],
    ]
    assert len({len(line) for line in lines}) == 1
    assert plan.hours(parts, 1, 1, gpu=False) == pytest.approx(10 / 3600)


@pytest.mark.parametrize(
    ("words", "value", "said"),
    [
        (plan.duration, 1.24, "1.2 s"),
        (plan.duration, 89.9, "89.9 s"),
        (plan.duration, 90.0, "1.5 min"),
        (plan.duration, 7200.0, "2.0 h"),
        (plan.duration, nan, "unknown"),
        (plan.amount, 1.5e6, "1.5 MB"),
        (plan.amount, 2.346e9, "2.35 GB"),
        (plan.amount, nan, "unknown"),
    ],
)
def test_units(words: Callable[[float], str], value: float, said: str) -> None:
    assert words(value) == said


@pytest.mark.parametrize(
    ("kind", "refresh_every", "basis_every", "expected"),
    [
        # 60 steps. A plain one takes 1 s, a refresh of the feedback 10 s more, one of the basis 100 s more.
        ("backprop", 1, 20, 60 * 1),
        ("vnc", 1, 1000, 60 * 11),
        ("vnc", 10, 1000, 60 * 1 + 6 * 10),
        ("nmnc", 10, 20, 60 * 1 + 6 * 10 + 3 * 100),
        ("nmnc", 7, 20, 60 * 1 + 8 * 10 + 3 * 100),
    ],
)
def test_every_kind_of_step_is_counted(
    monkeypatch: pytest.MonkeyPatch, kind: str, refresh_every: int, basis_every: int, expected: float
) -> None:
    def step(work: Callable[[], object], device: torch.device) -> float:
        work()
        number = trainer.numbers.pop()
        noisy = trainer.rule.local
        return 1 + 10 * (noisy and number % refresh_every == 0) + 100 * (noisy and number % basis_every == 0)

    trainer = FakeTrainer(run_of(kind, refresh_every=refresh_every, basis_every=basis_every))
    monkeypatch.setattr(cost_of_training, "once", step)
    assert cost_of_training._seconds_of_steps(trainer, 60) == pytest.approx(expected)


class FakeTrainer:
    """Remembers the numbers of its steps."""

    def __init__(self, run: Run) -> None:
        self.run, self.device = run, CPU
        self.rule = SimpleNamespace(
            local=run.kind != "backprop", perturbations=0, bases=[CPU] if run.kind == "nmnc" else []
        )
        self.images, self.labels = torch.zeros(64), torch.zeros(64)
        self.step = 0
        self.numbers: list[int] = []

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.numbers.append(self.step)
        self.rule.perturbations += self.rule.local and self.step % self.run.noise.refresh_every == 0


@pytest.mark.parametrize("kind", ["backprop", "vnc", "nmnc", "random_subspace"])
def test_a_longer_training_costs_more_and_an_untrained_network_least(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def operations(work: Callable[[], object], device: torch.device) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        return float(counter.get_total_flops())

    monkeypatch.setattr(cost_of_training, "once", operations)  # a clock that no other program moves
    cost = training_cost(run_of(kind), ENTRY, IMAGES, CPU)
    longer = training_cost(run_of(kind), ENTRY, Images((1, 8, 8), 10, 64_000, 100), CPU)
    untrained = training_cost(run_of("untrained"), ENTRY, IMAGES, CPU)
    assert untrained.seconds < cost.seconds < longer.seconds / 10
    assert cost.size > sum(4 * weight.numel() for weight in cost.network.parameters())


@pytest.mark.usefixtures("one_thread")
def test_processor_time_leaves_out_what_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"process_time": 0.0, "perf_counter": 0.0}
    for name in clocks:
        monkeypatch.setattr(time, name, lambda name=name: clocks[name])

    def wait() -> None:
        clocks["process_time"] += 0.1
        clocks["perf_counter"] += 10.0

    assert seconds_of(wait, CPU) == pytest.approx(0.1)


def test_a_benchmark_that_is_not_here_is_not_downloaded(tmp_path: Path) -> None:
    cost = BenchmarkCost("kriegeskorte2008", tmp_path / "data", Evaluation())
    pixels = load_model("pixels", preprocessing='{"image_size": 8, "channels": 1, "mean": [0.5], "std": [0.5]}')
    model = evaluation_cost(pixels, [cost], 32, CPU)
    assert not (tmp_path / "data").exists()
    assert isnan(model.score)
    assert isnan(model.scores_size)
    assert 0 < model.extract < 60
    assert 92 * 64 * 4 < model.sizes["kriegeskorte2008"] < 92 * 64 * 4 + 2**21


@pytest.mark.usefixtures("one_thread")
def test_a_benchmark_that_is_here_is_measured(tmp_path: Path) -> None:
    cost = BenchmarkCost("simulated", tmp_path, Evaluation(bootstrap_draws=100))
    pixels = load_model("pixels", preprocessing='{"image_size": 8, "channels": 1, "mean": [0.5], "std": [0.5]}')
    model = evaluation_cost(pixels, [cost, cost], 32, CPU)
    once = evaluation_cost(pixels, [cost], 32, CPU)
    assert cost.n_stimuli == 144
    assert model.score > once.score > cost.reading > 0
    assert model.scores_size == 2 * once.scores_size > 0


@pytest.mark.usefixtures("one_thread")
def test_cka_and_regressions_are_measured_too(tmp_path: Path) -> None:
    pixels = load_model("pixels", preprocessing='{"image_size": 8, "channels": 1, "mean": [0.5], "std": [0.5]}')
    costs, rows = [], []
    for metrics in (["spearman"], ["spearman", "cka-unbiased", "ridge", "pls"]):
        with threadpool_limits(1):  # as in the workflow's jobs
            benchmark = BenchmarkCost("simulated", tmp_path, Evaluation(bootstrap_draws=100, metrics=metrics))
            costs.append(evaluation_cost(pixels, [benchmark], 32, CPU))
        rows.append(benchmark.rows)
    recordings_and_region = rows[0]
    assert rows == [recordings_and_region, 4 * recordings_and_region]
    assert costs[0].scores_size < costs[1].scores_size
    assert costs[0].score < costs[1].score < costs[0].score + 10


@pytest.mark.real_data
def test_sizes_of_downloads_are_right(data_folder: Callable[..., Path]) -> None:
    folder = data_folder("cifar10.npz")
    dataset: Dataset = load_dataset(DatasetConfig(name="cifar10"), folder)
    extent = extent_of(DatasetConfig(name="cifar10"), folder / "absent")
    assert extent == (dataset.image_shape, 10, len(dataset.train_labels), len(dataset.test_labels))


def call(folder: Path, study: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """The script as `make plan` calls it."""
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, str(ROOT / "workflow/plan.py"), "--config", str(folder / "study.yaml"), "--cores", "3"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


STUDY = {
    "study": "planned",
    "seeds": [0, 1, 2],
    "device": "cpu",
    "dataset": {"name": "digits"},
    "networks": {"small": ENTRY.model_dump()},
    "training": {"epochs": 1},
    "noise": {"dimensions": 8},
    "rules": {"nmnc": {"kind": "nmnc"}},
    "evaluation": {"benchmarks": ["simulated"], "bootstrap_draws": 100},
}


def test_the_script_prints_runs_hours_and_disk(tmp_path: Path) -> None:
    run = call(tmp_path, STUDY)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "6 runs (networks: 1, rules: 2, seeds: 3), scored on simulated" in run.stdout
    for job, number in {
        "train small, nmnc": 3,
        "train small, untrained": 3,
        "extract small": 6,
        "score pixels": 1,
    }.items():
        assert re.search(rf"^{job} +{number} +\d", run.stdout, re.MULTILINE), job
    assert re.search(r"^activations of small, simulated +6 +\d+\.\d MB +\d+\.\d MB$", run.stdout, re.MULTILINE)
    assert re.search(r"^\d+\.\d\d hours \(.*\) on 3 cores of this machine, cpu$", run.stdout, re.MULTILINE)
    assert re.search(r"^\d+\.\d MB of disk, .* are free here$", run.stdout, re.MULTILINE)


@pytest.mark.slow
def test_only_what_runs_is_counted(tmp_path: Path) -> None:
    rules = {
        "nmnc": {"kind": "nmnc", "networks": ["small"], "seeds": [7]},
        "untrained": {"kind": "untrained", "networks": ["small", "other"]},
    }
    networks = {"small": ENTRY.model_dump(), "other": ENTRY.model_dump()}
    evaluation = STUDY["evaluation"] | {"rules": ["nmnc"]}
    changes = {"rules": rules, "networks": networks, "evaluation": evaluation, "diagnosed": ["untrained"]}
    run = call(tmp_path, STUDY | changes)
    assert run.returncode == 0, run.stderr
    found = dict(re.findall(r"^((?:train|diagnose|extract|score) .*?)  +(\d+)", run.stdout, re.MULTILINE))
    assert {job: int(number) for job, number in found.items()} == {
        "train small, nmnc": 1, "train small, untrained": 3, "train other, untrained": 3,
        "diagnose small": 3, "diagnose other": 3,
        "extract small": 1, "score small": 1, "extract pixels": 1, "score pixels": 1,
    }  # fmt: skip
    assert "7 runs" in run.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 3}, "study.yaml: epochs: unknown key"),
        pytest.param({"rules": {"mine": {"kind": "nmcn"}}}, "did you mean 'nmnc'?", marks=pytest.mark.slow),
        ({"evaluation": {"benchmarks": ["simulatd"]}}, "unknown benchmark 'simulatd'; did you mean 'simulated'?"),
        ({"dataset": {"name": "nowhere.npz"}}, "dataset nowhere.npz: no such file"),
        pytest.param(
            {"evaluation": {"benchmarks": ["mine"], "benchmark_folders": {"mine": "nowhere"}}},
            "the folder nowhere of benchmark 'mine' does not exist",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    run = call(tmp_path, STUDY | change)
    assert run.returncode == 2
    [line] = run.stderr.splitlines()
    assert line.startswith("plan: ")
    assert words in line
    assert run.stdout == ""
