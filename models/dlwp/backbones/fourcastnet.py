"""FourCastNet: adaptive Fourier neural operator on patches (Pathak et al. 2022). Residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dlwp.config import FourCastNet
from models.layers.afno import AFNOBlock
from models.layers.pointwise import TruncatedLinear


class AFNO(nn.Module):
    """Context frames to the increment of the next frame: ``[batch, context, height, width] -> [batch, 1, height, width]``.

    ``final_norm`` exists in the published model and is used nowhere; it is kept, frozen, so that counts agree.
    """

    residual = True

    def __init__(self, model: FourCastNet) -> None:
        super().__init__()
        self.patch = model.patch
        tokens = model.resolution // model.patch
        self.embed = TruncatedLinear(model.context * model.patch**2, model.embed)
        self.position = nn.Parameter(torch.empty(tokens, tokens, 1, model.embed))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(
            AFNOBlock(model.embed, model.blocks, model.mlp_ratio, model.shrink, mixer_skip=model.mixer_skip)
            for _ in range(model.layers)
        )
        self.final_norm = nn.LayerNorm(model.embed).requires_grad_(False)
        self.head = TruncatedLinear(model.embed, model.patch**2, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict on the grid the positional embedding was made for."""
        batch, context, height, width = frames.shape
        p = self.patch
        patches = frames.reshape(batch, context, height // p, p, width // p, p).permute(4, 2, 0, 1, 3, 5)
        tokens: Tensor = self.embed(patches.reshape(width // p, height // p, batch, context * p * p)) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        pixels: Tensor = self.head(tokens).view(width // p, height // p, batch, p, p)
        return pixels.permute(2, 1, 3, 0, 4).reshape(batch, 1, height, width)
