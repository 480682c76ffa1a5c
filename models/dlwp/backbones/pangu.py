"""Pangu-Weather (Bi et al. 2023) on one level: transformer blocks with earth-specific biases, two resolutions. Residual.

Four layers of 2, 6, 6, 2 blocks and widths e, 2e, 2e, e; the first layer's output is concatenated to the last one's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dlwp.backbones.swin import PatchMerging, SwinBlock
from models.dlwp.fields import Fields
from models.dlwp.shapes import Pangu
from models.layers.earth_attention import EarthAttention
from models.layers.outputs import OutputConvTranspose2d
from models.layers.pointwise import TruncatedLinear

DEPTHS = (2, 6, 6, 2)


class PatchSplitting(nn.Module):
    """One token to four of half the width. Parameters: ``2 C^2 + C^2 / 4 + C``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = TruncatedLinear(channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(channels // 2)
        self.mix = TruncatedLinear(channels // 2, channels // 2, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, rows, columns, C] -> [batch, 2 rows, 2 columns, C / 2]``."""
        batch, rows, columns, channels = tokens.shape
        quads = self.expand(tokens).view(batch, rows, columns, 2, 2, channels // 2).permute(0, 1, 3, 2, 4, 5)
        out: Tensor = self.mix(self.norm(quads.reshape(batch, 2 * rows, 2 * columns, channels // 2)))
        return out


class PanguWeather(nn.Module):
    """Context frames to the increment of the next frame: ``[batch, inputs, height, width] -> [batch, outputs, height,
    width]``."""

    residual = True

    def __init__(self, model: Pangu, fields: Fields) -> None:
        super().__init__()
        size = fields.height // model.patch, fields.width // model.patch
        coarse = size[0] // 2, size[1] // 2
        rates = [rate.item() for rate in torch.linspace(0, model.drop_path, 8, device="cpu")]

        def layer(index: int) -> nn.Sequential:
            outer = index in (0, 3)
            channels = model.embed * (1 if outer else 2)
            drop = rates[:2] if outer else rates[2:]
            return nn.Sequential(
                *(
                    SwinBlock(
                        channels, model.mlp_ratio, _attention(model, index, channels, size if outer else coarse, block), rate
                    )
                    for block, rate in zip(range(DEPTHS[index]), drop, strict=True)
                )
            )

        self.embed = nn.Conv2d(fields.inputs, model.embed, model.patch, stride=model.patch)
        self.layers = nn.ModuleList(layer(index) for index in range(4))
        self.down = PatchMerging(model.embed)
        self.up = PatchSplitting(2 * model.embed)
        self.out = OutputConvTranspose2d(2 * model.embed, fields.outputs, model.patch, zero=fields.zero_output)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict on the grid the biases were made for."""
        first = self.layers[0](self.embed(frames).permute(0, 2, 3, 1))
        deep = self.layers[2](self.layers[1](self.down(first)))
        last = self.layers[3](self.up(deep))
        out: Tensor = self.out(torch.cat([last, first], dim=-1).permute(0, 3, 1, 2))
        return out


def _attention(model: Pangu, index: int, channels: int, size: tuple[int, int], block: int) -> EarthAttention:
    window = model.window_height, model.window_width
    shift = (window[0] // 2, window[1] // 2) if block % 2 else (0, 0)
    columns, back = (shift[0], shift[1]) if model.published_shift else (shift[1], None)
    return EarthAttention(channels, model.heads[index], size, window, shift=(shift[0], columns), unshift_columns=back)
