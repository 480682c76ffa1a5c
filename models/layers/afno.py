"""Adaptive Fourier neural operator block (Guibas et al. 2022; FourCastNet, Pathak et al. 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.pointwise import GeluLinear, TruncatedLinear
from models.layers.precision import full_precision
from models.layers.spectral import analyse, as_complex, stored_modes, synthesise, transform


class FourierMixer(nn.Module):
    """Mixes tokens by a two-layer complex perceptron on their Fourier coefficients, block-diagonal over channels and shared by
    all wavenumbers; coefficients are shrunk towards zero at the end.

    All wavenumbers of the token grid are mixed (up to width/2 along the width).

    Args:
        height_cuts_width: only ``height // 2 + 1`` wavenumbers along the width are mixed, and the others zeroed, as published
            code does; it makes no difference on square grids.
    """

    def __init__(self, channels: int, blocks: int, shrink: float, *, height_cuts_width: bool = False) -> None:
        super().__init__()
        size = channels // blocks
        self.blocks, self.shrink, self.height_cuts_width = blocks, shrink, height_cuts_width
        self.weight1 = nn.Parameter(torch.empty(blocks, size, size, 2))
        self.bias1 = nn.Parameter(torch.empty(blocks, 1, size, 2))
        self.weight2 = nn.Parameter(torch.empty(blocks, size, size, 2))
        self.bias2 = nn.Parameter(torch.empty(blocks, 1, size, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal numbers with standard deviation 0.02."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, tokens: Tensor, base: Tensor) -> Tensor:
        """``base`` plus the mixed tokens; both ``[width, height, batch, channel]``."""
        width, height = tokens.shape[:2]
        with full_precision(tokens.device):
            kept = stored_modes(min(width, height) if self.height_cuts_width else width)
            basis = transform(width, height, kept, height, "ortho", tokens.device)
            modes = analyse(tokens.float(), basis)
            rows = modes.view(modes.shape[0] * modes.shape[1], self.blocks, -1).transpose(0, 1)
            hidden = torch.baddbmm(as_complex(self.bias1), rows, as_complex(self.weight1))
            F.relu_(torch.view_as_real(hidden))  # a view: the products before need their inputs alone
            mixed = torch.baddbmm(as_complex(self.bias2), hidden, as_complex(self.weight2))
            mixed = torch.view_as_complex(F.softshrink(torch.view_as_real(mixed), self.shrink))
            return synthesise(mixed.transpose(0, 1).reshape(modes.shape), basis, base.float()).to(base.dtype)


class AFNOBlock(nn.Module):
    """Layer norm, Fourier mixer, skip; layer norm, perceptron (GELU), skip.

    Args:
        mixer_skip: the mixer also adds its own (normalised) input, as the published model does.
    """

    def __init__(
        self,
        channels: int,
        blocks: int,
        mlp_ratio: int,
        shrink: float,
        *,
        mixer_skip: bool = True,
        height_cuts_width: bool = False,
    ) -> None:
        super().__init__()
        self.mixer_skip = mixer_skip
        self.norm1 = nn.LayerNorm(channels)
        self.mixer = FourierMixer(channels, blocks, shrink, height_cuts_width=height_cuts_width)
        self.norm2 = nn.LayerNorm(channels)
        self.expand = TruncatedLinear(channels, mlp_ratio * channels)
        self.contract = GeluLinear(mlp_ratio * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[width, height, batch, channel]``, same shape out."""
        normed = self.norm1(tokens)
        tokens = self.mixer(normed, tokens + normed if self.mixer_skip else tokens)
        increment: Tensor = self.contract(self.expand(self.norm2(tokens)))
        return tokens + increment
