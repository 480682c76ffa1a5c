"""The processor cores that this process may use: physical ones, within its affinity and its control group's quota."""

from __future__ import annotations

import os
from pathlib import Path


def physical_cores(topology: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """Physical cores within the affinity, each named by the lowest of its hardware threads; host-wide names, so that the
    cores of several processes on one host can be put together.

    Where the kernel does not tell which threads share a core, the lowest of the affinity's processors stand for as many cores
    as psutil counts.
    """
    allowed = sorted(os.sched_getaffinity(0))
    try:
        return sorted({_first(topology / f"cpu{cpu}" / "topology" / "thread_siblings_list") for cpu in allowed})
    except (OSError, ValueError):
        import psutil

        return allowed[: psutil.cpu_count(logical=False) or len(allowed)]


def _first(siblings: Path) -> int:
    """The lowest processor of a list such as ``3,67`` or ``6-7``."""
    return int(siblings.read_text().strip().split(",")[0].split("-")[0])


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Processors' worth of time that the control groups of this process allow, the tightest of them; None without a limit.

    Reads ``cpu.max`` (version 2) and ``cpu.cfs_quota_us`` (version 1) of the process's own group and of all above it.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = root
        elif "cpu" in controllers.split(","):
            top = root / controllers if (root / controllers).is_dir() else root / "cpu"
        else:
            continue
        folder = top / path.lstrip("/")
        while True:
            limit = _limit(folder)
            limits += [] if limit is None else [limit]
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent
    return min(limits, default=None)


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError):
        return None
