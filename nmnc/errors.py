"""The exception for mistakes a user can fix, and helpers for one-line messages."""

import difflib
from collections.abc import Iterable

#: Longest name that is compared with the known names, and most known names listed in an error.
MOST_COMPARED, MOST_LISTED = 100, 40


class UserError(Exception):
    """A mistake the user can fix. The message is one line: what, where, what to do.

    The command line prints it to stderr and ends with exit status 2.
    """


def in_one_line(error: BaseException, longest: int = 400) -> str:
    """Return an error of foreign code as one line: its type and text, at most `longest` characters."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own __str__ fails
        text = ""
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= longest else f"{line[:longest]}..."


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return '; did you mean X?' for a near miss, else '; ' and `otherwise`, else '; known: A, B, C', sorted."""
    known = sorted(known)
    # The comparison takes quadratic time, and a longer name is hardly a misspelling.
    close = difflib.get_close_matches(name, known, n=1) if len(name) <= MOST_COMPARED else []
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(known) - MOST_LISTED} more" if len(known) > MOST_LISTED else ""
    return f"; {otherwise or 'known: ' + ', '.join(known[:MOST_LISTED]) + more}"
