"""What a launcher is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

WORKER = "harness.worker"
#: Ranks that are asked to leave get so long for their checkpoint where the launcher says nothing else (`launcher.leave_grace_s`).
LEAVE_GRACE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run's need of resources.

    Attributes:
        folder: run folder with the frozen configuration.
        cores_per_rank: threads given to each rank.
        memory_gib: planned peak over all ranks; 0 when unknown.
        gpus_per_rank: devices given to each rank; 0 on the CPU.
        nodes: that the ranks are spread over; None: as few as they fit on.
        exclusive: nothing else may run on the machine at the same time.
        time_limit_s: stopped and recorded as ``timeout`` after that.
        leave_grace_s: ranks that are asked to leave are killed after that, and some of their steps; a job's own end comes first.
        saves: it writes checkpoints on its way, so that a limit shorter than the run costs further attempts and not the run.
        expected_s: planned duration, for ordering and progress; 0 when unknown.
        environment: variables set for every rank.
    """

    folder: Path
    ranks: int = 1
    cores_per_rank: int = 1
    gpus_per_rank: int = 0
    nodes: int | None = None
    memory_gib: float = 0.0
    exclusive: bool = False
    time_limit_s: float | None = None
    leave_grace_s: float = LEAVE_GRACE_S
    saves: bool = False
    expected_s: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    module: str = WORKER

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name
