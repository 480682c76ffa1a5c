"""Runs one forward and backward pass on meta tensors and watches it: FLOPs, bytes moved, operations, live memory."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.planning.flops import formulas


@dataclass(slots=True)
class StepTrace:
    """What one micro-batch costs.

    Attributes:
        params: real parameters (a complex one counts twice).
        param_bytes, trainable_bytes, largest_param_bytes: as the model is built (fp32 unless the system casts).
        activation_peak_bytes: largest sum of live tensors during forward and backward, without parameters and their gradients.
        flops: forward and backward.
        operations: how many kernels are launched.
        moved_bytes: bytes that all operations read and write.
    """

    params: int = 0
    param_bytes: int = 0
    trainable_bytes: int = 0
    largest_param_bytes: int = 0
    activation_peak_bytes: int = 0
    flops: int = 0
    operations: int = 0
    moved_bytes: int = 0
    flops_by_kind: dict[str, int] = field(default_factory=dict)


class _Watcher(TorchDispatchMode):
    """Sums FLOPs and the sizes of live storages; a storage dies when the last tensor that views it does. One mode does both,
    because every further mode would cost as much again per operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the default wraps every call and imports the compiler (one second); nothing is compiled here

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.live = self.peak = self.operations = self.moved = 0
        self.flops: Counter[str] = Counter()
        self._known = known
        self._seen: dict[int, Any] = {}
        self._formulas = formulas()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        outputs = (out,) if isinstance(out, Tensor) else [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        fresh = [tensor for tensor in outputs if self._watch(tensor)]
        formula = self._formulas.get(function._overloadpacket)
        if formula is not None:
            self.flops[str(function._overloadpacket)] += formula(*args, **(kwargs or {}), out_val=out)
        if fresh:
            self.operations += 1
            inputs = [argument for argument in args if isinstance(argument, Tensor)]
            self.moved += sum(tensor.nelement() * tensor.element_size() for tensor in [*inputs, *fresh])
        return out

    def _watch(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._seen:
            return False
        size = storage.nbytes()
        self._seen[key] = weakref.finalize(storage, self._freed, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)
        return True

    def _freed(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.live -= size


def trace_step(
    build: Callable[[], nn.Module], batch: Callable[[], dict[str, Tensor]], loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
) -> StepTrace:
    """Trace one micro-batch on the meta device; no weight and no activation is allocated.

    Args:
        build: makes the model on the current default device.
        batch: makes an example batch on the current default device.
        loss: scalar loss.
    """
    trace = StepTrace()
    with torch.device("meta"):
        model, example = build(), batch()
        parameters = list(model.parameters())
        sizes = [parameter.numel() * parameter.element_size() for parameter in parameters]
        trace.params = sum(p.numel() * (2 if p.is_complex() else 1) for p in parameters)
        trace.param_bytes = sum(sizes)
        trace.trainable_bytes = sum(size for p, size in zip(parameters, sizes, strict=True) if p.requires_grad)
        trace.largest_param_bytes = max(sizes, default=0)
        # Gradients exist before the pass, so that what the watcher sees is activations alone.
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        tensors = [*parameters, *(p.grad for p in parameters if p.grad is not None), *model.buffers(), *example.values()]
    watcher = _Watcher({tensor.untyped_storage()._cdata for tensor in tensors})
    with watcher:
        loss(model, example).backward()
    trace.activation_peak_bytes = watcher.peak
    trace.operations = watcher.operations
    trace.moved_bytes = watcher.moved
    trace.flops_by_kind = dict(watcher.flops)
    trace.flops = sum(watcher.flops.values())
    return trace
