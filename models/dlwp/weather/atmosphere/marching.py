"""The tendency of the quasi-geostrophic model and its march through time, for a block of members at once.

What is carried is the absolute potential vorticity, ``q + f`` (and ``+ f h / H0`` on level 3): it is what the flow carries, so no
step adds f. All that is linear, the inversion to streamfunctions and the damping, is one 6 x 3 matrix for each degree, applied
once. Arrays of a block are made once and written again at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.dlwp.weather.atmosphere.advection import Advection
from models.dlwp.weather.atmosphere.harmonics import Transform

#: Members whose arrays a core's second-level cache (2 MiB) holds.
BLOCK_MEMBERS = 4


@dataclass(frozen=True, slots=True)
class Operators:
    """What a model does with the coefficients of one member; i and j stand for levels.

    Attributes:
        linear: ``[l, 2, i, j]``: damping, in 1/s, and streamfunction over the square of the planet's radius, in 1, of q.
        background: f and f h / H0, packed ``[m, 2, i, l]``, 1/s.
        forcing_mean: rate of change of q by the forcing's mean over the year, ``[i, l]``, for order 0, s-2.
        forcing_season: likewise what the season multiplies.
        diffusion: what hyperdiffusion leaves of q after a step, ``[l]``.
        step_s: length of a step, s.
    """

    linear: Tensor
    background: Tensor
    forcing_mean: Tensor
    forcing_season: Tensor
    diffusion: Tensor
    step_s: float


class Block:
    """Marches a fixed number of members.

    Args:
        transform: grid and truncation.
        operators: what the model does.
        members: how many.
    """

    def __init__(self, transform: Transform, operators: Operators, members: int) -> None:
        background = operators.background[:, :, :, None]
        orders, degrees = background.shape[0], background.shape[-1]
        self._operators = operators
        self._advection = Advection(transform, 3 * members)
        # All that is spectral: damping, psi, q.
        spectral = torch.zeros(orders, 3, 2, 3, members, degrees, dtype=torch.float64)
        self._linear, self._q = spectral[:, :2], spectral[:, 2]
        self._damping, self._q_levels = spectral[:, 0], self._q[:, None].split(1, dim=3)
        self._psi_rows, self._q_rows = spectral[:, 1].flatten(1, 3), spectral[:, 2].flatten(1, 3)
        self._total = torch.zeros(orders, 2, 3, members, degrees, dtype=torch.float64)
        # Expanded over members, so that inner loops run over long stretches.
        matrix = operators.linear.permute(3, 1, 2, 0)[:, :, None, :, None]
        self._matrix = tuple(matrix.expand(3, 2, 1, 3, members, degrees).contiguous())
        of_background = torch.einsum("lkij,mpjl->mkpil", operators.linear, operators.background)[:, :, :, :, None]
        self._minus_background = -of_background.expand_as(self._linear).contiguous()
        self._diffusion = operators.diffusion.expand(3, members, degrees).contiguous()
        self._undiffused = (background * (1.0 - operators.diffusion)).expand_as(self._total).contiguous()

    def tendency(self, forcing: Tensor) -> Tensor:
        """Rate of change, ``[m, 2, 3, members, l]`` in s-2, of the potential vorticity in ``_q``; overwritten by the next call.

        Args:
            forcing: ``[3, members, l]``, of order 0, s-2.
        """
        (upper, middle, lower), (of_upper, of_middle, of_lower) = self._q_levels, self._matrix
        torch.addcmul(self._minus_background, upper, of_upper, out=self._linear)
        self._linear.addcmul_(middle, of_middle).addcmul_(lower, of_lower)
        tendency = self._advection(self._psi_rows, self._q_rows).view_as(self._total)
        tendency.add_(self._damping)
        tendency[0, 0] += forcing
        return tendency

    def tendency_of(self, state: Tensor, season: Tensor) -> Tensor:
        """As :meth:`tendency`, of a state ``[m, 2, 3, members, l]`` under a season ``[members]``."""
        self._q.copy_(state)
        return self.tendency(self._forcing(season)).clone()

    def march(self, state: Tensor, seasons: Tensor) -> None:
        """Advance a state in place by the classical fourth-order Runge-Kutta scheme, hyperdiffusion after each step.

        Args:
            state: absolute potential vorticity ``[m, 2, 3, members, l]``, 1/s.
            seasons: the season at the beginning, middle and end of each step, ``[2 steps + 1, members]``: middles in between.
        """
        h, total = self._operators.step_s, self._total
        forcing = self._forcing(seasons)
        self._q.copy_(state)
        for first in range(0, len(seasons) - 1, 2):
            slope = self.tendency(forcing[first])
            torch.add(state, slope, alpha=h / 6.0, out=total)
            torch.add(state, slope, alpha=h / 2.0, out=self._q)
            slope = self.tendency(forcing[first + 1])
            total.add_(slope, alpha=h / 3.0)
            torch.add(state, slope, alpha=h / 2.0, out=self._q)
            slope = self.tendency(forcing[first + 1])
            total.add_(slope, alpha=h / 3.0)
            torch.add(state, slope, alpha=h, out=self._q)
            slope = self.tendency(forcing[first + 2])
            total.add_(slope, alpha=h / 6.0)
            torch.addcmul(self._undiffused, total, self._diffusion, out=state)
            self._q.copy_(state)

    def _forcing(self, seasons: Tensor) -> Tensor:
        """``[..., 3, members, l]`` of seasons ``[..., members]``."""
        op = self._operators
        return op.forcing_mean[:, None] + seasons[..., None, :, None] * op.forcing_season[:, None]
