"""The state that a killed run goes on from: when it is written, and how it is taken over."""

import signal
import time
from pathlib import Path
from typing import Any, Protocol

from nmnc.errors import UserError, in_one_line
from nmnc.interruption import Interrupted, Interruption
from nmnc.training.checkpoint import load_state, save_state


class Resumable(Protocol):
    """What goes on from plain data and tensors as if it had never been away."""

    def state_dict(self) -> dict[str, Any]:
        """All that is needed."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""


class StateFile:
    """One run's state on disk.

    Attributes:
        path: the file; may not be there yet.
    """

    def __init__(self, path: Path, minutes: float | None, interruption: Interruption) -> None:
        """Ask for the state every so many `minutes` (None: never) and when `interruption` came."""
        self.path, self.minutes, self.interruption = path, minutes, interruption
        self.written = time.monotonic()

    def load(self, run: Resumable) -> None:
        """Let `run` go on from the file, where there is one; UserError where it is damaged or not of this run."""
        state = load_state(self.path)
        if state is None:
            return
        try:
            owner = state.pop("run", self.path.parent.name)  # states of earlier versions do not say
            if owner != self.path.parent.name:
                raise UserError(f"{self.path}: the state of another run, {owner}; delete it and rerun")
            run.load_state_dict(state)
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path}: not of this run ({in_one_line(error)}); delete it and rerun") from None

    def write(self, run: Resumable) -> None:
        """Write the state of `run` in one move."""
        save_state(self.path, {"run": self.path.parent.name, **run.state_dict()})
        self.written = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write, within an epoch."""
        long_ago = self.minutes is not None and time.monotonic() - self.written >= 60 * self.minutes
        return long_ago or self.interruption.number is not None

    def end_if_interrupted(self, place: str) -> None:
        """Interrupted when a signal asked the process to end; `place` says how far the run came."""
        number = self.interruption.number
        if number is not None:
            name = signal.Signals(number).name
            raise Interrupted(f"training: stopped by {name} at {place}; the same command goes on from there", number)
