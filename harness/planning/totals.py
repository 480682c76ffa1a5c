"""What a whole study needs: hours, wall time on this machine, storage."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.planning.plan import START_S, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of a study as the queue sees it.

    Attributes:
        seconds: planned duration, starting included.
        cores: of all its ranks.
    """

    stage: str
    exclusive: bool
    seconds: float
    cores: int
    memory_gib: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over the runs of a study.

    Attributes:
        rank_hours: ranks times hours.
        gpu_hours: the same of runs that are planned for GPUs, a rank having one.
        wall_s: from the first start to the last end at ``max_parallel`` runs at a time on this machine; None for GPUs.
        unplanned: runs whose time is not known and not in the sums.
    """

    runs: int
    rank_hours: float
    core_hours: float
    gpu_hours: float
    node_hours: float
    wall_s: float | None
    storage_bytes: int
    max_parallel: int
    unplanned: int

    def as_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def makespan_s(tasks: Sequence[Task], *, max_parallel: int, cores: int, memory_gib: float = float("inf")) -> float:
    """Wall time of tasks in the local queue: stages one after another, longest first within a stage, an exclusive one alone, and
    never more runs, cores or memory than there are (a run that wants more than there are runs by itself)."""
    now = 0.0
    for stage in dict.fromkeys(task.stage for task in tasks):
        waiting = [task for task in tasks if task.stage == stage]
        if not any(task.exclusive for task in waiting):
            waiting.sort(key=lambda task: -task.seconds)
        running: list[tuple[float, int, Task]] = []
        started = 0
        while waiting or running:
            for task in list(waiting):
                active = [other for _, _, other in running]
                if active and (task.exclusive or any(other.exclusive for other in active) or len(active) >= max_parallel):
                    break  # an exclusive run is not overtaken
                wanted = sum(other.cores for other in active) + task.cores
                held = sum(other.memory_gib for other in active) + task.memory_gib
                if active and (wanted > cores or held > memory_gib):
                    continue
                waiting.remove(task)
                heapq.heappush(running, (now + task.seconds, started, task))
                started += 1
            now, _, _ = heapq.heappop(running)
    return now


def study_totals(points: Sequence[tuple[Any, Plan]], *, cores: int, memory_gib: float = float("inf")) -> Totals:
    """Totals of a study.

    Args:
        points: its points (:class:`harness.study.StudyPoint`) with their plans.
        cores: of this machine.
    """
    tasks = []
    rank_hours = core_hours = gpu_hours = node_hours = 0.0
    unplanned = 0
    max_parallel = points[0][0].experiment.config.launcher.max_parallel if points else 1
    for point, plan in points:
        config = point.experiment.config
        if plan.train_s is None:
            unplanned += 1
            continue
        duration = plan.train_s + START_S
        rank_hours += config.ranks * duration / 3600
        core_hours += config.ranks * config.launcher.cores_per_rank * duration / 3600
        gpu_hours += config.ranks * duration / 3600 if plan.device != "cpu" else 0.0
        node_hours += plan.node_hours or 0.0
        tasks.append(
            Task(
                stage=point.stage,
                exclusive=point.exclusive,
                seconds=duration,
                cores=config.ranks * config.launcher.cores_per_rank,
                memory_gib=config.ranks * (plan.host_bytes_per_rank or 0) / 2**30,
            )
        )
    here = bool(tasks) and not unplanned and not gpu_hours
    wall = makespan_s(tasks, max_parallel=max_parallel, cores=cores, memory_gib=memory_gib) if here else None
    return Totals(
        runs=len(points),
        rank_hours=rank_hours,
        core_hours=core_hours,
        gpu_hours=gpu_hours,
        node_hours=node_hours,
        wall_s=wall,
        storage_bytes=sum(plan.storage_bytes for _, plan in points),
        max_parallel=max_parallel,
        unplanned=unplanned,
    )
