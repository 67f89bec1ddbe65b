"""A whole small study by Snakemake, from another folder than the project's: reruns, kills and mends."""

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import xarray
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from tests.places import ROOT

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

RESULTS = Path("results/tiny")
TABLES = ("runs", "scores", "accuracy", "alignment", "comparisons")
N_STIMULI = 12
STUDY: dict[str, Any] = {
    "study": "tiny",
    "seeds": [0],
    "device": "cpu",
    "dataset": {"name": "images.npz"},
    "networks": {"small": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [16]}}},
    "training": {"epochs": 2, "batch_size": 16},
    "noise": {"dimensions": 8, "images": 4, "basis_images": 32, "basis_every": 4},
    "diagnostics": {"images": 32},
    # Long enough to be met in the middle.
    "rules": {"backprop": {"kind": "backprop"}, "nmnc": {"kind": "nmnc", "training": {"epochs": 20}}},
    "evaluation": {"benchmarks": ["mine"], "benchmark_folders": {"mine": "mine"}, "bootstrap_draws": 100},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's sources: a test may edit it, and nobody else does meanwhile."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("workflow", "nmnc", "brain_eval", "profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy2(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that has been run; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("finished")
    write_images(folder / "images.npz")
    write_benchmark(folder / "mine")
    write_study(folder, {})
    run = snakemake(project, folder)
    assert run.returncode == 0, run.stdout
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished study, times of files included."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def write_images(path: Path) -> None:
    """A few of scikit-learn's digits as the user's own training images."""
    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8), digits.target
    np.savez(path, x_train=images[:160], y_train=labels[:160], x_test=images[160:220], y_test=labels[160:220])


def write_benchmark(folder: Path) -> None:
    """A benchmark of the user's own: random images and responses."""
    rng = np.random.default_rng(0)
    (folder / "stimuli").mkdir(parents=True)
    ids = [f"image{number}" for number in range(N_STIMULI)]
    for name in ids:
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(folder / "stimuli" / f"{name}.png")
    rows = [f"{name},{name}.png,8" for name in ids]
    (folder / "stimuli.csv").write_text("\n".join(["stimulus_id,filename,degrees", *rows]) + "\n")
    about = {"name": "mine", "species": "macaque", "region": "IT", "citation": "this test", "licence": "none"}
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(about))
    responses = xarray.DataArray(
        rng.random((5, N_STIMULI)), dims=("neuroid", "presentation"), coords={"stimulus_id": ("presentation", ids)}
    )
    responses.to_dataset(name="responses").to_netcdf(folder / "responses.nc")


def write_study(folder: Path, change: dict[str, Any]) -> None:
    """The study with some values of its sections changed."""
    study = {key: value | change.get(key, {}) if isinstance(value, dict) else value for key, value in STUDY.items()}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study))


def command(project: Path, *arguments: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(project / "Snakefile"), "--cores", "2",
        "--configfile", "tiny.yaml", "--workflow-profile", str(project / "profiles/default"), *arguments,
    ]  # fmt: skip


def environment(project: Path) -> dict[str, str]:
    """Jobs take the packages from the copy of the project, and data from the study's own folder."""
    return {key: value for key, value in os.environ.items() if key != "NMNC_DATA"} | {"PYTHONPATH": str(project)}


def snakemake(project: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `folder`; all it says is in stdout."""
    return subprocess.run(
        command(project, *arguments), cwd=folder, env=environment(project), text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def planned(project: Path, folder: Path) -> dict[str, int]:
    """Jobs of each rule that a run would have, the targets left out."""
    run = snakemake(project, folder, "-n")
    assert run.returncode == 0, run.stdout
    found = re.search(r"^job +count\n-+ +-+\n(.*?)^total", run.stdout, re.MULTILINE | re.DOTALL)
    if found is None:
        assert "Nothing to be done" in run.stdout, run.stdout
        return {}
    rows = (line.split() for line in found[1].splitlines())
    return {rule: int(number) for rule, number in rows if rule != "all"}


def ended(folder: Path) -> dict[str, Any]:
    """What equal studies have equal bytes of: all tables but timing.csv, and the networks' weights."""
    results = folder / RESULTS
    made = {name: (results / "tables" / f"{name}.csv").read_bytes() for name in TABLES}
    runs = sorted((results / "networks").rglob("provenance.json"))
    return made | {str(run.relative_to(results)): json.loads(run.read_text())["weights_sha256"] for run in runs}


def forget(folder: Path, identity: str) -> None:
    """Remove all that was made of one run, its checkpoint too, and the tables."""
    results = folder / RESULTS
    for path in [
        *results.glob(f"*/{identity}"),
        *results.glob(f"scores/{identity}*"),
        *results.glob(f".checkpoints/{identity.replace('/', '-')}*"),
        *results.glob("tables/*.csv"),
    ]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def until(true: Callable[[], Any], what: str, seconds: float = 1800) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)


