"""The one exception for mistakes a user can make, and how errors are put into words."""

import difflib
from collections.abc import Iterable

#: Characters of a word that is compared with known ones, and known ones that are listed.
MOST_COMPARED, MOST_LISTED = 100, 40


class UserError(Exception):
    """A mistake the user can fix. The message is one line: what, where, what to do.

    The command line prints it to stderr and ends with exit status 2.
    """


def in_one_line(error: BaseException, longest: int = 400) -> str:
    """Return an error of somebody else's code in one line: its kind and its text, at most so many characters."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own __str__ fails
        text = ""
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= longest else f"{line[:longest]}..."


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """'; did you mean X?' for a near miss, else '; ' and `otherwise`, else '; known: A, B, C' (known words sorted)."""
    known = sorted(known)
    # The comparison takes the square of the length, and nobody misspells that much.
    close = difflib.get_close_matches(word, known, n=1) if len(word) <= MOST_COMPARED else []
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(known) - MOST_LISTED} more" if len(known) > MOST_LISTED else ""
    return f"; {otherwise or 'known: ' + ', '.join(known[:MOST_LISTED]) + more}"
