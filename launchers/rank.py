"""What srun or mpiexec starts as every rank: learns which rank it is, sets the variables of a rank, runs the worker.

``python -P -m launchers.rank (slurm|mpi) MODULE RUN_FOLDER``. Nothing is discovered by the libraries above: under an srun whose
MPI support does not match, discovery gives every task a world of its own, without an error. Here the world is compared with the
``TENFOLD_RANKS`` that the launcher has set, and a difference ends the rank at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from launchers.environment import cache_variables, free_port, rendezvous, without_foreign
from launchers.starting import exit_file, launch_log, node_file
from results.errors import EXIT_USAGE
from results.store import write_bytes

RANKS = "TENFOLD_RANKS"
CACHES_ROOT = "TENFOLD_CACHES"
#: Addresses of nodes by name (JSON), where their names cannot be looked up.
ADDRESSES = "TENFOLD_ADDRESSES"


def tasks_per_node(text: str) -> list[int]:
    """Expand Slurm's ``2(x3),1`` to ``[2, 2, 2, 1]``."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise ValueError(f"not a list of tasks per node: {text!r}")
        counts += [int(match.group(1))] * int(match.group(2) or 1)
    return counts


def first_host(nodes: str) -> str:
    """First name of a compact list: ``n[03-05,7],m1`` is ``n03``, ``rack[1-2]n[7,9]`` is ``rack1n7``."""
    match = re.match(r"(?:[^,\[\]]|\[[^\]]+\])+", nodes)
    if match is None:
        raise ValueError(f"not a list of nodes: {nodes!r}")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", match.group())


def master_address(environment: Mapping[str, str]) -> str:
    """Where rank 0 is: the step's first node, by name or by the address that the site gives for it."""
    name = first_host(environment["SLURM_STEP_NODELIST"])
    known: dict[str, str] = json.loads(environment.get(ADDRESSES, "{}"))
    return known.get(name, name)


def slurm_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Rendezvous variables of a task that srun has started.

    Raises:
        KeyError: it was not started by srun, or its launcher set no port.
    """
    counts = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
    return rendezvous(
        rank=int(environment["SLURM_PROCID"]),
        world=int(environment["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        local_world=counts[int(environment["SLURM_NODEID"])],
        address=master_address(environment),
        port=int(environment["MASTER_PORT"]),
    )


def mpi_variables() -> dict[str, str]:
    """Rendezvous variables of a process that mpiexec has started: rank 0's address and a free port of its node, told to all."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    one_node = node.size == world.size
    address = "127.0.0.1" if one_node else socket.gethostname()
    place = (address, free_port("127.0.0.1" if one_node else "")) if world.rank == 0 else None
    address, port = world.bcast(place, root=0)
    found = rendezvous(rank=world.rank, world=world.size, local_rank=node.rank, local_world=node.size, address=address, port=port)
    MPI.Finalize()  # from here on torch owns the ranks; mpiexec only waits for the processes to end
    return found


def _die_with_parent() -> None:
    """Runs in the child: a worker whose parent is killed (by srun, by mpiexec) must not live on unseen."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def main() -> None:
    """Learn the rank, run the worker."""
    how, module, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    variables = slurm_variables(os.environ) if how == "slurm" else mpi_variables()
    rank, world, expected = variables["RANK"], variables["WORLD_SIZE"], os.environ.get(RANKS)
    if expected is not None and world != expected:
        print(f"rank {rank}: the world has {world} ranks and the launcher started {expected}", file=sys.stderr, flush=True)
        sys.exit(EXIT_USAGE)
    environment = {**(os.environ if how == "slurm" else without_foreign(os.environ)), **variables}
    caches = environment.get(CACHES_ROOT)
    environment |= cache_variables(environment, Path(caches) if caches else None)
    if how == "mpi" and variables["LOCAL_WORLD_SIZE"] == world:
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < int(environment.get("OMP_NUM_THREADS", "1")):
        print(f"rank {rank}: bound to fewer cores than its {environment['OMP_NUM_THREADS']} threads", file=sys.stderr, flush=True)
    sys.exit(run(module, folder, int(rank), environment))


def run(module: str, folder: Path, rank: int, environment: Mapping[str, str]) -> int:
    """Run the worker as a child, hand signals on to it, leave its exit status for the launcher.

    Returns:
        0: what a rank's end means for the others is for the launcher to decide, not for srun or mpiexec.
    """
    node = environment.get("SLURMD_NODENAME") or socket.gethostname()
    write_bytes(node_file(folder, rank), node.encode(), durable=False)
    with launch_log(folder, rank).open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(folder)],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: child.send_signal(number))
    code = child.wait()
    write_bytes(exit_file(folder, rank), str(code).encode(), durable=False)
    return 0


if __name__ == "__main__":
    main()
