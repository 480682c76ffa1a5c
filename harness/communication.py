"""Measures the time this rank spends inside collectives, by timing the calls and the waits for their handles.

On gloo a collective returns when it is done (or when its handle is waited for), so the sum is the rank's communication time,
waiting for slower ranks included. On NCCL the call only enqueues work: the time is then unknown and said to be so.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

_COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "broadcast",
    "reduce",
    "all_to_all",
    "all_to_all_single",
    "all_gather_coalesced",
    "send",
    "recv",
)


class CommunicationClock:
    """Installed once per process, before an engine binds the functions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def install(self) -> None:
        """Wrap the collectives of :mod:`torch.distributed`."""
        import torch.distributed as dist

        for name in _COLLECTIVES:
            if hasattr(dist, name):
                setattr(dist, name, self._timed(getattr(dist, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1  # a collective built from others is counted once
            start = time.perf_counter()
            try:
                work = function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start
            return _TimedWork(work, self) if hasattr(work, "wait") else work

        return call


class _TimedWork:
    """A handle whose waiting is counted."""

    def __init__(self, work: Any, clock: CommunicationClock) -> None:
        self._work, self._clock = work, clock

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._work.wait(*args, **kwargs)
        finally:
            self._clock.seconds += time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
