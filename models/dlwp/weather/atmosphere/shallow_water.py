"""Shallow water on the rotating sphere in vorticity and divergence, and the unstable jet of Galewsky, Scott and Polvani (2004,
Tellus A 56, 429): a flow with known answers that the transforms of :mod:`.harmonics` are held against, not a climate.

With zeta and delta the vorticity and divergence of v, and Phi the geopotential of the surface::

    d zeta/dt = -div (v (zeta + f))
    d delta/dt = curl (v (zeta + f)) - lap (Phi + |v|^2 / 2)
    d Phi/dt = -div (v Phi)

Third-order Adams-Bashforth steps; hyperdiffusion (the Laplacian to the fourth) on zeta and delta, implicit.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.dlwp.weather.atmosphere import earth
from models.dlwp.weather.atmosphere.harmonics import Transform
from models.dlwp.weather.channels import GRAVITY
from results.errors import ConfigError, DivergedError

#: The jet: greatest speed, m/s, and the latitudes between which it blows, radians.
JET_SPEED = 80.0
JET_SOUTH, JET_NORTH = math.pi / 7.0, math.pi / 2.0 - math.pi / 7.0
MEAN_DEPTH_M = 10_000.0
#: The bump that sets off the instability: height, m; latitude and widths along longitude and latitude, radians.
BUMP_M = 120.0
BUMP_LAT, BUMP_LON_WIDTH, BUMP_LAT_WIDTH = math.pi / 4.0, 1.0 / 3.0, 1.0 / 15.0


class ShallowWaterModel:
    """Integrates batches of members.

    States are packed coefficients ``[m, 2, 3, member, l]`` of zeta (1/s), delta (1/s) and Phi (m2 s-2).

    Args:
        truncation: highest degree and order.
        num_latitudes: Gaussian latitudes; twice as many longitudes.
        time_step_s: stable up to about 270 s at truncation 42 and 10 km depth.
        diffusion_h: time in which hyperdiffusion stops the highest degree, hours; infinite for none.
        rotation_rate: of the planet, rad/s.

    Raises:
        ConfigError: the grid is too coarse, or a time is not positive.
    """

    def __init__(
        self,
        truncation: int = 42,
        num_latitudes: int = 64,
        *,
        time_step_s: float = 180.0,
        diffusion_h: float = 2.0,
        rotation_rate: float = earth.ROTATION_RATE,
    ) -> None:
        if not (time_step_s > 0.0 and diffusion_h > 0.0):
            raise ConfigError(f"time step {time_step_s} s or diffusion time {diffusion_h} h is not positive", where="time_step_s")
        self.transform = t = Transform(truncation, num_latitudes, 2 * num_latitudes)
        self.time_step_s = time_step_s
        self.coriolis = 2.0 * rotation_rate * t.sines
        self.laplacian = t.laplacian / earth.RADIUS_M**2
        self._inverse = t.inverse_laplacian * earth.RADIUS_M**2
        damped = 1.0 + time_step_s / (3600.0 * diffusion_h) * (t.laplacian / t.laplacian[-1]) ** 4
        # On zeta and delta, not on Phi: [3, member, l].
        self._diffusion = torch.stack([1.0 / damped, 1.0 / damped, torch.ones_like(damped)])[:, None]

    def wind(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """u cos(lat) and v cos(lat), each ``[lon, member, lat]``, m/s: ``v = k x grad psi + grad chi``."""
        psi, chi = (state[:, :, :2] * (self._inverse / earth.RADIUS_M)).unbind(2)
        psi_east, psi_north = self.transform.gradient(psi)
        chi_east, chi_north = self.transform.gradient(chi)
        return chi_east - psi_north, chi_north + psi_east

    def tendency(self, state: Tensor) -> Tensor:
        """Rate of change without hyperdiffusion, ``[m, 2, 3, member, l]``."""
        t, members = self.transform, state.shape[3]
        east, north = self.wind(state)
        zeta, phi = t.field(state[:, :, ::2].flatten(2, 3)).split(members, dim=1)
        absolute = zeta + self.coriolis
        rate = torch.empty_like(state)
        rate[:, :, 0] = t.divergence(east * absolute, north * absolute) / -earth.RADIUS_M
        rate[:, :, 1] = t.curl(east * absolute, north * absolute) / earth.RADIUS_M
        rate[:, :, 1] -= self.laplacian * (state[:, :, 2] + self.kinetic(east, north))
        rate[:, :, 2] = t.divergence(east * phi, north * phi) / -earth.RADIUS_M
        return rate

    def kinetic(self, east: Tensor, north: Tensor) -> Tensor:
        """Coefficients of |v|^2 / 2, m2 s-2, of a wind times cos(lat)."""
        return self.transform.coefficients((east**2 + north**2) / (2.0 * self.transform.cosines**2))

    def integrate(self, state: Tensor, steps: int) -> Tensor:
        """The state after some steps. The first two are by Kutta's third-order scheme, since there are no tendencies before them.

        Raises:
            DivergedError: the state left the finite numbers.
        """
        h = self.time_step_s
        before: list[Tensor] = []  # tendencies, newest first
        with torch.inference_mode():
            for _ in range(steps):
                before = [self.tendency(state), *before[:2]]
                first, *older = before
                if len(older) < 2:
                    middle = self.tendency(state + h / 2 * first)
                    step = (first + 4 * middle + self.tendency(state + h * (2 * middle - first))) / 6
                else:
                    step = (23 * first - 16 * older[0] + 5 * older[1]) / 12
                state = (state + h * step) * self._diffusion
        if not bool(torch.isfinite(state).all()):
            raise DivergedError(
                f"the shallow-water state left the finite numbers within {steps} steps of {h:g} s",
                where="time_step_s",
                next_step="use a shorter time step",
            )
        return state.clone()

    def balanced(self, zeta: Tensor) -> Tensor:
        """A steady state of a zonal wind: no divergence, and Phi such that delta does not change.

        Args:
            zeta: packed ``[m, 2, member, l]``, of order 0 only, 1/s.
        """
        mean = torch.zeros_like(zeta)
        mean[0, 0, :, 0] = GRAVITY * MEAN_DEPTH_M * math.sqrt(4.0 * math.pi)
        state = torch.stack([zeta, torch.zeros_like(zeta), mean], 2)
        state[:, :, 2] += self.tendency(state)[:, :, 1] * self._inverse
        return state


def galewsky_wind(latitudes_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zonal wind of the jet, m/s: infinitely smooth, and zero outside of it."""
    inside = (latitudes_rad > JET_SOUTH) & (latitudes_rad < JET_NORTH)
    product = np.where(inside, (latitudes_rad - JET_SOUTH) * (latitudes_rad - JET_NORTH), -1.0)
    at_centre = math.exp(-4.0 / (JET_NORTH - JET_SOUTH) ** 2)
    return np.where(inside, JET_SPEED / at_centre * np.exp(1.0 / product), 0.0)


def galewsky(model: ShallowWaterModel, bump_m: float = BUMP_M) -> Tensor:
    """The jet in balance, one member, with a bump on the surface that breaks its symmetry.

    Args:
        model: whose discrete equations the jet balances.
        bump_m: height of the bump; 0 for the jet alone.
    """
    t = model.transform
    lat = torch.arcsin(t.sines)
    wind = torch.from_numpy(galewsky_wind(lat.numpy()))
    east = (wind * t.cosines).expand(t.num_longitudes, 1, -1).contiguous()
    zeta = t.curl(east, torch.zeros_like(east)) / earth.RADIUS_M
    zeta[1:] = 0.0  # rounding of a zonal field
    state = model.balanced(zeta)
    lon = 2.0 * math.pi / t.num_longitudes * torch.arange(t.num_longitudes, dtype=torch.float64)[:, None]
    shape = torch.exp(-(((lon - math.pi) / BUMP_LON_WIDTH) ** 2) - ((lat - BUMP_LAT) / BUMP_LAT_WIDTH) ** 2)
    state[:, :, 2] += t.coefficients((GRAVITY * bump_m * t.cosines * shape)[:, None].contiguous())
    return state
