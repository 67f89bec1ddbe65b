"""Record which Snakemake process locked a study's results, and clear locks of dead processes."""

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from nmnc.errors import UserError
from nmnc.files.reading import read_object
from nmnc.files.writing import write_text

#: Longest file name; longer ones are replaced by their hash.
LONGEST_NAME = 200


def owner_file(results: Path) -> Path:
    """Return the file that records the last process to lock a study's results."""
    name = quote(results.as_posix(), safe="")
    if len(name) > LONGEST_NAME:
        name = hashlib.sha256(name.encode()).hexdigest()
    return Path(".snakemake/nmnc-brain") / f"owner-{name}.json"


def remember_owner(results: Path) -> None:
    """Record this process as the owner of the lock."""
    write_text(owner_file(results), json.dumps(owner_of(os.getpid())) + "\n")


def owner_of(pid: int) -> dict[str, Any]:
    """Return what identifies a running process, independently of the clock; psutil.NoSuchProcess if it has ended."""
    owner: dict[str, Any] = {"host": platform.node(), "pid": pid}
    if not Path("/proc/self/stat").exists():
        return owner | {"created": psutil.Process(pid).create_time()}
    try:
        # After the process name, which may contain brackets, come the state and, 19 fields later, the start time.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    if fields[0] in "ZX":
        raise psutil.NoSuchProcess(pid)
    # Ticks count from the boot, independently of the clock; process ids are specific to a container.
    return owner | {"boot": _boot(), "ticks": int(fields[19]), "namespace": _namespace()}


def clear_stale_lock(results: Path) -> None:
    """Remove Snakemake's lock of a study's results if the process that held it is known and has ended.

    Locks of other studies are left alone: their Snakemake may run in this folder at the same time.
    """
    if owner_file(results).exists() and not _may_live(owner_file(results)):
        for lock in locks(results):
            lock.unlink(missing_ok=True)


def locks(results: Path) -> list[Path]:
    """Snakemake's lock files (one path per line) that name files of a study's results."""
    files = Path(".snakemake/locks").glob("*.lock")
    return [file for file in files if f"\n{results.as_posix()}/" in "\n" + _text(file)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""  # its Snakemake has just ended


def _may_live(path: Path) -> bool:
    """Return whether the process may still be running; True if that cannot be determined."""
    try:
        owner = read_object(path, {"host": str, "pid": int}, "delete it")
    except UserError:
        return True
    if owner["host"] != platform.node() or not 0 < owner["pid"] < 2**31:
        return True
    if owner.get("boot", _boot()) != _boot():
        return False
    if owner.get("namespace", _namespace()) != _namespace():
        return True
    try:
        current = owner_of(owner["pid"])
    except psutil.NoSuchProcess:
        return False
    # Files of earlier versions contain only the id.
    return all(owner.get(key, current[key]) == current[key] for key in ("ticks", "created") if key in current)


def _boot() -> str | None:
    """Return an id that is new at every boot (Linux)."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="ascii").strip() if path.exists() else None


def _namespace() -> str | None:
    """Return an id that is new for every container (Linux)."""
    path = Path("/proc/self/ns/pid")
    return str(path.readlink()) if path.is_symlink() else None
