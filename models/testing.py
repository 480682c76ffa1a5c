"""A context without a harness: one process, no training loop. For tests and notebooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.system import Draw, Point, TrainData, TrainedSystem


class LocalContext:
    """Single-process :class:`models.system.Context`. ``fit`` takes a few plain Adam steps."""

    def __init__(self, artifacts: Path, *, steps: int = 2, lr: float = 1e-3) -> None:
        self.device = torch.device("cpu")
        self.rank = 0
        self.world = 1
        self.artifacts = artifacts
        self.phases: list[str] = []
        self._steps = steps
        self._lr = lr

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Remember the phase's name."""
        self.phases.append(name)
        yield

    def progress(self, phase: str, done: int, total: int) -> None:
        """Nothing is displayed."""

    def shard(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """All samples, weight 1."""
        return np.arange(count), np.ones(count)

    def all_gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values themselves."""
        return values

    def input(self, name: str) -> Path:
        """There are none."""
        raise KeyError(name)

    def input_weights(self, name: str) -> Mapping[str, Tensor]:
        """There are none."""
        raise KeyError(name)

    def fit(self, system: TrainedSystem, point: Point, data: TrainData) -> nn.Module:
        """Train for a few steps with plain Adam."""
        torch.manual_seed(point.seed)
        model = system.build_model(point)
        optimizer = torch.optim.Adam(model.parameters(), lr=self._lr)
        for step in range(self._steps):
            draws = [Draw(sample=(step + i) % data.num_samples, key=step * 1000 + i) for i in range(point.micro_batch)]
            loss = system.loss(point, model, data.batch(draws))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return model.eval()
