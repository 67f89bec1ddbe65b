"""However a command ends, it is one readable line and an exit status."""

import warnings
from collections.abc import Callable
from typing import Annotated

import pytest
import typer

from nmnc.command_line import finite, run_command
from nmnc.errors import UserError


def ended(app: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        run_command(app, "tool")
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("tool: ")
    return line


def deep() -> None:
    deep()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("a.yaml: wrong;\n fix it"), "tool: a.yaml: wrong; fix it"),
        (UserError("\x1b[2J\u202eevil\0"), r"tool: \x1b[2J\u202eevil\x00"),
        (UserError("x" * 10**6), "xxx ... xxx"),
        (MemoryError("8 GB"), "the memory of the machine is exhausted (8 GB); use fewer"),
        (PermissionError(13, "Permission denied", "a.csv"), "a.csv: Permission denied; fix that"),
        (UnicodeEncodeError("ascii", "\xe9", 0, 1, "no"), "cannot be written as ascii; set PYTHONUTF8=1"),
    ],
    ids=["lines", "characters", "length", "memory", "system", "encoding"],
)
def test_every_end_is_one_line(error: Exception, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    def app() -> None:
        raise error

    line = ended(app, capsys)
    assert words in line
    assert line.isprintable()
    assert len(line) < 5000


def test_warnings_of_libraries_wait_for_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(ends_well: bool) -> None:
        warnings.simplefilter("always")
        for _ in range(2):
            warnings.warn("odd\nfile", stacklevel=1)
        if not ends_well:
            raise UserError("wrong")

    command = typer.Typer()
    command.command()(lambda: app(True))
    monkeypatch.setattr("sys.argv", ["tool"])
    with pytest.raises(SystemExit) as caught:
        run_command(command, "tool")
    assert caught.value.code == 0
    assert capsys.readouterr().err == "tool: warning: UserWarning: odd file\n"
    assert ended(lambda: app(False), capsys) == "tool: wrong"


def test_depth_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nested too deep" in ended(deep, capsys)


def test_an_argument_that_is_not_text_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tool", "check", "--config", "\udce9.yaml"])
    assert r"the argument '\udce9.yaml' is not UTF-8 text; rename the file" in ended(lambda: None, capsys)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_options_are_finite_numbers(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = typer.Typer(rich_markup_mode=None)

    @command.command()
    def say(number: Annotated[float, typer.Option(min=0, callback=finite)]) -> None:
        raise AssertionError(number)

    monkeypatch.setattr("sys.argv", ["tool", "--number", value])
    with pytest.raises(SystemExit) as caught:
        run_command(command, "tool")
    assert caught.value.code == 2
    assert "Invalid value for" in capsys.readouterr().err
