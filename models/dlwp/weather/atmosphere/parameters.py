"""Parameters of the three-level quasi-geostrophic model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from models.dlwp.weather.atmosphere.orography import MOUNTAINS, Mountain
from results.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class QuasiGeostrophicParameters:
    """What the flow is driven by and what slows it down.

    The structure is that of Marshall and Molteni (1993, J. Atmos. Sci. 50, 1792); they fitted a constant forcing to analyses,
    here the flow relaxes towards an analytic shear. An infinite time switches its process off.

    Attributes:
        radius_upper_km: Rossby radius of deformation between levels 1 and 2.
        radius_lower_km: likewise between levels 2 and 3.
        radiative_days: time in which shear relaxes.
        ekman_days: time in which friction stops level 3.
        diffusion_days: time in which hyperdiffusion (of order 8) stops the highest degree.
        scale_height_km: mountains act on level 3 as f h / scale height.
        shear_upper: greatest difference of zonal wind between levels 1 and 2 towards which the flow relaxes, m/s.
        shear_lower: likewise between levels 2 and 3, m/s.
        seasonal_share: amplitude of the year in that shear, relative.
        extreme_day: days after 1 January on which the north has its winter.
        mountains: none for a smooth planet.
        time_step_h: Runge-Kutta step, which must divide 6 h.
    """

    radius_upper_km: float = 700.0
    radius_lower_km: float = 450.0
    radiative_days: float = 25.0
    ekman_days: float = 3.0
    diffusion_days: float = 2.0
    scale_height_km: float = 9.0
    shear_upper: float = 20.0
    shear_lower: float = 14.0
    seasonal_share: float = 0.35
    extreme_day: float = 15.0
    mountains: tuple[Mountain, ...] = MOUNTAINS
    time_step_h: float = 1.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name == "mountains":
                continue
            if math.isnan(value) or (math.isinf(value) and not entry.name.endswith("_days")):
                raise ConfigError(f"{entry.name} {value} is not a number", where=entry.name)
            if value <= 0.0 and entry.name.endswith(("_km", "_days", "_h")):
                raise ConfigError(f"{entry.name} {value} is not positive", where=entry.name)
