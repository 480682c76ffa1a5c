"""Fourier neural operators on one frame: dense weights (published as "TFNO2D") and true Tucker-factorised ones.

Lift, blocks of [spectral convolution + bias + pointwise linear skip], GELU between blocks, project. The map is direct: it
returns the next frame itself. Real parameters of the dense form with context c, lift and project width p, M x K modes:
``L (2 M K + 1) d^2 + L d + (c + 1) p + (p + 1) d + (d + 1) p + p + 1``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from models.dlwp.fields import Fields
from models.dlwp.shapes import FNO2D, TFNO2D
from models.layers.pointwise import PointwisePerceptron
from models.layers.spectral import SpectralConv2d
from models.layers.tucker import TuckerSpectralConv2d


class _SkipLinear(nn.Linear):
    """The pointwise skip; its bias is that of the spectral convolution, which is added to the same sum."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.normal_(self.bias, 0.0, (1 / self.in_features) ** 0.5)


class FourierBlock(nn.Module):
    """Spectral convolution + bias + pointwise linear skip."""

    def __init__(self, width: int, spectral: nn.Module) -> None:
        super().__init__()
        self.skip = _SkipLinear(width, width)
        self.spectral = spectral

    def forward(self, field: Tensor) -> Tensor:
        """``[width, height, batch, channel]``, same shape out."""
        out: Tensor = self.spectral(field, self.skip(field))
        return out


class FourierOperator(nn.Module):
    """Context frames to the next frame: ``[batch, inputs, height, width] -> [batch, outputs, height, width]``."""

    residual = False

    def __init__(self, model: FNO2D | TFNO2D, fields: Fields, spectral: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.lift = PointwisePerceptron(fields.inputs, model.lifting, model.width)
        self.blocks = nn.ModuleList(FourierBlock(model.width, spectral()) for _ in range(model.layers))
        self.project = PointwisePerceptron(model.width, model.projection, fields.outputs, zero_output=fields.zero_output)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict; the grid may have any size that holds the modes."""
        # The perceptrons have channels first, the blocks last: [width, height, batch, channel].
        field: Tensor = self.lift(frames.permute(1, 3, 2, 0)).permute(1, 2, 3, 0).contiguous()
        for index, block in enumerate(self.blocks):
            field = block(field if index == 0 else F.gelu(field))
        out: Tensor = self.project(field.permute(3, 0, 1, 2))
        return out.permute(3, 0, 2, 1)


def fno2d(model: FNO2D, fields: Fields) -> FourierOperator:
    """Dense spectral weights."""
    return FourierOperator(model, fields, lambda: SpectralConv2d(model.width, model.width, model.modes_height, model.modes_width))


def tfno2d(model: TFNO2D, fields: Fields) -> FourierOperator:
    """Tucker-factorised spectral weights."""
    return FourierOperator(
        model,
        fields,
        lambda: TuckerSpectralConv2d(
            model.width,
            model.width,
            model.modes_height,
            model.modes_width,
            rank_in=model.rank_channels,
            rank_out=model.rank_channels,
            rank_height=model.rank_height,
            rank_width=model.rank_width,
        ),
    )