def trainers(folder: Path) -> list[psutil.Process]:
    """Living processes of `nmnc train` that work in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if words[1:4] == ["-m", "nmnc", "train"] and Path(process.cwd()) == folder.resolve():
                found.append(process)
        except psutil.Error:
            continue
    return found


def started(project: Path, folder: Path) -> psutil.Popen:
    """Snakemake at work on the tables, all it says in snakemake.log."""
    with (folder / "snakemake.log").open("w") as log:
        return psutil.Popen(
            command(project, "tables", "runs"), cwd=folder, env=environment(project), stdout=log, stderr=log
        )


@contextmanager
def survivors(folder: Path) -> Iterator[None]:
    """Whatever trainer lives at the end is killed."""
    try:
        yield
    finally:
        for one in trainers(folder):
            with suppress(psutil.NoSuchProcess):
                one.kill()


@contextmanager
def running(project: Path, folder: Path) -> Iterator[psutil.Process]:
    """Snakemake at work (see `started`); whatever lives at the end is killed."""
    process = started(project, folder)
    with survivors(folder):
        try:
            yield process
        finally:
            if process.is_running():
                process.kill()
            process.wait()


def one_trainer(folder: Path) -> psutil.Process:
    """The only trainer at work in `folder`, once it is there."""
    until(lambda: trainers(folder), "a trainer")
    [trainer] = trainers(folder)
    return trainer


def test_report_and_tables_are_there(finished: Path) -> None:
    with (finished / RESULTS / "tables/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["rule"] for row in rows} == {"backprop", "nmnc", "untrained", "pixels"}
    assert {(row["benchmark"], row["n_stimuli"], row["n_draws"]) for row in rows} == {("mine", "12", "100")}
    report = (finished / RESULTS / "report.html").read_text(encoding="utf-8")
    assert "mine" in report
    assert set(TABLES) <= {path.stem for path in (finished / RESULTS / "tables").glob("*.csv")}


def test_a_second_call_has_nothing_to_do(project: Path, finished: Path) -> None:
    run = snakemake(project, finished)
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout


def test_a_deleted_table_is_made_again_and_nothing_else(project: Path, copy: Path) -> None:
    (copy / RESULTS / "tables/scores.csv").unlink()
    assert planned(project, copy) == {"tables": 1, "report": 1}
    (copy / RESULTS / "scores/small/nmnc/seed0.csv").unlink()
    assert planned(project, copy) == {"score": 1, "tables": 1, "report": 1}


def test_more_draws_score_again_but_train_nothing(project: Path, copy: Path) -> None:
    write_study(copy, {"evaluation": {"bootstrap_draws": 200}})
    assert planned(project, copy) == {"runs": 1, "score": 4, "tables": 1, "report": 1}


@pytest.mark.parametrize(
    ("source", "jobs"),
    [
        ("brain_eval/inference/intervals.py", {"score": 4, "tables": 1, "report": 1}),
        ("workflow/analysis/report/rows.py", {"report": 1}),
        ("nmnc/rules/noise_correlation.py", {"train": 1, "extract": 1, "score": 1, "tables": 1, "report": 1}),
        ("nmnc/rules/base.py", {"train": 3, "extract": 3, "score": 3, "tables": 1, "report": 1}),
    ],
)
def test_edited_sources_rerun_what_is_made_of_them(
    project: Path, finished: Path, source: str, jobs: dict[str, int]
) -> None:
    path = project / source
    text, status = path.read_text(), path.stat()
    try:
        path.write_text(text + "# edited\n")
        found = planned(project, finished)
    finally:
        path.write_text(text)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert found == jobs


def test_a_new_learning_rate_trains_that_rule_only(project: Path, copy: Path) -> None:
    write_study(copy, {"rules": {"nmnc": {"kind": "nmnc", "training": {"epochs": 20, "learning_rate": 0.01}}}})
    assert planned(project, copy) == {"runs": 1, "train": 1, "extract": 1, "score": 1, "tables": 1, "report": 1}


def test_killed_again_and_again_the_same_command_goes_on(project: Path, finished: Path, copy: Path) -> None:
    forget(copy, "small/nmnc/seed0")
    run = copy / RESULTS / "networks/small/nmnc/seed0"

    # kill -9 of Snakemake and all its jobs, in the middle of a training that has written its first checkpoint.
    with running(project, copy) as snake:
        until(lambda: list((copy / RESULTS / ".checkpoints").glob("small-nmnc-*/state.pt")), "a checkpoint")
        for process in [snake, *snake.children(recursive=True)]:
            process.kill()
    assert not (run / "network.pt").exists()
    assert list((copy / ".snakemake/locks").iterdir())

    # The same command, again and again; kill -9 of Snakemake alone at some moment, its trainers live on and queue.
    orphans, moments = 0, random.Random(0)
    with survivors(copy):
        for longest in (1, 6, 6):  # a trainer takes more than a second to start: the first one lives on
            snake = started(project, copy)
            until(lambda: trainers(copy) or (run / "network.pt").exists(), "a trainer")
            time.sleep(moments.uniform(0, longest))
            snake.kill()
            snake.wait()
            orphans += len(trainers(copy))
        assert orphans > 0
        with running(project, copy) as snake:
            assert snake.wait(1800) == 0, (copy / "snakemake.log").read_text()
    assert ended(copy) == ended(finished)

    # SIGTERM of Snakemake alone: it lets its trainer end and stops; the same command does the rest.
    forget(copy, "small/nmnc/seed0")
    with running(project, copy) as snake:
        one_trainer(copy)
        snake.terminate()
        assert snake.wait(1800) != 0
    with running(project, copy) as again:
        assert again.wait(1800) == 0, (copy / "snakemake.log").read_text()
    assert ended(copy) == ended(finished)

    # Once more, and the trainer that lives on is held: the next one may not touch the run meanwhile.
    forget(copy, "small/nmnc/seed0")
    with running(project, copy) as snake:
        trainer = one_trainer(copy)
        trainer.suspend()
        snake.kill()
        snake.wait()

        # The same command. Its trainer may not touch the run while the first one lives.
        with running(project, copy) as again:
            until(lambda: len(trainers(copy)) == 2, "a second trainer")
            assert not (run / "network.pt").exists()
            trainer.resume()
            assert again.wait(1800) == 0, (copy / "snakemake.log").read_text()
    assert ended(copy) == ended(finished)


def test_a_missing_image_is_told_before_any_job_and_after_the_mend_nothing_is_lost(project: Path, copy: Path) -> None:
    image = copy / "mine/stimuli/image3.png"
    image.rename(copy / "image3.png")
    run = snakemake(project, copy)
    assert run.returncode == 2
    [line] = [line for line in run.stdout.splitlines() if line.startswith("nmnc-brain: ")]
    assert "mine/stimuli/image3.png of stimulus_id 'image3' does not exist; put it there" in line
    assert "Traceback" not in run.stdout
    (copy / "image3.png").rename(image)
    assert planned(project, copy) == {}


def test_a_failed_job_shows_its_line_and_after_the_mend_the_rest_goes_on(
    project: Path, finished: Path, copy: Path
) -> None:
    exploding = {"kind": "nmnc", "training": {"epochs": 20, "learning_rate": 1e30, "clip_norm": None}}
    write_study(copy, {"rules": {"nmnc": exploding}})
    run = snakemake(project, copy)
    assert run.returncode == 1
    [line] = {line for line in run.stdout.splitlines() if line.startswith("nmnc: ")}
    assert re.search(r"NaN or infinite at step \d+ in layer \w+; lower training.learning_rate", line)
    assert "Traceback" not in run.stdout
    assert not (copy / RESULTS / "networks/small/nmnc/seed0/network.pt").exists()
    write_study(copy, {})
    run = snakemake(project, copy, "tables", "runs")
    assert run.returncode == 0, run.stdout
    assert set(re.findall(r"train small by (\w+)", run.stdout)) == {"nmnc"}
    assert ended(copy) == ended(finished)
