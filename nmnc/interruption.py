"""Handle SIGTERM and Ctrl-C by finishing and saving the current step before the process ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A signal ended a run, whose state is saved. The message is one line.

    Attributes:
        status: exit status of the process, 128 + the signal's number, as for a process killed by the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class Interruption:
    """Record of the signal that asked the process to end.

    Attributes:
        number: number of the signal; None if there was none.
    """

    number: int | None = None

    def remember(self, number: int, frame: FrameType | None) -> None:
        """Handle the first signal by remembering it; a second one ends the process at once."""
        self.number = number
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Context manager: record SIGTERM and SIGINT in the yielded object instead of ending the process.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption.remember) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            # None means a handler that was not set from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
