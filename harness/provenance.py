"""Where a number comes from: commit, packages, hardware, allow-listed variables, energy counters."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from harness.cores import cpu_quota, physical_cores

PACKAGES = (
    "torch", "deepspeed", "numpy", "scipy", "xarray", "zarr", "hydra-core", "omegaconf", "submitit", "mpi4py", "wandb",
    "faiss-cpu", "transformers", "matplotlib",
)  # fmt: skip
_SECRET = re.compile("TOKEN|KEY|SECRET|PASS|JWT|CREDENTIAL")
#: Only these are recorded: an environment holds keys and tokens.
VARIABLES = ("SLURM_", "NCCL_", "TORCH_", "OMP_", "MKL_", "CUDA_VISIBLE_DEVICES", "DS_", "WANDB_MODE")


def now() -> str:
    """UTC time, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def commit() -> dict[str, Any]:
    """Commit of the checkout that the code runs from, and a hash of uncommitted changes; empty outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True).stdout

    try:
        if not (root / ".git").exists():
            return {}
        head = git("rev-parse", "HEAD").strip()
        diff = git("diff", "HEAD", "--", "*.py", "*.yaml", "*.toml")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": head, "dirty": bool(diff), "dirty_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else ""}


@cache
def cpu_model() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.lower().startswith(("model name", "cpu part")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> float:
    """Host memory in GiB, the control group's limit where that is smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return total / 2**30


def environment() -> dict[str, Any]:
    """Content of ``env.json``."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {
        "host": socket.gethostname(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "physical_cores": physical_cores(),
        "cpu_quota": cpu_quota(),
        "memory_gib": round(memory_gib(), 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": versions,
        "variables": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES) and not _SECRET.search(name)
        },
        **commit(),
    }
    try:
        import torch

        if torch.cuda.is_available():
            found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    except ImportError:
        pass
    return found


def place(device: Any) -> dict[str, Any]:
    """Where a rank computes, for its own file: the processor or GPU by name, and what tells whether ranks share cores or GPUs.

    Args:
        device: the rank's torch device.
    """
    found: dict[str, Any] = {"machine": cpu_model(), "physical_cores": physical_cores(), "cpu_quota": cpu_quota()}
    if device.type == "cuda":
        import torch

        facts = torch.cuda.get_device_properties(device)
        # An index says little: every task of a job may see its own GPU as the first.
        found |= {"machine": facts.name, "device_uuid": str(getattr(facts, "uuid", "")) or None}
    return found


class EnergyCounter:
    """Joules used by the processor package (RAPL), or why they are unknown. Never 0 for "not measured"."""

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        self._zones = sorted(root.glob("intel-rapl:[0-9]*")) if root.exists() else []
        self._zones = [zone for zone in self._zones if zone.name.count(":") == 1]
        self._start = self._read()
        self._since = time.perf_counter()

    def _read(self) -> list[tuple[int, int]] | None:
        try:
            return [
                (int((z / "energy_uj").read_text()), int((z / "max_energy_range_uj").read_text())) for z in self._zones
            ] or None
        except (OSError, ValueError):
            return None

    def joules(self) -> tuple[float | None, str]:
        """Energy since construction and, where it is None, the reason."""
        end = self._read()
        if self._start is None or end is None:
            return None, "no readable energy counter (RAPL) on this machine"
        used = sum((after - before) % max(span, 1) for (before, _), (after, span) in zip(self._start, end, strict=True))
        return used / 1e6, ""
