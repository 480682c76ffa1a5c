"""Solar radiation at the top of the atmosphere, in closed form.

The Earth is taken to circle the sun at constant distance and speed, so that the planet receives a quarter of the solar constant
at any time; the true orbit changes that by 3.4 % either way through the year.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.dlwp.weather.atmosphere import earth

#: Radiation on a surface that faces the sun, W m-2.
SOLAR_CONSTANT = 1361.0
#: Tilt of the axis, degrees.
OBLIQUITY_DEG = 23.44
#: Days after 1 January on which the sun crosses the equator northwards. The year's true quarters last 89 to 94 days; with this
#: day, four equal ones begin within two days of them.
EQUINOX_DAY = 81.2


def declination(days: NDArray[np.float64]) -> NDArray[np.float64]:
    """Latitude over which the sun stands, radians, of days since the epoch of :mod:`.earth`."""
    longitude = 2.0 * math.pi * (days - EQUINOX_DAY) / earth.YEAR_DAYS
    angle: NDArray[np.float64] = np.arcsin(math.sin(math.radians(OBLIQUITY_DEG)) * np.sin(longitude))
    return angle


def insolation(
    times: NDArray[np.datetime64], latitudes: NDArray[np.float64], longitudes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Radiation that falls on a horizontal surface in the hour that ends at each time, ``[time, lat, lon]``, J m-2.

    The cosine of the zenith angle, ``sin(lat) sin(dec) + cos(lat) cos(dec) cos(hour angle)``, is integrated exactly over the part
    of the hour in which the sun is up; the declination is that of the end of the hour, and noon is at 12 h local solar time.

    Args:
        times: ``[time]``, UTC.
        latitudes: ``[lat]`` degrees north.
        longitudes: ``[lon]`` degrees east.
    """
    days = earth.days_since_epoch(times)
    tilt = declination(days)[:, None, None]
    lat = np.radians(latitudes)[None, :, None]
    steady, swinging = np.sin(lat) * np.sin(tilt), np.cos(lat) * np.cos(tilt)
    # Hour angle of sunset: pi under the midnight sun, 0 in the polar night.
    sunset = np.arccos(np.clip(-steady / np.maximum(swinging, 1e-300), -1.0, 1.0))
    hour = 2.0 * math.pi / 24.0
    ends = 2.0 * math.pi * (days % 1.0)[:, None, None] + np.radians(longitudes)[None, None, :]
    # The hour [begins, begins + hour] with begins in [-pi, pi) may reach past midnight, where the next day begins.
    begins = np.mod(ends - hour, 2.0 * math.pi) - math.pi

    def since_sunrise(angle: NDArray[np.float64]) -> NDArray[np.float64]:
        risen = np.clip(angle, -sunset, sunset)
        return steady * (risen + sunset) + swinging * (np.sin(risen) + np.sin(sunset))

    daylight = since_sunrise(begins + hour) - since_sunrise(begins) + since_sunrise(begins + hour - 2.0 * math.pi)
    joules: NDArray[np.float64] = SOLAR_CONSTANT * earth.SECONDS_PER_HOUR / hour * daylight
    return joules
