"""How a command ends: a mistake of the user's, and whatever the system refuses, is one line and exit status 2."""

import errno
import sys
from collections.abc import Callable

from nmnc.errors import UserError
from nmnc.interruption import Interrupted

#: No space left, quota exceeded, and the limit of a file's size.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run_command(app: Callable[[], None], program: str) -> None:
    """Run a command-line application.

    A UserError or an OSError is one line on stderr and exit status 2. A training that SIGTERM or Ctrl-C ended says
    so in one line; its status is 128 + the signal's number.

    Args:
        app: reads sys.argv and runs the command.
        program: stands in front of every message.
    """
    try:
        app()
    except UserError as error:
        _end(program, str(error), 2)
    except Interrupted as interrupted:
        _end(program, str(interrupted), interrupted.status)
    except OSError as error:
        _end(program, system_error(error), 2)


def _end(program: str, message: str, status: int) -> None:
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def system_error(error: OSError) -> str:
    """Return what the system refused in one line: the file, the reason, what to do."""
    if error.strerror is None:
        return f"{' '.join(str(error).split())}; fix that and run the same command again"
    where = f"{error.filename}: " if error.filename else ""
    advice = "make room there" if error.errno in FULL else "fix that"
    return f"{where}{error.strerror}; {advice} and run the same command again"
