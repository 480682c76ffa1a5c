"""Spectral convolutions with Tucker-factorised weights (Kossaifi et al. 2023, TFNO)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.precision import full_precision
from models.layers.spectral import analyse, as_complex, stored_modes, synthesise, transform
from models.layers.spectral3d import SpectralTransform3d


def over_modes(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Multiply a core's leading dimensions by one factor each.

    Args:
        core: complex ``[r_1, .., r_k, rank in, rank out]``.
        factors: complex ``[modes_i, r_i]``, as many as there are kinds of modes.

    Returns:
        complex ``[modes_1 * .. * modes_k, rank in, rank out]``.
    """
    last = len(factors) - 1
    for factor in reversed(factors):  # the dimension multiplied becomes the first one, so that the next is last again
        core = torch.tensordot(factor, core, dims=([1], [last]))
    return core.flatten(0, last)


def initialise(parameters: Sequence[nn.Parameter], core: Tensor, channels: int) -> None:
    """Normal numbers whose product has the variance of the dense weight, 2 / (in + out): an entry of the product is a sum of
    as many terms as the core has entries, each a product of as many factors of equal standard deviation as there are tensors.

    Args:
        core: real pairs ``[.., 2]``.
        channels: in + out.
    """
    terms = core.numel() // 2
    each = (2 / channels / terms) ** (0.5 / len(parameters))
    for parameter in parameters:
        nn.init.normal_(parameter, 0.0, each * 0.5**0.5)


def contract(modes: Tensor, factor_in: Tensor, weight: Tensor, factor_out: Tensor) -> Tensor:
    """Coefficients ``[mode, batch, in]`` through ``[in, rank in]``, one matrix per mode, and ``[rank out, out]``."""
    reduced = torch.mm(modes.flatten(0, 1), factor_in).view(*modes.shape[:2], -1)
    mixed = torch.bmm(reduced, weight)
    return torch.mm(mixed.flatten(0, 1), factor_out).view(*modes.shape[:2], -1)


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
        """See :func:`initialise`."""
        initialise(list(self.parameters()), self.core, self.factor_in.shape[0] + self.factor_out.shape[1])

    def weight_of_ranks(self) -> Tensor:
        """Core with both mode factors multiplied in: complex64 ``[kept_width * kept_height, rank_in, rank_out]``."""
        return over_modes(as_complex(self.core), [as_complex(self.factor_width), as_complex(self.factor_height)])

    def forward(self, field: Tensor, base: Tensor) -> Tensor:
        """``base`` plus the convolution of ``field``: ``[width, height, batch, in] -> [width, height, batch, out]``."""
        with full_precision(field.device):
            basis = transform(field.shape[0], field.shape[1], *self.kept, "forward", field.device)
            modes = analyse(field.float(), basis)
            product = contract(modes, as_complex(self.factor_in), self.weight_of_ranks(), as_complex(self.factor_out))
            return synthesise(product, basis, base.float()).to(base.dtype)


class TuckerSpectralConv3d(nn.Module):
    """As :class:`models.layers.spectral3d.SpectralConv3d`, its weight tensor (width mode, height mode, frequency, in, out)
    being a core multiplied by one factor per dimension.

    Real parameters: ``2 (r_w r_h r_t r_in r_out + K r_w + M r_h + F r_t + in r_in + out r_out)``.

    Args:
        ranks: of width, height, time, input and output channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, modes: tuple[int, int, int], ranks: tuple[int, int, int, int, int]
    ) -> None:
        super().__init__()
        self.spectrum = SpectralTransform3d(*modes)
        self.core = nn.Parameter(torch.empty(*ranks, 2))
        kept = self.spectrum.kept
        self.factor_width = nn.Parameter(torch.empty(kept[0], ranks[0], 2))
        self.factor_height = nn.Parameter(torch.empty(kept[1], ranks[1], 2))
        self.factor_time = nn.Parameter(torch.empty(kept[2], ranks[2], 2))
        self.factor_in = nn.Parameter(torch.empty(in_channels, ranks[3], 2))
        self.factor_out = nn.Parameter(torch.empty(ranks[4], out_channels, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """See :func:`initialise`."""
        initialise(list(self.parameters()), self.core, self.factor_in.shape[0] + self.factor_out.shape[1])

    def forward(self, field: Tensor, base: Tensor) -> Tensor:
        """``base`` plus the convolution of ``field``; see :class:`models.layers.spectral3d.SpectralConv3d`."""
        with full_precision(field.device):
            modes, place = self.spectrum.analyse(field.float(), frames=base.shape[2])
            factors = [as_complex(f) for f in (self.factor_width, self.factor_height, self.factor_time[place])]
            weight = over_modes(as_complex(self.core), factors)
            product = contract(modes, as_complex(self.factor_in), weight, as_complex(self.factor_out))
            return self.spectrum.synthesise(product, base.float()).to(base.dtype)
