"""The shear that solar heating maintains, and its year: what the quasi-geostrophic flow relaxes towards."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.dlwp.weather.atmosphere import earth
from models.dlwp.weather.atmosphere.harmonics import Transform


def shear_profile(sines: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Zonal shear between two levels relative to its greatest, ``sin^2(2 lat) [1 + share s(t) c(lat)]``, as the parts that the
    season s does not and does multiply, ``[lat]`` each (the second without the share).

    ``c = sign(lat) tanh(4 |sin lat|)`` is +1 in the north and -1 in the south, with a smooth passage at the equator.

    Args:
        sines: sine of each latitude.
    """
    mean = 4.0 * sines**2 * (1.0 - sines**2)  # sin^2(2 lat)
    return mean, mean * np.tanh(4.0 * sines)


def shear_streamfunction(transform: Transform) -> tuple[Tensor, Tensor]:
    """Difference of streamfunction between two levels that has the shear of :func:`shear_profile`, for a shear of 1 m/s at its
    greatest: packed ``[m, 2, 1, l]`` each, m2 s-1, of order 0 only."""
    profiles = shear_profile(transform.sines.numpy())
    mean, seasonal = (_of_zonal_wind(transform, torch.from_numpy(profile)) for profile in profiles)
    return mean, seasonal


def _of_zonal_wind(transform: Transform, wind: Tensor) -> Tensor:
    """The streamfunction of a zonal wind ``[lat]``: its vorticity, inverted."""
    east = (wind * transform.cosines).expand(transform.num_longitudes, 1, -1).contiguous()
    vorticity = transform.curl(east, torch.zeros_like(east)) / earth.RADIUS_M
    return vorticity * (transform.inverse_laplacian * earth.RADIUS_M**2)
