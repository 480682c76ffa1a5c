"""Mountains and land of the generated planet: a few smooth massifs where the Earth has its greatest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Ground above this height is land, m.
SHORE_M = 100.0


@dataclass(frozen=True, slots=True)
class Mountain:
    """A massif of height ``height_m exp(-(d / radius_deg)^2)`` at the great-circle distance d from its top.

    Attributes:
        height_m: of the top.
        lat_deg: latitude of the top, degrees north.
        lon_deg: longitude of the top, degrees east.
        radius_deg: distance at which the height has fallen to 1/e, degrees.
    """

    height_m: float
    lat_deg: float
    lon_deg: float
    radius_deg: float


#: Asia, North America, the Andes, Antarctica.
MOUNTAINS = (
    Mountain(3000.0, 35.0, 90.0, 15.0),
    Mountain(2000.0, 45.0, 250.0, 12.0),
    Mountain(2000.0, -25.0, 290.0, 8.0),
    Mountain(2500.0, -80.0, 90.0, 20.0),
)


def height(
    latitudes: NDArray[np.float64], longitudes: NDArray[np.float64], mountains: Iterable[Mountain] = MOUNTAINS
) -> NDArray[np.float64]:
    """Height of the ground above the sea, ``[lat, lon]``, m.

    Args:
        latitudes: ``[lat]`` degrees north.
        longitudes: ``[lon]`` degrees east.
        mountains: their heights add up.
    """
    lat, lon = np.radians(latitudes)[:, None], np.radians(longitudes)[None, :]
    total = np.zeros((len(latitudes), len(longitudes)))
    for top in mountains:
        lat0, lon0 = np.radians(top.lat_deg), np.radians(top.lon_deg)
        # The haversine keeps its digits near the top.
        haversine = np.sin((lat - lat0) / 2) ** 2 + np.cos(lat) * np.cos(lat0) * np.sin((lon - lon0) / 2) ** 2
        distance = 2.0 * np.arcsin(np.sqrt(np.minimum(haversine, 1.0)))
        total += top.height_m * np.exp(-((distance / np.radians(top.radius_deg)) ** 2))
    return total


def land(height_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Land-sea mask: 1 on ground above :data:`SHORE_M`, else 0."""
    return (height_m > SHORE_M).astype(np.float64)
