"""Which device a computation is written for, and where it must not be cast down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

#: What meta tensors stand for while a step is planned.
_planned: ContextVar[str] = ContextVar("planned device", default="cpu")


@contextlib.contextmanager
def planned_for(kind: str) -> Iterator[None]:
    """Let meta tensors take the path of a device: ``cpu`` or ``cuda``."""
    token = _planned.set(kind)
    try:
        yield
    finally:
        _planned.reset(token)


def device_type(device: torch.device) -> str:
    """The kind of device whose path is taken: that of the device, or what it stands for."""
    return _planned.get() if device.type == "meta" else device.type


def autocasting(device: torch.device) -> bool:
    """Whether autocast is on for a device (it does not exist for ``meta``)."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep autocast away from Fourier transforms: bf16 has too few digits for them."""
    if autocasting(device):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield
