"""Measures what a plan stands on, in processes of its own:

* the *base*: peak memory of a warmed worker of an engine before it holds a model worth mentioning (imports, process group, one
  forward and backward of each kind of operator, one optimiser step, one checkpoint);
* what an *engine* adds to a step: per step, per parameter tensor, per module call;
* the *links*: latency and bandwidth of collectives between two ranks;
* the *probes* of operators: :mod:`harness.planning.probes`.

Run as ``python -m harness.planning.calibrate ENGINE`` by :mod:`harness.planning.machine`, one process a rank.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.group import join


def _tiny_model() -> Any:
    import torch
    from torch import nn

    class Kinds(nn.Module):
        """One of each kind of operator that systems use, convolutions apart, at sizes that cost nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.widen = nn.Linear(4, 8)
            self.norm = nn.LayerNorm(4)
            self.mix = nn.Linear(4, 4)
            self.spectral = nn.Parameter(torch.randn(4, 4, 2) * 0.1)

        def forward(self, x: Any) -> Any:
            x = torch.nn.functional.gelu(self.widen(x.movedim(1, -1))).movedim(-1, 1)
            x = torch.tanh(x[:, :4] * torch.sigmoid(x[:, 4:]))
            x = self.mix(self.norm(x.movedim(1, -1))).movedim(-1, 1)
            modes = torch.fft.rfft2(x.float())
            weight = torch.view_as_complex(self.spectral.float().contiguous())
            x = x + torch.fft.irfft2(torch.einsum("bcxy,cd->bdxy", modes, weight), s=x.shape[-2:]).to(x.dtype)
            tokens = x.flatten(2).transpose(1, 2)
            return x.mean() + torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).square().mean()

    return Kinds()


def _run_convolutions() -> int:
    """Convolutions of several shapes, for each of which oneDNN compiles kernels that it keeps. Returns their number."""
    import torch

    count = 0
    for enter, leave, layout in itertools.product((2, 16), (3, 32), (torch.channels_last, torch.contiguous_format)):
        field = torch.randn(1, enter, 12, 12).contiguous(memory_format=layout).requires_grad_()
        weight, bias = torch.randn(leave, enter, 3, 3, requires_grad=True), torch.zeros(leave, requires_grad=True)
        out = torch.nn.functional.conv2d(torch.cat([field[..., -1:], field], dim=-1), weight, bias)
        out.relu().tanh().sigmoid().sum().backward()
        count += 2
    return count


