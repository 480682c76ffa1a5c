"""The meter: time by phase, peak memory, raw step times. One per rank."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GIB = 2**30
PHASES = ("load", "train", "communicate", "checkpoint", "evaluate", "data_wait")


def host_peak_bytes() -> int:
    """Largest resident size of this process so far: VmHWM. (``ru_maxrss`` would survive exec and report the parent's.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def host_bytes() -> int:
    """Resident size of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Meter:
    """Attributes wall-clock time to the innermost open phase and reads memory where it is defined: the device allocator's peak
    on GPU, VmHWM on CPU; the two are never mixed."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.started = time.perf_counter()
        self.phases_s: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._stack: list[str] = []
        self._since = self.started
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._stack:
            name = self._stack[-1]
            self.phases_s[name] = self.phases_s.get(name, 0.0) + now - self._since
        self._since = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute a block to ``name``; a phase opened inside it is charged apart, so the phases add up to the wall clock."""
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def move(self, source: str, target: str, seconds: float) -> None:
        """Charge seconds measured inside ``source`` to ``target`` (collectives inside training, say)."""
        self.phases_s[source] -= seconds
        self.phases_s[target] = self.phases_s.get(target, 0.0) + seconds

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read afterwards means something."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    def memory(self) -> dict[str, float]:
        """Peaks in GiB so far. ``peak_gib`` is the device's on GPU and the host's on CPU."""
        host = host_peak_bytes() / GIB
        if self.device.type != "cuda":
            return {"peak_gib": host, "host_peak_gib": host}
        import torch

        peak = torch.cuda.max_memory_allocated(self.device) / GIB
        reserved = torch.cuda.max_memory_reserved(self.device) / GIB
        return {"peak_gib": peak, "device_peak_gib": peak, "device_reserved_gib": reserved, "host_peak_gib": host}

    def memory_now_gib(self) -> float:
        """What the device's allocator, or on CPU the process, holds now."""
        if self.device.type != "cuda":
            return host_bytes() / GIB
        import torch

        return float(torch.cuda.memory_allocated(self.device)) / GIB

    def total_s(self) -> float:
        """Seconds since the meter was made."""
        return time.perf_counter() - self.started
