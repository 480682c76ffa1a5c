"""The ranks of one run as a step of the job (srun). Rendezvous comes from the scheduler: the step's first node is rank 0's."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from launchers.environment import common_environment
from launchers.rank import ADDRESSES, CACHES_ROOT, RANKS
from launchers.request import RunRequest
from launchers.site import SiteProfile
from launchers.starting import Started, start_program
from results.failures import FailureClass
from results.store import dumps

#: Below the range that Linux hands out by itself, so that no chance connection sits on it.
PORTS = range(20_000, 32_000)
#: Ranks end within moments of each other; those left behind after that are ended by srun.
WAIT_S = 60

_TOLD = (
    (re.compile(r"srun: error: Node failure on (\S+)"), FailureClass.NODE_FAIL, "node {} failed"),
    (re.compile(r"srun: error: (\S+): .*(?:Out Of Memory|oom-kill)", re.I), FailureClass.OOM_HOST, "out of memory on {}"),
    (re.compile(r"error: .*\boom[-_]kill event", re.I), FailureClass.OOM_HOST, "the kernel's out-of-memory killer struck"),
    (re.compile(r"srun: error: (Unable to create step[^\n]*)"), FailureClass.CRASH, "{}"),
)


def port_for(words: Sequence[str]) -> int:
    """A port by job, restart and step: two jobs on a shared node differ, and a requeued one leaves its old port alone."""
    digest: bytes = hashlib.sha256("/".join(words).encode()).digest()
    return int(PORTS[int.from_bytes(digest[:4], "big") % len(PORTS)])


def first_free(port: int) -> int:
    """The port, or the next one that nobody on this node listens on."""
    candidates: list[int] = [*range(port, PORTS.stop), *range(PORTS.start, port)]
    for candidate in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("", candidate))
            except OSError:
                continue
            return candidate
    return port


@dataclass(slots=True)
class SrunStarter:
    """Starts runs as steps of the job that this process is the batch step of.

    Attributes:
        ranks_per_node: that the allocation has room for; a run takes as few of its nodes as it needs, or as many as it asks for.
        packed: several steps share the allocation: each gets its own part of it.
        addresses: how nodes reach each other, where their names do not do.
        variables: further variables of every rank.
    """

    site: SiteProfile
    ranks_per_node: int = 1
    packed: bool = False
    addresses: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    name: str = "slurm"
    _steps: int = 0

    def command(self, request: RunRequest) -> list[str]:
        """The srun line: cores are always stated (srun does not take them over from sbatch), and one bad rank does not end the
        others before they could say what they know."""
        words = [
            "srun", "--unbuffered", "--export=ALL", "--kill-on-bad-exit=0", f"--wait={WAIT_S}",
            f"--ntasks={request.ranks}", f"--cpus-per-task={request.cores_per_rank}", f"--job-name={request.name}",
        ]  # fmt: skip
        nodes = request.nodes or -(-request.ranks // self.ranks_per_node)
        nodes = min(nodes, request.ranks)
        words.append(f"--nodes={nodes}")
        if self.packed:
            # Memory is by node: the share of the one that holds most of the step's ranks, which are spread evenly.
            here = -(-request.ranks // nodes)
            words += ["--exact", *([f"--ntasks-per-node={here}"] if nodes > 1 else [])]
            if self.site.memory_flag and request.memory_gib:
                words.append(f"--mem={int(request.memory_gib * here / request.ranks * 1024) + 1}M")
            if request.gpus_per_rank:
                words.append(f"--gpus={request.ranks * request.gpus_per_rank}")
        python = self.site.python or sys.executable
        rank = [python, "-P", "-m", "launchers.rank", "slurm", request.module, str(request.folder)]
        return [*words, *self.site.srun, *rank]

    def environment(self, request: RunRequest) -> dict[str, str]:
        """Of srun, which hands it on to every rank."""
        self._steps += 1
        job = [os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0"), str(self._steps)]
        own = {name: value for name, value in os.environ.items() if not name.startswith("SRUN_")}
        for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            own.pop(name, None)
        found = {
            **common_environment(request, own),
            RANKS: str(request.ranks),
            "MASTER_PORT": str(first_free(port_for(job))),
            **self.variables,
        }
        if self.site.slurm_conf:
            found["SLURM_CONF"] = self.site.slurm_conf
        if self.site.caches:
            found[CACHES_ROOT] = self.site.caches
        if self.site.interface:
            found["GLOO_SOCKET_IFNAME"] = found["NCCL_SOCKET_IFNAME"] = self.site.interface
        if self.addresses:
            found[ADDRESSES] = dumps(self.addresses, indent=None)
        return found

    def start(self, request: RunRequest, keep_open: Sequence[int]) -> Started:
        """Start srun.

        Raises:
            OSError: it cannot be started.
        """
        return start_program(self.command(request), self.environment(request), request, keep_open)

    def explain(self, text: str) -> tuple[FailureClass, str] | None:
        """What srun itself says: a node lost, memory run out, a step refused."""
        for pattern, kind, reason in _TOLD:
            found = pattern.search(text)
            if found:
                return kind, reason.format(*found.groups())
        return None
