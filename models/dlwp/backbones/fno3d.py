"""Fourier neural operators over time and space: all observed frames in, all remaining frames out, in one shot. Direct.

Real parameters of the dense form with lift and project width p, F x M x K stored modes:
``L (2 F M K + 1) d^2 + L d + 2 p + (p + 1) d + (d + 1) p + p + 1``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from models.dlwp.backbones.fno import FourierBlock
from models.dlwp.shapes import FNO3D, TFNO3D
from models.layers.pointwise import PointwisePerceptron
from models.layers.spectral3d import SpectralConv3d, resample_time
from models.layers.tucker import TuckerSpectralConv3d


class SpaceTimeBlock(FourierBlock):
    """Spectral convolution + bias + pointwise linear skip; the skip is resampled to the frames asked for."""

    def forward(self, field: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """``[width, height, time, batch, channel]`` to the same at ``frames`` frames."""
        out: Tensor = self.spectral(field, resample_time(self.skip(field), frames))
        return out


class SpaceTimeOperator(nn.Module):
    """All observed frames to any number of following ones."""

    residual = False
    one_shot = True

    def __init__(self, model: FNO3D, spectral: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.lift = PointwisePerceptron(1, model.lifting, model.width)
        self.blocks = nn.ModuleList(SpaceTimeBlock(model.width, spectral()) for _ in range(model.layers))
        self.project = PointwisePerceptron(model.width, model.projection, 1)

    def forward(self, frames: Tensor, count: int) -> Tensor:
        """Predict the ``count`` frames that follow ``[batch, time, height, width]``: ``[batch, count, height, width]``."""
        # The perceptrons have channels first, the blocks last: [width, height, time, batch, channel].
        field: Tensor = self.lift(frames.permute(3, 2, 1, 0).unsqueeze(0)).permute(1, 2, 3, 4, 0).contiguous()
        for index, block in enumerate(self.blocks):
            field = block(field if index == 0 else F.gelu(field), count)
        out: Tensor = self.project(field.permute(4, 0, 1, 2, 3))
        return out[0].permute(3, 2, 1, 0)


def fno3d(model: FNO3D) -> SpaceTimeOperator:
    """Dense spectral weights, or Tucker-factorised ones for a :class:`TFNO3D`."""
    modes = model.modes_width, model.modes_height, model.modes_time
    if isinstance(model, TFNO3D):
        ranks = model.rank_width, model.rank_height, model.rank_time, model.rank_channels, model.rank_channels
        return SpaceTimeOperator(model, lambda: TuckerSpectralConv3d(model.width, model.width, modes, ranks))
    return SpaceTimeOperator(model, lambda: SpectralConv3d(model.width, model.width, modes))
