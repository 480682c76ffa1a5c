"""A three-level quasi-geostrophic model of the atmosphere on the sphere, truncated at degree 21 (after Marshall and Molteni 1993,
J. Atmos. Sci. 50, 1792), with a forcing that follows the year.

On levels i = 1, 2, 3 at 200, 500 and 800 hPa, with ``v_i = k x grad psi_i``::

    dq_i/dt = -v_i . grad (q_i + f [+ f h / H0 on level 3]) + damping_i + forcing_i(t) - hyperdiffusion

:mod:`.levels` has q and the damping, :mod:`.forcing` the forcing, :mod:`.orography` the height h, :mod:`.marching` the scheme.

A member's flow depends on its seed and calendar, and on which members it is computed with only through rounding: sums are taken
in another order in batches of another size. Chaos makes that grow twofold in about three days, from 1e-15 of the flow to all of
it within half a year. The same batch gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.dlwp.weather.atmosphere import earth, forcing, levels, orography
from models.dlwp.weather.atmosphere.harmonics import Transform, pack, unpack
from models.dlwp.weather.atmosphere.marching import BLOCK_MEMBERS, Block, Operators
from models.dlwp.weather.atmosphere.parameters import QuasiGeostrophicParameters
from results.errors import ConfigError, DivergedError

#: Hours between states that are handed out.
INTERVAL_H = 6.0
SPIN_UP_DAYS = 120.0
#: Root mean square of the random streamfunction that a spin-up begins with, m2/s.
INITIAL_RMS = 2e6
#: Degree about which that streamfunction has its power.
INITIAL_DEGREE = 8.0


class QuasiGeostrophicModel:
    """Integrates batches of members.

    States are streamfunctions, complex128 ``[member, 3, l, m]`` in m2/s, coefficients of the harmonics of :mod:`.harmonics`.

    Args:
        parameters: of the flow and the scheme.

    Attributes:
        transform: the grid, 32 Gaussian latitudes x 64 longitudes, and degrees up to 21.

    Raises:
        ConfigError: the time step does not divide 6 h.
    """

    def __init__(self, parameters: QuasiGeostrophicParameters | None = None) -> None:
        self.parameters = p = QuasiGeostrophicParameters() if parameters is None else parameters
        self._steps = round(INTERVAL_H / p.time_step_h)
        if self._steps < 1 or abs(self._steps * p.time_step_h - INTERVAL_H) > 1e-9:
            raise ConfigError(
                f"a time step of {p.time_step_h:g} h does not divide 6 h", where="time_step_h", next_step="use 1, 1.5 or 2"
            )
        self.transform = transform = Transform(21, 32, 64)
        eigenvalues = transform.laplacian
        self._inversion = levels.inversion(p, eigenvalues)
        self._vorticity = (eigenvalues / earth.RADIUS_M**2)[:, None, None] * torch.eye(3, dtype=torch.float64)
        self._vorticity -= levels.coupling(p)
        damping = levels.damping(p, eigenvalues) @ self._inversion
        target = levels.relaxation_target(p)[:, None]
        mean, seasonal = (field[0, 0] for field in forcing.shear_streamfunction(transform))
        step_s = p.time_step_h * earth.SECONDS_PER_HOUR
        highest = (eigenvalues / eigenvalues[-1]) ** 4
        self._operators = Operators(
            linear=torch.stack([damping, self._inversion / earth.RADIUS_M**2], 1),
            background=self._background(),
            forcing_mean=target * mean,
            forcing_season=target * (p.seasonal_share * seasonal),
            diffusion=torch.exp(-step_s / (p.diffusion_days * earth.SECONDS_PER_DAY) * highest),
            step_s=step_s,
        )
        self._blocks: dict[int, Block] = {}

    def _background(self) -> Tensor:
        """Vorticity of the planet and effect of its mountains, packed ``[m, 2, 3, l]``, 1/s."""
        t, p = self.transform, self.parameters
        coriolis = (2.0 * earth.ROTATION_RATE * t.sines).expand(t.num_longitudes, 3, -1).clone()
        latitudes = np.degrees(np.arcsin(t.sines.numpy()))
        longitudes = 360.0 / t.num_longitudes * np.arange(t.num_longitudes, dtype=np.float64)
        ground = torch.from_numpy(orography.height(latitudes, longitudes, p.mountains)).T
        coriolis[:, 2] *= 1.0 + ground / (1e3 * p.scale_height_km)
        return t.coefficients(coriolis.contiguous())

    def potential_vorticity(self, psi: Tensor) -> Tensor:
        """q without f and mountains, ``[member, 3, l, m]`` in 1/s."""
        return torch.einsum("lij,bjlm->bilm", self._vorticity.to(psi.dtype), psi)

    def streamfunction(self, q: Tensor) -> Tensor:
        """psi, ``[member, 3, l, m]`` in m2/s, of q without f and mountains."""
        return torch.einsum("lij,bjlm->bilm", self._inversion.to(q.dtype), q)

    def tendency(self, psi: Tensor, times: NDArray[np.datetime64]) -> Tensor:
        """dq/dt without hyperdiffusion, ``[member, 3, l, m]`` in s-2.

        Args:
            psi: streamfunctions ``[member, 3, l, m]``.
            times: date of each member, ``[member]``.
        """
        season = torch.from_numpy(earth.season(earth.days_since_epoch(times), self.parameters.extreme_day))
        rate = self._block(len(psi)).tendency_of(self._state(psi), season)
        return unpack(rate.flatten(2, 3), (3, len(psi))).transpose(0, 1).contiguous()

    def random_streamfunction(self, seeds: Sequence[int]) -> Tensor:
        """Large eddies of any phase, independent on the three levels, of root mean square 2e6 m2/s, ``[member, 3, l, m]``.

        Args:
            seeds: one for each member, 0 .. 2^64 - 1; each is a stream of its own.

        Raises:
            ConfigError: a seed is out of range.
        """
        degrees = len(self.transform.laplacian)
        degree, order = np.arange(degrees)[:, None], np.arange(degrees)[None, :]
        spectrum = np.where((order <= degree) & (degree > 0), degree * np.exp(-((degree / INITIAL_DEGREE) ** 2)), 0.0)
        # A field's mean square is the sum of |c|^2 over both signs of m, over 4 pi; real and imaginary parts have variance 1.
        twice = np.where(order == 0, 1.0, 4.0)
        spectrum *= INITIAL_RMS * math.sqrt(4.0 * math.pi / (twice * spectrum**2).sum())
        drawn = []
        for seed in seeds:
            if not 0 <= seed < 2**64:
                raise ConfigError(f"member seed {seed} is not in 0 .. 2^64 - 1", where="seeds")
            generator = np.random.Generator(np.random.Philox(key=np.array([seed, 0], dtype=np.uint64)))
            real, imaginary = generator.standard_normal((2, 3, degrees, degrees))
            drawn.append(spectrum * (real + 1j * np.where(order == 0, 0.0, imaginary)))
        return torch.from_numpy(np.array(drawn).reshape(-1, 3, degrees, degrees))

    def integrate(self, psi: Tensor, starts: NDArray[np.datetime64], frames: int) -> Iterator[Tensor]:
        """States every 6 h from the initial one on.

        Args:
            psi: initial streamfunctions ``[member, 3, l, m]``.
            starts: date of each member's initial state, ``[member]``.
            frames: states to hand out, the initial one counted.

        Yields:
            Streamfunctions of all members, ``[member, 3, l, m]``, m2/s.

        Raises:
            ConfigError: not one date for each member.
            DivergedError: a member left the finite numbers; the message names it, the day and its date.
        """
        if len(starts) != len(psi):
            raise ConfigError(f"{len(starts)} dates for {len(psi)} members", where="starts")
        days = torch.from_numpy(earth.days_since_epoch(starts))
        middles = torch.arange(2 * self._steps + 1, dtype=torch.float64)[:, None] * (INTERVAL_H / 48.0 / self._steps)
        blocks = [slice(first, first + BLOCK_MEMBERS) for first in range(0, len(psi), BLOCK_MEMBERS)]
        states = [self._state(psi[block]) for block in blocks]
        for frame in range(frames):
            elapsed = frame * INTERVAL_H / 24.0
            if frame:
                seasons = earth.season((days + (elapsed - INTERVAL_H / 24.0) + middles).numpy(), self.parameters.extreme_day)
                for block, state in zip(blocks, states, strict=True):
                    with torch.inference_mode():
                        self._block(state.shape[3]).march(state, torch.from_numpy(seasons[:, block]))
            whole = unpack(torch.cat(states, 3).flatten(2, 3), (3, len(psi))).transpose(0, 1)
            self._check(whole, days, elapsed)
            yield self.streamfunction(whole - self._planetary())

    def _planetary(self) -> Tensor:
        return unpack(self._operators.background, (3,))

    def _state(self, psi: Tensor) -> Tensor:
        """Absolute potential vorticity of streamfunctions, packed ``[m, 2, 3, member, l]``."""
        q = self.potential_vorticity(psi.to(torch.complex128)) + self._planetary()
        return pack(q.transpose(0, 1)).unflatten(2, (3, len(psi)))

    def _block(self, members: int) -> Block:
        if members not in self._blocks:
            self._blocks[members] = Block(self.transform, self._operators, members)
        return self._blocks[members]

    def _check(self, states: Tensor, days: Tensor, elapsed: float) -> None:
        broken = ~torch.isfinite(torch.view_as_real(states)).flatten(1).all(1)
        if broken.any():
            member = int(broken.nonzero()[0, 0])
            raise DivergedError(
                f"member {member} left the finite numbers by day {elapsed:g} ({earth.date_of(float(days[member]) + elapsed)})",
                where="quasi-geostrophic model",
                next_step=f"use a time_step_h shorter than {self.parameters.time_step_h:g}, or weaker shear and mountains",
            )


def simulate(
    seeds: Sequence[int],
    starts: NDArray[np.datetime64],
    frames: int,
    *,
    parameters: QuasiGeostrophicParameters | None = None,
    spin_up_days: float = SPIN_UP_DAYS,
) -> Iterator[Tensor]:
    """States every 6 h of members that have forgotten how they began.

    Args:
        seeds: of the random streamfunction that each member's spin-up begins with.
        starts: date of each member's first state, ``[member]``; the spin-up runs through the days before it.
        frames: states to hand out.
        parameters: of the flow and the scheme.
        spin_up_days: a multiple of 6 h; 0 hands out the random streamfunctions first.

    Yields:
        Streamfunctions of all members, complex128 ``[member, 3, l, m]``, m2/s.

    Raises:
        ConfigError: a seed, a date or a length makes no sense.
        DivergedError: a member left the finite numbers.
    """
    intervals = round(spin_up_days * 24.0 / INTERVAL_H)
    if intervals < 0 or abs(intervals * INTERVAL_H / 24.0 - spin_up_days) > 1e-9:
        raise ConfigError(f"a spin-up of {spin_up_days:g} days is not a multiple of 6 h", where="spin_up_days")
    model = QuasiGeostrophicModel(parameters)
    begins = starts - np.timedelta64(round(intervals * INTERVAL_H), "h")
    states = model.integrate(model.random_streamfunction(seeds), begins, intervals + frames)
    for _ in range(intervals):
        next(states)
    yield from states
