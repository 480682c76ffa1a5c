"""3x3 convolutions on grids that are periodic along one side or both, or that cover the sphere in square faces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.boundary import Boundary
from models.layers.healpix import FACES, pad_faces
from models.layers.outputs import OutputConv2d

#: What a convolution pads itself: zeros beyond the first and last latitude, at every convolution of a chain.
_PADDING = {Boundary.TORUS: (0, 0), Boundary.CYLINDER: (1, 0), Boundary.HEALPIX: (0, 0)}


def wrap(field: Tensor, halo: int) -> Tensor:
    """Periodic halo around ``[batch, channel, height, width]``; keeps the memory format, at most one period wide.

    Concatenation is faster than ``F.pad(mode="circular")`` forward and backward, and keeps channels-last tensors so.
    """
    return wrap_width(torch.cat([field[..., -halo:, :], field, field[..., :halo, :]], dim=-2), halo)


def wrap_width(field: Tensor, halo: int) -> Tensor:
    """Periodic halo along the width alone."""
    return torch.cat([field[..., -halo:], field, field[..., :halo]], dim=-1)


class GridConvs(nn.Module):
    """A chain of 3x3 convolutions with a pointwise activation between them (and after the last, if ``activate_last``).

    A periodic halo of the whole chain is copied once: a convolution of the wrapped field computes the halo of the next one.

    Args:
        zero_output: the last convolution starts at zero.
    """

    def __init__(
        self, channels: list[int], *, boundary: Boundary, activation: str, activate_last: bool, zero_output: bool = False
    ) -> None:
        super().__init__()
        last = len(channels) - 2
        self.convs = nn.ModuleList(
            OutputConv2d(enter, leave, 3, _PADDING[boundary], zero=zero_output and index == last)
            for index, (enter, leave) in enumerate(zip(channels[:-1], channels[1:], strict=True))
        )
        self.boundary = boundary
        self.activation = getattr(torch, activation)
        self.activate_last = activate_last

    def forward(self, field: Tensor) -> Tensor:
        """``[batch, channels[0], height, width] -> [batch, channels[-1], height, width]``."""
        if self.boundary is Boundary.TORUS:
            size = min(field.shape[-2:])
        else:
            size = field.shape[-1] if self.boundary is Boundary.CYLINDER else 1
        halo = 0
        for index, conv in enumerate(self.convs):
            if halo == 0:
                halo = min(len(self.convs) - index, size)
                field = _with_halo(field, halo, self.boundary)
            field = conv(field)
            halo -= 1
            if index + 1 < len(self.convs) or self.activate_last:
                field = self.activation(field)
        return field


def grid_conv(field: Tensor, weight: Tensor, bias: Tensor | None = None, *, boundary: Boundary = Boundary.TORUS) -> Tensor:
    """One 3x3 convolution."""
    return F.conv2d(_with_halo(field, 1, boundary), weight, bias, padding=_PADDING[boundary])


def _with_halo(field: Tensor, halo: int, boundary: Boundary) -> Tensor:
    if boundary is Boundary.TORUS:
        return wrap(field, halo)
    if boundary is Boundary.CYLINDER:
        return wrap_width(field, halo)
    return pad_faces(field.unflatten(0, (-1, FACES)), halo).flatten(0, 1)
