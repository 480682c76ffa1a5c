"""Profile of this machine: measured once per environment, stored in its cache folder, read by every plan."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.provenance import cpu_model, memory_gib
from launchers.environment import free_port, rank_environment
from launchers.request import RunRequest
from results.errors import PlanError
from results.store import locked, make_folder, read_json_or, sha256_text, write_json


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
CALIBRATION = 5


#: One-minute load average up to which a profile counts as measured alone.
QUIET_LOAD = 1.5


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured rates of one rank, and the memory there is.

    Attributes:
        profile: what :func:`harness.planning.probes.measure_machine` found; empty if it was never run.
    """

    profile: dict[str, Any]
    memory_gib: float

    @property
    def measured(self) -> bool:
        """Whether the probes have been run."""
        return bool(self.profile)

    @property
    def in_company(self) -> bool:
        """Whether others were busy on the machine while it was measured: its times are then too long."""
        return float(self.profile.get("load_1m", 0.0)) > QUIET_LOAD

    @property
    def gemm_flops(self) -> float | None:
        """FLOP/s of a large matrix product."""
        return self.profile.get("gemm_flops")

    @property
    def copy_bytes(self) -> float | None:
        """B/s of a large copy, read plus write."""
        return self.profile.get("copy_bytes")

    @property
    def operation_s(self) -> float | None:
        """Fixed cost of a small operator, s: what bounds small models."""
        tables = self.profile.get("tables")
        return None if not tables else float(tables["mul"][0][1])


@cache
def _key() -> str:
    versions = [f"{name}={importlib.metadata.version(name)}" for name in ("torch", "deepspeed", "zarr", "numpy")]
    return sha256_text("|".join([cpu_model(), sys.version.split()[0], f"calibration={CALIBRATION}", *versions]))[:12]


def _file(name: str) -> Path:
    return cache_folder() / f"machine-{_key()}" / f"{name}.json"


def machine(*, measure: bool = False) -> Machine:
    """The profile; with ``measure`` the probes, and those of the links between ranks, are run first if they never were."""
    if measure:
        links(measure=True)
    return Machine(_stored("probes", "probes", 1, measure), memory_gib())


def base(engine: str, ranks: int, *, convolutions: int = 0, measure: bool = False) -> int | None:
    """Base of a worker of ``engine`` (one rank, or one of several), in bytes; None if it was never measured.

    Args:
        convolutions: distinct ones, forward and backward: the kernels compiled for each are kept.
    """
    found = _engine(engine, ranks, measure)
    return int(found["base_bytes"] + convolutions * found["convolution_bytes"]) if found else None


def engine_costs(engine: str, ranks: int, *, measure: bool = False) -> dict[str, float] | None:
    """Seconds that an engine adds per ``step_s``, ``tensor_s`` (parameter tensor) and ``call_s`` (module call)."""
    found: dict[str, float] | None = _engine(engine, ranks, measure).get("costs")
    return found


def links(*, measure: bool = False) -> dict[str, float] | None:
    """``latency_s`` and ``bytes_per_s`` between two ranks of this machine; None if never measured."""
    return _stored("links", "links", 2, measure) or None


def _engine(engine: str, ranks: int, measure: bool) -> dict[str, Any]:
    for place, (name, several) in enumerate(_profiles(engine, ranks)):
        found = _stored(f"engine-{name}-{several}", name, several, measure and not place)
        if found:
            return found
    return {}


def _profiles(engine: str, ranks: int) -> list[tuple[str, int]]:
    """The profile of an engine, then those that stand in for it while it is not measured: on another number of ranks, or without
    offload, which moves nothing on a CPU."""
    several = 2 if ranks > 1 else 1
    alike = [engine, *(["zero3"] if engine == "zero3_offload" else [])]
    return [(name, count) for name in alike for count in (several, 3 - several) if name != "torch" or count == 1]


def stand_in(engine: str, ranks: int) -> str | None:
    """Which profile stands in for that of an engine, in words; None where its own was measured, or none was."""
    own, *others = _profiles(engine, ranks)
    measured = [profile for profile in (own, *others) if read_json_or(_file(f"engine-{profile[0]}-{profile[1]}"), None)]
    if not measured or measured[0] == own:
        return None
    name, count = measured[0]
    return f"{name} on {count} rank{'s' if count > 1 else ''}"


def _stored(name: str, kind: str, ranks: int, measure: bool) -> dict[str, Any]:
    path = _file(name)
    found: dict[str, Any] | None = read_json_or(path, None)
    if found is not None or not measure:
        return found or {}
    make_folder(path.parent, what="the folder of the machine's profile", next_step="TENFOLD_CACHE=FOLDER")
    with locked(path.with_suffix(".lock"), what="the machine's profile"):
        found = read_json_or(path, None)
        if found is None:
            found = _measure(kind, ranks)
            write_json(path, found)
    return found


#: A profile that takes longer was stopped by something else.
TIMEOUT_S = 600.0


def _measure(kind: str, ranks: int) -> dict[str, Any]:
    port = free_port()
    request = RunRequest(folder=Path(tempfile.gettempdir()), ranks=ranks)
    command = [sys.executable, "-m", "harness.planning.calibrate", kind]
    with contextlib.ExitStack() as stack:
        # Files, not pipes: a rank whose pipe is full while another one's is read waits for ever.
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(ranks)]
        processes = [
            subprocess.Popen(command, env=rank_environment(request, rank, port), stdout=output, stderr=subprocess.STDOUT)
            for rank, output in enumerate(outputs)
        ]
        deadline = time.monotonic() + TIMEOUT_S
        try:
            for process in processes:
                process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            pass  # what they said is part of the error below
        finally:
            for process in processes:
                process.kill()
                process.wait()
        texts = []
        for output in outputs:
            output.seek(0)
            texts.append(output.read())
    for line in texts[0].splitlines():
        if line.startswith("CALIBRATION "):
            plain: dict[str, Any] = json.loads(line.removeprefix("CALIBRATION "))
            return plain
    said = next((text for text in texts if "Error" in text), texts[0])
    raise PlanError(f"the machine's profile ({kind}) could not be measured: {said.strip()[-800:]}", next_step="tenfold doctor")
