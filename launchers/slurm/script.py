"""Resource request and site profile become the text of a batch script, written by submitit: only flags somebody asked for."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launchers.environment import import_path
from launchers.request import RunRequest
from launchers.room import room_for
from launchers.site import PartitionProfile, SiteProfile
from results.errors import LaunchError

#: Memory is asked for in these steps, so that runs of nearly the same need make one array.
MEMORY_STEP_GIB = 0.5
#: What the batch step itself needs: the process that looks after the ranks, and srun.
JOB_MEMORY_GIB = 0.25
JOB_MODULE = "launchers.slurm.job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What one job asks for; runs with equal allocations make one array.

    Attributes:
        memory_gib: per node; None: the site's default.
        time_limit_s: None: the partition's default.
        exclude: nodes to stay away from.
    """

    ranks: int
    cores_per_rank: int = 1
    gpus_per_rank: int = 0
    nodes: int = 1
    memory_gib: float | None = None
    time_limit_s: float | None = None
    exclusive: bool = False
    exclude: tuple[str, ...] = ()


def partition_of(site: SiteProfile) -> PartitionProfile | None:
    """The partition that jobs of the site go to; None where nothing is known of it."""
    return site.partitions.get(site.partition or "")


def nodes_for(request: RunRequest, site: SiteProfile) -> int:
    """How many nodes the ranks need, by the cores, GPUs and memory of the partition's nodes; one where nothing is known of them.

    Raises:
        LaunchError: the run does not fit the partition, or takes longer than it grants.
    """
    partition = partition_of(site)
    if partition is None:
        return 1 if request.nodes is None else min(request.nodes, request.ranks)
    room = room_for(request, partition)
    if room.obstacles:
        raise LaunchError(
            f"{request.name or 'it'} does not fit partition '{site.partition}': {'; '.join(map(str, room.obstacles))}",
            where=f"site {site.name}: partitions.{site.partition}",
            next_step=f"{room.obstacles[0].next_step}, or site.partition=NAME (tenfold plan --site {site.name} judges them)",
        )
    return room.nodes


def memory_steps(need_gib: float, site: SiteProfile) -> float:
    """Rounded up to the next step, though not beyond what a node has."""
    partition = partition_of(site)
    asked = math.ceil(need_gib / MEMORY_STEP_GIB) * MEMORY_STEP_GIB
    if partition is None or not partition.memory_gib_per_node:
        return asked
    # Profiles round to thousandths of a GiB, the scheduler counts MiB.
    return min(asked, math.floor(partition.memory_gib_per_node * 1024) / 1024)


