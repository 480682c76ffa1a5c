"""The faults themselves."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.system import Batch, Context, Draw, Outcome, PhasePlan, Point, TrainData, TrainedSystem
from tests.faulty.config import CATALOGUE


def _is_last_rank() -> bool:
    return int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1


class _Samples:
    def __init__(self, count: int) -> None:
        self.num_samples = count

    def batch(self, draws: Sequence[Draw]) -> Batch:
        rows = [np.random.Generator(np.random.Philox(draw.sample)).standard_normal(8) for draw in draws]
        return {"x": torch.tensor(np.array(rows), dtype=torch.float32)}


class Faulty(TrainedSystem):
    catalogue = CATALOGUE

    def build_model(self, point: Point) -> nn.Module:
        return nn.Sequential(nn.Linear(8, point.model.width), nn.Dropout(0.1), nn.Tanh(), nn.Linear(point.model.width, 1))

    def example_batch(self, point: Point, batch_size: int) -> Batch:
        return {"x": torch.zeros(batch_size, 8)}

    def loss(self, point: Point, model: nn.Module, batch: Batch) -> Tensor:
        if point.variant == "greedy" and len(batch["x"]) > 2 and batch["x"].device.type != "meta":
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")
        return (model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()

    def inputs(self, point: Point) -> Mapping[str, Mapping[str, Any]]:
        return {"base": {"variant": point.data.reads, "data.reads": "healthy"}} if point.variant == "reader" else {}

    def plan(self, point: Point) -> PhasePlan | None:
        return (
            PhasePlan(params=7, bytes_per_rank=1 << 20, seconds=2.5, parts_s={"read": 2.5}) if point.variant == "reader" else None
        )

    def execute(self, point: Point, context: Context) -> Outcome:
        if point.variant != "reader":
            return super().execute(point, context)
        with context.phase("read"):
            weights = context.input_weights("base")
        model = self.build_model(point)
        model.load_state_dict(dict(weights))
        return Outcome(metrics={"score": float(sum(float(value.abs().sum()) for value in model.state_dict().values()))})

    def open_data(self, point: Point) -> TrainData:
        return _Samples(point.data.samples)

    def after_step(self, point: Point, model: nn.Module, step: int) -> None:
        if step == 3:
            self._fault(point.variant, model)
        if point.variant == "cut" and step == 11 and not Path("cut-once").exists():
            Path("cut-once").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if point.variant == "slow":
            while not Path("go").exists():
                threading.Event().wait(0.05)
        if point.variant == "paced":
            with contextlib.suppress(OSError, ValueError):
                threading.Event().wait(float(Path("pace").read_text()))

    def _fault(self, variant: str, model: nn.Module) -> None:
        if variant == "nan":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(float("nan"))
        elif variant == "hungry":
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            torch.ones(16 << 30, dtype=torch.uint8)
        elif variant == "killed" and _is_last_rank():
            os.kill(os.getpid(), signal.SIGKILL)
        elif variant == "raising" and _is_last_rank():
            raise RuntimeError("a fault on purpose")
        elif variant == "starved" and int(os.environ.get("SLURM_MEM_PER_NODE", "0")) < 1200:
            raise MemoryError("not enough memory (on purpose)")
        elif variant == "silent":
            os._exit(0)

    def evaluate(self, point: Point, model: nn.Module, context: Context) -> Outcome:
        index, weight = context.shard(16)
        x = _Samples(16).batch([Draw(int(i) + 1000, 0) for i in index])["x"]
        with torch.no_grad():
            error = (model(x) - x.sum(1, keepdim=True)).square().mean(1).double().numpy()
        error = context.all_gather(error)[context.all_gather(weight) > 0]
        return Outcome(metrics={"score": float(np.sqrt(error.mean()))}, samples={"score_squared": error})


SYSTEM = Faulty()
