"""Hands out the micro-batches of each step: read in a background thread while the present step computes, or, where reading is
cheap, at once: a thread that takes the interpreter's lock costs the step it runs beside more than reading ahead saves."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from models.system import Batch, Draw, TrainData

#: Reading that takes less than this is done at once.
INLINE_BELOW_S = 1e-3


class Loader:
    """Iterates over steps, yielding the list of micro-batches of each; ``close`` ends the thread.

    Args:
        plan: from a step number to the rank's micro-batches of draws.
        depth: how many steps are read ahead.
        device: tensors are moved there (from pinned memory on CUDA).
    """

    def __init__(
        self, data: TrainData, plan: Callable[[int], list[list[Draw]]], *, first: int, last: int, device: Any, depth: int = 2
    ) -> None:
        self._data, self._plan, self._device = data, plan, device
        self._steps = range(first, last)
        self._queue: queue.Queue[list[Batch] | BaseException | None] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if device.type == "cuda" or self._reading_s() >= INLINE_BELOW_S:
            self._thread = threading.Thread(target=self._read, name="loader", daemon=True)
            self._thread.start()

    def _reading_s(self) -> float:
        """Seconds that a second reading of the first step takes (the first one warms caches up)."""
        if len(self._steps) == 0:
            return 0.0
        for _ in range(2):
            start = time.perf_counter()
            self._batches(self._steps[0])
        return time.perf_counter() - start

    def _batches(self, step: int) -> list[Batch]:
        return [self._data.batch(draws) for draws in self._plan(step)]

    def _read(self) -> None:
        try:
            for step in self._steps:
                batches = self._batches(step)
                if self._device.type == "cuda":
                    batches = [{name: tensor.pin_memory() for name, tensor in batch.items()} for batch in batches]
                if not self._put(batches):
                    return
            self._put(None)
        except BaseException as error:  # handed to the training thread, which raises it with its own traceback
            self._put(error)

    def _put(self, item: list[Batch] | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[list[Batch]]:
        if self._thread is None:
            for step in self._steps:
                yield self._batches(step)
            return
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            if self._device.type == "cuda":
                item = [{name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.items()} for batch in item]
            yield item

    def close(self) -> None:
        """End the thread; what it has read ahead is dropped."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
