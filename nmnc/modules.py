"""The user's own code, named MODULE:FUNCTION: finding it, and telling when it changed."""

import hashlib
import inspect
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

#: Before the colon these name a library of networks, not a module of the user's.
LIBRARIES = ("torchvision", "timm")


def find_working_directory() -> None:
    """Let modules of the working directory be imported, as a script there could."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def module_files(reference: str) -> list[Path]:
    """Files that importing MODULE of MODULE:FUNCTION runs, its packages' first.

    Nothing is imported. [] where the module is not found, and for anything but MODULE:FUNCTION: torchvision:NAME
    and timm:NAME name a network of a library, whose version tells it.
    """
    module, is_function, _ = reference.partition(":")
    if not is_function or module in LIBRARIES:
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


def code_sha256(module: Any, reference: str = "") -> str:
    """Hex SHA-256 over a torch module's structure and the files that define its classes, torch's own left out.

    Args:
        module: a torch module.
        reference: the MODULE:FUNCTION that built it, whose files then count too.
    """
    files = set(module_files(reference))
    for kind in {type(part) for part in module.modules()}:
        if not kind.__module__.startswith("torch."):
            try:
                files.add(Path(inspect.getfile(kind)))
            except (TypeError, OSError):
                continue  # made on the spot or compiled: the structure must do
    digest = hashlib.sha256(repr(module).encode())
    for content in sorted(path.read_bytes() for path in files):
        digest.update(content)
    return digest.hexdigest()
