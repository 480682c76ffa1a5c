"""Variables of a rank: rendezvous, threads, caches. All are set by us; nothing of an enclosing job is inherited."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from launchers.request import RunRequest
from results.store import sha256_text

#: Prefixes of variables by which an enclosing job or launcher would speak to ranks that are not its own.
FOREIGN = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "HYDI_", "TORCHELASTIC_")
#: The seconds of the epoch at which ranks save and leave by themselves, before the scheduler's limit strikes.
LEAVE_AT = "TENFOLD_LEAVE_AT"
#: Caches of compiled extensions: one per Python environment (their files fit no other), on the node (locks on shared homes hang).
CACHES = {"TORCH_EXTENSIONS_DIR": "torch_extensions", "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}

#: What is set of glibc's allocator, by the beginning of the names that it stands for; see :func:`allocator_variables`.
TUNABLES = {
    "glibc.malloc.tcache": "glibc.malloc.tcache_max=24",
    "glibc.malloc.trim_threshold": f"glibc.malloc.trim_threshold={1 << 30}",
    "glibc.malloc.mmap_threshold": f"glibc.malloc.mmap_threshold={32 << 20}",
}


def free_port(address: str = "127.0.0.1") -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def without_foreign(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables of an enclosing job."""
    return {name: value for name, value in environment.items() if not name.startswith(FOREIGN)}


def import_path(environment: Mapping[str, str]) -> dict[str, str]:
    """``PYTHONPATH`` that lets ranks run the code that launched them: only a checkout needs one."""
    root = Path(__file__).resolve().parents[1]
    if "site-packages" in root.parts:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH", "")]))}


def cache_variables(environment: Mapping[str, str], root: Path | None = None) -> dict[str, str]:
    """Caches of compiled extensions on this node, per Python environment; those that the user has set stay."""
    root = root or Path(tempfile.gettempdir()) / f"tenfold-{os.getuid()}" / "caches"
    folder = root / sha256_text(sys.prefix)[:8]
    return {name: environment.get(name, str(folder / leaf)) for name, leaf in CACHES.items()}


def thread_variables(threads: int) -> dict[str, str]:
    """As many threads as the rank has cores, for every library that starts some. (Each thread of zarr would also keep a heap of
    its own for what it decoded: 80 MiB a rank of the weather experiment.)"""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ZARR_THREADING__MAX_WORKERS")
    return {name: str(threads) for name in names}


def allocator_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What keeps freed memory in one piece, and keeps it.

    glibc keeps the small blocks that a thread freed last, up to 1 KiB, in lists of their own, and what is in such a list is never
    joined with its neighbours. One lies beside every aligned tensor: the holes of tensors stay apart, and the heap grows although
    it is full of them. Blocks of up to 24 bytes do not hurt. Joined, they soon reach the heap's end, and glibc would give it back
    and ask for it again at every step (17 % of a step of FNO2D 50k): the threshold for that is set out of reach, and with it that
    for mappings of their own, which then no longer adapts, to where it adapts to. [A step of MeshGraphNet 50k, glibc 2.36: 448
    instead of 606 MiB; FNO2D 50k, two at a time, 46.6 ms a step after 45.3.] What the user has set of these stays.
    """
    theirs = environment.get("GLIBC_TUNABLES", "")
    ours = [setting for name, setting in TUNABLES.items() if name not in theirs]
    return {"GLIBC_TUNABLES": ":".join(filter(None, [theirs, *ours]))}


def rendezvous(*, rank: int, world: int, local_rank: int, local_world: int, address: str, port: int) -> dict[str, str]:
    """What :func:`harness.group.join` reads."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(local_world),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


def common_environment(request: RunRequest, environment: Mapping[str, str]) -> dict[str, str]:
    """What every rank of a run has, wherever it runs, on top of ``environment``."""
    return {
        **environment,
        **import_path(environment),
        **thread_variables(request.cores_per_rank),
        **allocator_variables(environment),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        **request.environment,
    }


def rank_environment(request: RunRequest, rank: int, port: int) -> dict[str, str]:
    """Variables of one rank of a run on this machine."""
    inherited = without_foreign(os.environ)
    inherited.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return {
        **cache_variables(inherited),
        **common_environment(request, inherited),
        **rendezvous(rank=rank, world=request.ranks, local_rank=rank, local_world=request.ranks, address="127.0.0.1", port=port),
    }
