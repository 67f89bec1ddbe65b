"""The user's own code, named MODULE:FUNCTION: finding it, and telling when it changed."""

import hashlib
import inspect
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


def find_working_directory() -> None:
    """Let modules of the working directory be imported, as a script there could."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def module_files(reference: str) -> list[Path]:
    """Files that importing MODULE of MODULE:FUNCTION runs, its packages' first.

    Nothing is imported. [] where the module is not found, and for anything but MODULE:FUNCTION.
    """
    module, is_function, _ = reference.partition(":")
    if not is_function or module == "torchvision":
        return []
    files: list[Path] = []
    places = [str(Path.cwd()), *sys.path]
    for part in module.split("."):
        # By the last name alone: of a.b, without an __init__.py, Python looks up a among what is imported.
        found = PathFinder.find_spec(part, places)
        if found is None:
            return []
        if found.has_location and found.origin:
            files.append(Path(found.origin))
        places = list(found.submodule_search_locations or [])
    return files


def source_sha256(reference: str, built: Any) -> str:
    """Hex SHA-256 over the files of MODULE in MODULE:FUNCTION and those of the classes it built modules from.

    Args:
        reference: MODULE:FUNCTION, or a name of ours (then only the classes count).
        built: a torch module.
    """
    files = {inspect.getsourcefile(type(module)) for module in built.modules()}
    paths = {Path(file) for file in files if file} | set(module_files(reference))
    theirs = {path for path in paths if "site-packages" not in path.parts}
    digest = hashlib.sha256()
    for path in sorted(theirs):
        digest.update(path.name.encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()
