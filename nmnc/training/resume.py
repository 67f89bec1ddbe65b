"""The state file from which an interrupted run resumes."""

import signal
import time
from pathlib import Path
from typing import Any, Protocol

from nmnc.errors import UserError, in_one_line
from nmnc.interruption import Interrupted, Interruption
from nmnc.training.checkpoint import load_state, save_state


class Resumable(Protocol):
    """Anything whose state can be saved as tensors and plain data and restored bit for bit."""

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class StateFile:
    """One run's state on disk.

    Attributes:
        path: the file, which need not exist yet.
    """

    def __init__(self, path: Path, minutes: float | None, interruption: Interruption) -> None:
        """Set when the state is due: every `minutes` (None: never) and when `interruption` has a signal."""
        self.path, self.minutes, self.interruption = path, minutes, interruption
        self.written = time.monotonic()

    def load(self, run: Resumable) -> None:
        """Restore `run` from the file if it exists; UserError if the file is damaged or of another run."""
        state = load_state(self.path)
        if state is None:
            return
        try:
            owner = state.pop("run", self.path.parent.name)  # states of earlier versions lack this key
            if owner != self.path.parent.name:
                raise UserError(f"{self.path}: the state of another run, {owner}; delete it and rerun")
            run.load_state_dict(state)
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path}: not a state of this run ({in_one_line(error)}); delete it and rerun"
            ) from None

    def write(self, run: Resumable) -> None:
        """Write the state of `run` atomically."""
        save_state(self.path, {"run": self.path.parent.name, **run.state_dict()})
        self.written = time.monotonic()

    def is_due(self) -> bool:
        """Return whether the state has to be written before the epoch ends."""
        long_ago = self.minutes is not None and time.monotonic() - self.written >= 60 * self.minutes
        return long_ago or self.interruption.number is not None

    def end_if_interrupted(self, place: str) -> None:
        """Raise Interrupted if a signal asked the process to end; `place` says how far the run has come."""
        number = self.interruption.number
        if number is not None:
            name = signal.Signals(number).name
            raise Interrupted(f"training: stopped by {name} at {place}; run the same command to resume", number)
