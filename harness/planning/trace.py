"""Runs one forward and backward pass on meta tensors and watches it: FLOPs, bytes moved, operations, live memory."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.planning.autocast import autocast_on_meta
from harness.planning.flops import formulas
from harness.planning.heap import Event
from harness.planning.operations import Family, Operation, describe, is_view, scratch_bytes


@dataclass(slots=True)
class StepTrace:
    """What one micro-batch costs.

    Attributes:
        params: real parameters (a complex one counts twice).
        param_bytes, trainable_bytes: as the model is built (fp32 unless the system casts).
        largest_param: elements.
        activation_peak_bytes: largest sum of live tensors during forward and backward, without parameters and their gradients.
        events: the allocations and ends of these tensors, in order.
        flops: forward and backward.
        kernels: how many operators compute something.
        moved_bytes: bytes that they read and write.
        calls: every distinct operation with the number of its calls.
        parameter_tensors: how many tensors the optimiser updates.
        module_calls: calls of modules in the forward pass.
        owner_calls, owner_bytes: of those that hold parameters themselves, and the bytes of these, call by call: what ZeRO-3
            has to have gathered.
    """

    params: int = 0
    trainable: int = 0
    param_bytes: int = 0
    trainable_bytes: int = 0
    largest_param: int = 0
    activation_peak_bytes: int = 0
    events: list[Event] = field(default_factory=list)
    flops: int = 0
    kernels: int = 0
    moved_bytes: int = 0
    parameter_tensors: int = 0
    module_calls: int = 0
    owner_calls: int = 0
    owner_bytes: int = 0
    calls: dict[Operation, int] = field(default_factory=dict)
    flops_by_kind: dict[str, int] = field(default_factory=dict)


class _Watcher(TorchDispatchMode):
    """Sums FLOPs and the sizes of live storages; a storage dies when the last tensor that views it does. One mode does both,
    because every further mode would cost as much again per operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the default wraps every call and imports the compiler (one second); nothing is compiled here

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.events: list[Event] = []
        self.backward = False
        self.flops: Counter[str] = Counter()
        self._calls: dict[Any, list[Any]] = {}
        self._known = known
        self._seen: dict[int, Any] = {}
        self._formulas = formulas()
        self._shapes: dict[Any, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self._recall(function, args, kwargs or {})
        for tensor in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._watch(tensor)
        call = self._call(function, args, kwargs, out)
        call[1] += 1
        if call[2]:  # scratch of the kernel: names below zero, no tensor has them
            self.events += [(-1 - place, size) for place, size in enumerate(call[2])]
            self.events += [(-1 - place, -1) for place in range(len(call[2]))]
        if call[0].flops:
            self.flops[str(function._overloadpacket)] += call[0].flops
        return out

    def _call(self, function: Any, args: Any, kwargs: Any, out: Any) -> list[Any]:
        """Operation, number of calls and scratch of the calls that are alike."""
        key = (function, self.backward) if is_view(function) else (function, self.backward, *map(_shape_key, args))
        try:
            known = self._calls.get(key)
        except TypeError:  # an argument that cannot be a key: the operator and its result's shape stand for it
            key = (function, self.backward, *(_shape_key(leaf) for leaf in tree_leaves(out) if isinstance(leaf, Tensor)))
            known = self._calls.get(key)
        if known is None:
            formula = self._formulas.get(function._overloadpacket)
            flops = 0 if formula is None else int(formula(*args, **(kwargs or {}), out_val=out))
            operation = describe(function, args, out, backward=self.backward, flops=flops)
            known = self._calls[key] = [operation, 0, scratch_bytes(operation)]
        return known

    def calls(self) -> dict[Operation, int]:
        """Distinct operations and how often each was called."""
        found: Counter[Operation] = Counter()
        for operation, count, _ in self._calls.values():
            found[operation] += count
        return dict(found)

    def _recall(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The operation's result, made from remembered shapes where it was seen before: a rollout repeats the same few hundred
        operations, and computing shapes is what tracing spends its time on."""
        if not _is_pure(function):
            return function(*args, **kwargs)
        try:
            key = (function, _shape_key(args), _shape_key(kwargs))
            known = self._shapes.get(key)
        except TypeError:  # an argument that cannot be a key
            return function(*args, **kwargs)
        if known is None:
            out = function(*args, **kwargs)
            self._shapes[key] = _shape_of(out, args)
            return out
        if known is _ALIAS:
            return function(*args, **kwargs)
        made = [None if one is None else torch.empty_strided(one[0], one[1], dtype=one[2], device="meta") for one in known[1]]
        return made[0] if known[0] else tuple(made)

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._seen:
            return
        size = storage.nbytes()
        self._seen[key] = weakref.finalize(storage, self._freed, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)
        self.events.append((key, size))

    def _freed(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.live -= size
        self.events.append((key, -1))


_ALIAS = object()


@cache
def _is_pure(function: Any) -> bool:
    """Neither writes to an argument nor returns a view of one."""
    schema = function._schema
    return not any(item.alias_info is not None for item in [*schema.arguments, *schema.returns])


def _shape_key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype, value.device.type)
    if isinstance(value, list | tuple):
        return tuple(_shape_key(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _shape_key(item)) for name, item in value.items())
    return (type(value), value)


def _shape_of(out: Any, args: Any) -> Any:
    """Shapes of an operation's result; :data:`_ALIAS` if it cannot be made from shapes alone."""
    single = isinstance(out, Tensor)
    results = [out] if single else out
    if not isinstance(results, list | tuple) or not all(one is None or isinstance(one, Tensor) for one in results):
        return _ALIAS
    given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
    if any(one is not None and (one.untyped_storage()._cdata in given or not one.is_meta) for one in results):
        return _ALIAS  # some operations share storage without saying so
    return single, [None if one is None else (one.shape, one.stride(), one.dtype) for one in results]


class _SkipInit(TorchFunctionMode):
    """Initial values on meta tensors are nothing: skipping them saves importing the compiler that torch computes them with."""

    names = frozenset(
        [
            "normal_",
            "uniform_",
            "trunc_normal_",
            "kaiming_uniform_",
            "kaiming_normal_",
            "xavier_uniform_",
            "xavier_normal_",
            "orthogonal_",
            "zeros_",
            "ones_",
            "constant_",
            "fill_",
            "zero_",
        ]
    )

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in self.names:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return function(*args, **kwargs)


@contextmanager
def _counting_modules(trace: StepTrace) -> Iterator[None]:
    """Count calls of modules, and what those hold that have parameters of their own."""

    def called(module: nn.Module, inputs: Any) -> None:
        trace.module_calls += 1
        own = sum(p.numel() * p.element_size() for p in module._parameters.values() if p is not None)
        if own:
            trace.owner_calls += 1
            trace.owner_bytes += own

    handle = register_module_forward_pre_hook(called)
    try:
        yield
    finally:
        handle.remove()


def trace_step(
    build: Callable[[], nn.Module],
    batch: Callable[[], dict[str, Tensor]],
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor],
    *,
    autocast: bool = False,
    half_weights: bool = False,
    gradients_kept: bool = True,
) -> StepTrace:
    """Trace one micro-batch on the meta device; no weight and no activation is allocated.

    Args:
        build: makes the model on the current default device.
        batch: makes an example batch on the current default device.
        loss: scalar loss.
        autocast: the loss is computed under bf16 autocast.
        half_weights: the model is cast to bf16, as DeepSpeed does.
        gradients_kept: gradients are there before the pass and no part of what is watched; else they come in backward.
    """
    trace = StepTrace()
    with torch.device("meta"), _SkipInit():
        model, example = build(), batch()
        if half_weights:
            model.bfloat16()
        parameters = list(model.parameters())
        sizes = [parameter.numel() * parameter.element_size() for parameter in parameters]
        trace.params = sum(p.numel() * (2 if p.is_complex() else 1) for p in parameters)
        trace.param_bytes = sum(sizes)
        trace.trainable = sum(p.numel() * (2 if p.is_complex() else 1) for p in parameters if p.requires_grad)
        trace.trainable_bytes = sum(size for p, size in zip(parameters, sizes, strict=True) if p.requires_grad)
        trace.largest_param = max((parameter.numel() for parameter in parameters), default=0)
        trace.parameter_tensors = sum(1 for p in parameters if p.requires_grad)
        # Where gradients exist before the pass, what the watcher sees is activations alone.
        for parameter in parameters:
            if parameter.requires_grad and gradients_kept:
                parameter.grad = torch.zeros_like(parameter)
        tensors = [*parameters, *(p.grad for p in parameters if p.grad is not None), *model.buffers(), *example.values()]
    watcher = _Watcher({tensor.untyped_storage()._cdata for tensor in tensors})
    with watcher, _counting_modules(trace):
        with autocast_on_meta() if autocast else nullcontext():
            value = loss(model, example)
        watcher.backward = True
        value.backward()
    trace.activation_peak_bytes = watcher.peak
    trace.events = watcher.events
    trace.calls = watcher.calls()
    trace.kernels = sum(count for call, count in trace.calls.items() if call.family is not Family.VIEW)
    trace.moved_bytes = sum(call.moved_bytes * count for call, count in trace.calls.items())
    trace.flops_by_kind = dict(watcher.flops)
    trace.flops = sum(watcher.flops.values())
    return trace
