"""Being asked to leave: by a signal, by a file, or by the clock; read at step boundaries by all ranks together.

Which of them it was decides nothing: why a run had to leave is for the launcher to say, from the scheduler's facts.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType

from launchers.environment import LEAVE_AT
from results.errors import RunError
from results.store import read_json_or

#: The stop file is looked for at most this often: on a network file system looking costs milliseconds.
LOOK_EVERY_S = 1.0


class LeaveError(RunError):
    """The run was asked to leave and has saved a checkpoint."""


class LeaveFlag:
    """Set by SIGTERM, SIGINT, SIGUSR1 or SIGUSR2, by a stop file, or by the clock at ``$TENFOLD_LEAVE_AT`` (epoch seconds).

    Attributes:
        reason: why, empty as long as nobody asks.
        stop_file: set on the rank that looks for one.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.stop_file: Path | None = None
        self._look_at = 0.0
        self._leave_at = float(os.environ.get(LEAVE_AT) or "inf")

    def install(self) -> None:
        """Handle the signals in this process. The handler only sets a flag."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name

    def __bool__(self) -> bool:
        if not self.reason and time.time() >= self._leave_at:
            self.reason = "the time limit is near"
        if not self.reason and self.stop_file is not None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_EVERY_S
            if self.stop_file.exists():
                self.reason = str(read_json_or(self.stop_file, {}).get("reason") or "a stop file")
        return bool(self.reason)
