"""The one exception for mistakes a user can make, and how errors are put into words."""

import difflib
from collections.abc import Iterable

#: Characters of a word that is compared with known ones, and known ones that are listed.
MOST_COMPARED, MOST_LISTED = 100, 40


class UserError(Exception):
    """A mistake the user can fix. The message is one line: what, where, what to do.

    The command line prints it to stderr and ends with exit status 2.
    """


def in_one_line(error: Exception) -> str:
    """An error of somebody else's code: its kind and the first line of its text."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for a near miss, else '; known: A, B, C' (known words sorted)."""
    known = sorted(known)
    # The comparison takes the square of the length, and nobody misspells that much.
    close = difflib.get_close_matches(word, known, n=1) if len(word) <= MOST_COMPARED else []
    more = f" and {len(known) - MOST_LISTED} more" if len(known) > MOST_LISTED else ""
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known[:MOST_LISTED])}{more}"
