"""The scheme the published data were made with, kept plain: it is what the fast solver is held against.

Forward Euler on advection and forcing, Crank-Nicolson on diffusion, step 1e-3, full complex transforms, five of them a step,
2/3-rule mask on the advection (Karlbauer et al. 2024, section 3.1, after Li et al. 2021, appendix A.3.3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.dlwp.navier_stokes.torus import check_field, check_resolution, forcing_field, highest_kept
from results.errors import ConfigError, DivergedError

TIME_STEP = 1e-3


def published_scheme(
    initial: Tensor,
    frames: int,
    *,
    viscosity: float,
    forcing: float = 0.1,
    time_step: float = TIME_STEP,
) -> Tensor:
    """Integrate all trajectories together.

    Args:
        initial: vorticity ``[sample, s, s]`` at t = 0, in 1/time; its type and device are those of the computation.
        frames: how many unit times to integrate.
        viscosity: nu, in length^2/time.
        forcing: amplitude of the forcing, in 1/time^2.
        time_step: must divide one unit of time.

    Returns:
        Vorticity ``[sample, frames, s, s]`` at t = 1 .. frames.

    Raises:
        ConfigError: wrong shape, or a step that does not divide 1.
        DivergedError: the solution left the finite numbers.
    """
    resolution = initial.shape[-1]
    check_resolution(resolution)
    check_field(initial, resolution)
    steps = round(1.0 / time_step)
    if abs(steps * time_step - 1.0) > 1e-9:
        raise ConfigError(f"time step {time_step} does not divide one unit of time", where="data.time_step")

    k = torch.fft.fftfreq(resolution, 1.0 / resolution, dtype=initial.dtype, device=initial.device)
    kx, ky = torch.meshgrid(k, k, indexing="ij")
    laplace = 4.0 * math.pi**2 * (kx**2 + ky**2)
    invertible = torch.where(laplace == 0, torch.ones_like(laplace), laplace)
    cut = highest_kept(resolution)
    kept = ((kx.abs() <= cut) & (ky.abs() <= cut)).to(initial.dtype)
    d_dx, d_dy = 2j * math.pi * kx, 2j * math.pi * ky
    explicit = 1.0 - 0.5 * time_step * viscosity * laplace
    implicit = 1.0 + 0.5 * time_step * viscosity * laplace
    force = torch.fft.fft2(forcing_field(resolution, forcing).to(initial))

    w = torch.fft.fft2(initial)
    output = initial.new_empty(initial.shape[0], frames, resolution, resolution)
    for frame in range(frames):
        for _ in range(steps):
            psi = w / invertible
            u = torch.fft.ifft2(d_dy * psi).real
            v = torch.fft.ifft2(-d_dx * psi).real
            w_x = torch.fft.ifft2(d_dx * w).real
            w_y = torch.fft.ifft2(d_dy * w).real
            advection = kept * torch.fft.fft2(u * w_x + v * w_y)
            w = (explicit * w + time_step * (force - advection)) / implicit
        output[:, frame] = torch.fft.ifft2(w).real
        if not torch.isfinite(output[:, frame]).all():
            raise DivergedError(
                f"the published scheme left the finite numbers by step {(frame + 1) * steps} at viscosity {viscosity:g}",
                where="data.time_step",
                next_step="lower data.time_step",
            )
    return output
