"""The rules of the house, read from the source: who may import whom, sizes, docstrings, safe loading."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nmnc", "brain_eval")
#: Folders whose Python runs on a user's data.
RUNNING = (*PACKAGES, "workflow", "bench", "examples")


def python_files(*folders: str) -> list[Path]:
    """Every Python file below these folders of the project, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def line_of(path: Path, node: ast.AST) -> str:
    """`folder/file.py:12`, for messages."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(node: ast.expr) -> str:
    """`torch.load` for the expression `torch.load`; '' for what is no dotted name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword of a call; None where it is not given."""
    for given in call.keywords:
        if given.arg == name:
            return given.value.value if isinstance(given.value, ast.Constant) else given.value
    return None


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, nodes: Iterator[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Absolute names that import statements (and import_module("...")) ask for; `from a import b` as a.b."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            yield from ((str(name.value), node) for name in node.args[:1] if isinstance(name, ast.Constant))


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run when a module is imported: not in functions, not below TYPE_CHECKING."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def forbidden_imports(paths: list[Path], rooms: set[str]) -> list[str]:
    """Imports of these top-level packages, also within functions, each with its line."""
    return [
        f"{line_of(path, node)} imports {name}"
        for path in paths
        for name, node in imported(path, ast.walk(tree_of(path)))
        if name.split(".")[0] in rooms
    ]


def pickle_uses(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Uses of pickle, but for its exceptions and for an Unpickler with a find_class of its own, which refuses."""
    nodes = list(ast.walk(tree_of(path)))
    refusing = {
        id(base)
        for node in nodes
        if isinstance(node, ast.ClassDef)
        and any(isinstance(part, ast.FunctionDef) and part.name == "find_class" for part in node.body)
        for base in node.bases
    }
    used = [(dotted(node), node) for node in nodes if isinstance(node, ast.Attribute) and id(node) not in refusing]
    for name, node in (*used, *imported(path, iter(nodes))):
        if re.fullmatch(r"pickle\..*(?<!Error)", name):
            yield name, node


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """One circle of a directed graph as a list of its nodes, the first repeated at the end; [] for none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        found = next((c for n in sorted(edges.get(node, ())) if (c := visit(n, [*path, node]))), [])
        done.add(node)
        return found

    return next((found for node in sorted(edges) if (found := visit(node, []))), [])


def import_edges() -> dict[str, set[str]]:
    """Module -> modules of this project that it imports at import time."""
    paths = python_files(*PACKAGES)
    modules = {module_name(path) for path in paths}
    edges: dict[str, set[str]] = {}
    for path in paths:
        asked = (name for name, _ in imported(path, at_import(tree_of(path))))
        nearest = (name if name in modules else name.rpartition(".")[0] for name in asked)
        edges[module_name(path)] = {name for name in nearest if name in modules}
    return edges


def project_files() -> list[Path]:
    """Every text file that git tracks or would add, with its text readable as UTF-8."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git or not its checkout: which files belong to the project is not known here")
    # The checkout may be another user's.
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=True,
    ).stdout  # fmt: skip
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def found_in(files: list[Path], pattern: str) -> list[str]:
    """`file:line: text` of every match in these files; binary files are passed over."""
    hits = []
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        hits += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(lines, 1)
            if re.search(pattern, line)
        ]
    return hits


def test_nmnc_knows_nothing_of_brains_or_workflow() -> None:
    assert forbidden_imports(python_files("nmnc"), {"brain_eval", "workflow", "snakemake"}) == []


#: What both packages need once: errors, digests, files, reading, the command line, and the only decoder of images.
SHARED = ("nmnc.errors", "nmnc.digests", "nmnc.files", "nmnc.reading", "nmnc.command_line", "nmnc.images")


def test_brain_eval_meets_nmnc_in_models_and_in_what_both_need() -> None:
    others = [path for path in python_files("brain_eval") if path != ROOT / "brain_eval" / "models.py"]
    assert [hit for hit in forbidden_imports(others, {"nmnc"}) if not hit.split()[-1].startswith(SHARED)] == []
    assert forbidden_imports(python_files("brain_eval"), {"workflow"}) == []


def test_no_import_runs_in_a_circle() -> None:
    assert cycle(import_edges()) == []