def base_bytes(engine_name: str, stage: int | None, group: Any) -> dict[str, float]:
    """Peak resident bytes of this rank after it has done everything a worker does, with a model of a few hundred parameters
    (``base_bytes``), and what the compiled kernels of one convolution take (``convolution_bytes``)."""
    import numpy as np
    import torch
    import xarray
    import zarr

    import harness.context
    import harness.worker  # noqa: F401  (what a worker imports counts)
    from harness.checkpoints import Checkpoints
    from harness.engines import engine_class
    from harness.meter import host_bytes, host_peak_bytes
    from harness.schema import EngineConfig, TrainConfig
    from models.system import ParamGroup
    from results.pictures import save_panels

    engine = engine_class(engine_name)(
        config=EngineConfig(name=engine_name, stage=stage, offload=engine_name.endswith("offload"), bucket_elements=1000),
        train=TrainConfig(steps=3, global_batch=group.world, micro_batch=1, clip=1.0),
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
        panels = np.zeros((3, 3, 32, 32), dtype=np.float32)
        save_panels(Path(folder), "p", panels=panels, row_titles=["a"] * 3, column_titles=["b"] * 3, title="", units="")
    peak = int(group.all_gather(np.array([float(host_peak_bytes())])).max())
    before = host_bytes()
    kernels = _run_convolutions()
    grown = host_bytes() - before
    group.barrier()
    if group.rank == 0:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
    return {"base_bytes": float(peak), "convolution_bytes": max(grown, 0) / kernels}


#: Layers and applications of each in a step, of the models whose cost under an engine is compared.
_CHAINS = ((2, 1), (18, 1), (2, 9), (18, 3))


def engine_costs(engine_name: str, stage: int | None, group: Any) -> dict[str, float]:
    """Seconds that an engine adds to bare forward and backward passes: ``step_s`` per step, ``tensor_s`` per parameter tensor,
    ``call_s`` per module call. Collectives of next to nothing and waiting for the other rank are part of it."""
    import numpy as np
    import torch
    from scipy.optimize import nnls
    from torch import nn

    from harness.engines import engine_class
    from harness.schema import EngineConfig, TrainConfig
    from models.system import ParamGroup

    class Chain(nn.Module):
        def __init__(self, layers: int, turns: int) -> None:
            super().__init__()
            self.layers, self.turns = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers)), turns

        def forward(self, x: Any) -> Any:
            for _ in range(self.turns):
                for layer in self.layers:
                    x = layer(x)
            return x.mean()

    def quick(function: Callable[[], Any]) -> float:
        """The lowest decile: others on the machine, and ranks that wait for each other because of them, only ever add time."""
        for _ in range(5):
            function()
        found = []
        for _ in range(30):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
        return statistics.quantiles(found, n=10)[0]

    rows, extra = [], []
    batch = {"x": torch.randn(1, 8)}
    for layers, turns in _CHAINS:
        engine = engine_class(engine_name)(
            config=EngineConfig(
                name=engine_name, stage=stage, offload=engine_name.endswith("offload"), persistence_threshold_elements=0
            ),
            train=TrainConfig(steps=3, global_batch=group.world, micro_batch=1),
            precision="fp32",
            group=group,
            build=lambda layers=layers, turns=turns: Chain(layers, turns),  # type: ignore[misc]
            groups=lambda model: [ParamGroup(name="all", params=list(model.parameters()))],
            loss=lambda model, batch: model(batch["x"]),
        )
        bare = Chain(layers, turns)
        whole = quick(lambda engine=engine: engine.step([batch], 1e-3))  # type: ignore[misc]
        extra.append(max(whole - quick(lambda bare=bare: bare(batch["x"]).backward()), 0.0))  # type: ignore[misc]
        rows.append([1.0, 2.0 * layers, layers * turns + 1.0])
    matrix, times = np.array(rows), np.array(extra)
    found, _ = nnls(matrix / times[:, None], np.ones(len(times)))
    return dict(zip(("step_s", "tensor_s", "call_s"), map(float, found), strict=True))


def links() -> dict[str, float]:
    """Latency (s, of the smallest all-reduce) and bandwidth (B/s that a rank sends) between the ranks of this machine."""
    import torch
    import torch.distributed as dist

    group = join(expected_world=2)
    found = {}
    for name, elements, repeats in (("small", 1, 60), ("large", 1 << 21, 9)):
        x = torch.zeros(elements)
        times = []
        for _ in range(repeats):
            group.barrier()
            start = time.perf_counter()
            dist.all_reduce(x)
            times.append(time.perf_counter() - start)
        found[name] = statistics.quantiles(times, n=4)[0]
    group.leave()
    size = 4 * (1 << 21)  # an all-reduce of two ranks sends the tensor once
    return {"latency_s": found["small"], "bytes_per_s": size / max(found["large"] - found["small"], 1e-9)}


def main() -> None:
    """Print one JSON line on rank 0."""
    kind = sys.argv[1]
    found: dict[str, Any]
    if kind == "probes":
        from harness.planning.probes import measure_machine

        found = measure_machine()
    elif kind == "links":
        found = dict(links())
    else:
        stage = {"torch": None, "zero3_offload": 3}.get(
            kind, int(kind[4]) if kind.startswith("zero") and kind[4:].isdigit() else None
        )
        group = join(expected_world=int(os.environ["WORLD_SIZE"]))
        found = {**base_bytes(kind, stage, group), "costs": engine_costs(kind, stage, group)}
        group.leave()
    if os.environ["RANK"] == "0":
        print("CALIBRATION " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
