"""One locked environment: the lock, pyproject.toml, environment.yml and what is installed agree."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.places import ROOT

#: Import name of each library that has to live in this one environment -> its name on the index.
TOGETHER = {
    "torch": "torch",
    "torchvision": "torchvision",
    "brainscore_vision": "brainscore-vision",
    "xarray": "xarray",
    "rsatoolbox": "rsatoolbox",
    "numpy": "numpy",
    "pandas": "pandas",
    "snakemake": "snakemake",
    "timm": "timm",
    "pytest": "pytest",
}


def blocks(lock: str) -> list[str]:
    """The lock's entries: a requirement line with the hash and comment lines below it."""
    return [block for block in re.split(r"\n(?=\S)", lock.rstrip("\n")) if block]


LOCK_TEXT = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LOCK = [(Requirement(block.split("\n")[0].rstrip(" \\")), block) for block in blocks(LOCK_TEXT)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def holds_here(requirement: Requirement) -> bool:
    """Whether a requirement is meant for this platform and Python."""
    return requirement.marker is None or requirement.marker.evaluate()


def pinned(requirement: Requirement) -> str:
    """The one version that a `name==version` requirement allows."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    assert not specifier.version.endswith("*")
    return specifier.version


#: Canonical name -> version locked for this platform and Python.
LOCKED = {canonicalize_name(r.name): pinned(r) for r, _ in LOCK if holds_here(r)}


def test_every_lock_entry_is_one_version_with_hashes() -> None:
    assert len(LOCK) > 100
    for requirement, block in LOCK:
        hashes = re.findall(r"--hash=(\S+)", block)
        assert pinned(requirement)
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), requirement


def test_lock_has_one_version_of_a_package_per_platform() -> None:
    here = [canonicalize_name(requirement.name) for requirement, _ in LOCK if holds_here(requirement)]
    assert sorted(here) == sorted(set(here))


def test_lock_names_no_index_and_no_file() -> None:
    assert "://" not in LOCK_TEXT
    assert " @ " not in LOCK_TEXT
    options = [line for line in LOCK_TEXT.splitlines() if re.match(r"\s*-", line) and "--hash=" not in line]
    assert options == []


def test_lock_serves_linux_and_macos() -> None:
    """The lock is universal: a Linux-only package carries a marker, torch does not."""
    markers = {canonicalize_name(requirement.name): requirement.marker for requirement, _ in LOCK}
    assert markers["torch"] is None
    darwin = {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin"}
    for name, marker in markers.items():
        if name.startswith("nvidia-") or name in {"triton", "cuda-toolkit"}:
            assert marker is not None, name
            assert not marker.evaluate(darwin), name


def test_lock_and_pyproject_agree() -> None:
    asked = {
        canonicalize_name(requirement.name)
        for requirement, block in LOCK
        if f"{PROJECT['name']} (pyproject.toml)" in block
    }
    assert asked == {canonicalize_name(requirement.name) for requirement in DIRECT}, "run `make lock`"
    for requirement in DIRECT:
        locked = LOCKED[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(locked, prereleases=True), f"{requirement}: {locked} is locked"


def test_lock_can_build_this_project() -> None:
    """`make env` installs the project without build isolation: with the locked setuptools."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    for requirement in map(Requirement, build["requires"]):
        assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])


def test_environment_yml_and_lock_agree() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["name"] == PROJECT["name"]
    python, pip, pins = conda["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert "3.11" in PROJECT["requires-python"]
    whole_lock, *direct = pins["pip"]
    assert whole_lock == "--requirement requirements.lock"
    expected = [f"{r.name}=={LOCKED[canonicalize_name(r.name)]}" for r in DIRECT]
    assert direct == expected, "write these lines below `pip:` in environment.yml:\n" + "\n".join(
        f"      - {line}" for line in expected
    )
    assert {canonicalize_name(name) for name in TOGETHER.values()} <= {
        canonicalize_name(Requirement(line).name) for line in direct
    }


def test_installed_versions_are_the_locked_ones() -> None:
    installed = {canonicalize_name(found.name): found.version for found in distributions()}
    wrong = {name: installed.get(name, "missing") for name in LOCKED if installed.get(name) != LOCKED[name]}
    assert wrong == {}, "run `make env`"


@pytest.mark.slow
def test_all_libraries_import_together(tmp_path: Path) -> None:
    """In one fresh process: what pip calls consistent can still fail at import (rsatoolbox 0.3, torchvision)."""
    script = (
        "import importlib, importlib.metadata, json\n"
        f"names = {TOGETHER!r}\n"
        "for module in names: importlib.import_module(module)\n"
        "print(json.dumps({name: importlib.metadata.version(name) for name in names.values()}))\n"
    )
    quiet = {
        "BS_INSTALL_DEPENDENCIES": "no",
        "RESULTCACHING_DISABLE": "1",
        "BRAINSCORE_HOME": str(tmp_path),
        "BRAINIO_HOME": str(tmp_path),
        "MPLCONFIGDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **quiet},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {name: LOCKED[name] for name in TOGETHER.values()}
