"""Which device a computation is written for, and where it must not be cast down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

#: What meta tensors stand for while a step is planned.
_planned: ContextVar[str] = ContextVar("planned device", default="cpu")
#: Whether autocast is planned for them.
_meta_autocasts: ContextVar[bool] = ContextVar("meta tensors are cast", default=False)


@contextlib.contextmanager
def planned_for(kind: str) -> Iterator[None]:
    """Let meta tensors take the path of a device: ``cpu`` or ``cuda``."""
    token = _planned.set(kind)
    try:
        yield
    finally:
        _planned.reset(token)


@contextlib.contextmanager
def autocasting_meta(enabled: bool) -> Iterator[None]:
    """Let :func:`autocasting` say so of meta tensors; who enables it does the casting (:mod:`harness.planning.autocast`)."""
    token = _meta_autocasts.set(enabled)
    try:
        yield
    finally:
        _meta_autocasts.reset(token)


def meta_autocasts() -> bool:
    """Whether meta tensors are cast at present."""
    return _meta_autocasts.get()


def device_type(device: torch.device) -> str:
    """The kind of device whose path is taken: that of the device, or what it stands for."""
    return _planned.get() if device.type == "meta" else device.type


def autocasting(device: torch.device) -> bool:
    """Whether autocast is on for a device; for ``meta``, whether it is planned."""
    return _meta_autocasts.get() if device.type == "meta" else torch.is_autocast_enabled(device.type)


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep autocast away from Fourier transforms: bf16 has too few digits for them."""
    if not autocasting(device):
        yield
    elif device.type == "meta":
        with autocasting_meta(False):
            yield
    else:
        with torch.autocast(device.type, enabled=False):
            yield
