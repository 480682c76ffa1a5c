"""The lexicon of weather channels: short ids, what WeatherBench 1 and 2 call them, units, published statistics, plausible values.

A channel is one field on the grid: a quantity near the surface (``t2m``), on a pressure level (``z500``: quantity and hPa), or
one that never changes (``orography``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from results.errors import ConfigError, near_matches

#: Metres of geopotential height to geopotential, m s-2 (standard gravity).
GRAVITY = 9.80665
#: Pressure levels of WeatherBench 1 and 2.
LEVELS_HPA = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
#: A mean below this on 500 hPa is a height in metres (about 5,500), not a geopotential (about 54,000 m2 s-2).
HEIGHT_BELOW = 10_000.0


class Role(StrEnum):
    """What a model does with a channel."""

    CONSTANT = "constant"  # given once
    PRESCRIBED = "prescribed"  # given at every step, never predicted
    PROGNOSTIC = "prognostic"  # predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One entry of the lexicon.

    Attributes:
        id: short name.
        role: what a model does with it.
        units: of the values that readers hand out.
        folder: directory of WeatherBench 1.
        variable: name inside a file of WeatherBench 1.
        wb2_variable: name in a store of WeatherBench 2; empty where that has no such quantity.
        level_hpa: pressure level, or None.
        mean: published mean over 1979-2014 and all grid points, or None.
        std: published standard deviation likewise.
        low: no value is below.
        high: no value is above. The range is wide; what leaves it has other units or is damaged.
        wb2_factor: what a value of WeatherBench 2 is multiplied by to have these units.
    """

    id: str
    role: Role
    units: str
    folder: str
    variable: str
    wb2_variable: str
    level_hpa: int | None = None
    mean: float | None = None
    std: float | None = None
    low: float
    high: float
    wb2_factor: float = 1.0


#: In the paper's order.
CONSTANTS = ("orography", "lsm", "lat2d", "lon2d")
PRESCRIBED = ("tisr",)
PROGNOSTIC = ("t850", "t2m", "u10", "v10", "z300", "z500", "z700", "z1000")

#: (mean, standard deviation) over the training period 1979-2014, no latitude weights (Karlbauer et al. 2024). 0 and 1 leave a
#: fraction as it is; latitude and longitude are those of the 5.625 degree cell centres.
_PUBLISHED = {
    "orography": (379.4976, 859.87225),
    "lsm": (0.0, 1.0),
    "lat2d": (0.0, 51.936146),
    "lon2d": (177.1875, 103.910362),
    "tisr": (1074504.8, 1439846.4),
    "t850": (274.518799, 15.591469),
    "t2m": (278.44608, 21.24761),
    "u10": (-0.09109575, 5.547917),
    "v10": (0.2246149, 4.7760262),
    "z300": (89399.90625, 5087.197266),
    "z500": (54107.867188, 3349.03125),
    "z700": (28924.949219, 2132.567627),
    "z1000": (738.503784, 1069.619141),
}

#: id: (role, units, folder, name in WeatherBench 2, lowest value, highest value).
_SURFACE: dict[str, tuple[Role, str, str, str, float, float]] = {
    "orography": (Role.CONSTANT, "m", "constants", "geopotential_at_surface", -500.0, 9000.0),
    "lsm": (Role.CONSTANT, "1", "constants", "land_sea_mask", -0.001, 1.001),
    "slt": (Role.CONSTANT, "1", "constants", "soil_type", 0.0, 10.0),
    "lat2d": (Role.CONSTANT, "degrees_north", "constants", "", -90.0, 90.0),
    "lon2d": (Role.CONSTANT, "degrees_east", "constants", "", 0.0, 360.0),
    # Accumulated over one hour: the solar constant at perihelion is 5.07e6 J m-2.
    "tisr": (Role.PRESCRIBED, "J m**-2", "toa_incident_solar_radiation", "toa_incident_solar_radiation", -1e4, 5.2e6),
    "t2m": (Role.PROGNOSTIC, "K", "2m_temperature", "2m_temperature", 140.0, 360.0),
    "u10": (Role.PROGNOSTIC, "m s**-1", "10m_u_component_of_wind", "10m_u_component_of_wind", -150.0, 150.0),
    "v10": (Role.PROGNOSTIC, "m s**-1", "10m_v_component_of_wind", "10m_v_component_of_wind", -150.0, 150.0),
    "tcc": (Role.PROGNOSTIC, "1", "total_cloud_cover", "total_cloud_cover", -0.01, 1.01),
    # Hourly sums here; WeatherBench 2 keeps sums over 6 h and more only.
    "tp": (Role.PROGNOSTIC, "m", "total_precipitation", "", -0.001, 1.0),
}

