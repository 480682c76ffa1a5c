"""The harness's :class:`models.system.Context`: what a system sees of the run it is part of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.experiment import Experiment
from harness.group import Group
from harness.inputs import input_folder, weights
from harness.leave import LeaveFlag
from harness.meter import Meter
from models.system import Point, TrainData, TrainedSystem
from results.runfolder import Attempt, RunFolder
from results.store import write_json


@dataclass
class RunContext:
    """One rank's view of one attempt.

    Attributes:
        facts: numbers that the loop leaves for the rank's file (parameters, timed steps, ...).
        step: optimisation step in progress, for failure records.
    """

    experiment: Experiment
    group: Group
    meter: Meter
    folder: RunFolder
    attempt: Attempt
    leave: LeaveFlag
    facts: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    _progress_at: float = 0.0

    @property
    def device(self) -> Any:
        """The rank's torch device."""
        return self.group.device

    @property
    def rank(self) -> int:
        """This rank."""
        return self.group.rank

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.group.world

    @property
    def artifacts(self) -> Path:
        """Folder for pictures and small arrays."""
        self.folder.artifacts.mkdir(exist_ok=True)
        return self.folder.artifacts

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Attribute the time of a block to a phase."""
        return self.meter.phase(name)

    def progress(self, phase: str, done: int, total: int, **values: float) -> None:
        """Rank 0 tells live displays how far the present phase is, at most twice a second."""
        if self.rank:
            return
        now = time.monotonic()
        if now - self._progress_at < 0.5 and done < total:
            return
        self._progress_at = now
        write_json(
            self.attempt.path / "progress.json",
            {"phase": phase, "done": done, "total": total, "elapsed_s": self.meter.total_s(), **values},
            durable=False,
        )

    def shard(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """This rank's share of ``count`` samples, padded to equal length with repeats of weight 0."""
        each = -(-count // self.world)
        indices = np.arange(self.rank * each, (self.rank + 1) * each)
        weights = (indices < count).astype(np.float64)
        return np.minimum(indices, count - 1), weights

    def all_gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Concatenate equally shaped arrays of all ranks along the first axis."""
        return self.group.all_gather(values)

    def input(self, name: str) -> Path:
        """Folder of the completed run that is this run's input ``name``."""
        return input_folder(self.folder, name).path

    def input_weights(self, name: str) -> Mapping[str, Tensor]:
        """Parameters and buffers that the input's training ended with."""
        return weights(input_folder(self.folder, name))

    def fit(self, system: TrainedSystem, point: Point, data: TrainData) -> nn.Module:
        """Build, shard and train; returns the module to evaluate."""
        from harness.trainer import fit

        return fit(self, system, point, data)
