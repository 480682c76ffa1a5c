"""Advection of many tracers by many streamfunctions: the one nonlinear term of quasi-geostrophic flow, and most of its work."""

from __future__ import annotations

import torch
from torch import Tensor

from models.dlwp.weather.atmosphere.harmonics import Transform


class Advection:
    """``-v . grad q`` for ``v = k x grad psi`` on the unit sphere, as the curl of ``q grad psi``.

    The same could be written with the methods of :class:`.harmonics.Transform`. Here all that is computed goes into the same
    memory at every call, which a core's cache then holds.

    Args:
        transform: grid and truncation.
        rows: pairs of psi and q.
    """

    def __init__(self, transform: Transform, rows: int) -> None:
        self._transform = transform
        lat, lon, degrees = len(transform.sines), transform.num_longitudes, transform.truncation + 1

        def room(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        self._psi, self._psi_slope, self._q, self._flux = (room(degrees, 2 * rows, lat) for _ in range(4))
        self._orders = [orders.view(2 * degrees, -1) for orders in (self._psi, self._psi_slope, self._q, self._flux)]
        self._gradient, self._tracer = room(2, lon, rows * lat), room(lon, rows * lat)
        self._east, self._north = self._gradient
        self._tendency = room(degrees, 2 * rows, degrees)

    def __call__(self, psi: Tensor, q: Tensor) -> Tensor:
        """The tendency of q, ``[m, 2 rows, l]``; overwritten by the next call.

        Args:
            psi: packed coefficients with real and imaginary parts' rows as one dimension, ``[m, 2 rows, l]``.
            q: likewise.
        """
        t, (psi_orders, slope_orders, q_orders, flux_orders) = self._transform, self._orders
        torch.bmm(psi, t.values, out=self._psi)
        torch.bmm(psi, t.slopes, out=self._psi_slope)
        torch.bmm(q, t.values, out=self._q)
        torch.mm(t.wave_slopes, psi_orders, out=self._east)
        torch.mm(t.waves, slope_orders, out=self._north)
        torch.mm(t.waves, q_orders, out=self._tracer)
        self._gradient.mul_(self._tracer)
        torch.mm(t.order_slopes, self._north, out=flux_orders)
        torch.bmm(self._flux, t.flux_values, out=self._tendency)
        torch.mm(t.orders, self._east, out=flux_orders)
        return self._tendency.baddbmm_(self._flux, t.flux_slopes)
