"""One band of modes on its own grid: everything that is needed to march it through time.

The band holds ``|kx|, ky <= cut`` on a grid of ``size`` points a side with ``size > 3 cut``, so that products of two of its
modes are free of aliasing in the modes that are kept. Spectra are stored ``[sample, ky, kx, 2]`` (real and imaginary part last)
and normalised as Fourier coefficients, so that they do not depend on the grid; with kx fast, transforms along kx run over
contiguous memory.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.dlwp.navier_stokes.torus import wavenumbers

#: Steps a unit of time: few distinct numbers, so that many trajectories march together.
LADDER = np.array([4, 5, 6, 7] + [m * 2**p for p in range(1, 9) for m in (4, 5, 6, 7)])


class Band:
    """Modes up to ``cut`` on a grid of ``size`` x ``size`` points.

    Args:
        size: grid points a side, even.
        cut: largest wavenumber component that receives a nonlinear term.
        viscosity: nu, in length^2/time.
        forcing: Fourier coefficient of the forcing at kx = ky = 1.
        whole: carry all modes of the grid, also those above the cut, which then advect but are not advected.
        dtype: float32 or float64.
        device: where to compute.
    """

    def __init__(
        self,
        size: int,
        cut: int,
        viscosity: float,
        forcing: complex,
        *,
        whole: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.size = size
        self.cut = cut
        self.whole = whole
        self.columns = size // 2 + 1 if whole else cut + 1
        self._dtype = dtype
        self._device = device
        self._viscosity = viscosity
        self._decay: dict[int, Tensor] = {}
        row, column = wavenumbers(size)
        kx, ky = row.T, column.T[: self.columns]
        two_pi, squared = 2.0 * math.pi, kx**2 + ky**2
        self._decay_rate = viscosity * two_pi**2 * squared
        # A first derivative has no value at the highest mode of an even grid, which lacks a partner of opposite sign.
        d_dx, d_dy = kx * (kx.abs() < size // 2), ky * (ky < size // 2)
        inverse = torch.where(squared == 0, 0.0, 1.0 / (two_pi * squared))
        kept = (kx.abs() <= cut) & (ky <= cut)
        source = torch.zeros(*squared.shape, dtype=torch.complex128)
        source[1, 1] = torch.tensor(forcing, dtype=torch.complex128)
        self._velocity = self._put(torch.stack([1j * d_dy * inverse, -1j * d_dx * inverse])[:, None])
        self._product = self._put(_twice(two_pi**2 * (kx**2 - ky**2) * kept))
        self._difference = self._put(_twice(two_pi**2 * kx * ky * kept))
        self._source = self._put(torch.view_as_real(source))
        self.fastest = self._stable_speeds()

    def _put(self, tensor: Tensor) -> Tensor:
        dtype = self._dtype.to_complex() if tensor.is_complex() else self._dtype
        return tensor.to(device=self._device, dtype=dtype).contiguous()

    def _stable_speeds(self) -> NDArray[np.float64]:
        """The fastest flow, max(|u| + |v|), for which each step count of :data:`LADDER` is stable.

        On advection at speed c a mode k is multiplied each step by exp(-lambda h) R(i y), y = 2 pi k c h, lambda = nu (2 pi k)^2
        and |R(i y)|^2 = 1 - y^6/72 + y^8/576. The largest y with a product of 1 is found by bisection; it is 2.83 where nu = 0.
        """
        k = np.arange(1, self.cut + 1)
        h = 1.0 / LADDER[:, None]
        growth = np.exp(np.minimum(2.0 * self._viscosity * (2.0 * math.pi * k) ** 2 * h, 100.0))
        low, high = np.full(growth.shape, math.sqrt(8.0)), np.full(growth.shape, 1e4)
        for _ in range(60):
            y = 0.5 * (low + high)
            stable = 1.0 - y**6 / 72.0 + y**8 / 576.0 <= growth
            low, high = np.where(stable, y, low), np.where(stable, high, y)
        speeds: NDArray[np.float64] = (low / (2.0 * math.pi * k * h)).min(axis=1)
        return speeds

    def take(self, spectrum: Tensor) -> Tensor:
        """The band's modes ``[sample, columns, size, 2]`` out of a whole spectrum ``[sample, s/2 + 1, s, 2]``."""
        if self.whole:
            return spectrum.clone()
        part = spectrum.new_zeros(len(spectrum), self.columns, self.size, 2)
        part[:, :, : self.cut + 1] = spectrum[:, : self.columns, : self.cut + 1]
        part[:, :, -self.cut :] = spectrum[:, : self.columns, -self.cut :]
        return part

    def give(self, part: Tensor, spectrum: Tensor) -> None:
        """Put the band's modes back into a whole spectrum."""
        if self.whole:
            spectrum.copy_(part)
            return
        spectrum[:, : self.columns, : self.cut + 1] = part[:, :, : self.cut + 1]
        spectrum[:, : self.columns, -self.cut :] = part[:, :, -self.cut :]

    def velocity(self, w: Tensor) -> Tensor:
        """(u, v) ``[2, sample, size, size]`` of the vorticity's spectrum, in length/time."""
        return to_grid(self._velocity * torch.view_as_complex(w), self.size)

    def speed(self, w: Tensor) -> Tensor:
        """max(|u| + |v|) of every sample."""
        return self.velocity(w).abs_().sum(0).amax((-1, -2))

    def tendency(self, w: Tensor) -> Tensor:
        """Forcing minus advection, by the two products uv and v^2 - u^2."""
        u, v = velocity = self.velocity(w)
        products = torch.empty_like(velocity)
        torch.mul(u, v, out=products[0])
        torch.mul(v, v, out=products[1]).addcmul_(u, u, value=-1.0)
        half = torch.fft.rfft(products, dim=-1, norm="forward")[..., : self.columns]
        spectrum = torch.fft.fft(half, dim=-2, norm="forward").transpose(-1, -2)
        product, difference = torch.view_as_real(spectrum)
        return torch.addcmul(self._source, product, self._product).addcmul_(difference, self._difference)

    def march(self, w: Tensor, steps: int) -> Tensor:
        """One unit of time in ``steps`` equal steps of the integrating-factor Runge-Kutta scheme of order four.

        With E = exp(-nu |2 pi k|^2 h / 2) the decay over half a step, E x is computed as x + (E - 1) x: E - 1 is small and
        keeps its digits, where a rounded E would bias every step the same way.
        """
        h = 1.0 / steps
        decay = self._half_step_decay(steps)

        def half(x: Tensor) -> Tensor:
            return x.addcmul_(x, decay)

        for _ in range(steps):
            slope = self.tendency(w)
            total = half(torch.add(w, slope, alpha=h / 6.0))
            slope = self.tendency(half(torch.add(w, slope, alpha=h / 2.0)))
            total.add_(slope, alpha=h / 3.0)
            w = torch.addcmul(w, w, decay)
            slope = self.tendency(torch.add(w, slope, alpha=h / 2.0))
            half(total.add_(slope, alpha=h / 3.0))
            slope = self.tendency(half(torch.add(w, slope, alpha=h)))
            w = total.add_(slope, alpha=h / 6.0)
        return w

    def _half_step_decay(self, steps: int) -> Tensor:
        """``exp(-nu |2 pi k|^2 / (2 steps)) - 1``, real ``[columns, size, 2]``."""
        if steps not in self._decay:
            self._decay[steps] = self._put(_twice(torch.expm1(-self._decay_rate / (2.0 * steps))))
        return self._decay[steps]


def _twice(weight: Tensor) -> Tensor:
    """The same weight for real and imaginary part."""
    return weight[..., None].expand(*weight.shape, 2)


def to_grid(spectrum: Tensor, size: int) -> Tensor:
    """Field ``[..., x, y]`` of Fourier coefficients ``[..., ky, kx]``; columns that are not there count as zero."""
    rows = torch.fft.ifft(spectrum, dim=-1, norm="forward").transpose(-1, -2)
    field: Tensor = torch.fft.irfft(rows, n=size, dim=-1, norm="forward")
    return field


def to_spectrum(field: Tensor) -> Tensor:
    """Fourier coefficients ``[..., ky, kx, 2]`` of a field ``[..., x, y]``."""
    return torch.view_as_real(torch.fft.rfft2(field, norm="forward").transpose(-1, -2).contiguous())
