"""Which partitions of a site can run an experiment: nodes, memory per node, GPU memory, limit of time; and why not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.experiment import Experiment
from harness.planning.devices import GPU_TYPES, find_gpu_type
from harness.planning.plan import Plan, make_plan
from launchers.request import RunRequest
from launchers.room import room_for
from launchers.site import SiteProfile
from results.errors import PlanError

GIB = 2**30
#: Host memory of a rank on a GPU beside its data and states, GiB: interpreter, torch and DeepSpeed, CUDA's libraries and context,
#: NCCL's and pinned buffers. Taken to be so, not measured.
GPU_HOST_GIB = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One partition and one experiment.

    Attributes:
        possible: nothing stands against it.
        nodes, ranks_per_node: as few nodes as hold the ranks; 0 where they do not fit at all.
        memory_gib_per_node: of all ranks of a node.
        device_gib: of a rank on its GPU; None on a partition without.
        planned_s: of the whole run; None where it is not known.
        reasons: what stands against it.
        notes: what to know although it can run.
    """

    partition: str
    possible: bool
    nodes: int
    ranks_per_node: int
    memory_gib_per_node: float | None
    device_gib: float | None
    planned_s: float | None
    limit_s: float | None
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def judge(experiment: Experiment, site: SiteProfile, *, measure: bool = False) -> list[Verdict]:
    """A verdict for every partition, those that can run it first and among them the quickest.

    Raises:
        PlanError: the site's profile names no partitions.
    """
    if not site.partitions:
        raise PlanError(
            f"the profile of site '{site.name}' names no partitions",
            where=f"site/{site.name}.yaml: partitions",
            next_step="tenfold doctor --site discovers them",
        )
    found = [_judge(experiment, site, name, measure) for name in site.partitions]
    return sorted(found, key=lambda verdict: (not verdict.possible, verdict.planned_s or math.inf))


def _judge(experiment: Experiment, site: SiteProfile, name: str, measure: bool) -> Verdict:
    config, partition = experiment.config, site.partitions[name]
    on_gpu = config.device != "cpu" and partition.gpus_per_node > 0
    reasons: list[str] = []
    notes: list[str] = []
    gpu = find_gpu_type(partition.gpu_type or "") if on_gpu else None
    if config.device == "cuda" and not partition.gpus_per_node:
        reasons.append("device=cuda, and its nodes have no GPUs")
    if on_gpu and gpu is None:
        notes.append(f"no facts are known of GPU type '{partition.gpu_type}': its memory and times are not judged")
    plan = make_plan(experiment, gpu=gpu or ("cuda" if on_gpu else "cpu"), measure=measure)
    plan_host(plan, experiment)
    planned = plan.whole_s
    host = plan.host_bytes_per_rank
    room = room_for(
        RunRequest(
            folder=Path(),
            ranks=config.ranks,
            cores_per_rank=config.launcher.cores_per_rank,
            gpus_per_rank=int(on_gpu),
            nodes=config.launcher.nodes,
            memory_gib=config.ranks * (host or 0) / GIB,
            time_limit_s=config.launcher.time_limit_s or site.time_limit_s,
            saves=config.train.checkpoint_every > 0,
            expected_s=planned or 0.0,
        ),
        partition,
    )
    reasons += map(str, room.obstacles)
    notes += room.notes
    if gpu is not None and plan.bytes_per_rank is not None and plan.bytes_per_rank > GPU_TYPES[gpu].usable_bytes:
        reasons.append(
            f"needs {plan.bytes_per_rank / GIB:.1f} GiB of GPU memory per rank, "
            f"{GPU_TYPES[gpu].usable_bytes / GIB:.1f} of a {gpu} may be used"
        )
    if planned is not None and not on_gpu:
        notes.append("times are those of this machine's cores")
    if partition.preemptible:
        notes.append("jobs here may be preempted")
    return Verdict(
        partition=name,
        possible=not reasons,
        nodes=room.nodes,
        ranks_per_node=room.ranks_per_node,
        memory_gib_per_node=None if host is None else room.ranks_per_node * host / GIB,
        device_gib=plan.bytes_per_rank / GIB if on_gpu and plan.bytes_per_rank is not None else None,
        planned_s=planned,
        limit_s=partition.max_time_s,
        reasons=reasons,
        notes=notes,
    )


def plan_host(plan: Plan, experiment: Experiment) -> None:
    """Host memory of a rank on a GPU, by rule: :data:`GPU_HOST_GIB`, the data it holds, the model states that offload keeps on
    the host, and the rank's share of a checkpoint, which passes through the host when it is read. Plans for CPUs, and of systems
    that plan themselves, stay as they are."""
    name = experiment.config.engine.name.removesuffix("_offload")
    states = plan.stages.get(name)
    if plan.device == "cpu" or states is None:
        return
    from models.system import TrainedSystem

    system = experiment.system
    held = sum(system.plan_parts(experiment.point).values()) if isinstance(system, TrainedSystem) else 0
    held += states * (2 if experiment.config.engine.offload else 1)
    plan.host_bytes_per_rank = int(GPU_HOST_GIB * GIB) + held
    plan.notes.append(
        f"host memory of a rank: {GPU_HOST_GIB:g} GiB taken for the process and CUDA, besides its data, a checkpoint's copy and "
        "what is offloaded"
    )
