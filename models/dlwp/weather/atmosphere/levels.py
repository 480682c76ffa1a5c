"""How the three levels hang together: potential vorticity of streamfunctions, its inverse, and damping, a 3 x 3 matrix for each
degree.

With ``i = 1 / R^2`` for the Rossby radii R between neighbouring levels::

    q_1 = lap psi_1 - i1 (psi_1 - psi_2)
    q_2 = lap psi_2 + i1 (psi_1 - psi_2) - i2 (psi_2 - psi_3)
    q_3 = lap psi_3 + i2 (psi_2 - psi_3)
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.dlwp.weather.atmosphere import earth
from models.dlwp.weather.atmosphere.parameters import QuasiGeostrophicParameters


def coupling(parameters: QuasiGeostrophicParameters) -> Tensor:
    """The symmetric matrix C in ``q = lap psi - C psi``, ``[3, 3]``, m-2.

    Its eigenvalues are 0, for the motion that all levels share, and ``i1 + i2 -+ sqrt(i1^2 - i1 i2 + i2^2)``.
    """
    upper, lower = (1e3 * parameters.radius_upper_km) ** -2, (1e3 * parameters.radius_lower_km) ** -2
    return torch.tensor([[upper, -upper, 0.0], [-upper, upper + lower, -lower], [0.0, -lower, lower]], dtype=torch.float64)


def inversion(parameters: QuasiGeostrophicParameters, laplacian: Tensor) -> Tensor:
    """Streamfunction of potential vorticity for each degree, ``[l, 3, 3]``, m2.

    Degree 0 is set to zero: the mean of a streamfunction means nothing, and no process here changes the mean of q.

    Args:
        parameters: Rossby radii.
        laplacian: eigenvalues of the Laplacian on the unit sphere, ``[l]``.
    """
    stretching = coupling(parameters)
    identity = torch.eye(3, dtype=torch.float64)
    eigenvalues = laplacian / earth.RADIUS_M**2
    inverse = torch.zeros(len(laplacian), 3, 3, dtype=torch.float64)
    inverse[1:] = torch.linalg.inv(eigenvalues[1:, None, None] * identity - stretching)
    return inverse


def damping(parameters: QuasiGeostrophicParameters, laplacian: Tensor) -> Tensor:
    """Rate of change of q by thermal relaxation and friction, applied to psi, for each degree, ``[l, 3, 3]``, m-2 s-1::

        dq_1/dt = T12 ;  dq_2/dt = T23 - T12 ;  dq_3/dt = -T23 - lap psi_3 / ekman
        T12 = i1 (psi_1 - psi_2 - P12) / radiative, T23 likewise

    The part with P is in :func:`relaxation_target`.
    """
    rate = torch.zeros(len(laplacian), 3, 3, dtype=torch.float64)
    rate += coupling(parameters) / (parameters.radiative_days * earth.SECONDS_PER_DAY)
    rate[:, 2, 2] -= laplacian / earth.RADIUS_M**2 / (parameters.ekman_days * earth.SECONDS_PER_DAY)
    return rate


def relaxation_target(parameters: QuasiGeostrophicParameters) -> Tensor:
    """Rate of change of q of each level, ``[3]``, m-3, by the streamfunction P of a shear whose greatest value is 1 m/s, which is
    what :func:`.forcing.shear_streamfunction` gives: the part of :func:`damping` with P."""
    pairs = coupling(parameters)
    upper, lower = -pairs[0, 1] * parameters.shear_upper, -pairs[1, 2] * parameters.shear_lower
    return torch.stack([-upper, upper - lower, lower]) / (parameters.radiative_days * earth.SECONDS_PER_DAY)
