"""What the nodes of a partition hold of a run, by cores, GPUs and memory, and whether the partition's limit of time is long
enough for it: one judgement for the planner and for whoever submits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from launchers.request import RunRequest
from launchers.site import PartitionProfile

#: Of a node's memory, what the system, the scheduler's daemon and a job's batch step leave to ranks.
USABLE_NODE_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands against a run on a partition, and what to change."""

    text: str
    next_step: str

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Room:
    """One run on one partition.

    Attributes:
        nodes, ranks_per_node: as few nodes as hold the ranks, or as many as were asked for; 0 where they do not fit at all.
        obstacles: what stands against it.
        notes: what to know although it can run.
    """

    nodes: int = 0
    ranks_per_node: int = 0
    obstacles: list[Obstacle] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def room_for(request: RunRequest, partition: PartitionProfile) -> Room:
    """Hold a run against a partition. Zero in the partition's profile means that nothing is known, not that there is nothing."""
    room = Room()
    held = _held_by_node(request, partition, room)
    if held:
        room.nodes = -(-request.ranks // held) if request.nodes is None else min(request.nodes, request.ranks)
        room.ranks_per_node = -(-request.ranks // room.nodes)
        if room.ranks_per_node > held:
            text = f"{request.ranks} ranks on {room.nodes} nodes are {room.ranks_per_node} a node, a node holds {held}"
            room.obstacles.append(Obstacle(text, f"launcher.nodes={-(-request.ranks // held)}"))
        elif partition.nodes and room.nodes > partition.nodes:
            text = f"needs {room.nodes} nodes of {room.ranks_per_node} ranks, there are {partition.nodes}"
            room.obstacles.append(Obstacle(text, "fewer ranks=..."))
    _judge_time(request, partition, room)
    return room


def _held_by_node(request: RunRequest, partition: PartitionProfile, room: Room) -> int:
    """How many of the ranks a node holds; 0, with the obstacle, where it holds none."""
    held = request.ranks
    if partition.cores_per_node:
        held = partition.cores_per_node // request.cores_per_rank
        if not held:
            text = f"a rank wants {request.cores_per_rank} cores, a node has {partition.cores_per_node}"
            room.obstacles.append(Obstacle(text, f"launcher.cores_per_rank={partition.cores_per_node}"))
    if request.gpus_per_rank and (partition.gpus_per_node or partition.cores_per_node):
        by_gpus = partition.gpus_per_node // request.gpus_per_rank
        if not by_gpus:
            text = f"a rank wants {request.gpus_per_rank} GPUs, a node has {partition.gpus_per_node}"
            room.obstacles.append(Obstacle(text, "device=cpu"))
        held = min(held, by_gpus)
    need_gib = request.memory_gib / request.ranks
    if need_gib and partition.memory_gib_per_node:
        usable_gib = USABLE_NODE_SHARE * partition.memory_gib_per_node
        by_memory = int(usable_gib // need_gib)
        if not by_memory:
            text = f"a rank needs {need_gib:.1f} GiB, {usable_gib:.1f} of a node may be used"
            room.obstacles.append(Obstacle(text, "engine=zero3 and more ranks=... divide the need"))
        held = min(held, by_memory)
    return held


def _judge_time(request: RunRequest, partition: PartitionProfile, room: Room) -> None:
    """What was asked for, and what is planned, against the partition's limit."""
    limit_s = partition.max_time_s
    if limit_s is None:
        return
    if request.time_limit_s is not None and request.time_limit_s > limit_s:
        text = f"asks for {request.time_limit_s / 3600:.2f} h, the limit is {limit_s / 3600:.2f} h"
        room.obstacles.append(Obstacle(text, f"launcher.time_limit_s={limit_s:g}"))
    if request.expected_s <= limit_s:
        return
    text = f"planned {request.expected_s / 3600:.2f} h, the limit is {limit_s / 3600:.2f} h"
    if request.saves:
        room.notes.append(f"{text}: about {math.ceil(request.expected_s / limit_s)} attempts, each resuming a checkpoint")
    else:
        further = "train.checkpoint_every=STEPS"
        room.obstacles.append(Obstacle(f"{text}; {further} lets it go on in a further attempt", further))
