"""Profile of this machine: measured once per environment, stored in its cache folder, read by every plan."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.provenance import cpu_model, memory_gib
from launchers.environment import free_port, rank_environment
from launchers.request import RunRequest
from results.errors import PlanError
from results.store import locked, make_folder, read_json_or, sha256_text, write_json

#: Device memory in GiB and dense peak FLOP/s (vendor data sheets) that plans for GPUs are held against.
GPU_TYPES: dict[str, dict[str, float]] = {
    "A10G-24G": {"memory_gib": 22.5, "fp32": 31.2e12, "bf16": 70e12},
    "A100-40G": {"memory_gib": 39.4, "fp32": 19.5e12, "bf16": 312e12},
    "A100-80G": {"memory_gib": 79.2, "fp32": 19.5e12, "bf16": 312e12},
    "H100-80G": {"memory_gib": 79.1, "fp32": 66.9e12, "bf16": 989e12},
    "H200-141G": {"memory_gib": 139.8, "fp32": 66.9e12, "bf16": 989e12},
}


def cache_folder() -> Path:
    """``$TENFOLD_CACHE``, else a folder of this Python environment, else one in the user's cache named after the environment."""
    if os.environ.get("TENFOLD_CACHE"):
        return Path(os.environ["TENFOLD_CACHE"])
    inside = Path(sys.prefix) / "var" / "tenfold"
    if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK):
        return inside
    base = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")))
    return base / "tenfold" / sha256_text(sys.prefix)[:8]


#: Raised when :mod:`harness.planning.calibrate` measures something else than before.
CALIBRATION = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured rates of one rank, and the memory there is."""

    gemm_flops: float | None
    copy_bytes: float | None
    operation_s: float | None
    memory_gib: float

    @property
    def measured(self) -> bool:
        """Whether the probes have been run."""
        return self.gemm_flops is not None


@cache
def _key() -> str:
    versions = [f"{name}={importlib.metadata.version(name)}" for name in ("torch", "deepspeed", "zarr", "numpy")]
    return sha256_text("|".join([cpu_model(), sys.version.split()[0], f"calibration={CALIBRATION}", *versions]))[:12]


def _file(name: str) -> Path:
    return cache_folder() / f"machine-{_key()}" / f"{name}.json"


def machine(*, measure: bool = False) -> Machine:
    """The profile; with ``measure`` the probes are run first if they never were."""
    found = _stored("probes", "probes", 1, measure)
    return Machine(found.get("gemm_flops"), found.get("copy_bytes"), found.get("operation_s"), memory_gib())


def base(engine: str, ranks: int, *, measure: bool = False) -> int | None:
    """Base of a worker of ``engine`` (one rank, or one of several), in bytes; None if it was never measured."""
    several = 2 if ranks > 1 else 1
    found = _stored(f"base-{engine}-{several}", engine, several, measure)
    return int(found["base_bytes"]) if found else None


def _stored(name: str, kind: str, ranks: int, measure: bool) -> dict[str, float]:
    path = _file(name)
    found: dict[str, float] | None = read_json_or(path, None)
    if found is not None or not measure:
        return found or {}
    make_folder(path.parent, what="the folder of the machine's profile", next_step="TENFOLD_CACHE=FOLDER")
    with locked(path.with_suffix(".lock"), what="the machine's profile"):
        found = read_json_or(path, None)
        if found is None:
            found = _measure(kind, ranks)
            write_json(path, found)
    return found


def _measure(kind: str, ranks: int) -> dict[str, float]:
    port = free_port()
    request = RunRequest(folder=Path(tempfile.gettempdir()), ranks=ranks)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "harness.planning.calibrate", kind],
            env=rank_environment(request, rank, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    for line in outputs[0][0].splitlines():
        if line.startswith("CALIBRATION "):
            plain: dict[str, float] = json.loads(line.removeprefix("CALIBRATION "))
            return plain
    raise PlanError(
        f"the machine's profile ({kind}) could not be measured: {outputs[0][1].strip()[-800:]}", next_step="tenfold doctor"
    )
