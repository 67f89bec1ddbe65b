"""Record where a result comes from: versions, hardware, code."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "nmnc-brain",
    "torch",
    "torchvision",
    "numpy",
    "pydantic",
    "xarray",
    "pandas",
    "scipy",
    "snakemake",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of each installed package that results depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def hardware(device: torch.device) -> dict[str, Any]:
    """Return processor, cores, memory in GB, GPU (None on the CPU) and platform."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory, 1),
        "gpu": gpu,
        "platform": platform.platform(),
    }


def _processor() -> str:
    """Return the processor's name as the platform reports it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Return the commit of the project's checkout, with "+changes" when files differ; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
