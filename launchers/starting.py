"""How the ranks of one run are started: as processes of this machine, or by one program that starts them all.

A starter is all that distinguishes the local, the MPI and the Slurm launcher; looking after the ranks is the same
(:mod:`launchers.ranks`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from launchers.environment import free_port, rank_environment
from launchers.request import RunRequest
from results.failures import FailureClass

#: A program that is asked to end gets this long to end its ranks, wherever they are.
PROGRAM_GRACE_S = 5.0


def launch_log(folder: Path, rank: int) -> Path:
    """Where a rank's output goes until the rank takes it over."""
    return folder / f".launch-{rank}.txt"


def program_log(folder: Path) -> Path:
    """What the program that starts all ranks (srun, mpiexec) says itself."""
    return folder / ".launch.txt"


def exit_file(folder: Path, rank: int) -> Path:
    """Where the parent of a rank that a program started leaves the rank's exit status."""
    return folder / f".exit-{rank}"


def node_file(folder: Path, rank: int) -> Path:
    """Where the parent of a rank says, at the start, on which node it is."""
    return folder / f".node-{rank}"


def _exit_status(folder: Path, rank: int) -> int | None:
    try:
        return int(exit_file(folder, rank).read_text())
    except (OSError, ValueError):
        return None


def worker_command(request: RunRequest, python: str = sys.executable) -> list[str]:
    """-P: files in the user's working directory must not shadow packages."""
    return [python, "-P", "-m", request.module, str(request.folder)]


@dataclass(slots=True)
class Started:
    """Processes of one run.

    Attributes:
        one_per_rank: process ``i`` is rank ``i``; otherwise the only process is the program that started them all.
    """

    request: RunRequest
    processes: list[subprocess.Popen[bytes]]
    one_per_rank: bool
    outputs: list[IO[bytes]] = field(default_factory=list)

    def codes(self) -> list[int | None]:
        """Exit status of every rank as :mod:`subprocess` gives it (negative: a signal), None for one that is still there."""
        if self.one_per_rank:
            return [process.poll() for process in self.processes]
        ended = self.processes[0].poll()
        told = [_exit_status(self.request.folder, rank) for rank in range(self.request.ranks)]
        if ended is None:
            return told
        # A rank that could not even leave its status: its node is gone, or the program has killed it.
        lost = -signal.SIGKILL if ended == 0 else 128 - ended if ended > 128 else ended
        return [lost if code is None else code for code in told]

    def lost(self) -> list[int]:
        """Ranks of a program that has ended, whose parents had started a worker and left no status: they went down together,
        with their node."""
        if self.one_per_rank or self.processes[0].poll() is None:
            return []
        folder = self.request.folder
        started = [rank for rank in range(self.request.ranks) if node_file(folder, rank).exists()]
        return [rank for rank in started if _exit_status(folder, rank) is None]

    @property
    def ended(self) -> bool:
        """Whether every process has ended."""
        return all(process.poll() is not None for process in self.processes)

    def ask_to_leave(self) -> None:
        """Signal the ranks where that is possible; those of a program find out from the stop file within a second."""
        if self.one_per_rank:
            for process in self.processes:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End everything at once. A program is asked first: it alone reaches ranks on other nodes."""
        alive = [process for process in self.processes if process.poll() is None]
        if not self.one_per_rank:
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            _wait(alive, seconds=PROGRAM_GRACE_S)
        for process in alive:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def close(self) -> None:
        """Close the files that output went to."""
        for output in self.outputs:
            output.close()


class Starter(Protocol):
    """Starts the ranks of one run."""

    @property
    def name(self) -> str:
        """Name of the launcher, for records."""
        ...

    def start(self, request: RunRequest, keep_open: Sequence[int]) -> Started:
        """Start all ranks.

        Args:
            keep_open: descriptors of locks that the ranks hold on to.

        Raises:
            OSError: a process cannot be started; none is left then.
        """
        ...

    def explain(self, text: str) -> tuple[FailureClass, str] | None:
        """Class and reason of a failure that the program's own output tells (a node lost, say), None where it tells nothing."""
        ...


class LocalStarter:
    """One process per rank on this machine."""

    name = "local"

    def start(self, request: RunRequest, keep_open: Sequence[int]) -> Started:
        """Start them; all find each other at a free port of the loopback."""
        port = free_port()
        started = Started(request, [], one_per_rank=True)
        try:
            for rank in range(request.ranks):
                output = launch_log(request.folder, rank).open("wb")
                started.outputs.append(output)
                environment = rank_environment(request, rank, port)
                started.processes.append(_popen(worker_command(request), environment, output, keep_open))
        except OSError:
            started.kill()
            started.close()
            raise
        return started

    def explain(self, text: str) -> tuple[FailureClass, str] | None:
        """Each rank's own exit status tells."""
        return None


def start_program(
    command: Sequence[str], environment: Mapping[str, str], request: RunRequest, keep_open: Sequence[int]
) -> Started:
    """Start the one program that starts all ranks."""
    for rank in range(request.ranks):
        exit_file(request.folder, rank).unlink(missing_ok=True)
        node_file(request.folder, rank).unlink(missing_ok=True)
    output = program_log(request.folder).open("wb")
    try:
        process = _popen(command, environment, output, keep_open)
        return Started(request, [process], one_per_rank=False, outputs=[output])
    except OSError:
        output.close()
        raise


def _popen(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes], keep_open: Sequence[int]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=list(keep_open),
        start_new_session=True,  # Ctrl-C in the terminal reaches the launcher alone
    )


def _wait(processes: list[subprocess.Popen[bytes]], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.05)
