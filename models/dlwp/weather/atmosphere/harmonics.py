"""Scalar spherical-harmonic transforms of many fields at once, as batched matrix products.

A real field on the unit sphere is ``f = sum c_lm Y_lm``, l <= truncation, with orthonormal harmonics and the phase (-1)^m (those
of ``scipy.special.sph_harm_y``); coefficients of m >= 0 determine it. Two layouts are in use.

* Outside: complex ``[..., l, m]`` coefficients, zero where m > l, and fields ``[..., lat, lon]``, south to north, from 0 east.
* Inside: *packed* coefficients, real ``[m, 2, rows, l]`` with real and imaginary part on the second axis, and fields
  ``[lon, rows, lat]``. A row is anything that is transformed alike: a level of a member. Sums over degrees are then one batched
  product, one matrix for each m, and sums over orders a single product for everything; at this size that beats a fast Fourier
  transform, which would need its fields transposed.

Vectors are handled as ``(u, v) cos(lat)``, and the operators divide by cos^2(lat) inside their quadrature, where the quotient is
a polynomial: nothing is singular at the poles, and products of two truncated fields are integrated exactly.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import sph_legendre_p_all
from torch import Tensor

from results.errors import ConfigError


def pack(coefficients: Tensor) -> Tensor:
    """Complex ``[..., l, m]`` as packed ``[m, 2, rows, l]``, rows in the order of the leading dimensions."""
    degrees = coefficients.shape[-1]
    parts = torch.view_as_real(coefficients.to(torch.complex128).resolve_conj())
    return parts.reshape(-1, degrees, degrees, 2).permute(2, 3, 0, 1).contiguous()


def unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Packed coefficients ``[m, 2, rows, l]`` as complex128 ``[*shape, l, m]``."""
    degrees = packed.shape[-1]
    parts = packed.permute(2, 3, 0, 1).contiguous()
    return torch.view_as_complex(parts).view(*shape, degrees, degrees)


def coupling_to_lower_degree(truncation: int) -> NDArray[np.float64]:
    """``e_lm = sqrt((l^2 - m^2) / (4 l^2 - 1))``, ``[l, m]``, zero where m >= l: sin(lat) Y_l = e_(l+1) Y_(l+1) + e_l Y_(l-1)."""
    degree, order = np.arange(truncation + 1.0)[:, None], np.arange(truncation + 1.0)[None, :]
    inside = np.maximum(degree**2 - order**2, 0.0)
    coupling: NDArray[np.float64] = np.sqrt(inside / np.where(degree == 0, 1.0, 4.0 * degree**2 - 1.0))
    return coupling


