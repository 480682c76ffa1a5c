"""FourCastNet: adaptive Fourier neural operator on patches (Pathak et al. 2022). Residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dlwp.fields import Fields
from models.dlwp.shapes import FourCastNet
from models.layers.afno import AFNOBlock
from models.layers.pointwise import TruncatedLinear


class AFNO(nn.Module):
    """Context frames to the increment of the next frame: ``[batch, inputs, height, width] -> [batch, outputs, height,
    width]``.

    ``final_norm`` exists in the published model and is used nowhere; it is kept, frozen, so that counts agree.
    """

    residual = True

    def __init__(self, model: FourCastNet, fields: Fields) -> None:
        super().__init__()
        self.patch = model.patch_height, model.patch_width
        rows, columns = fields.height // model.patch_height, fields.width // model.patch_width
        points = model.patch_height * model.patch_width
        self.embed = TruncatedLinear(fields.inputs * points, model.embed)
        self.position = nn.Parameter(torch.empty(columns, rows, 1, model.embed)) if model.position else None
        if self.position is not None:
            nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(
            AFNOBlock(
                model.embed,
                model.blocks,
                model.mlp_ratio,
                model.shrink,
                mixer_skip=model.mixer_skip,
                height_cuts_width=model.height_cuts_width,
            )
            for _ in range(model.layers)
        )
        self.final_norm = nn.LayerNorm(model.embed).requires_grad_(False)
        self.head = TruncatedLinear(model.embed, fields.outputs * points, bias=False, zero=fields.zero_output)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict on the grid the positional embedding was made for."""
        batch, channels, height, width = frames.shape
        p, q = self.patch
        rows, columns = height // p, width // q
        patches = frames.reshape(batch, channels, rows, p, columns, q).permute(4, 2, 0, 1, 3, 5)
        tokens: Tensor = self.embed(patches.reshape(columns, rows, batch, channels * p * q))
        if self.position is not None:
            tokens = tokens + self.position
        for block in self.blocks:
            tokens = block(tokens)
        pixels: Tensor = self.head(tokens).view(columns, rows, batch, p, q, -1)
        return pixels.permute(2, 5, 1, 3, 0, 4).reshape(batch, -1, height, width)
