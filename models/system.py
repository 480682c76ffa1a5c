"""The contract: what a system must provide to be planned, run, measured and compared.

A system is stateless. It is told a :class:`Point` (its own part of an experiment) and a :class:`Context` (where it runs),
and it returns an :class:`Outcome`. There are two kinds behind one ``execute``:

* *trained* systems derive from :class:`TrainedSystem`: they give model, data, loss and evaluation, and the harness owns
  the one training loop;
* *profiled* systems write ``execute`` themselves and drive their own phases through the context.

Neither knows Slurm, Hydra, W&B or DeepSpeed by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.catalogue import Catalogue
from models.stores import StoreSpec

#: Named tensors of one micro-batch; the first dimension of every tensor is the sample.
Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A system's part of an experiment, typed.

    Attributes:
        model: the dataclass made by the system's ``model_preset``, with overrides applied.
        data: the system's ``Data`` dataclass.
        precision: ``fp32`` or ``bf16``.
        global_batch: samples per optimisation step over all ranks.
        micro_batch: samples per forward pass on one rank.
        data_root: folder that holds generated stores.
    """

    variant: str
    size: str
    scale: str
    seed: int
    model: Any
    data: Any
    precision: str = "fp32"
    global_batch: int = 1
    micro_batch: int = 1
    data_root: Path = Path("data")


@dataclass(frozen=True, slots=True)
class Draw:
    """One training sample as the sampler hands it out: a pure function of (seed, position in the run).

    Attributes:
        sample: index into the training set.
        key: 64-bit number for whatever else is random about this visit (crop, start frame, noise).
    """

    sample: int
    key: int

    def generator(self) -> np.random.Generator:
        """A random generator that belongs to this visit alone."""
        return np.random.Generator(np.random.Philox(key=self.key))


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamGroup:
    """Parameters that are optimised alike.

    Attributes:
        lr_scale: factor on the schedule's learning rate.
        weight_decay: None takes the experiment's.
        frozen: no gradient, no optimiser state.
    """

    name: str
    params: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a system reports of a run.

    Attributes:
        metrics: declared names to numbers (a system's own; the harness adds time and memory).
        samples: per test sample values, for intervals within a seed; the name says the quantity
            (``rmse`` is rebuilt as the root of the mean of ``rmse_squared``).
    """

    metrics: Mapping[str, float]
    samples: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePlan:
    """What a profiled system predicts of a point.

    Attributes:
        params: real parameters of its model.
        bytes_per_rank: of the largest rank's process, beyond a worker without a model.
        seconds: from the start of its first phase to the end of its last; None where something that it stands on has not been
            measured.
        storage_bytes: what the run leaves on disk.
        parts_s: seconds by phase.
        notes: what a reader should know, one sentence each.
    """

    params: int | None = None
    bytes_per_rank: int = 0
    seconds: float | None = None
    storage_bytes: int = 0
    parts_s: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Context(Protocol):
    """Where a system runs. The harness implements it; tests may use :class:`models.testing.LocalContext`."""

    @property
    def device(self) -> torch.device:
        """Where tensors live."""

    @property
    def rank(self) -> int:
        """This rank."""

    @property
    def world(self) -> int:
        """Number of ranks."""

    @property
    def artifacts(self) -> Path:
        """Folder for pictures and small arrays."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Attribute the time of a block to a phase (``load``, ``evaluate``, or the system's own)."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Tell live displays how far the present phase is."""

    def shard(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """This rank's share of ``count`` test samples: indices and weights. All ranks get equally many (sharded engines
        need equal numbers of forward passes), padded with repeats of weight 0."""

    def all_gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Concatenate equally shaped arrays of all ranks along the first axis, in rank order."""

    def fit(self, system: TrainedSystem, point: Point, data: TrainData) -> nn.Module:
        """Build, shard and train; returns the module to evaluate (in eval mode, callable on all ranks together)."""

    def input(self, name: str) -> Path:
        """Folder of the completed run that is this point's input ``name`` (:meth:`System.inputs`)."""

    def input_weights(self, name: str) -> Mapping[str, Tensor]:
        """Parameters and buffers that the input's training ended with, on the CPU."""


class TrainData(Protocol):
    """Training samples of a trained system, opened on every rank."""

    num_samples: int

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """Read and stack the samples of one micro-batch, on CPU."""


class System(ABC):
    """What every system provides."""

    catalogue: Catalogue

    def stores(self, point: Point) -> Sequence[StoreSpec]:
        """The generated stores this point reads; built by the harness before the runs that need them."""
        return ()

    def inputs(self, point: Point) -> Mapping[str, Mapping[str, Any]]:
        """Runs that this point reads, by name: each is this very experiment with some keys changed (``{"base": {"variant":
        "base", "repeat": 0}}``). They are part of its identity, and are run before it."""
        return {}

    def plan(self, point: Point) -> PhasePlan | None:
        """A prediction of the system's own; None where its training step is traced instead."""
        return None

    def data_label(self, point: Point) -> str:
        """``generated``, or the fingerprint of the user's own data."""
        return "generated"

    @abstractmethod
    def execute(self, point: Point, context: Context) -> Outcome:
        """Run the point and return its metrics. Called on every rank; the outcome of rank 0 counts."""


class TrainedSystem(System):
    """A system that is trained by the harness's loop."""

    @abstractmethod
    def build_model(self, point: Point) -> nn.Module:
        """The model, on torch's current default device (``meta`` when planning), initialised under the current seed."""

    @abstractmethod
    def example_batch(self, point: Point, batch_size: int) -> Batch:
        """Tensors of a training batch's shapes and types on the current default device; the values do not matter."""

    @abstractmethod
    def loss(self, point: Point, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar mean loss of a micro-batch."""

    @abstractmethod
    def open_data(self, point: Point) -> TrainData:
        """Open the training samples."""

    @abstractmethod
    def evaluate(self, point: Point, model: nn.Module, context: Context) -> Outcome:
        """Score a trained model on the test samples; all ranks call it together."""

    def validate(self, point: Point, model: nn.Module, context: Context) -> Mapping[str, float]:
        """Scores on the validation samples, for choosing a checkpoint (``train.select``)."""
        return {}

    def param_groups(self, point: Point, model: nn.Module) -> Sequence[ParamGroup]:
        """Parameters by treatment; one group of everything unless overridden."""
        return [ParamGroup(name="all", params=list(model.parameters()))]

    def after_step(self, point: Point, model: nn.Module, step: int) -> None:
        """Called after every optimisation step (constraints on weights, annealed constants)."""

    def plan_parts(self, point: Point) -> Mapping[str, int]:
        """Bytes that a rank holds besides model, gradients, optimiser and activations (a data set in memory, say)."""
        return {}

    def pictures(self, point: Point, model: nn.Module, context: Context) -> None:
        """Write pictures into ``context.artifacts`` after evaluation; all ranks call it together, rank 0 writes."""

    def execute(self, point: Point, context: Context) -> Outcome:
        """Open the data, train in the harness's loop, evaluate, draw."""
        with context.phase("load"):
            data = self.open_data(point)
        model = context.fit(self, point, data)
        with context.phase("evaluate"):
            outcome = self.evaluate(point, model, context)
            self.pictures(point, model, context)
        return outcome
