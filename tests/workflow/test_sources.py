"""The closure of imports: everything a command is made of, and nothing else."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from nmnc.files.sources import closure
from nmnc.rule_kinds import modules_of
from tests.places import ROOT


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_imports_of_every_kind_are_followed(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "nmnc/__init__.py": "",
            "nmnc/top.py": "import nmnc.plain\nfrom nmnc.names import thing\nfrom nmnc import module\nimport numpy\n",
            "nmnc/plain.py": "def f():\n    from nmnc.lazy import g\n    return g\n",
            "nmnc/lazy.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nmnc.package.inner\n",
            "nmnc/names.py": "thing = 1\n",
            "nmnc/module.py": "import nmnc.top  # a circle\n",
            "nmnc/package/__init__.py": "",
            "nmnc/package/inner.py": "",
            "nmnc/unused.py": "import nmnc.top\n",
        },
    )
    found = closure(tmp_path, ["nmnc.top"])
    assert found == [
        "nmnc/__init__.py", "nmnc/lazy.py", "nmnc/module.py", "nmnc/names.py",
        "nmnc/package/__init__.py", "nmnc/package/inner.py", "nmnc/plain.py", "nmnc/top.py",
    ]  # fmt: skip


def test_modules_of_others_are_no_sources(tmp_path: Path) -> None:
    others = {"torch/nn.py": "", "snakemake/api.py": ""}
    write(tmp_path, {"nmnc/__init__.py": "", "nmnc/a.py": "import torch.nn\nimport snakemake.api\n", **others})
    assert closure(tmp_path, ["nmnc.a"]) == ["nmnc/__init__.py", "nmnc/a.py"]


def test_a_lazy_import_of_ours_is_found() -> None:
    # These imports stand inside functions.
    assert "nmnc/training/job.py" in closure(ROOT, ["nmnc.__main__"])
    assert "brain_eval/benchmarks/folder/benchmark.py" in closure(ROOT, ["brain_eval.benchmarks"])


def test_training_is_not_made_of_the_evaluation() -> None:
    training = closure(ROOT, ["nmnc.training.job", *modules_of("vnc")])
    assert "nmnc/rules/direct.py" not in training  # another rule
    assert {"nmnc/rules/noise_correlation.py", "nmnc/noise/perturbation.py", "nmnc/networks/convnet.py"} <= set(
        training
    )
    assert [path for path in training if not path.startswith("nmnc/")] == []


def test_scoring_is_neither_made_of_the_training_nor_of_torch() -> None:
    scoring = closure(
        ROOT, ["brain_eval.scoring.scores", "brain_eval.benchmarks.simulated", "brain_eval.benchmarks.folder.benchmark"]
    )
    assert "brain_eval/metrics/similarity.py" in scoring
    shared = closure(
        ROOT,
        [
            "nmnc.command_line",
            "nmnc.sections",
            "nmnc.files.sources",
            "nmnc.files.writing",
            "nmnc.data.images",
            "nmnc.files.reading",
        ],
    )
    assert {path for path in scoring if path.startswith("nmnc/")} <= set(shared)
    assert not {path for path in shared if path.startswith(("nmnc/train", "nmnc/rules", "nmnc/networks"))}
    assert [path for path in scoring if "torch" in imported(ROOT / path)] == []


def imported(path: Path) -> set[str]:
    """Names of the packages a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@cache
def loaded(module: str) -> set[Path]:
    """Files of all modules that Python has loaded after importing one."""
    files = "[m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)]"
    code = f"import json, sys, {module}\nprint(json.dumps({files}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {Path(path) for path in json.loads(run.stdout)}


@pytest.mark.parametrize(
    "module", ["brain_eval.scoring.scores", "workflow.analysis.tables", "workflow.analysis.report"]
)
def test_torch_stays_out_of_processes_that_need_none(module: str) -> None:
    assert [path for path in loaded(module) if "torch" in path.parts] == []


@pytest.mark.parametrize(
    "module", ["nmnc.training.job", "brain_eval.scoring.scores", "workflow.analysis.tables", "workflow.analysis.report"]
)
def test_the_closure_holds_what_python_really_loads(module: str) -> None:
    # The interpreter is the judge: what it loads when the module is imported must be among the sources.
    ours = {path.relative_to(ROOT) for path in loaded(module) if path.is_relative_to(ROOT)}
    files = {path.as_posix() for path in ours if path.parts[0] in ("nmnc", "brain_eval", "workflow")}
    assert len(files) > 3
    assert files <= set(closure(ROOT, [module]))


def test_a_new_template_reruns_the_report(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "workflow/__init__.py": "",
            "workflow/analysis/__init__.py": "",
            "workflow/analysis/report/__init__.py": "",
            "workflow/analysis/tables.py": "",
            "workflow/analysis/templates/report.html": "",
        },
    )
    assert "workflow/analysis/templates/report.html" in closure(tmp_path, ["workflow.analysis.report"])
    assert "workflow/analysis/templates/report.html" not in closure(tmp_path, ["workflow.analysis.tables"])


@pytest.mark.parametrize("smk", sorted((ROOT / "workflow" / "rules").glob("*.smk")), ids=lambda path: path.stem)
def test_modules_named_in_the_rules_exist(smk: Path) -> None:
    # A misspelt module would silently be no source at all.
    for name in re.findall(r'"((?:nmnc|brain_eval|workflow)\.[\w.]+)"', smk.read_text(encoding="utf-8")):
        assert importlib.util.find_spec(name) is not None, name
