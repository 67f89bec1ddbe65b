"""How a command ends: a mistake of the user's, and whatever the system refuses, is one line and exit status 2."""

import errno
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

import typer

from nmnc.errors import UserError, in_one_line
from nmnc.interruption import Interrupted

#: No space left, quota exceeded, and the limit of a file's size.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: Of one line of error.
MOST_CHARACTERS = 4000


def finite(value: float) -> float:
    """Callback of options that are floats: click's ranges let NaN pass."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number that can be used; give a finite one")
    return value


def run_command(app: Callable[[], None], program: str) -> None:
    """Run a command-line application.

    A UserError or an OSError is one line on stderr and exit status 2. A training that SIGTERM or Ctrl-C ended says
    so in one line; its status is 128 + the signal's number.

    Args:
        app: reads sys.argv and runs the command.
        program: begins every message.
    """
    with warnings.catch_warnings():
        # What Pillow finds odd about a file's own notes; what it cannot read is an error.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        # What other libraries warn of is told at the end, a line each; beside an error it would hide what counts.
        held: dict[str, None] = {}
        warnings.showwarning = lambda message, category, *where: held.setdefault(f"{category.__name__}: {message}")
        try:
            _refuse_bytes(sys.argv[1:])
            app()
        except SystemExit as ended:
            # Typer ends every command so; anyone else who does would end it as if all had been written.
            if not _raised_by(ended).startswith(("typer.", "click.")):
                _end(program, f"code of yours ended the program ({in_one_line(ended)}); remove that", 2)
            for warning in held:
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
            _end(program, "something is nested too deep to be worked on; flatten the file or the network", 2)
        except MemoryError as error:
            _end(
                program,
                f"the memory of the machine is exhausted ({error}); take fewer or smaller images or networks",
                2,
            )


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """UserError for an argument that is not text: no file that we write could name it."""
    for argument in arguments:
        if any(0xD800 <= ord(mark) < 0xE000 for mark in argument):
            raise UserError(f"the argument {argument!a} is not UTF-8 text; rename the file, or fix the argument")


def _raised_by(error: BaseException) -> str:
    """Name of the module whose code raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", ""))


def _end(program: str, message: str, status: int) -> None:
    print(f"{program}: {_readable(message)}", file=sys.stderr)
    sys.exit(status)


def _readable(message: str) -> str:
    """One line in which no character can move the cursor or hide others."""
    line = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in " ".join(message.split()))
    if len(line) > MOST_CHARACTERS:
        line = f"{line[: MOST_CHARACTERS // 2]} ... {line[-MOST_CHARACTERS // 2 :]}"
    return line


def system_error(error: OSError) -> str:
    """Return what the system refused in one line: the file, the reason, what to do."""
    if error.strerror is None:
        return f"{' '.join(str(error).split())}; fix that and run the same command again"
    where = f"{error.filename}: " if error.filename else ""
    advice = "make room there" if error.errno in FULL else "fix that"
    return f"{where}{error.strerror}; {advice} and run the same command again"
