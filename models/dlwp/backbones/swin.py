"""Swin transformer (Liu et al. 2021) with a decoder of transposed convolutions. Residual.

The published windows are the whole map of a stage: every second block attends over everything, the others are shifted by half
the map. Whether a shifted window sees across a border depends on the border: never across the poles, across periodic sides
unless ``masked_wrap``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dlwp.fields import Fields
from models.dlwp.shapes import Swin
from models.layers.boundary import Boundary
from models.layers.outputs import OutputConv2d
from models.layers.pointwise import TruncatedLinear
from models.layers.window_attention import WindowAttention


class DropPath(nn.Module):
    """Leaves a residual branch out for a sample, with a probability, in training; what is kept is scaled up."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """``[batch, ..]``, same shape out."""
        if not self.training or self.probability == 0:
            return branch
        kept = torch.rand(branch.shape[0], *[1] * (branch.dim() - 1), device=branch.device) >= self.probability
        return branch * kept.to(branch.dtype) / (1 - self.probability)


class SwinBlock(nn.Module):
    """Norm, window attention, skip; norm, perceptron, skip."""

    def __init__(self, channels: int, mlp_ratio: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = attention
        self.norm2 = nn.LayerNorm(channels)
        self.expand = TruncatedLinear(channels, mlp_ratio * channels)
        self.contract = TruncatedLinear(mlp_ratio * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, rows, columns, channel]``, same shape out."""
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens)))
        out: Tensor = tokens + self.drop_path(self.contract(F.gelu(self.expand(self.norm2(tokens)))))
        return out


class PatchMerging(nn.Module):
    """Four neighbouring tokens to one of twice the width. Parameters: ``8 C^2 + 8 C``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = TruncatedLinear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, rows, columns, C] -> [batch, rows / 2, columns / 2, 2 C]``."""
        batch, rows, columns, channels = tokens.shape
        quads = tokens.view(batch, rows // 2, 2, columns // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        out: Tensor = self.reduce(self.norm(quads.reshape(batch, rows // 2, columns // 2, 4 * channels)))
        return out


class SwinTransformer(nn.Module):
    """Context frames to the increment of the next frame: ``[batch, inputs, height, width] -> [batch, outputs, height,
    width]``."""

    residual = True

    def __init__(self, model: Swin, fields: Fields) -> None:
        super().__init__()
        stages = len(model.depths)
        widths = [model.embed << stage for stage in range(stages)]
        self.embed = nn.Conv2d(fields.inputs, model.embed, model.patch, stride=model.patch)
        self.embed_norm = nn.LayerNorm(model.embed)
        drop = [rate.item() for rate in torch.linspace(0, model.drop_path, sum(model.depths), device="cpu")]
        self.stages = nn.ModuleList()
        for stage, (depth, heads) in enumerate(zip(model.depths, model.heads, strict=True)):
            blocks = []
            for index in range(depth):
                attention = _attention(model, fields, widths[stage], heads, stage, shifted=index % 2 == 1)
                blocks.append(SwinBlock(widths[stage], model.mlp_ratio, attention, drop[sum(model.depths[:stage]) + index]))
            self.stages.append(nn.Sequential(*blocks))
        self.merges = nn.ModuleList(PatchMerging(width) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        # From the deepest stage up; all but the deepest take what comes from below beside their own map.
        self.decoder = nn.ModuleList()
        for stage in reversed(range(stages)):
            enter = widths[stage] * (1 if stage == stages - 1 else 2)
            leave, factor = (widths[0], model.patch) if stage == 0 else (widths[stage - 1], 2)
            self.decoder.append(nn.ConvTranspose2d(enter, leave, factor, stride=factor))
        self.out = OutputConv2d(model.embed, fields.outputs, 1, zero=fields.zero_output)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict on the grid the windows were made for."""
        tokens = self.embed_norm(self.embed(frames).permute(0, 2, 3, 1))
        maps = []
        for index, (blocks, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            tokens = blocks(tokens)
            maps.append(norm(tokens).permute(0, 3, 1, 2))
            if index < len(self.merges):
                tokens = self.merges[index](tokens)
        field = None
        for stage, up in zip(reversed(maps), self.decoder, strict=True):
            field = F.gelu(up(stage if field is None else torch.cat([stage, field], dim=1)))
        out: Tensor = self.out(field)
        return out


def _attention(model: Swin, fields: Fields, channels: int, heads: int, stage: int, *, shifted: bool) -> WindowAttention:
    rows, columns = (side // model.patch >> stage for side in (fields.height, fields.width))
    window = (model.window >> stage * model.window_halves,) * 2 if model.window else (rows, columns)
    shift = (window[0] // 2, window[1] // 2) if shifted else (0, 0)
    masked = fields.boundary is not Boundary.TORUS or model.masked_wrap, model.masked_wrap
    return WindowAttention(channels, heads, window, shift=shift, masked=masked)
