"""What a measurement depends on in the process that retrieves: recorded beside it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

#: Beginnings of the variables that decide about threads.
VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_")


def process_facts() -> dict[str, object]:
    """Facts of this process, as its calling thread sees them: OpenMP keeps its thread count per calling thread.

    Returns:
        ``pid``, ``host``, ``cores`` (that the thread may use), ``num_threads`` (alive), ``pools`` (one entry per BLAS or OpenMP
        library that is loaded: two copies of libgomp are two pools), ``variables``, ``resident_gib`` and ``peak_resident_gib``
        (None where the system does not tell).
    """
    import psutil
    from threadpoolctl import threadpool_info

    process = psutil.Process()
    return {
        "pid": process.pid,
        "host": socket.gethostname(),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "num_threads": process.num_threads(),
        "pools": [
            {
                "api": pool["user_api"],
                "library": Path(pool["filepath"]).name,
                "version": pool["version"],
                "num_threads": pool["num_threads"],
            }
            for pool in threadpool_info()
        ],
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
        "resident_gib": process.memory_info().rss / 2**30,
        "peak_resident_gib": _peak_resident_gib(),
    }


def _peak_resident_gib() -> float | None:
    """VmHWM: ``ru_maxrss`` survives exec and would report the parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM:")), None)
