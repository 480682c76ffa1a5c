"""Being asked to leave: a signal handler that only sets a flag, read at step boundaries by all ranks together."""

from __future__ import annotations

import signal
from types import FrameType

from results.errors import RunError


class LeaveError(RunError):
    """The run was asked to leave and has saved a checkpoint."""


class LeaveFlag:
    """Set by SIGTERM, SIGINT, SIGUSR1 or SIGUSR2."""

    def __init__(self) -> None:
        self.signal_name = ""

    def install(self) -> None:
        """Handle the signals in this process."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name

    def __bool__(self) -> bool:
        return bool(self.signal_name)
