"""The most memory that a process has held."""

import resource
import sys
from pathlib import Path


def peak_resident() -> int:
    """Most bytes that this process has held; on Linux from /proc, since getrusage counts the parent's with it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
