"""Examinations of an environment, each with what to do when it fails. Real calls, no version sniffing alone."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launchers.environment import free_port, rank_environment
from launchers.request import RunRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One examination. ``optional``: its absence does not stop local runs."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    optional: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


_DEEPSPEED = """
import torch
from harness.engines import engine_class
from harness.group import join
from harness.schema import EngineConfig, TrainConfig
from models.system import ParamGroup
group = join(expected_world={ranks})
config = EngineConfig(name="zero1", stage=1, bucket_elements=1000)
train = TrainConfig(steps=1, global_batch={ranks}, micro_batch=1)
engine = engine_class("zero1")(config=config, train=train, precision="fp32", group=group, build=lambda: torch.nn.Linear(4, 1),
    groups=lambda m: [ParamGroup(name="all", params=list(m.parameters()))], loss=lambda m, b: m(b["x"]).square().mean())
engine.step([{"x": torch.ones(1, 4, device=group.device)}], 1e-3)
group.leave()
"""


def _ranks(code: str, count: int) -> tuple[bool, str]:
    """Run a snippet on several ranks; whether all succeeded, and the first error."""
    port = free_port()
    request = RunRequest(folder=Path(tempfile.gettempdir()), ranks=count)
    with (
        contextlib.ExitStack() as files
    ):  # pipes would have to be read from all ranks at once, or one that prints much blocks all
        outputs = [files.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code], env=rank_environment(request, rank, port), stdout=output, stderr=subprocess.STDOUT
            )
            for rank, output in enumerate(outputs)
        ]
        try:
            codes = [process.wait(timeout=180) for process in processes]
        except subprocess.TimeoutExpired:
            for process in processes:
                process.kill()
            return False, "no answer within 180 s"
        for code_of_rank, output in zip(codes, outputs, strict=True):
            if code_of_rank:
                output.seek(0)
                said = output.read().decode(errors="replace").strip().splitlines()
                return False, (said or ["no output"])[-1]
    return True, ""


def _torch() -> Finding:
    import torch

    return Finding(name="torch", ok=True, detail=f"{torch.__version__}, {_gpus()} CUDA devices")


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _all_reduce() -> Finding:
    from harness.allreducing import all_reduce

    device = "cpu" if _gpus() == 1 else "auto"  # two ranks cannot share a GPU
    with tempfile.TemporaryDirectory() as folder:
        found = all_reduce([f"paths.runs={folder}", f"device={device}"], lambda _: None, timeout_s=180)
    fastest = max(row["bus_bytes_per_s"] for row in found["sizes"])
    detail = f"{found['world']} ranks, {found['backend']} on {found['device']}, {fastest / 1e9:.2f} GB/s"
    return Finding(name="all-reduce", ok=True, detail=detail, fix="GLOO_SOCKET_IFNAME=lo, or another port range")


def _deepspeed() -> Finding:
    count = 1 if _gpus() == 1 else 2
    ok, text = _ranks(_DEEPSPEED.replace("{ranks}", str(count)), count)
    version = importlib.metadata.version("deepspeed")
    step = f"a ZeRO-1 step on {count} rank{'s' if count > 1 else ''}"
    return Finding(name="deepspeed", ok=ok, detail=f"{version}, {step}" if ok else text, fix="make install")


def _mpi() -> Finding:
    code = "from mpi4py import MPI; c = MPI.COMM_WORLD; n = c.allreduce(1); print(n) if c.rank == 0 else None"
    mpiexec = Path(sys.executable).parent / "mpiexec"
    command = [str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", "2", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    ok = done.returncode == 0 and done.stdout.strip() == "2"
    return Finding(
        name="mpi",
        ok=ok,
        detail="all-reduce over 2 ranks" if ok else done.stderr.strip()[-200:],
        fix="pip install mpi4py mpich",
        optional=True,
    )


def _slurm() -> Finding:
    found = shutil.which("sbatch")
    return Finding(
        name="slurm",
        ok=found is not None,
        detail=found or "no sbatch on PATH",
        fix="only needed for launcher=slurm",
        optional=True,
    )


def _wandb() -> Finding:
    import netrc

    version = importlib.metadata.version("wandb")
    try:
        logged_in = netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        logged_in = False
    note = "logged in" if logged_in else "not logged in: offline runs are written, `wandb login` before tenfold sync --upload"
    return Finding(name="wandb", ok=True, detail=f"{version}, {note}", optional=True)


def _faiss() -> Finding:
    import faiss
    import numpy as np

    index = faiss.IndexFlatL2(4)
    index.add(np.eye(4, dtype=np.float32))
    ok = int(index.search(np.eye(4, dtype=np.float32)[2:3], 1)[1][0, 0]) == 2
    return Finding(name="faiss", ok=ok, detail=f"{faiss.__version__}, exact search", fix="pip install faiss-cpu")


def _zarr() -> Finding:
    import numpy as np
    import zarr

    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(folder + "/x", shape=(4,), chunks=(2,), dtype="f4")
        array[:] = np.arange(4)
        ok = np.array_equal(np.asarray(zarr.open_array(folder + "/x", mode="r")[:]), np.arange(4))
    return Finding(name="zarr", ok=ok, detail=f"{zarr.__version__}, write and read back")


def _profile() -> Finding:
    from harness.planning.machine import base, cache_folder, machine

    ok = machine().measured and base("torch", 1) is not None
    detail = str(cache_folder()) if ok else "not measured: plans have no times and no base"
    return Finding(name="machine profile", ok=ok, detail=detail, fix="tenfold doctor --prepare", optional=True)


def examine() -> list[Finding]:
    """All examinations; one that raises is a failing finding, not a crash."""
    checks: list[Callable[[], Finding]] = [_torch, _all_reduce, _deepspeed, _mpi, _slurm, _wandb, _faiss, _zarr, _profile]
    found = []
    for check in checks:
        try:
            found.append(check())
        except Exception as error:
            optional = check in (_mpi, _slurm, _wandb, _profile)
            found.append(
                Finding(
                    name=check.__name__.strip("_"),
                    ok=False,
                    detail=f"{type(error).__name__}: {error}",
                    fix="make install",
                    optional=optional,
                )
            )
    return found
