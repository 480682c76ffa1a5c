"""Convolutions on a doubly periodic grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def wrap(field: Tensor, halo: int) -> Tensor:
    """Periodic halo around ``[batch, channel, height, width]``; keeps the memory format, at most one period wide.

    Concatenation is faster than ``F.pad(mode="circular")`` forward and backward, and keeps channels-last tensors so.
    """
    field = torch.cat([field[..., -halo:, :], field, field[..., :halo, :]], dim=-2)
    return torch.cat([field[..., -halo:], field, field[..., :halo]], dim=-1)


class CircularConvs(nn.Module):
    """A chain of 3x3 convolutions with periodic boundaries and a pointwise activation between them (and after the last,
    if ``activate_last``).

    The halo of the whole chain is copied once: a convolution of the wrapped field computes the halo of the next one.
    """

    def __init__(self, channels: list[int], *, activation: str, activate_last: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3) for i, o in zip(channels[:-1], channels[1:], strict=True))
        self.activation = getattr(torch, activation)
        self.activate_last = activate_last

    def forward(self, field: Tensor) -> Tensor:
        """``[batch, channels[0], height, width] -> [batch, channels[-1], height, width]``."""
        size = min(field.shape[-2:])
        halo = 0
        for index, conv in enumerate(self.convs):
            if halo == 0:
                halo = min(len(self.convs) - index, size)
                field = wrap(field, halo)
            field = conv(field)
            halo -= 1
            if index + 1 < len(self.convs) or self.activate_last:
                field = self.activation(field)
        return field


def circular_conv(field: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """One 3x3 convolution with periodic boundaries."""
    return F.conv2d(wrap(field, 1), weight, bias)
