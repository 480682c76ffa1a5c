"""Time as a generator sees it: the machine's, or one that a test moves."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock."""

    def now_s(self) -> float:
        """Seconds since some start."""


class MachineClock:
    """``perf_counter_ns``."""

    def now_s(self) -> float:
        """Seconds since some start."""
        return time.perf_counter_ns() * 1e-9


class VirtualClock:
    """Stands still until it is moved. Whatever takes time in a simulation moves it."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """Seconds since it was made."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Something took that long."""
        self._now_s += seconds

    def wait_until(self, moment_s: float) -> None:
        """Wait for something that happens at ``moment_s``, or happened before."""
        self._now_s = max(self._now_s, moment_s)
