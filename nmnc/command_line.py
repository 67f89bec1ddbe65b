"""Run a command so that errors of the user and of the system are one line and exit status 2."""

import errno
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

import typer

from nmnc.errors import UserError, in_one_line
from nmnc.interruption import Interrupted

#: Error numbers of a full disk, an exceeded quota and a file that is too large.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: Longest error line.
MOST_CHARACTERS = 4000


def finite(value: float) -> float:
    """Return the value of a float option, refusing NaN and infinity, which click's ranges accept."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number; set a finite one")
    return value


def run_command(app: Callable[[], None], program: str) -> None:
    """Run a command-line application.

    A UserError or an OSError becomes one line on stderr and exit status 2. A training run that was stopped by SIGTERM
    or Ctrl-C ends with one line and the status 128 + the signal's number.

    Args:
        app: function that reads sys.argv and runs the command.
        program: name that every message starts with.
    """
    with warnings.catch_warnings():
        # Pillow warns about a file's metadata; what it cannot read is an error anyway.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        # Warnings of other libraries are printed at the end, one line each; next to an error they would obscure it.
        pending: dict[str, None] = {}
        warnings.showwarning = lambda message, category, *location: pending.setdefault(
            f"{category.__name__}: {message}"
        )
        try:
            _refuse_bytes(sys.argv[1:])
            app()
        except SystemExit as exit_request:
            # Typer ends every command with SystemExit. Raised by other code, it would end the command as if complete.
            if not _raised_by(exit_request).startswith(("typer.", "click.")):
                _end(program, f"your code ended the program ({in_one_line(exit_request)}); remove that call", 2)
            for warning in pending:
                print(f"{program}: warning: {_readable(warning)}", file=sys.stderr)
            raise
        except UserError as error:
            _end(program, str(error), 2)
        except Interrupted as interrupted:
            _end(program, str(interrupted), interrupted.status)
        except OSError as error:
            _end(program, system_error(error), 2)
        except UnicodeEncodeError as error:
            _end(program, f"{error.object[:80]!a} cannot be written as {error.encoding}; set PYTHONUTF8=1", 2)
        except RecursionError:
            _end(program, "the input is nested too deep; flatten the file or the network", 2)
        except MemoryError as error:
            _end(
                program,
                f"the memory of the machine is exhausted ({error}); use fewer or smaller images or networks",
                2,
            )


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """Raise UserError for an argument that is not UTF-8, because output files could not name it."""
    for argument in arguments:
        if any(0xD800 <= ord(mark) < 0xE000 for mark in argument):
            raise UserError(f"the argument {argument!a} is not UTF-8 text; rename the file, or fix the argument")


def _raised_by(error: BaseException) -> str:
    """Return the name of the module whose code raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", ""))


def _end(program: str, message: str, status: int) -> None:
    print(f"{program}: {_readable(message)}", file=sys.stderr)
    sys.exit(status)


def _readable(message: str) -> str:
    """Return the message as one line without characters that move the cursor or hide others."""
    line = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in " ".join(message.split()))
    if len(line) > MOST_CHARACTERS:
        line = f"{line[: MOST_CHARACTERS // 2]} ... {line[-MOST_CHARACTERS // 2 :]}"
    return line


def system_error(error: OSError) -> str:
    """Return an error of the system as one line: the file, the reason, what to do."""
    if error.strerror is None:
        return f"{' '.join(str(error).split())}; fix that and run the same command again"
    place = f"{error.filename}: " if error.filename else ""
    advice = "make room there" if error.errno in FULL else "fix that"
    return f"{place}{error.strerror}; {advice} and run the same command again"
