"""U-Net without normalisation (Ronneberger et al. 2015) on a torus, a cylinder or the faces of a sphere. Residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dlwp.fields import Fields
from models.dlwp.shapes import UNet
from models.layers.grid_convs import GridConvs
from models.layers.outputs import OutputConv2d


class GridUNet(nn.Module):
    """Context frames to the increment of the next frame: ``[batch, inputs, height, width] -> [batch, outputs, height,
    width]``.

    Every level has two 3x3 convolutions with ReLU on the way down and two on the way up; the lowest has one and one. Average
    pooling down, transposed 2x2 convolution up, concatenated skips, 1x1 output. Height and width must be multiples of
    ``2 ** (levels - 1)``.
    """

    residual = True

    def __init__(self, model: UNet, fields: Fields) -> None:
        super().__init__()
        widths = list(model.channels)
        above = [fields.inputs, *widths[:-2]]

        def convs(*channels: int) -> GridConvs:
            return GridConvs(list(channels), boundary=fields.boundary, activation="relu", activate_last=True)

        self.down = nn.ModuleList(convs(i, o, o) for i, o in zip(above, widths[:-1], strict=True))
        self.bottom = convs(widths[-2], widths[-1], widths[-1])
        self.lift = nn.ModuleList(nn.ConvTranspose2d(widths[i + 1], widths[i], 2, stride=2) for i in range(len(widths) - 1))
        self.up = nn.ModuleList(convs(2 * o, o, o) for o in widths[:-1])
        self.out = OutputConv2d(widths[0], fields.outputs, 1, zero=fields.zero_output)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict; any grid whose sides are multiples of ``2 ** (levels - 1)``."""
        field = frames.contiguous(memory_format=torch.channels_last)
        skips = []
        for down in self.down:
            field = down(field)
            skips.append(field)
            field = F.avg_pool2d(field, 2)
        field = self.bottom(field)
        for level in reversed(range(len(skips))):
            field = self.up[level](torch.cat([skips[level], self.lift[level](field)], dim=1))
        out: Tensor = self.out(field)
        return out
