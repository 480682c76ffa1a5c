"""Where computations must not be cast down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


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
