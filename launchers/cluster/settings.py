"""What a loopback cluster is made of, and where it lies."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from results.errors import ConfigError

#: Longest folder: a step's socket is ``FOLDER/spool/nNN/nNN_JOBID.STEPID`` and a unix socket's path ends at 107 bytes.
MAX_FOLDER_BYTES = 70
MAX_NODES = 64


def default_folder() -> Path:
    """One cluster per user, under the temporary folder."""
    return Path(tempfile.gettempdir()) / f"tenfold-cluster-{os.getuid()}"


def machine_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def machine_memory_mib() -> int:
    """Physical memory in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Shape and tempo of the cluster. Nodes are processes that share the machine's cores and memory: what they announce together
    may be more than there is.

    Attributes:
        nodes: how many slurmd, named n1, n2, ...
        cpus_per_node: announced by each node; None: the machine's cores divided by the nodes, at least 2 so that two ranks
            fit on one node.
        memory_mib_per_node: announced by each node; None: the machine's memory divided by the nodes. Not enforced.
        gpus_per_node: announced by each node though there are none: to see how requests for GPUs are scheduled. Devices are
            not visible to jobs.
        gpu_type: what the announced GPUs are called.
        preempt: a second partition ``high`` whose jobs requeue those of ``main``.
        accounting: MariaDB and slurmdbd, for ``sacct``.
        max_array_size: Slurm's MaxArraySize (one more than the largest index); None: Slurm's default, 1001.
        node_timeout_s: a node that has been silent for so long is DOWN (SlurmdTimeout), once two further messages to it have
            failed, each after ``message_timeout_s``: a dead node is noticed after about 18 s.
        message_timeout_s: how long daemons and commands wait for an answer (MessageTimeout).
        kill_wait_s: between TERM and KILL (KillWait).
        grace_s: warning that a preempted job of ``main`` gets (GraceTime).
        requeue_hold_s: a requeued job waits one second more than that (cred_expire: also the life of a job credential, so it
            must cover a slow launch on a busy machine).
        extra_lines: further lines of slurm.conf, verbatim.
    """

    nodes: int = 4
    cpus_per_node: int | None = None
    memory_mib_per_node: int | None = None
    gpus_per_node: int = 0
    gpu_type: str = "pretended"
    preempt: bool = False
    accounting: bool = True
    max_array_size: int | None = None
    node_timeout_s: int = 6
    message_timeout_s: int = 5
    kill_wait_s: int = 10
    grace_s: int = 0
    requeue_hold_s: int = 5
    extra_lines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what Slurm would refuse later and less clearly.

        Raises:
            ConfigError: a number is out of range.
        """
        self._within("nodes", self.nodes, 1, MAX_NODES)
        self._within("cpus", self.cpus, 1, 4096)
        self._within("memory_mib", self.memory_mib, 1, 2**24)
        self._within("gpus_per_node", self.gpus_per_node, 0, 64)
        self._within("node_timeout_s", self.node_timeout_s, 3, 3600)
        self._within("message_timeout_s", self.message_timeout_s, 2, 100)
        self._within("kill_wait_s", self.kill_wait_s, 1, 3600)
        self._within("grace_s", self.grace_s, 0, 3600)
        self._within("requeue_hold_s", self.requeue_hold_s, 3, 3600)
        if self.max_array_size is not None:
            self._within("max_array_size", self.max_array_size, 1, 4_000_001)

    @staticmethod
    def _within(name: str, value: int, low: int, high: int) -> None:
        if not low <= value <= high:
            raise ConfigError(
                f"a loopback cluster cannot have {name} = {value}: between {low} and {high}",
                where=f"tenfold cluster up: {name}",
                next_step="tenfold cluster up --help",
            )

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return [f"n{index}" for index in range(1, self.nodes + 1)]

    @property
    def cpus(self) -> int:
        """CPUs that each node announces."""
        return max(2, math.ceil(machine_cores() / max(1, self.nodes))) if self.cpus_per_node is None else self.cpus_per_node

    @property
    def memory_mib(self) -> int:
        """Memory that each node announces, in MiB."""
        return machine_memory_mib() // max(1, self.nodes) if self.memory_mib_per_node is None else self.memory_mib_per_node

    @property
    def oversubscribed(self) -> bool:
        """Whether the nodes announce more CPUs than the machine has."""
        return self.cpus * self.nodes > machine_cores()
