"""Rules of the house that no tool checks: sizes, safe loading of arrays and pictures, and what make promises.

Who may import whom stands in pyproject.toml (import-linter); docstrings, pickles, complexity and arguments are ruff's.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT

#: Folders whose Python runs on a user's data.
RUNNING = ("nmnc", "brain_eval", "workflow", "bench", "examples")


def python_files(*folders: str) -> list[Path]:
    """Every Python file below these folders of the project, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def calls(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name of every function that a file calls, `torch.load`, and the constants among its keyword arguments."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            constants = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
            yield ast.unparse(node.func), constants


def test_no_source_file_is_over_400_lines_nor_a_test_over_500() -> None:
    limits = {path: 400 for path in python_files(*RUNNING)} | {path: 500 for path in python_files("tests")}
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in limits}
    assert {path: length for path, length in lengths.items() if length > limits[path]} == {}


def test_files_of_arrays_and_weights_are_never_unpickled() -> None:
    unsafe = []
    for path in python_files(*RUNNING):
        for name, constants in calls(path):
            numpy_load = name in {"np.load", "numpy.load"} and constants.get("allow_pickle") is not False
            torch_load = name == "torch.load" and constants.get("weights_only") is not True
            if numpy_load or torch_load or name.endswith("read_pickle"):
                unsafe.append(f"{path.relative_to(ROOT)}: {name}")
    assert unsafe == []


def test_one_decoder_opens_pictures_of_the_user() -> None:
    """The two others read figures that matplotlib wrote for the report."""
    openers = {
        str(path.relative_to(ROOT))
        for path in python_files("nmnc", "brain_eval", "workflow")
        if any(name in {"Image.open", "PIL.Image.open"} for name, _ in calls(path))
        or "Image.OPEN" in path.read_text(encoding="utf-8")
    }
    assert openers == {
        "nmnc/data/images.py",
        "workflow/analysis/figures/style.py",
        "workflow/analysis/report/__init__.py",
    }


@pytest.mark.parametrize(("required", "outcome"), [("1", "1 failed"), ("0", "1 skipped")])
def test_missing_real_data_fails_where_it_is_required(tmp_path: Path, required: str, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = real_data\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.real_data\ndef test_it(data_folder): data_folder('nowhere')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "NMNC_REQUIRE_DATA": required}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert outcome in done.stdout.splitlines()[-1]
    assert (done.returncode == 0) == (required == "0")


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_clean_spares_reference_environment_and_data(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = ["results/reference/scores.csv", ".venv/bin/python", ".venv/__pycache__/a.pyc", "data/cifar10.npz"]
    gone = ["results/default/report.html", ".snakemake/log", "nmnc/__pycache__/a.pyc", ".mypy_cache/a"]
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=True)
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    assert [name for name in gone if (tmp_path / name).exists()] == []


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_help_names_every_target() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(\S+)", re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0])
    assert {"default", "env", "test", "lint", "cifar10", "clean"} <= set(targets)
    assert [name for name in targets if not re.search(rf"^  {name} +\S", told, re.MULTILINE)] == []
