"""The periodic unit square: grid, wavenumbers, dealiasing cut, forcing. All in cycles, float64, on the CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from results.errors import ConfigError

#: Smallest grid on which the 2/3 rule leaves the forced mode and its first interactions.
SMALLEST_RESOLUTION = 8


def check_resolution(resolution: int) -> None:
    """Refuse grids the solvers do not cover.

    Raises:
        ConfigError: odd (its highest mode would lack a partner) or smaller than 8.
    """
    if resolution < SMALLEST_RESOLUTION or resolution % 2:
        raise ConfigError(
            f"resolution {resolution} is not an even number of at least {SMALLEST_RESOLUTION}",
            where="data.resolution",
            next_step="use data.resolution=32 or 64",
        )


def check_field(field: Tensor, resolution: int) -> None:
    """Refuse fields that do not lie on the square grid.

    Raises:
        ConfigError: not ``[sample, resolution, resolution]``.
    """
    if field.ndim != 3 or tuple(field.shape[1:]) != (resolution, resolution):
        raise ConfigError(
            f"initial vorticity has shape {tuple(field.shape)} instead of [sample, {resolution}, {resolution}]",
            where="initial",
        )


def wavenumbers(resolution: int) -> tuple[Tensor, Tensor]:
    """Wavenumbers of a real transform in cycles: ``kx`` of the rows ``[s, 1]``, ``ky >= 0`` of the columns ``[1, s/2 + 1]``."""
    kx = torch.fft.fftfreq(resolution, 1.0 / resolution, dtype=torch.float64)[:, None]
    ky = torch.fft.rfftfreq(resolution, 1.0 / resolution, dtype=torch.float64)[None, :]
    return kx, ky


def highest_kept(resolution: int) -> int:
    """Largest wavenumber component that the 2/3 rule keeps: 21 of 64 grid points."""
    return int((2.0 / 3.0) * (resolution // 2))


def forcing_field(resolution: int, amplitude: float = 0.1) -> Tensor:
    """``amplitude [sin 2 pi (x + y) + cos 2 pi (x + y)]`` on the grid, float64 ``[s, s]``, in 1/time^2."""
    x = torch.arange(resolution, dtype=torch.float64) / resolution
    phase = 2.0 * math.pi * (x[:, None] + x[None, :])
    return amplitude * (torch.sin(phase) + torch.cos(phase))
