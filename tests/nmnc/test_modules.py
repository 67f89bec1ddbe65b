"""Which files of the user's a network is made of: found without running them."""

from pathlib import Path

import pytest

from nmnc.modules import module_files


@pytest.mark.parametrize(
    ("module", "files"),
    [
        ("alone", ["alone.py"]),
        ("outer.inner.net", ["outer/__init__.py", "outer/inner/net.py"]),
        ("outer.inner.nett", []),
        ("nowhere.net", []),
        ("alone.net", []),
        ("", []),
        ("sys", []),
    ],
)
def test_files_are_found_and_not_run(
    module: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("alone.py", "outer/__init__.py", "outer/inner/net.py"):  # outer.inner has no __init__.py
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit\n")
    assert module_files(f"{module}:function") == [tmp_path / file for file in files]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_of_networks_has_no_files_of_the_users(library: str) -> None:
    assert module_files(f"{library}:resnet18") == []
