"""Where a cluster stands: what runs, and what Slurm itself says."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from launchers.cluster.programs import program

#: Node states in which a node takes or runs work.
WORKING = {"idle", "mixed", "allocated", "completing"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node as the controller sees it; a trailing ``*`` in the state says that it does not answer."""

    name: str
    state: str
    reason: str = ""

    @property
    def works(self) -> bool:
        return self.state in WORKING


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """A cluster at one moment.

    Attributes:
        state: ``up`` (everything runs and every node works), ``partial``, or ``down``.
        daemons: daemon (a node's name: its slurmd) to process id, None where it does not run.
        controller: whether slurmctld answers.
        accounting: whether slurmdbd answers; None for a cluster without.
        nodes: as the controller sees them; empty where it does not answer.
        loopback_only: whether nodes listen on 127.0.0.1 alone; else on every address (their messages need the cluster's key).
        jobs: job state to how many jobs (array tasks counted one by one).
    """

    state: str
    folder: str
    slurm_conf: str = ""
    daemons: Mapping[str, int | None] = field(default_factory=dict)
    controller: bool = False
    accounting: bool | None = None
    nodes: tuple[NodeStatus, ...] = ()
    jobs: Mapping[str, int] = field(default_factory=dict)
    loopback_only: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def ask(name: str, *words: str, environment: Mapping[str, str], timeout_s: float = 20.0) -> str | None:
    """Output of a Slurm command; None where it fails or does not answer."""
    try:
        done = subprocess.run(
            [program(name), *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=dict(environment),
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def ask_nodes(environment: Mapping[str, str]) -> tuple[NodeStatus, ...]:
    """Every node once, in the order of its number; empty where no controller answers."""
    text = ask("sinfo", "--noheader", "--Node", "--Format=NodeList:64,StateLong:64,Reason:200", environment=environment)
    found = {}
    for line in (text or "").splitlines():
        name, state, reason = line[:64].strip(), line[64:128].strip(), line[128:].strip()
        found[name] = NodeStatus(name=name, state=state, reason="" if reason == "none" else reason)
    return tuple(sorted(found.values(), key=lambda node: (len(node.name), node.name)))


def ask_jobs(environment: Mapping[str, str]) -> dict[str, int]:
    """How many jobs are in which state."""
    text = ask("squeue", "--noheader", "--array", "--format=%T", environment=environment)
    states = (text or "").split()
    return {state: states.count(state) for state in sorted(set(states))}
