"""Fast pseudo-spectral solver: few transforms, large steps, each trajectory at its own pace and on the grid it needs.

Four things make it fast.

* The advection is written with velocities only (Basdevant 1983, J. Comput. Phys. 50, 209)::

      u . grad w = (d_xx - d_yy)(uv) + d_xy(v^2 - u^2)

  which takes two inverse and two forward real transforms where the textbook form takes five complex ones.
* Diffusion is integrated exactly (integrating factor), the rest by the classical fourth-order Runge-Kutta scheme.
* Every trajectory chooses its step anew each unit of time, from its own fastest velocity and the stability of the scheme.
* Modes that hold nothing are left out: a trajectory whose spectrum has fallen off below its end marches on a smaller grid,
  and the modes above, which then receive nothing that counts, only decay. This too is chosen anew each unit of time.

Trajectories with equal choices march together, but what a trajectory does never depends on the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.dlwp.navier_stokes.band import LADDER, Band, to_grid, to_spectrum
from models.dlwp.navier_stokes.torus import check_field, check_resolution, forcing_field, highest_kept, wavenumbers
from results.errors import ConfigError, DivergedError

#: A unit of time is marched again when the flow has become faster than the step is stable for by this factor. The speed is the
#: greatest anywhere, so that a little more than the stable one does no harm within a unit of time.
SPEED_EXCESS = 1.1
#: Fewest steps a unit of time, for accuracy: with all modes of the grid at work, and on a smaller grid.
FEWEST_STEPS = 8
FEWEST_STEPS_SMALLER = 6
#: Share of the vorticity's norm that may be left out, by type of number.
TAIL_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
#: A spectrum ends inside a band when its content above this fraction of the cut is below EDGE_FACTOR times the tolerance:
#: exponential fall-off then brings it below the tolerance at the cut.
EDGE = 0.8
EDGE_FACTOR = 20.0
#: A unit of time is marched again on a larger grid when the content at the edge has grown past what is allowed by this factor.
EDGE_EXCESS = 4.0
#: Bytes of one array of velocities that stay in a core's second-level cache.
CACHE_BYTES = 512 * 1024
#: Trajectories whose states are held and sorted together.
POOL = 256


@dataclass(slots=True)
class _Pool:
    """Trajectories on their way: spectra, and what each will do in the coming unit of time (all on the CPU but the spectra).

    Attributes:
        spectrum: ``[sample, s/2 + 1, s, 2]``.
        speed: max(|u| + |v|) of each.
        band: index of the band each marches in.
        taken: steps taken since t = 0.
    """

    spectrum: Tensor
    speed: Tensor
    band: Tensor
    taken: Tensor


class NavierStokesSolver:
    """Integrates batches of trajectories at one resolution and viscosity.

    Args:
        resolution: grid points along each side, even.
        viscosity: nu >= 0, in length^2/time.
        forcing: amplitude of the forcing, in 1/time^2.
        time_step: a fixed step, which must divide one unit of time, on the full grid; None adapts step and grid to each
            trajectory.
        dtype: float32 or float64, of the whole computation.
        device: where to compute.

    Raises:
        ConfigError: a number that makes no sense.
    """

    def __init__(
        self,
        resolution: int,
        viscosity: float,
        *,
        forcing: float = 0.1,
        time_step: float | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        check_resolution(resolution)
        if not (math.isfinite(viscosity) and viscosity >= 0.0):
            raise ConfigError(f"viscosity {viscosity} is not a finite number >= 0", where="data.viscosity")
        if dtype not in TAIL_TOLERANCE:
            raise ConfigError(f"the solver computes in float32 or float64, not {dtype}", where="data.float64")
        self.resolution = resolution
        self.viscosity = viscosity
        self.dtype = dtype
        self.device = torch.device(device)
        self._fixed_steps = None if time_step is None else _steps_per_unit(time_step)
        self._tolerance = TAIL_TOLERANCE[dtype]
        cut = highest_kept(resolution)
        force = complex(torch.fft.fft2(forcing_field(resolution, forcing), norm="forward")[1, 1])
        shapes = [(resolution, cut, True)]
        if time_step is None:
            smaller = [2 * round(resolution * part / 2) for part in (3 / 4, 5 / 8, 1 / 2)]
            shapes += [(resolution, cut, False)] + [(size, (size - 1) // 3, False) for size in smaller if size >= 16]
        self._bands = [
            Band(size, kept, viscosity, force, whole=whole, dtype=dtype, device=self.device) for size, kept, whole in shapes
        ]
        self._unit_decay, self._edges = self._tables()

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Decay of every mode over a unit of time, ``[s/2 + 1, s, 1]``, and masks ``[band, s/2 + 1, s]`` of the modes that must
        be empty for a band to serve, weighted by how often a column of a real transform counts."""
        row, column = wavenumbers(self.resolution)
        kx, ky = row.T, column.T
        decay = torch.exp(-self.viscosity * (2.0 * math.pi) ** 2 * (kx**2 + ky**2))[..., None]
        highest = torch.maximum(kx.abs(), ky)
        twofold = torch.where((ky == 0) | (ky == self.resolution // 2), 1.0, 2.0)
        masks = [twofold.expand(-1, self.resolution)]  # band 0 serves always; its mask measures the whole
        for band in self._bands[1:]:
            # On the full grid the cut is sharp: what lies above receives nothing. On a smaller one the spectrum must end itself.
            sharp = band.size == self.resolution
            edge, allowed = (band.cut, 1.0) if sharp else (EDGE * band.cut, EDGE_FACTOR)
            masks.append(twofold * (highest > edge) / allowed**2)
        return decay.to(self.device, self.dtype), torch.stack(masks).to(self.device, self.dtype)

    def solve(self, initial: Tensor, frames: int) -> Tensor:
        """Integrate ``frames`` units of time.

        Args:
            initial: vorticity ``[sample, s, s]`` at t = 0, in 1/time.
            frames: number of unit times.

        Returns:
            Vorticity ``[sample, frames, s, s]`` at t = 1 .. frames, in the solver's type on its device.

        Raises:
            ConfigError: ``initial`` has the wrong shape.
            DivergedError: a field is not finite; the message names step and viscosity.
        """
        check_field(initial, self.resolution)
        output = torch.empty(initial.shape[0], frames, *initial.shape[1:], dtype=self.dtype, device=self.device)
        with torch.inference_mode():
            for start in range(0, initial.shape[0], POOL):
                self._solve_pool(initial[start : start + POOL], output[start : start + POOL])
        return output

    def _solve_pool(self, initial: Tensor, output: Tensor) -> None:
        spectrum = to_spectrum(initial.to(device=self.device, dtype=self.dtype))
        count = torch.zeros(len(initial), dtype=torch.int64)
        pool = _Pool(spectrum, self._bands[0].speed(spectrum).cpu(), self._choose_band(spectrum), count)
        self._check(pool.speed, pool.taken)
        for frame in range(output.shape[1]):
            self._unit_of_time(pool)
            output[:, frame] = to_grid(torch.view_as_complex(pool.spectrum), self.resolution)
            pool.band = self._choose_band(pool.spectrum)

    def _choose_band(self, spectrum: Tensor, excess: float = 1.0) -> Tensor:
        """The smallest band that holds each trajectory, int64 ``[sample]`` on the CPU."""
        if len(self._bands) == 1:
            return torch.zeros(len(spectrum), dtype=torch.int64)
        power = spectrum.square().sum(-1)
        content = torch.stack([(power * mask).sum((-1, -2)) for mask in self._edges])
        fits = content[1:] <= content[:1] * (excess * self._tolerance) ** 2
        # Bands are nested: count how many fit before the first that does not.
        return fits.long().cumprod(0).sum(0).cpu()

    def _unit_of_time(self, pool: _Pool) -> None:
        """March every trajectory through one unit of time.

        A trajectory that has become faster than its step allows, or finer than its grid resolves, is marched again with what
        its new state asks for.
        """
        ends = pool.spectrum * self._unit_decay
        speed = pool.speed.clone()
        steps = torch.empty_like(pool.band)
        waiting = torch.ones(len(steps), dtype=torch.bool)
        while waiting.any():
            for index in sorted(set(pool.band[waiting].tolist())):
                mine = waiting & (pool.band == index)
                steps[mine] = self._steps(self._bands[index], speed[mine])
                for number in sorted(set(steps[mine].tolist())):
                    rows = (mine & (steps == number)).nonzero()[:, 0]
                    for some in rows.split(self._together(self._bands[index])):
                        speed[some] = self._march(pool.spectrum, ends, some, self._bands[index], number)
            if self._fixed_steps is not None:
                break
            calm = (speed <= SPEED_EXCESS * self._fastest(pool.band, steps)) | (steps == int(LADDER[-1]))
            band = torch.minimum(pool.band, self._choose_band(ends, EDGE_EXCESS))
            waiting &= ~(calm & (band == pool.band))
            pool.band = torch.where(waiting, band, pool.band)
        self._check(speed, pool.taken + steps)
        pool.spectrum, pool.speed = ends, speed
        pool.taken += steps

    def _march(self, spectrum: Tensor, ends: Tensor, rows: Tensor, band: Band, steps: int) -> Tensor:
        """Advance ``rows`` of ``spectrum`` into ``ends``; returns their speeds."""
        everyone = len(rows) == len(spectrum)
        place = rows.to(self.device)
        w = band.march(band.take(spectrum if everyone else spectrum[place]), steps)
        if everyone:
            band.give(w, ends)
        else:
            end = ends[place]
            band.give(w, end)
            ends[place] = end
        return band.speed(w).cpu()

    def _together(self, band: Band) -> int:
        """Trajectories that march together: as many as the cache holds on a CPU, all on a GPU."""
        if self.device.type != "cpu":
            return POOL
        return max(1, CACHE_BYTES // (band.size**2 * 2 * self.dtype.itemsize))

    def _steps(self, band: Band, speed: Tensor) -> Tensor:
        """Steps for the coming unit of time."""
        if self._fixed_steps is not None:
            return torch.full((len(speed),), self._fixed_steps)
        fastest = torch.from_numpy(band.fastest)
        wanted = speed.double().nan_to_num(nan=torch.inf)
        place = torch.searchsorted(fastest, wanted).clamp(max=len(fastest) - 1)
        fewest = FEWEST_STEPS if band.size == self.resolution else FEWEST_STEPS_SMALLER
        return torch.from_numpy(LADDER)[place].clamp(min=fewest)

    def _fastest(self, band: Tensor, steps: Tensor) -> Tensor:
        """The speed at which each trajectory's choice would have become unstable."""
        place = torch.searchsorted(torch.from_numpy(LADDER), steps)
        return torch.stack([torch.from_numpy(b.fastest) for b in self._bands])[band, place]

    def _check(self, speed: Tensor, taken: Tensor) -> None:
        """Stop at a velocity that is not finite."""
        broken = ~torch.isfinite(speed)
        if broken.any():
            row = int(broken.nonzero()[0, 0])
            raise DivergedError(
                f"the vorticity left the finite numbers by step {int(taken[row])} at viscosity {self.viscosity:g}"
                f" and resolution {self.resolution}",
                where="data.time_step",
                next_step="lower data.time_step, or leave it out: the solver then chooses it",
            )


def _steps_per_unit(time_step: float) -> int:
    if not (math.isfinite(time_step) and 0.0 < time_step <= 1.0):
        raise ConfigError(f"time step {time_step} does not lie in (0, 1]", where="data.time_step")
    steps = round(1.0 / time_step)
    if abs(steps * time_step - 1.0) > 1e-9:
        raise ConfigError(
            f"time step {time_step} does not divide one unit of time",
            where="data.time_step",
            next_step=f"use data.time_step={1.0 / steps:.6g}",
        )
    return steps
