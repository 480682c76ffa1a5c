"""Measures what a plan stands on, in processes of its own:

* the *base*: peak memory of a warmed worker of an engine before it holds a model worth mentioning (imports, process group, one
  forward and backward of each kind of operator, one optimiser step, one checkpoint);
* the *probes*: matrix-product rate, copy bandwidth and fixed cost per operation of one rank of this machine.

Run as ``python -m harness.planning.calibrate ENGINE`` by :mod:`harness.planning.machine`, one process a rank.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _tiny_model() -> Any:
    import torch
    from torch import nn

    class Kinds(nn.Module):
        """One of each kind of operator that systems use, at sizes that cost nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.convolve = nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")
            self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
            self.norm = nn.LayerNorm(4)
            self.mix = nn.Linear(4, 4)
            self.spectral = nn.Parameter(torch.randn(4, 4, 2) * 0.1)

        def forward(self, x: Any) -> Any:
            x = torch.nn.functional.gelu(self.convolve(x))
            x = self.up(torch.nn.functional.avg_pool2d(torch.tanh(x), 2))
            x = self.mix(self.norm(x.movedim(1, -1))).movedim(-1, 1)
            modes = torch.fft.rfft2(x.float())
            weight = torch.view_as_complex(self.spectral.float().contiguous())
            x = x + torch.fft.irfft2(torch.einsum("bcxy,cd->bdxy", modes, weight), s=x.shape[-2:]).to(x.dtype)
            tokens = x.flatten(2).transpose(1, 2)
            return x.mean() + torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).square().mean()

    return Kinds()


def base_bytes(engine_name: str, stage: int | None, ranks: int) -> int:
    """Peak resident bytes of this rank after it has done everything a worker does, with a model of a few hundred parameters."""
    import numpy as np
    import torch
    import xarray
    import zarr

    import harness.context
    import harness.worker  # noqa: F401  (what a worker imports counts)
    from harness.checkpoints import Checkpoints
    from harness.engines import engine_class
    from harness.group import join
    from harness.meter import host_peak_bytes
    from harness.schema import EngineConfig, TrainConfig
    from models.system import ParamGroup

    group = join(expected_world=ranks)
    engine = engine_class(engine_name)(
        config=EngineConfig(name=engine_name, stage=stage, offload=engine_name.endswith("offload"), bucket_elements=1000),
        train=TrainConfig(steps=3, global_batch=ranks, micro_batch=1, clip=1.0),
        precision="fp32",
        group=group,
        build=_tiny_model,
        groups=lambda model: [ParamGroup(name="all", params=list(model.parameters()))],
        loss=lambda model, batch: model(batch["x"]),
    )
    for _ in range(3):
        engine.step([{"x": torch.randn(1, 4, 16, 16)}], 1e-3)
    with torch.no_grad():
        engine.eval_module()(torch.randn(1, 4, 16, 16))
    folder = group.broadcast(tempfile.mkdtemp(prefix="tenfold-") if group.rank == 0 else None)
    Checkpoints(Path(folder) / "checkpoints", group).save(engine, 1, {})
    if group.rank == 0:
        # Opening data counts: xarray brings pandas, which is a tenth of a worker.
        xarray.Dataset({"x": ("t", np.zeros(8, dtype=np.float32))}).to_zarr(folder + "/d.zarr", consolidated=False)
    group.barrier()
    with xarray.open_zarr(folder + "/d.zarr", consolidated=False) as data:
        data.load()
    if group.rank == 0:
        array = zarr.open_group(folder + "/s.zarr", mode="w").create_array("x", shape=(2, 64), chunks=(1, 64), dtype="float64")
        array[:] = np.zeros((2, 64))
        np.savez_compressed(folder + "/s.npz", x=np.zeros(8))
    peak = int(group.all_gather(np.array([float(host_peak_bytes())])).max())
    group.barrier()
    if group.rank == 0:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
    group.leave()
    return peak


def _median_seconds(function: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def probes() -> dict[str, float]:
    """Rates of one single-threaded rank: ``gemm_flops`` (FLOP/s), ``copy_bytes`` (B/s, read plus write), ``operation_s`` (s)."""
    import torch

    torch.set_num_threads(1)
    size = 1024
    a, b, c = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    torch.mm(a, b, out=c)
    gemm = 2 * size**3 / _median_seconds(lambda: torch.mm(a, b, out=c), 9)
    source, target = torch.randn(16 << 20), torch.empty(16 << 20)
    target.copy_(source)
    copy = 2 * source.numel() * 4 / _median_seconds(lambda: target.copy_(source), 9)
    x = torch.ones(16, requires_grad=True)
    count = 200

    def chain() -> None:
        y = x
        for _ in range(count):
            y = y * 1.0001
        y.sum().backward()

    chain()
    return {"gemm_flops": gemm, "copy_bytes": copy, "operation_s": _median_seconds(chain, 9) / (2 * count)}


def main() -> None:
    """Print one JSON line on rank 0."""
    import os

    kind = sys.argv[1]
    if kind == "probes":
        found: dict[str, float] = probes()
    else:
        stage = {"torch": None, "zero3_offload": 3}.get(
            kind, int(kind[4]) if kind.startswith("zero") and kind[4:].isdigit() else None
        )
        found = {"base_bytes": float(base_bytes(kind, stage, int(os.environ["WORLD_SIZE"])))}
    if os.environ["RANK"] == "0":
        print("CALIBRATION " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
