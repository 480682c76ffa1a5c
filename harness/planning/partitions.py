"""Which partitions of a site can run an experiment: nodes, memory per node, GPU memory, limit of time; and why not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.experiment import Experiment
from harness.planning.devices import GPU_TYPES, find_gpu_type
from harness.planning.plan import START_S, Plan, make_plan
from launchers.site import PartitionProfile, SiteProfile
from results.errors import PlanError

GIB = 2**30
#: Of a node's memory, what the system and the scheduler's daemon leave to jobs.
USABLE_NODE_SHARE = 0.95


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
    found = [_judge(experiment, name, partition, measure) for name, partition in site.partitions.items()]
    return sorted(found, key=lambda verdict: (not verdict.possible, verdict.planned_s or math.inf))


def _judge(experiment: Experiment, name: str, partition: PartitionProfile, measure: bool) -> Verdict:
    config = experiment.config
    on_gpu = config.device != "cpu" and partition.gpus_per_node > 0
    reasons: list[str] = []
    notes: list[str] = []
    gpu = find_gpu_type(partition.gpu_type or "") if on_gpu else None
    if config.device == "cuda" and not partition.gpus_per_node:
        reasons.append("device=cuda, and its nodes have no GPUs")
    if on_gpu and gpu is None:
        notes.append(f"no facts are known of GPU type '{partition.gpu_type}': its memory and times are not judged")
    plan = make_plan(experiment, gpu=gpu or ("cuda" if on_gpu else "cpu"), measure=measure)
    per_node = _ranks_per_node(experiment, plan, partition, on_gpu, reasons)
    nodes = -(-config.ranks // per_node) if per_node else 0
    if nodes > partition.nodes:
        reasons.append(f"needs {nodes} nodes of {per_node} ranks, there are {partition.nodes}")
    if gpu is not None and plan.bytes_per_rank is not None and plan.bytes_per_rank > GPU_TYPES[gpu].usable_bytes:
        reasons.append(
            f"needs {plan.bytes_per_rank / GIB:.1f} GiB of GPU memory per rank, "
            f"{GPU_TYPES[gpu].usable_bytes / GIB:.1f} of a {gpu} may be used"
        )
    planned = None if plan.train_s is None else plan.train_s + START_S
    if planned is not None and partition.max_time_s is not None and planned > partition.max_time_s:
        text = f"planned {planned / 3600:.2f} h, the limit is {partition.max_time_s / 3600:.2f} h"
        if config.train.checkpoint_every:
            notes.append(f"{text}: about {math.ceil(planned / partition.max_time_s)} attempts, each resuming a checkpoint")
        else:
            reasons.append(f"{text}; train.checkpoint_every=STEPS lets it go on in a further attempt")
    if planned is not None and not on_gpu:
        notes.append("times are those of this machine's cores")
    if partition.preemptible:
        notes.append("jobs here may be preempted")
    ranks_here = min(per_node, config.ranks)
    host = plan.host_bytes_per_rank
    return Verdict(
        partition=name,
        possible=not reasons,
        nodes=nodes,
        ranks_per_node=ranks_here,
        memory_gib_per_node=None if host is None else ranks_here * host / GIB,
        device_gib=plan.bytes_per_rank / GIB if on_gpu and plan.bytes_per_rank is not None else None,
        planned_s=planned,
        limit_s=partition.max_time_s,
        reasons=reasons,
        notes=notes,
    )


def _ranks_per_node(experiment: Experiment, plan: Plan, partition: PartitionProfile, on_gpu: bool, reasons: list[str]) -> int:
    """How many ranks a node holds, by GPUs or cores, and by memory; reasons are added where it holds none."""
    cores = experiment.config.launcher.cores_per_rank
    by_cores = partition.cores_per_node // cores if partition.cores_per_node else experiment.config.ranks
    if not by_cores:
        reasons.append(f"a rank wants {cores} cores, a node has {partition.cores_per_node}")
    held = min(partition.gpus_per_node, by_cores) if on_gpu else by_cores
    host = plan.host_bytes_per_rank
    if host is not None and partition.memory_gib_per_node and held:
        usable = USABLE_NODE_SHARE * partition.memory_gib_per_node
        by_memory = int(usable * GIB // host)
        if not by_memory:
            reasons.append(f"a rank needs {host / GIB:.1f} GiB, {usable:.1f} of a node may be used")
        held = min(held, by_memory)
    return held