def allocation_for(request: RunRequest, site: SiteProfile, exclude: tuple[str, ...] = ()) -> Allocation:
    """The allocation that a run needs at a site.

    Raises:
        LaunchError: the run does not fit the site.
    """
    limit_s = request.time_limit_s or site.time_limit_s
    nodes = nodes_for(replace(request, time_limit_s=limit_s), site)
    memory = None
    if request.memory_gib and site.memory_flag:  # of the node that holds most ranks: all are asked for the same
        share = -(-request.ranks // nodes) / request.ranks
        memory = memory_steps(request.memory_gib * share + JOB_MEMORY_GIB, site)
    return Allocation(
        ranks=request.ranks,
        cores_per_rank=request.cores_per_rank,
        gpus_per_rank=request.gpus_per_rank,
        nodes=nodes,
        memory_gib=memory,
        time_limit_s=limit_s,
        exclusive=request.exclusive,
        exclude=exclude,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One call of sbatch.

    Attributes:
        folder: of the submission; the job reads everything else there.
        tasks: number of jobs in the array; None: not an array.
        throttle: tasks of the array that may run at a time.
        after: jobs that must have ended before.
    """

    folder: Path
    name: str
    comment: str
    allocation: Allocation
    tasks: int | None = None
    throttle: int | None = None
    after: tuple[str, ...] = ()
    requeue: bool = True


def job_command(folder: Path, site: SiteProfile) -> str:
    """The one command of every script."""
    python = site.python or sys.executable
    return " ".join(["exec", shlex.quote(python), "-P", "-m", JOB_MODULE, shlex.quote(str(folder))])


def setup_lines(site: SiteProfile, environment: Mapping[str, str]) -> list[str]:
    """Modules, variables, further lines of the site."""
    lines = [f"module load {shlex.quote(name)}" for name in site.modules]
    exports = {name: environment[name] for name in site.pass_environment if name in environment}
    exports |= import_path({}) | site.environment
    return [*lines, *(f"export {name}={shlex.quote(value)}" for name, value in sorted(exports.items())), *site.setup]


def allocation_flags(need: Allocation, site: SiteProfile) -> dict[str, Any]:
    """What an allocation is asked for with, by sbatch for a job or by srun outside of one: long flags with their values, True for
    a bare flag."""
    ranks_per_node = -(-need.ranks // need.nodes)
    found: dict[str, Any] = {
        "nodes": need.nodes,
        "ntasks": need.ranks,
        "cpus-per-task": need.cores_per_rank,
        # Slurm fills the first node before the next; memory and GPUs are asked for by node, so ranks are spread evenly.
        "ntasks-per-node": ranks_per_node if need.nodes > 1 else None,
        "mem": None if need.memory_gib is None else f"{math.ceil(need.memory_gib * 1024)}M",
        "time": None if need.time_limit_s is None else max(math.ceil(need.time_limit_s / 60), 1),
        "exclusive": True if need.exclusive else None,
        "exclude": ",".join([*([site.exclude] if site.exclude else []), *need.exclude]) or None,
        "nodelist": site.nodelist or None,
        "reservation": site.reservation or None,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "wckey": site.wckey,
    }
    gpus_per_node = ranks_per_node * need.gpus_per_rank
    kind = f"{site.gpu_type}:" if site.gpu_type else ""
    if gpus_per_node and site.gpu_flag == "gres":
        found["gres"] = f"gpu:{kind}{gpus_per_node}"
    elif gpus_per_node:
        found["gpus-per-node"] = f"{kind}{gpus_per_node}"
    found |= {name: value if value != "" else True for name, value in site.sbatch.items()}
    return {name: value for name, value in found.items() if value is not None}


def parameters(batch: Batch, site: SiteProfile) -> dict[str, Any]:
    """submitit's parameters of a batch; ``None`` means that the flag is not written."""
    flags = allocation_flags(batch.allocation, site)
    flags["output"] = str(batch.folder / ("job-%A_%a.txt" if batch.tasks is not None else "job-%j.txt"))
    flags["requeue" if batch.requeue else "no-requeue"] = True
    # Those that submitit has a name and a default of its own for; None: not written.
    own = {name: flags.pop(name, None) for name in ("nodes", "time", "wckey")}
    return {
        **own,
        "job_name": batch.name,
        "comment": batch.comment,
        "dependency": "afterany:" + ":".join(batch.after) if batch.after else None,
        "stderr_to_stdout": True,
        "setup": setup_lines(site, os.environ) or None,
        "use_srun": False,
        "additional_parameters": flags,
    }


def render(batch: Batch, site: SiteProfile) -> str:
    """The batch script, exactly as it is submitted.

    Raises:
        LaunchError: the site profile holds something that cannot be written into a script.
    """
    from submitit.slurm.slurm import SlurmExecutor

    class Writer(SlurmExecutor):
        """submitit's executor as a writer of scripts: no pickles, no srun line, and it may be made where there is no srun."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    try:
        writer = Writer(batch.folder)
        writer.update_parameters(**parameters(batch, site))
    except (ValueError, AssertionError, NameError, TypeError) as error:
        raise LaunchError(f"no script can be written: {error}", where=f"site {site.name}") from error
    if batch.tasks is not None:
        writer.parameters["map_count"] = batch.tasks
        writer.parameters["array_parallelism"] = min(batch.throttle or batch.tasks, batch.tasks)
    text: str = writer._make_submission_file_text(job_command(batch.folder, site), "")
    lines = text.splitlines()
    # submitit asks for its own early signal; ranks here know the end of their time by themselves.
    if "signal" not in site.sbatch:
        lines = [line for line in lines if not line.startswith("#SBATCH --signal=")]
    return "\n".join(line for line in lines if line != "export SUBMITIT_EXECUTOR=slurm").rstrip("\n") + "\n"
