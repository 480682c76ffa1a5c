"""What a process that hosts a backend sets before it imports numpy: cores, threads, whom it ends with. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from results.errors import ConfigError

#: Variables by which a generator that pins its own threads would pin those of its retriever to the same cores.
_PLACES = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND")
_PR_SET_PDEATHSIG = 1


def thread_variables(threads: int) -> dict[str, str]:
    """Variables that every BLAS and OpenMP library reads when it is loaded. Threads that wait do not spin: on a machine where a
    generator runs beside them they would take its cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}


def host_environment(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a process that hosts a backend and runs the code that started it."""
    kept = {name: value for name, value in inherited.items() if name not in _PLACES}
    root = Path(__file__).resolve().parents[3]
    if "site-packages" not in root.parts:
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), inherited.get("PYTHONPATH", "")]))
    return kept | thread_variables(threads)


def pin(cores: Sequence[int]) -> None:
    """Let the calling thread, and what it starts, use these cores only.

    Raises:
        ConfigError: the machine, or the limits of this process, has not got them.
    """
    try:
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError, ValueError) as error:
        raise ConfigError(
            f"cores {list(cores)} cannot be used: {error}",
            where="the retriever's cores",
            next_step=f"choose among 0 .. {(os.cpu_count() or 1) - 1}, within what the job has been given",
        ) from None


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, in whatever call it is then.

    Args:
        parent: its process id: it may have ended before it was asked for.
    """
    with contextlib.suppress(AttributeError, OSError):  # other systems than Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def end_with_stream(descriptor: int) -> None:
    """End this process when the other end of a stream closes, also during a search: a thread waits for nothing else."""

    def wait() -> None:
        poller = select.poll()
        poller.register(descriptor, 0)  # hang-up is always told, and only that
        poller.poll()
        os._exit(0)

    threading.Thread(target=wait, name="tenfold-hangup", daemon=True).start()


def search_path() -> list[str]:
    """Where this process finds modules: what it hands to one that builds its backend."""
    return [entry or os.getcwd() for entry in sys.path]
