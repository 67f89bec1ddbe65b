"""The user's code: its files are found without running them, and running it ends and changes nothing else."""

import hashlib
import importlib
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from nmnc.command_line import run_command
from nmnc.errors import UserError
from nmnc.modules import module_files
from nmnc.networks import Network, build_network


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


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """A function that writes a module of the user's into the working directory and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(at_import: str, in_function: str) -> str:
        name = f"users_{hashlib.sha256(f'{at_import}{in_function}'.encode()).hexdigest()[:8]}"
        head = "import os, random, sys\nimport numpy as np\nimport torch\nfrom torch import nn\n"
        stages = "nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), nn.Sequential(nn.ReLU(), nn.Linear(5, 3))"
        function = f"def net(shape, classes):\n    {in_function}\n    return nn.Sequential({stages})\n"
        text = f"{head}{at_import}\n{function}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    return write


def build(name: str) -> Network:
    return build_network(f"{name}:net", (3, 4, 4), 3, {})


@pytest.mark.parametrize(
    "code",
    [
        "sys.exit(0)",
        "sys.exit('bye')",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "raise GeneratorExit",
        "raise type('Own', (BaseException,), {})('two\\nlines')",
        "raise type('Own', (Exception,), {'__str__': lambda self: 1 / 0})()",
        "raise RecursionError",
        "1 / 0",
    ],
)
@pytest.mark.parametrize("place", ["import", "function"])
def test_nothing_that_users_code_raises_ends_the_program(
    code: str, place: str, written: Callable[[str, str], str]
) -> None:
    name = written(code, "") if place == "import" else written("", code)
    words = f"importing {name} failed: .*on PYTHONPATH" if place == "import" else "cannot be built: "
    with pytest.raises(UserError, match=words) as caught:
        build(name)
    assert "\n" not in str(caught.value)


SIDE_EFFECTS = {
    "folder": "os.chdir('/')",
    "number format": "torch.set_default_dtype(torch.float64)",
    "threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "gradients": "torch.set_grad_enabled(False)",
    "inference": "torch.inference_mode().__enter__()",
    "device": "torch.set_default_device('meta')",
    "products": "torch.set_float32_matmul_precision('medium')",
    "autocast": "torch.set_autocast_enabled('cpu', True)",
    "small numbers": "torch.set_flush_denormal(True)",
    "cuDNN": "torch.backends.cudnn.benchmark = True",
    "oneDNN": "torch.backends.mkldnn.enabled = False",
    "numbers of Python": "random.seed(1); random.random()",
    "numbers of numpy": "np.random.seed(1)",
}


def settings() -> tuple[object, ...]:
    with torch.random.fork_rng(devices=[]):
        drawn = torch.rand(2).tolist()
    return (
        Path.cwd(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.get_default_device(),
        torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu"), (torch.tensor(1e-42) * 1).item(),
        torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled, random.getstate(),
        np.random.get_state()[1].tolist(), drawn,  # noqa: NPY002
    )  # fmt: skip


@pytest.mark.parametrize("effect", SIDE_EFFECTS)
def test_users_code_changes_nothing_of_the_process(effect: str, written: Callable[[str, str], str]) -> None:
    before = settings()
    for name in (written(SIDE_EFFECTS[effect], ""), written("", SIDE_EFFECTS[effect])):
        state = torch.get_rng_state()
        with suppress(UserError):  # weights on another device, say
            build(name)
        torch.set_rng_state(state)
        assert settings() == before


def test_when_a_module_is_imported_decides_no_random_number(written: Callable[[str, str], str]) -> None:
    name = written("torch.rand(5)\ntorch.manual_seed(7)", "")
    weights = []
    for _ in range(2):  # imported by the first call
        torch.manual_seed(3)
        weights.append(build(name).stages[1][1].weight)
    assert torch.equal(*weights)


def test_numbers_of_numpy_and_python_follow_the_seed(written: Callable[[str, str], str]) -> None:
    name = written("seen = []", "seen.append((random.random(), np.random.rand()))")
    for seed in (3, 4, 3):
        torch.manual_seed(seed)
        build(name)
    first, second, third = sys.modules[name].seen
    assert first == third != second


def test_a_function_that_sets_the_seed_is_refused(written: Callable[[str, str], str]) -> None:
    torch.manual_seed(3)
    with pytest.raises(UserError, match="sets torch's seed, so that every seed of a study would be the same"):
        build(written("", "torch.manual_seed(0)"))


def test_what_users_code_prints_is_no_output_of_the_command(
    written: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    build(written("print('importing')", "print('building')"))
    assert capsys.readouterr() == ("", "importing\nbuilding\n")


def test_code_that_ends_the_program_while_it_computes_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def compute() -> None:
        sys.exit(0)

    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit, match="2"):
        run_command(app, "program")
    assert "program: your code ended the program (SystemExit: 0); remove that call" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--unknown"], 2), ([], 0)])
def test_commands_end_as_typer_ends_them(
    arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(lambda: None)
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit, match=str(status)):
        run_command(app, "program")
    assert "your code" not in capsys.readouterr().err
