"""Find the source files that a command depends on, by following imports."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGES = ("nmnc", "brain_eval", "workflow")
#: Root folder of the project, the parent of the packages.
ROOT = Path(__file__).resolve().parents[2]


def closure(root: Path, modules: Iterable[str]) -> list[str]:
    """Return the paths, relative to `root`, of `modules` and of all project modules they import anywhere.

    Templates belong to the module workflow.analysis.report.
    """
    seen: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _path(root, name)
        if path is None or name in seen:
            continue
        seen[name] = path
        # Importing a.b.c runs a and a.b first.
        waiting += [*_imports(path), name.rpartition(".")[0]]
    files = set(seen.values())
    if "workflow.analysis.report" in seen:
        files |= set((root / "workflow" / "analysis" / "templates").glob("*"))
    return sorted(path.relative_to(root).as_posix() for path in files)


@cache
def code_digest(*modules: str) -> str:
    """Return the hex SHA-256 of all project sources that these modules depend on, as a key for caches."""
    digest = hashlib.sha256()
    for path in closure(ROOT, modules):
        digest.update(path.encode() + b"\n" + (ROOT / path).read_bytes())
    return digest.hexdigest()


def _path(root: Path, module: str) -> Path | None:
    """Return the file of a project module, None for any other module."""
    if module.split(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(path: Path) -> list[str]:
    """Return the module names that a file may import: a and a.b for `from a import b`."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
