"""Plain PyTorch on one rank: the reference that every sharded engine is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.engines.base import Engine, EvalModule, StepResult, optimizer_groups, set_learning_rate
from models.system import Batch, ParamGroup


def make_optimizer(groups: list[dict[str, Any]], train: Any) -> torch.optim.Optimizer:
    """Adam or AdamW over prepared groups. torch's default (multi-tensor) update is kept: one code path on CPU and GPU."""
    kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=train.lr, betas=(train.betas[0], train.betas[1]), weight_decay=train.weight_decay)


class TorchEngine(Engine):
    """fp32, or bf16 by autocast with fp32 master weights."""

    def _prepare(self, build: Callable[[], nn.Module], groups: Callable[[nn.Module], Sequence[ParamGroup]]) -> None:
        with self.group.device:
            self._module = build()
        self._module.to(self.group.device)
        prepared = groups(self._module)
        self._optimizer = make_optimizer(optimizer_groups(prepared, self.train), self.train)
        self._trainable = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def num_params(self) -> int:
        return sum(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in self._module.parameters())

    def step(self, batches: Sequence[Batch], lr: float) -> StepResult:
        set_learning_rate(self._optimizer.param_groups, lr)
        total = 0.0
        for batch in batches:
            with self.autocast():
                loss = self._loss(self._module, batch) / len(batches)
            loss.backward()
            total += loss.item()
        norm = math.nan
        limit = lr if self.train.clip_at_lr else self.train.clip
        if limit is not None:
            norm = float(torch.nn.utils.clip_grad_norm_(self._trainable, limit))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepResult(total, norm)

    def eval_module(self) -> nn.Module:
        return EvalModule(self._module.eval(), self.autocast).eval() if self.precision == "bf16" else self._module.eval()

    def save(self, folder: Path) -> None:
        torch.save(
            {"model": self._module.state_dict(), "optimizer": self._optimizer.state_dict()},
            folder / "torch.pt",
        )

    def load(self, folder: Path, *, universal: bool = False) -> None:
        state = torch.load(folder / "torch.pt", map_location=self.group.device, weights_only=True)
        self._module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
