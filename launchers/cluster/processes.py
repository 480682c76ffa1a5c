"""Processes of a cluster: started detached, recognised by a mark in their environment, ended with all that runs under them.

A process id alone proves nothing, since the kernel gives it away again; the mark in the environment does. Slurm's step daemons
inherit it from slurmd but then write their title over it: those are told by the log they write, which is their node's. Tasks
descend from step daemons, and tasks that outlive theirs still carry Slurm's own variables.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

#: Environment of every daemon: the folder of the cluster it belongs to, and its own name there.
MARK_CLUSTER = "TENFOLD_DAEMON_OF"
MARK_NAME = "TENFOLD_DAEMON"

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


def start_detached(argv: Sequence[str], *, pid_file: Path, log: Path, environment: Mapping[str, str], folder: Path) -> None:
    """Start a program in a session of its own, as nobody's child: it outlives the shell, holds neither terminal nor folder, and
    leaves no zombie to whoever started it.

    Args:
        pid_file: receives the process id before the program runs.
        log: receives standard output and error, appended.
        folder: working directory.
    """
    with log.open("ab") as output:
        subprocess.run(
            ["setsid", "--fork", "sh", "-c", 'echo $$ >"$0"; exec "$@"', str(pid_file), *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            umask=0o022,
            check=True,
        )


def environment_of(process: psutil.Process) -> dict[str, str]:
    """The environment a process was started with; empty where it has gone or is not ours to read."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return {}
        return process.environ()
    except (*_GONE, OSError):
        return {}


def daemon(folder: Path, name: str, pid_file: Path) -> psutil.Process | None:
    """The living daemon whose id is in ``pid_file``, if it is still the one that was started."""
    with contextlib.suppress(OSError, ValueError, *_GONE):
        process = psutil.Process(int(pid_file.read_text()))
        marks = environment_of(process)
        if marks.get(MARK_CLUSTER) == str(folder) and marks.get(MARK_NAME) == name:
            return process
    return None


def ended(pid_file: Path) -> bool:
    """Whether the process that wrote its id there has ended; False while it has not yet come to write it."""
    try:
        return not _lives(psutil.Process(int(pid_file.read_text())))
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError):
        return False


def belonging(folder: Path, slurm_conf: Path, *, names: Iterable[str] | None = None) -> list[psutil.Process]:
    """Everything that runs for a cluster: daemons first, then step daemons, then tasks. Never this process.

    Args:
        names: only what belongs to these daemons (a node's name: its slurmd, its steps and their tasks); None: everything.
    """
    wanted = None if names is None else set(names)
    roots: dict[int, psutil.Process] = {}
    steps: dict[int, psutil.Process] = {}
    tasks: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        variables = environment_of(process)
        if variables.get(MARK_CLUSTER) == str(folder) and (wanted is None or variables.get(MARK_NAME) in wanted):
            roots[process.pid] = process
        elif (step_of := _step_daemon_of(process, slurm_conf.parent)) and (wanted is None or step_of in wanted):
            steps[process.pid] = process
        # SLURM_CONF alone is a user's shell that talks to this cluster; SLURMD_NODENAME is what only tasks have.
        node = variables.get("SLURMD_NODENAME")
        if node and variables.get("SLURM_CONF") == str(slurm_conf) and (wanted is None or node in wanted):
            tasks[process.pid] = process
    for process in [*roots.values(), *steps.values(), *tasks.values()]:
        with contextlib.suppress(*_GONE):
            for child in process.children(recursive=True):
                if child.pid not in roots and child.pid not in steps:
                    tasks[child.pid] = child
    found = {**roots, **steps, **tasks}  # in this order: a step daemon that saw its tasks die would report it
    return [process for pid, process in found.items() if pid != os.getpid()]


def _step_daemon_of(process: psutil.Process, folder: Path) -> str | None:
    """The node that a slurmstepd of this cluster works for."""
    with contextlib.suppress(*_GONE, OSError):
        if process.name().startswith("slurmstepd"):
            for file in process.open_files():
                path = Path(file.path)
                if path.parent == folder / "log" and path.name.startswith("slurmd-"):
                    return path.stem.removeprefix("slurmd-")
    return None


def kill_all(folder: Path, slurm_conf: Path, *, names: Iterable[str] | None = None, timeout_s: float = 10.0) -> list[int]:
    """SIGKILL everything that belongs to a cluster (or to some of its daemons) until nothing is left: what forks meanwhile is
    found in the next round. Shared memory that the killed had and nobody else has is removed.

    Returns:
        Process ids that would not die within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    chosen = None if names is None else list(names)
    shared: set[Path] = set()
    while True:
        left = belonging(folder, slurm_conf, names=chosen)
        if not left or time.monotonic() > deadline:
            break
        for process in left:
            shared |= _shared_memory(process.pid)
        for process in left:
            with contextlib.suppress(*_GONE):
                process.kill()
        while any(_lives(process) for process in left) and time.monotonic() < deadline:
            time.sleep(0.01)
    _remove_unused(shared)
    return [process.pid for process in left]


def stop(process: psutil.Process, timeout_s: float = 20.0) -> bool:
    """Ask a daemon to end (TERM) and wait; True if it did."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    deadline = time.monotonic() + timeout_s
    while _lives(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _lives(process: psutil.Process) -> bool:
    """Whether a process still runs; one that only waits to be reaped by its parent does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _shared_memory(pid: int) -> set[Path]:
    """Files under /dev/shm that a process has mapped."""
    found = set()
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/maps").open() as maps:
        for line in maps:
            words = line.split(maxsplit=5)
            if len(words) == 6 and words[5].startswith("/dev/shm/") and not words[5].rstrip().endswith("(deleted)"):
                found.add(Path(words[5].rstrip()))
    return found


def _remove_unused(paths: set[Path]) -> None:
    """Remove shared memory that no living process has mapped."""
    if not paths:
        return
    used = set().union(*(_shared_memory(pid) for pid in psutil.pids()))
    for path in paths - used:
        with contextlib.suppress(OSError):
            path.unlink()
