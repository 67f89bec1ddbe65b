"""The user's own code, named MODULE:FUNCTION: finding it, and telling when it changed."""

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from nmnc.errors import UserError


def find_working_directory() -> None:
    """Let modules of the working directory be imported, as a script there could."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def module_file(reference: str) -> Path | None:
    """The file of MODULE in MODULE:FUNCTION; None for anything else and for a module without a file.

    Raises:
        UserError: there is no such module.
    """
    module, colon, _ = reference.partition(":")
    if not colon or module == "torchvision":
        return None
    find_working_directory()
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise UserError(f"{reference}: {error}; is the folder of {module} on PYTHONPATH?") from None
    if found is None:
        raise UserError(f"{reference}: no module named {module!r}; is its folder on PYTHONPATH?")
    return Path(found.origin) if found.origin and Path(found.origin).is_file() else None


def source_sha256(reference: str, built: Any) -> str:
    """Hex SHA-256 over the file of MODULE in MODULE:FUNCTION and those of the classes it built modules from.

    Args:
        reference: MODULE:FUNCTION, or a name of ours (then only the classes count).
        built: a torch module.
    """
    files = {inspect.getsourcefile(type(module)) for module in built.modules()}
    own = module_file(reference)
    paths = {Path(file) for file in files if file} | ({own} if own else set())
    theirs = {path for path in paths if "site-packages" not in path.parts}
    digest = hashlib.sha256()
    for path in sorted(theirs):
        digest.update(path.name.encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()
