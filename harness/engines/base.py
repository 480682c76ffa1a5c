"""The small interface behind which a training step executes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.group import Group
from harness.schema import EngineConfig, TrainConfig
from models.system import Batch, ParamGroup

LossFunction = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True, slots=True)
class StepResult:
    """One optimisation step as this rank saw it.

    Attributes:
        loss: mean over the rank's micro-batches.
        grad_norm: global gradient norm before clipping; NaN where the engine does not know it.
    """

    loss: float
    grad_norm: float


class Engine(ABC):
    """Owns the model's parameters, their sharding, the optimiser and its state.

    Args:
        build: makes the initialised model, on the current default device.
        groups: the model's parameters by treatment.
        loss: mean loss of a micro-batch.
    """

    def __init__(
        self,
        *,
        config: EngineConfig,
        train: TrainConfig,
        precision: str,
        group: Group,
        build: Callable[[], nn.Module],
        groups: Callable[[nn.Module], Sequence[ParamGroup]],
        loss: LossFunction,
    ) -> None:
        self.config, self.train, self.precision, self.group = config, train, precision, group
        self._loss = loss
        self._prepare(build, groups)

    @abstractmethod
    def _prepare(self, build: Callable[[], nn.Module], groups: Callable[[nn.Module], Sequence[ParamGroup]]) -> None:
        """Build, shard, make the optimiser."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The model itself; under ZeRO-3 its parameters may be empty shards."""

    @property
    @abstractmethod
    def num_params(self) -> int:
        """Real parameters of the whole model."""

    @abstractmethod
    def step(self, batches: Sequence[Batch], lr: float) -> StepResult:
        """Forward and backward over the micro-batches, clip, update with learning rate ``lr``."""

    @abstractmethod
    def eval_module(self) -> nn.Module:
        """A module in eval mode that all ranks may call together, through its forward only."""

    def train_mode(self) -> None:
        """Back to training after an evaluation."""
        self.module.train()

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 by autocast. Where the parameters are bf16 themselves (ZeRO), batches still arrive in fp32: autocast brings the
        two together, operation by operation, and keeps reductions such as a loss in fp32."""
        if self.precision == "bf16":
            return torch.autocast(self.group.device.type, dtype=torch.bfloat16)
        return nullcontext()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything a resume needs; collective."""

    @abstractmethod
    def load(self, folder: Path, *, universal: bool = False) -> None:
        """Read what :meth:`save` wrote; collective.

        Args:
            universal: read its form that is independent of the number of ranks (:func:`harness.checkpoints.convert`).
        """


class EvalModule(nn.Module):
    """What a system evaluates: calls go through the engine, in the precision the model was trained in; results are fp32.

    Args:
        call: applies the model to arguments.
        autocast: context of one application.
    """

    def __init__(self, call: Callable[..., Any], autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self._call, self._autocast = call, autocast

    def forward(self, *arguments: Any) -> Any:
        """Apply the model."""
        with self._autocast():
            out = self._call(*arguments)
        return out.float() if isinstance(out, Tensor) and out.is_floating_point() else out


def optimizer_groups(groups: Sequence[ParamGroup], train: TrainConfig) -> list[dict[str, object]]:
    """torch optimiser groups; frozen parameters lose their gradient and stay out."""
    out: list[dict[str, object]] = []
    for group in groups:
        for parameter in group.params:
            parameter.requires_grad_(not group.frozen)
        if group.frozen:
            continue
        decay = train.weight_decay if group.weight_decay is None else group.weight_decay
        out.append(
            {"params": list(group.params), "lr": train.lr, "weight_decay": decay, "lr_scale": group.lr_scale, "name": group.name}
        )
    return out


def set_learning_rate(param_groups: Sequence[dict[str, object]], lr: float) -> None:
    """Give every group the schedule's rate times its own factor."""
    for group in param_groups:
        group["lr"] = lr * float(group.get("lr_scale", 1.0))  # type: ignore[arg-type]