#: Quantity: (units, folder and name in WeatherBench 2, lowest value, highest value); the range of z depends on the level.
_ON_LEVELS: dict[str, tuple[str, str, float, float]] = {
    "z": ("m**2 s**-2", "geopotential", 0.0, 0.0),
    "t": ("K", "temperature", 140.0, 360.0),
    "u": ("m s**-1", "u_component_of_wind", -250.0, 250.0),
    "v": ("m s**-1", "v_component_of_wind", -250.0, 250.0),
    "q": ("kg kg**-1", "specific_humidity", -0.01, 0.1),
    "r": ("%", "relative_humidity", -100.0, 300.0),
    "pv": ("K m**2 kg**-1 s**-1", "potential_vorticity", -0.01, 0.01),
    "vo": ("s**-1", "vorticity", -0.01, 0.01),
}


def standard_geopotential(level_hpa: float) -> float:
    """Geopotential of a pressure level in the standard atmosphere (ICAO, up to 20 km), m2 s-2: 54,666 at 500 hPa."""
    tropopause_hpa, tropopause_m = 226.3206, 11000.0
    if level_hpa >= tropopause_hpa:
        height_m = 44330.769 * (1.0 - (level_hpa / 1013.25) ** 0.1902632)
    else:
        height_m = tropopause_m + 6341.62 * math.log(tropopause_hpa / level_hpa)
    return GRAVITY * height_m


def looks_like_height(level_hpa: int, mean: float) -> bool:
    """Whether a field of this mean is geopotential height in m and not geopotential: below 10,000 on 500 hPa, in proportion on
    other levels. 1000 hPa lies too near the ground to tell."""
    return level_hpa <= 925 and mean < HEIGHT_BELOW * standard_geopotential(level_hpa) / standard_geopotential(500)


def _surface(name: str) -> Channel:
    role, units, folder, wb2_variable, low, high = _SURFACE[name]
    mean, std = _PUBLISHED.get(name, (None, None))
    return Channel(
        id=name,
        role=role,
        units=units,
        folder=folder,
        variable=name,
        wb2_variable=wb2_variable,
        mean=mean,
        std=std,
        low=low,
        high=high,
        wb2_factor=1.0 / GRAVITY if name == "orography" else 1.0,
    )


def _on_level(quantity: str, level_hpa: int) -> Channel:
    units, name, low, high = _ON_LEVELS[quantity]
    if quantity == "z":
        standard = standard_geopotential(level_hpa)
        spread = 0.35 * standard + 12_000.0
        low, high = standard - spread, standard + spread
    mean, std = _PUBLISHED.get(f"{quantity}{level_hpa}", (None, None))
    return Channel(
        id=f"{quantity}{level_hpa}",
        role=Role.PROGNOSTIC,
        units=units,
        folder=name,
        variable=quantity,
        wb2_variable=name,
        level_hpa=level_hpa,
        mean=mean,
        std=std,
        low=low,
        high=high,
    )


#: Every channel by its id.
LEXICON: dict[str, Channel] = {
    entry.id: entry
    for entry in (*map(_surface, _SURFACE), *(_on_level(quantity, level) for quantity in _ON_LEVELS for level in LEVELS_HPA))
}


def channel(name: str, *, where: str = "data.variables") -> Channel:
    """Look up a short id.

    Raises:
        ConfigError: the lexicon has no such id; the message has near matches.
    """
    found = LEXICON.get(name)
    if found is None:
        raise ConfigError(f"there is no weather channel '{name}'{near_matches(name, LEXICON)}", where=where)
    return found


def channels(names: Iterable[str], *, where: str = "data.variables") -> list[Channel]:
    """Look up several.

    Raises:
        ConfigError: an unknown id, or one that is named twice.
    """
    found = [channel(name, where=where) for name in names]
    for index, entry in enumerate(found):
        if entry in found[:index]:
            raise ConfigError(f"weather channel '{entry.id}' is named twice", where=where)
    return found