class Synthesis:
    """Fields of spectral coefficients, on any latitudes.

    Args:
        truncation: highest degree and order.
        sines: sine of each latitude, ``[lat]``, none on a pole.
        num_longitudes: points along a circle of latitude, the first at 0 east.

    Attributes:
        laplacian: eigenvalues -l (l + 1), ``[l]``.
        inverse_laplacian: their inverses, 0 for the mean, which no Laplacian determines.
        cosines: cosine of each latitude, ``[lat]``.
        values: Legendre functions, ``[m, l, lat]``.
        slopes: cos(lat) times their derivative by latitude, ``[m, l, lat]``.
        waves: what (m, part) contributes along a circle of latitude, ``[lon, 2 (truncation + 1)]``.
        wave_slopes: its derivative by longitude.

    Raises:
        ConfigError: a row on a pole, where the gradient along a circle of latitude has no direction.
    """

    def __init__(self, truncation: int, sines: NDArray[np.float64], num_longitudes: int) -> None:
        if np.any(np.abs(sines) >= 1.0):
            raise ConfigError("harmonics are evaluated between the poles, not on them", where="latitudes")
        self.truncation = truncation
        self.sines = torch.from_numpy(np.array(sines, np.float64))
        self.cosines = torch.sqrt((1.0 - self.sines) * (1.0 + self.sines))
        self.num_longitudes = num_longitudes
        order = torch.arange(truncation + 1, dtype=torch.float64)
        self.laplacian = -order * (order + 1.0)
        self.inverse_laplacian = torch.where(order == 0, 0.0, 1.0 / self.laplacian)
        functions = sph_legendre_p_all(truncation, truncation, np.arccos(self.sines.numpy()), diff_n=1)[:, :, : truncation + 1]
        values, slopes = torch.from_numpy(functions).transpose(1, 2)
        slopes = -self.cosines * slopes  # to cos(lat) d/dlat; scipy differentiates along colatitude
        self.values, self.slopes = values.contiguous(), slopes.contiguous()
        angle = 2.0 * math.pi / num_longitudes * torch.arange(num_longitudes, dtype=torch.float64)
        phase = angle[:, None] * order
        # Orders of both signs: twice the real part, but for m = 0.
        twice = torch.where(order == 0, 1.0, 2.0)
        self.waves = _interleave(twice * torch.cos(phase), -twice * torch.sin(phase))
        self.wave_slopes = _interleave(-order * twice * torch.sin(phase), -order * twice * torch.cos(phase))

    def field(self, packed: Tensor) -> Tensor:
        """The field, ``[lon, rows, lat]``."""
        return self._along(self.waves, packed, self.values)

    def gradient(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """``df/dlon`` and ``cos(lat) df/dlat``, each ``[lon, rows, lat]``: the gradient times cos(lat)."""
        return self._along(self.wave_slopes, packed, self.values), self._along(self.waves, packed, self.slopes)

    def _along(self, waves: Tensor, packed: Tensor, functions: Tensor) -> Tensor:
        orders = torch.bmm(packed.flatten(1, 2), functions)
        return torch.mm(waves, orders.view(waves.shape[1], -1)).unflatten(1, (packed.shape[2], -1))

    def evaluate(self, coefficients: Tensor) -> Tensor:
        """Field ``[..., lat, lon]``, float64, of complex coefficients ``[..., l, m]``."""
        return _to_outside(self.field(pack(coefficients)), coefficients.shape[:-2])

    def evaluate_gradient(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Components to the east and to the north of the gradient, each ``[..., lat, lon]``, of coefficients ``[..., l, m]``."""
        east, north = self.gradient(pack(coefficients))
        leading = coefficients.shape[:-2]
        return _to_outside(east / self.cosines, leading), _to_outside(north / self.cosines, leading)


class Transform(Synthesis):
    """Both directions, on Gaussian latitudes.

    Args:
        truncation: highest degree and order, T.
        num_latitudes: Gaussian latitudes, at least (3 T + 1) / 2 for exact quadratic terms.
        num_longitudes: points along a circle of latitude, at least 3 T + 1.

    Attributes:
        weights: quadrature weights over the sine of latitude, ``[lat]``, of sum 2.
        orders: a field's part in each (m, part), ``[2 (truncation + 1), lon]``.
        order_slopes: likewise of its derivative by longitude.
        analysis: Legendre functions with weights, ``[m, lat, l]``.
        flux_values: the same over cos^2(lat).
        flux_slopes: cos(lat) times their derivatives, with weights, over cos^2(lat).

    Raises:
        ConfigError: the grid is too coarse for quadratic terms without aliasing.
    """

    def __init__(self, truncation: int = 21, num_latitudes: int = 32, num_longitudes: int = 64) -> None:
        if 2 * num_latitudes < 3 * truncation + 1 or num_longitudes < 3 * truncation + 1:
            raise ConfigError(
                f"a grid of {num_latitudes} x {num_longitudes} aliases quadratic terms of truncation {truncation}",
                where="truncation",
                next_step=f"use at least {math.ceil((3 * truncation + 1) / 2)} x {3 * truncation + 1} points",
            )
        sines, weights = np.polynomial.legendre.leggauss(num_latitudes)
        super().__init__(truncation, sines, num_longitudes)
        self.weights = torch.from_numpy(weights)
        quadrature = 2.0 * math.pi * self.weights
        self.analysis = (quadrature * self.values).mT.contiguous()
        self.flux_values = (quadrature / self.cosines**2 * self.values).mT.contiguous()
        self.flux_slopes = (quadrature / self.cosines**2 * self.slopes).mT.contiguous()
        phase = 2.0 * math.pi / num_longitudes * torch.arange(num_longitudes, dtype=torch.float64)
        order = torch.arange(truncation + 1, dtype=torch.float64)
        cosine, sine = torch.cos(phase[:, None] * order), torch.sin(phase[:, None] * order)
        self.orders = _interleave(cosine, -sine).T.contiguous() / num_longitudes
        # i m times the coefficient of order m: the derivative by longitude.
        self.order_slopes = _interleave(order * sine, order * cosine).T.contiguous() / num_longitudes

    def coefficients(self, field: Tensor) -> Tensor:
        """Packed coefficients of a field ``[lon, rows, lat]``, truncated."""
        return self._across(self.orders, field, self.analysis)

    def divergence(self, east: Tensor, north: Tensor) -> Tensor:
        """Packed coefficients of the divergence of a vector ``(east, north) / cos(lat)``, components ``[lon, rows, lat]``."""
        return self._across(self.order_slopes, east, self.flux_values) - self._across(self.orders, north, self.flux_slopes)

    def curl(self, east: Tensor, north: Tensor) -> Tensor:
        """Packed coefficients of the vertical component of the curl; as :meth:`divergence`."""
        return self._across(self.order_slopes, north, self.flux_values) + self._across(self.orders, east, self.flux_slopes)

    def _across(self, orders: Tensor, field: Tensor, functions: Tensor) -> Tensor:
        rows, lat = field.shape[1:]
        along = torch.mm(orders, field.flatten(1))
        return torch.bmm(along.view(self.truncation + 1, 2 * rows, lat), functions).unflatten(1, (2, rows))

    def analyse(self, field: Tensor) -> Tensor:
        """Complex coefficients ``[..., l, m]`` of a field ``[..., lat, lon]``."""
        rows = field.to(torch.float64).reshape(-1, *field.shape[-2:])
        return unpack(self.coefficients(rows.permute(2, 0, 1).contiguous()), tuple(field.shape[:-2]))


def _interleave(real: Tensor, imaginary: Tensor) -> Tensor:
    """``[n, m]`` and ``[n, m]`` as ``[n, 2 m]``."""
    return torch.stack([real, imaginary], -1).flatten(-2).contiguous()


def _to_outside(field: Tensor, leading: tuple[int, ...]) -> Tensor:
    return field.permute(1, 2, 0).reshape(*leading, field.shape[2], field.shape[0])
