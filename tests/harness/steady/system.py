"""It writes down which samples each rank trained on, and asks itself to leave after the step that the file ``stop-at`` names."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.system import Batch, Context, Draw, Outcome, Point, TrainData, TrainedSystem
from tests.harness.steady.config import CATALOGUE


class _Samples:
    def __init__(self, count: int) -> None:
        self.num_samples = count

    def batch(self, draws: Sequence[Draw]) -> Batch:
        rows = [np.random.Generator(np.random.Philox(draw.sample)).standard_normal(8) for draw in draws]
        sample = torch.tensor([draw.sample for draw in draws])
        return {"x": torch.tensor(np.array(rows), dtype=torch.float32), "sample": sample}


class Steady(TrainedSystem):
    catalogue = CATALOGUE

    def __init__(self) -> None:
        self._drawn: list[int] = []

    def build_model(self, point: Point) -> nn.Module:
        width = point.model.width
        return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def example_batch(self, point: Point, batch_size: int) -> Batch:
        return {"x": torch.zeros(batch_size, 8), "sample": torch.zeros(batch_size, dtype=torch.int64)}

    def loss(self, point: Point, model: nn.Module, batch: Batch) -> Tensor:
        if batch["sample"].device.type != "meta":
            self._drawn += batch["sample"].tolist()
        return (model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()

    def open_data(self, point: Point) -> TrainData:
        return _Samples(point.data.samples)

    def after_step(self, point: Point, model: nn.Module, step: int) -> None:
        rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
        with Path(f"drawn-{rank}-of-{world}.jsonl").open("a") as log:
            log.write(json.dumps([step, self._drawn]) + "\n")
        self._drawn = []
        # One rank alone is asked; the others must hear of it.
        if int(rank) == int(world) - 1 and Path("stop-at").exists() and int(Path("stop-at").read_text()) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    def validate(self, point: Point, model: nn.Module, context: Context) -> dict[str, float]:
        held, score = _error(model, context, first=3000), _error(model, context, first=1000)
        if context.rank == 0:
            with Path("validated.jsonl").open("a") as log:
                log.write(json.dumps({"held": held, "score": score}) + "\n")
        return {"held": held}

    def evaluate(self, point: Point, model: nn.Module, context: Context) -> Outcome:
        return Outcome(metrics={"score": _error(model, context, first=1000)})


def _error(model: nn.Module, context: Context, *, first: int) -> float:
    """Root mean square error on 16 samples, shared among the ranks."""
    index, weight = context.shard(16)
    x = _Samples(16).batch([Draw(int(i) + first, 0) for i in index])["x"]
    with torch.no_grad():
        error = (model(x) - x.sum(1, keepdim=True)).square().mean(1).double().numpy()
    return float(np.sqrt(context.all_gather(error)[context.all_gather(weight) > 0].mean()))


SYSTEM = Steady()
