"""Truncated Fourier transforms on a periodic grid, and the spectral convolution of Fourier neural operators.

A field is kept as ``[width, height, batch, channel]``. Then every step of a spectral convolution is one matrix product on
contiguous memory: the transform along the width, the one along the height for every kept wavenumber, the product with the
weights (modes first), and the way back. Only kept modes are ever computed, so that for the few modes such operators keep a
product with the transform's matrix costs less than a full FFT and, unlike it, runs at the speed of matrix multiplication,
forward and backward.

Modes are ordered ``[width wavenumber 0..K-1, height wavenumber -M/2..]``. Weights are stored as pairs of reals and viewed as
complex in forward: optimisers that shard flat buffers know no complex parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.layers.precision import full_precision


class Transform(NamedTuple):
    """Matrices of one truncated transform, float32; a complex number is a (real, imaginary) pair of rows.

    Attributes:
        into_width: ``[2 K, W]``, rows (wavenumber, part).
        into_height: ``[2 M, 2 H]``, rows (wavenumber, part), columns (part, height).
        out_of_height: ``[2 H, 2 M]``, rows (part, height), columns (wavenumber, part).
        out_of_width: ``[W, 2 K]``, columns (wavenumber, part).
    """

    into_width: Tensor
    into_height: Tensor
    out_of_height: Tensor
    out_of_width: Tensor


def stored_modes(modes: int) -> int:
    """Wavenumbers that ``modes`` modes of a real transform store along its last dimension: ``modes // 2 + 1``."""
    return modes // 2 + 1


def matrices(width: int, height: int, kept_width: int, kept_height: int, norm: str) -> tuple[np.ndarray, ...]:
    """The matrices of :class:`Transform` in float64.

    Args:
        kept_width: wavenumbers 0 .. kept_width-1 are kept; at most ``width // 2 + 1``.
        kept_height: wavenumbers ``-(kept_height // 2) ..`` are kept, ``kept_height`` of them; at most ``height``.
        norm: ``forward`` (the way in is divided by the number of points) or ``ortho`` (both ways by its root).
    """
    scale_in, scale_out = {"forward": (1.0, 0.0), "ortho": (0.5, 0.5)}[norm]
    k = np.arange(kept_width)
    angle = 2 * np.pi * np.outer(k, np.arange(width)) / width
    into_width = np.stack([np.cos(angle), -np.sin(angle)], axis=1).reshape(2 * kept_width, width) / width**scale_in
    # Wavenumber k stands for -k too, except 0 and the Nyquist wavenumber, which are their own mirror images.
    twice = np.where((k == 0) | (2 * k == width), 1.0, 2.0)[:, None]
    out_of_width = np.stack([twice * np.cos(angle), -twice * np.sin(angle)], axis=1).reshape(2 * kept_width, width).T
    m = np.arange(kept_height) - kept_height // 2
    angle = 2 * np.pi * np.outer(m, np.arange(height)) / height
    c, s = np.cos(angle), np.sin(angle)
    real, imaginary = np.concatenate([c, s], axis=1), np.concatenate([-s, c], axis=1)
    into_height = np.stack([real, imaginary], axis=1).reshape(2 * kept_height, 2 * height)
    return (
        into_width,
        into_height / height**scale_in,
        into_height.T / height**scale_out,
        out_of_width / width**scale_out,
    )


_cache: dict[tuple[object, ...], Transform] = {}


def transform(width: int, height: int, kept_width: int, kept_height: int, norm: str, device: torch.device) -> Transform:
    """The truncated transform on a device, made once. Constants of the grid, not buffers: they must stay float32 when a
    model is cast to bf16, and they belong to no checkpoint."""
    key = (width, height, kept_width, kept_height, norm, device)
    found = _cache.get(key)
    if found is None:
        with torch.inference_mode(False):
            arrays = matrices(width, height, kept_width, kept_height, norm)
            found = Transform(*(torch.tensor(array, dtype=torch.float32, device=device) for array in arrays))
        if type(found.into_width) is Tensor:  # never a tensor of a tracing or counting mode
            _cache[key] = found
    return found


def analyse(field: Tensor, basis: Transform) -> Tensor:
    """Coefficients of a real field.

    Args:
        field: float32 ``[width, height, batch, channel]``.

    Returns:
        complex64 ``[kept_width * kept_height, batch, channel]``.
    """
    width, height, batch, channels = field.shape
    rows = torch.mm(basis.into_width, field.reshape(width, -1)).view(-1, 2 * height, batch * channels)
    both = torch.bmm(basis.into_height.expand(rows.shape[0], -1, -1), rows)
    return torch.view_as_complex(both.view(-1, 2, batch, channels).permute(0, 2, 3, 1).contiguous())


def synthesise(coefficients: Tensor, basis: Transform, base: Tensor) -> Tensor:
    """The real field of coefficients, added to ``base``.

    Args:
        coefficients: complex64 ``[kept_width * kept_height, batch, channel]``.
        base: float32 ``[width, height, batch, channel]``.

    Returns:
        float32 ``[width, height, batch, channel]``.
    """
    width, height, batch, channels = base.shape
    pairs = torch.view_as_real(coefficients).permute(0, 3, 1, 2)
    kept_width = basis.out_of_width.shape[1] // 2
    both = pairs.reshape(kept_width, -1, batch * channels)
    rows = torch.bmm(basis.out_of_height.expand(kept_width, -1, -1), both).view(2 * kept_width, -1)
    return torch.addmm(base.reshape(width, -1), basis.out_of_width, rows).view(width, height, batch, channels)


def as_complex(pairs: Tensor) -> Tensor:
    """A stored weight ``[..., 2]`` as complex64: a view, or a copy where none is possible (bf16; a shard of a flat buffer
    that begins at an odd element)."""
    pairs = pairs.float()
    return torch.view_as_complex(pairs.clone() if pairs.storage_offset() % 2 else pairs)


class SpectralConv2d(nn.Module):
    """A convolution given by one complex matrix per kept mode (Li et al. 2021, equation 4).

    ``modes_height`` wavenumbers are kept along the height and ``modes_width // 2 + 1`` along the width. The transform is
    normalised forward. Real parameters: ``2 in out modes_height (modes_width // 2 + 1)``.
    """

    def __init__(self, in_channels: int, out_channels: int, modes_height: int, modes_width: int) -> None:
        super().__init__()
        self.kept = (stored_modes(modes_width), modes_height)
        self.weight = nn.Parameter(torch.empty(*self.kept, in_channels, out_channels, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Complex normal numbers with standard deviation sqrt(2 / (in + out)), shared evenly by their two parts."""
        fan = self.weight.shape[2] + self.weight.shape[3]
        nn.init.normal_(self.weight, 0.0, fan**-0.5)

    def forward(self, field: Tensor, base: Tensor) -> Tensor:
        """``base`` plus the convolution of ``field``: ``[width, height, batch, in] -> [width, height, batch, out]``."""
        with full_precision(field.device):
            basis = transform(field.shape[0], field.shape[1], *self.kept, "forward", field.device)
            product = torch.bmm(analyse(field.float(), basis), as_complex(self.weight).flatten(0, 1))
            return synthesise(product, basis, base.float()).to(base.dtype)
