"""DeepSpeed ZeRO 0, 1, 2, 3 and 3 with offload, on NCCL/GPU or gloo/CPU, started without DeepSpeed's launcher."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.engines.base import Engine, EvalModule, StepResult, optimizer_groups, set_learning_rate
from harness.engines.torch_engine import make_optimizer
from models.system import Batch, ParamGroup
from results.errors import RunError

#: Needed by DeepSpeed at save time, so that a checkpoint of stages 1 and 2 can be converted to another world size.
UNIVERSAL_INFO = {"universal_checkpoint_version": 0.4}


def import_deepspeed(device_type: str) -> Any:
    """Import DeepSpeed for a device kind, quietly.

    On CPU its shared-memory collective is switched off: it needs a C++ compiler at run time, caches the result where other
    environments overwrite it, and bypasses gloo. Collectives then go through torch.distributed alone and can be measured.
    """
    os.environ["DS_ACCELERATOR"] = "cuda" if device_type == "cuda" else "cpu"
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    try:
        import deepspeed
    except ImportError as error:
        raise RunError(
            f"DeepSpeed cannot be imported: {error}", where="engine", next_step="make install, or engine=torch"
        ) from error
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if device_type != "cuda":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class _Root(nn.Module):
    """The module DeepSpeed wraps. One call is one root forward: its hooks gather and release parameters around it.

    Autocast begins in here: on a GPU, and only there, DeepSpeed switches off one that begins outside.
    """

    def __init__(self, model: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.model = model
        self._autocast = autocast
        self.universal_checkpoint_info = UNIVERSAL_INFO

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with self._autocast():
            return function(self.model, *arguments)


class DeepSpeedEngine(Engine):
    """One DeepSpeed engine; learning rates are set from our schedule before each update."""

    def _prepare(self, build: Callable[[], nn.Module], groups: Callable[[nn.Module], Sequence[ParamGroup]]) -> None:
        device = self.group.device
        self._deepspeed = import_deepspeed(device.type)
        _ensure_process_group(self.group.joined, device.type)
        self._deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False)
        config = self._ds_config()
        init = (
            self._deepspeed.zero.Init(config_dict_or_path=config)
            if self.config.sharded_init and self.config.stage == 3
            else contextlib.nullcontext()
        )
        with device, init:
            root = _Root(build(), self.autocast)
        self._num_params = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in root.parameters())
        optimizer = make_optimizer(optimizer_groups(groups(root.model), self.train), self.train)
        self._engine, self._optimizer, _, _ = self._deepspeed.initialize(
            model=root, optimizer=optimizer, config=config, dist_init_required=False
        )

    def _ds_config(self) -> dict[str, Any]:
        bucket = self.config.bucket_elements
        zero: dict[str, Any] = {
            "stage": self.config.stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": self.group.device.type == "cuda",
            "contiguous_gradients": True,
        }
        if self.config.stage == 3:
            zero |= {
                "stage3_prefetch_bucket_size": bucket,
                "stage3_max_live_parameters": max(bucket, 1),
                "stage3_max_reuse_distance": max(bucket, 1),
                "stage3_param_persistence_threshold": self.config.persistence_threshold_elements,
            }
        if self.config.offload:
            zero |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
        per_rank = self.train.global_batch // self.group.world
        return {
            "train_batch_size": self.train.global_batch,
            "train_micro_batch_size_per_gpu": self.train.micro_batch,
            "gradient_accumulation_steps": per_rank // self.train.micro_batch,
            "gradient_clipping": self.train.clip or 0.0,
            "zero_optimization": zero,
            "bf16": {"enabled": self.precision == "bf16"},
            "zero_allow_untested_optimizer": True,
            # Otherwise offload insists on DeepSpeed's own CPU Adam, which compiles C++ at first use.
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self._engine.module.model
        return module

    @property
    def num_params(self) -> int:
        return self._num_params

    def step(self, batches: Sequence[Batch], lr: float) -> StepResult:
        set_learning_rate(self._optimizer.param_groups, lr)
        if self.train.clip_at_lr:
            self._engine._config.gradient_clipping = lr  # what stage 0 reads; the others keep their own
            if hasattr(self._optimizer, "clip_grad"):
                self._optimizer.clip_grad = lr
        total = 0.0
        for batch in batches:
            loss = self._engine(self._loss, batch)
            self._engine.backward(loss)
            self._engine.step()  # DeepSpeed updates on the last micro-batch of the step
            total += loss.item() / len(batches)
        norm = self._engine.get_global_grad_norm()
        return StepResult(total, math.nan if norm is None else float(norm))

    def eval_module(self) -> nn.Module:
        self._engine.eval()
        engine = self._engine  # a closure: were the engine an attribute, it would become a submodule

        def call(*arguments: Any) -> Any:
            return engine(lambda model, *rest: model(*rest), *arguments)

        return EvalModule(call, contextlib.nullcontext).eval()

    def train_mode(self) -> None:
        self._engine.train()

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag="state", save_latest=False)

    def load(self, folder: Path, *, universal: bool = False) -> None:
        # A switch of the configuration, but looked at only here: it need not be known when the engine is built.
        self._engine._config.load_universal_checkpoint = universal
        path, _ = self._engine.load_checkpoint(str(folder), tag="state_universal" if universal else "state")
        self._engine._config.load_universal_checkpoint = False
        if path is None:
            raise RunError(
                "DeepSpeed could not load the checkpoint",
                where=str(folder),
                next_step="remove the run's checkpoints/ to start again, then: tenfold retry RUN",
            )


def _ensure_process_group(joined: bool, device_type: str) -> None:
    """DeepSpeed wants a process group even for a world of one; an in-memory store serves it without a network port."""
    if joined or torch.distributed.is_initialized():
        return
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("nccl" if device_type == "cuda" else "gloo", store=store, rank=0, world_size=1)
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        os.environ.setdefault(name, value)