def test_circles_are_seen() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"a"}}) == ["a", "a"]
    assert cycle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_no_source_file_is_over_400_lines_nor_a_test_over_500() -> None:
    sources = [p for p in project_files() if p.suffix in {".py", ".smk"} or p.name in {"Snakefile", "Makefile"}]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in sources}
    assert {
        name: length for name, length in lengths.items() if length > (500 if name.startswith("tests/") else 400)
    } == {}


def test_nothing_is_unpickled() -> None:
    unsafe = forbidden_imports(python_files(*RUNNING), {"cloudpickle", "dill", "joblib", "shelve"})
    for path in python_files(*RUNNING):
        unsafe += [f"{line_of(path, node)} uses {name}" for name, node in pickle_uses(path)]
    for path in python_files(*RUNNING, "tests"):
        for call in calls(path):
            name = dotted(call.func)
            if name.endswith("torch.load") and keyword(call, "weights_only") is not True:
                unsafe.append(f"{line_of(path, call)} calls torch.load without weights_only=True")
            if ROOT / "tests" in path.parents:
                continue
            if keyword(call, "allow_pickle") not in (None, False) or name.endswith("read_pickle"):
                unsafe.append(f"{line_of(path, call)} unpickles")
            if name in {"np.load", "numpy.load"} and keyword(call, "allow_pickle") is not False:
                unsafe.append(f"{line_of(path, call)} calls {name} without allow_pickle=False")
    assert unsafe == []


def test_only_nmnc_images_opens_pictures_of_the_user() -> None:
    """The two others read figures that matplotlib wrote for the report."""
    openers = {
        str(path.relative_to(ROOT))
        for path in python_files(*PACKAGES, "workflow")
        for node in ast.walk(tree_of(path))
        if dotted(node) in {"Image.open", "PIL.Image.open", "Image.OPEN"} and isinstance(node, ast.Attribute)
    }
    assert openers == {"nmnc/images.py", "brain_eval/figures/style.py", "brain_eval/report/__init__.py"}


def test_public_functions_and_classes_have_docstrings() -> None:
    silent = []
    for path in python_files(*PACKAGES):
        tree = tree_of(path)
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for owner in (tree, *classes):
            if isinstance(owner, ast.ClassDef) and owner.name.startswith("_"):
                continue
            for node in owner.body:
                public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
                if public and not ast.get_docstring(node):
                    silent.append(f"{line_of(path, node)} {node.name}")
    assert silent == []


def test_error_tests_say_what_the_user_reads() -> None:
    mute = [
        f"{line_of(path, call)} pytest.raises(UserError) without match="
        for path in python_files("tests")
        for call in calls(path)
        if dotted(call.func).endswith("pytest.raises")
        and any(dotted(argument).endswith("UserError") for argument in call.args)
        and keyword(call, "match") is None
    ]
    assert mute == []


def test_tests_are_at_least_three_fifths_of_the_source() -> None:
    def written(*folders: str) -> int:
        return sum(
            bool(line.strip())
            for path in python_files(*folders)
            for line in path.read_text(encoding="utf-8").splitlines()
        )

    source, tests = written(*PACKAGES, "workflow"), written("tests")
    assert tests >= 0.6 * source, f"{tests} lines of tests for {source} lines of source"


# The words looked for are put together here, so that this file does not find itself.
MACHINE = "|".join([r"(?<![\w.])/(" + "work|far" + r"m|root|tmp|opt/pyp" + r"i)/", r"\bfar" + r"m-[a-z]+"])
INDEX = "|".join([r"pyp" + r"i\.org", "python" + "hosted", r"anacon" + r"da\.org", r"registry\.np" + "mjs"])
BESIDE = r"\.\./sha" + "red"


def test_no_file_names_this_machine() -> None:
    assert found_in(project_files(), MACHINE) == []


def test_no_file_names_a_package_index() -> None:
    assert found_in(project_files(), INDEX) == []


def test_only_ci_looks_beside_the_checkout() -> None:
    hits = found_in(project_files(), BESIDE)
    assert [hit for hit in hits if not hit.startswith(".ci/run:")] == []


def test_the_patterns_find_what_they_should() -> None:
    for path in ("/wo" + "rk/main", "in /tm" + "p/x", "'/ro" + "ot/y'"):
        assert re.search(MACHINE, path)
    for path in ("frame/wo" + "rk/x", "docs/tmp/x", "./wo" + "rk/", "/workflow/"):
        assert not re.search(MACHINE, path)
    assert re.search(INDEX, "https://pyp" + "i.org/simple")


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
