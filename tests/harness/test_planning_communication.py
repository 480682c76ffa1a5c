"""What ranks send: closed forms against the paper, and against what DeepSpeed asks of two real ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.planning.communication import Traffic, published_bytes, seconds, traffic
from launchers.environment import free_port, rank_environment
from launchers.request import RunRequest

#: Counts the tensors that collectives are called with in a step of every stage, for a chain of linear layers.
COUNT = """
import collections, json, sys
import torch, torch.distributed as dist
from torch import nn
from harness.group import join
from harness.engines import engine_class
from harness.schema import EngineConfig, TrainConfig
from models.system import ParamGroup

bucket = int(sys.argv[1])
found, inside = collections.Counter(), [0]
def size(value):
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(size, value)) if isinstance(value, (list, tuple)) else 0
def counted(name, function):
    def call(*args, **kwargs):
        if not inside[0]:
            found[name] += max([size(value) for value in (*args, *kwargs.values())], default=0)
            found["messages"] += 1
        inside[0] += 1
        try:
            return function(*args, **kwargs)
        finally:
            inside[0] -= 1
    return call
for name in ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_gather", "reduce", "broadcast"):
    setattr(dist, name, counted(name, getattr(dist, name)))
group = join(expected_world=2)
class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.square().mean()
rows = []
for stage in range(4):
    for passes in (1, 2):
        engine = engine_class(f"zero{stage}")(
            config=EngineConfig(name=f"zero{stage}", stage=stage, bucket_elements=bucket,
                                persistence_threshold_elements=0),
            train=TrainConfig(steps=4, global_batch=2 * passes, micro_batch=1), precision="fp32", group=group, build=Chain,
            groups=lambda model: [ParamGroup(name="all", params=list(model.parameters()))],
            loss=lambda model, batch: model(batch["x"]))
        step = lambda: engine.step([{"x": torch.randn(1, 32)}] * passes, 1e-3)
        for _ in range(3):
            step()
        found.clear()
        step()
        rows.append({"stage": stage, "passes": passes, **found})
if group.rank == 0:
    print("COUNTED " + json.dumps(rows), flush=True)
group.barrier()
group.leave()
"""
LAYERS, WIDTH = 4, 32
PARAMS = LAYERS * (WIDTH * WIDTH + WIDTH)


def count(bucket: int, folder: Path) -> list[dict[str, Any]]:
    """Run the snippet on two ranks."""
    port = free_port()
    request = RunRequest(folder=folder, ranks=2)
    processes = []
    for rank in range(2):
        with (folder / f"{bucket}-{rank}.txt").open("w") as output:
            command = [sys.executable, "-c", COUNT, str(bucket)]
            environment = rank_environment(request, rank, port)
            processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    try:
        for process in processes:
            process.wait(timeout=180)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    text = (folder / f"{bucket}-0.txt").read_text()
    lines = [line for line in text.splitlines() if line.startswith("COUNTED ")]
    assert lines, text[-2000:]
    found: list[dict[str, Any]] = json.loads(lines[0].removeprefix("COUNTED "))
    return found


def planned(stage: int, passes: int, bucket: int) -> Traffic:
    return traffic(
        PARAMS,
        trainable=PARAMS,
        stage=stage,
        world=2,
        passes=passes,
        bucket=bucket,
        gathered=PARAMS,
        owner_calls=LAYERS,
        tensors=2 * LAYERS,
    )


def test_a_model_within_the_buckets_sends_exactly_what_is_planned(tmp_path: Path) -> None:
    """Besides, the gradient's norm is agreed on with a few bytes."""
    for row in count(5_000_000, tmp_path):
        found = planned(row["stage"], row["passes"], 5_000_000)
        few = 16
        assert row.get("all_reduce", 0) == pytest.approx(found.all_reduce_bytes, abs=few), row
        assert row.get("all_gather_into_tensor", 0) == found.all_gather_bytes, row
        assert row.get("reduce_scatter_tensor", 0) == found.reduce_scatter_bytes, row
        assert row["messages"] == found.messages or row["stage"] == 0, row
        assert set(row) <= {"stage", "passes", "messages", "all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor"}


def test_a_model_beyond_the_buckets_is_gathered_at_most_twice_as_planned(tmp_path: Path) -> None:
    """ZeRO-3 gathers in forward and again in backward; what is still there when backward begins (the last layer) it need not."""
    for row in count(WIDTH * WIDTH, tmp_path):
        found = planned(row["stage"], row["passes"], WIDTH * WIDTH)
        gathered = row.get("all_gather_into_tensor", 0)
        if row["stage"] < 3:
            assert gathered == found.all_gather_bytes
        else:
            last = row["passes"] * 4 * PARAMS // LAYERS
            assert found.all_gather_bytes - last <= gathered <= found.all_gather_bytes
            assert row["reduce_scatter_tensor"] == found.reduce_scatter_bytes


@given(params=st.integers(1, 10**12), world=st.integers(2, 1024))
def test_the_papers_volumes(params: int, world: int) -> None:
    """Rajbhandari et al. 2020, section 7: data parallelism and ZeRO 1 and 2 send 2 Psi, ZeRO 3 sends half as much again."""
    volumes = [published_bytes(params, stage=stage, world=world) for stage in range(4)]
    assert volumes[0] == volumes[1] == volumes[2] == pytest.approx(2 * params * (1 - 1 / world))
    assert volumes[3] == pytest.approx(1.5 * volumes[0])
    assert published_bytes(params, stage=None, world=1) == published_bytes(params, stage=3, world=1) == 0


@given(params=st.integers(10**6, 10**11), world=st.integers(2, 512))
def test_large_models_send_the_papers_volume_under_stages_0_and_3(params: int, world: int) -> None:
    """Stage 0 as the paper says; stage 3 with every parameter used once in forward likewise: two gathers and a scatter."""
    for stage in (0, 3):
        sent = traffic(
            params,
            trainable=params,
            stage=stage,
            world=world,
            passes=1,
            bucket=10**5,
            gathered=params,
            owner_calls=40,
            tensors=400,
        )
        assert sent.sent_bytes(world) == pytest.approx(published_bytes(4 * params, stage=stage, world=world))


def test_one_rank_sends_nothing_and_takes_no_time() -> None:
    alone = planned(3, 1, 100)
    assert alone.sent_bytes(1) == 0
    assert seconds(alone, world=1, latency_s=1.0, bytes_per_s=1.0) == 0
    sent = Traffic(all_reduce_bytes=100.0, messages=3)
    assert seconds(sent, world=2, latency_s=0.5, bytes_per_s=50.0) == pytest.approx(3 * 0.5 + 100 / 50)
    assert seconds(sent, world=8, latency_s=0.5, bytes_per_s=50.0) == pytest.approx(3 * 3 * 0.5 + 2 * 100 * 7 / 8 / 50)
