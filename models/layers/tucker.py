"""Spectral convolution with a Tucker-factorised weight (Kossaifi et al. 2023, TFNO)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers.precision import full_precision
from models.layers.spectral import analyse, as_complex, stored_modes, synthesise, transform


class TuckerSpectralConv2d(nn.Module):
    """As :class:`models.layers.spectral.SpectralConv2d`, its weight tensor (width mode, height mode, in, out) being a core
    multiplied by one factor per dimension.

    The order of contraction follows from the sizes: mode factors are multiplied into the core first (independent of the
    batch, and the core is small), channel factors into the field's coefficients (all modes at once, one product each), and
    what is left is one product per mode between ranks. The full weight is never formed.

    Real parameters: ``2 (r_w r_h r_in r_out + K r_w + M r_h + in r_in + out r_out)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes_height: int,
        modes_width: int,
        *,
        rank_in: int,
        rank_out: int,
        rank_height: int,
        rank_width: int,
    ) -> None:
        super().__init__()
        self.kept = (stored_modes(modes_width), modes_height)
        self.core = nn.Parameter(torch.empty(rank_width, rank_height, rank_in, rank_out, 2))
        self.factor_width = nn.Parameter(torch.empty(self.kept[0], rank_width, 2))
        self.factor_height = nn.Parameter(torch.empty(self.kept[1], rank_height, 2))
        self.factor_in = nn.Parameter(torch.empty(in_channels, rank_in, 2))
        self.factor_out = nn.Parameter(torch.empty(rank_out, out_channels, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal numbers whose product has the variance of the dense weight, 2 / (in + out): an entry of the product is a
        sum of as many terms as the core has entries, each a product of five factors of equal standard deviation."""
        fan = self.factor_in.shape[0] + self.factor_out.shape[1]
        terms = self.core.numel() // 2
        each = (2 / fan / terms) ** 0.1  # (variance of a term) ** (1/5), and its root
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, each * 0.5**0.5)

    def weight_of_ranks(self) -> Tensor:
        """Core with both mode factors multiplied in: complex64 ``[kept_width * kept_height, rank_in, rank_out]``."""
        core = as_complex(self.core)
        rank_width, rank_height, rank_in, rank_out = core.shape
        kept_width, kept_height = self.kept
        over_height = torch.bmm(as_complex(self.factor_height).expand(rank_width, -1, -1), core.view(rank_width, rank_height, -1))
        over_both = torch.mm(as_complex(self.factor_width), over_height.view(rank_width, -1))
        return over_both.view(kept_width * kept_height, rank_in, rank_out)

    def forward(self, field: Tensor, base: Tensor) -> Tensor:
        """``base`` plus the convolution of ``field``: ``[width, height, batch, in] -> [width, height, batch, out]``."""
        with full_precision(field.device):
            basis = transform(field.shape[0], field.shape[1], *self.kept, "forward", field.device)
            modes = analyse(field.float(), basis)
            reduced = torch.mm(modes.flatten(0, 1), as_complex(self.factor_in)).view(*modes.shape[:2], -1)
            mixed = torch.bmm(reduced, self.weight_of_ranks())
            product = torch.mm(mixed.flatten(0, 1), as_complex(self.factor_out)).view(*modes.shape[:2], -1)
            return synthesise(product, basis, base.float()).to(base.dtype)
