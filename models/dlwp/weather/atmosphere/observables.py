"""What a weather model would see of the generated atmosphere: the channels of WeatherBench from streamfunctions.

* Geopotential of the levels by linear balance, ``lap Phi = div(f grad psi)``; that of other levels linear in the logarithm of
  pressure; the published mean of each channel is added, on 200 and 800 hPa the standard atmosphere.
* t850 from the thickness between 500 and 800 hPa, t2m from t850, the sun over land and the height of the ground.
* u10, v10 from the wind at 800 hPa, slowed down and turned towards low pressure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.dlwp.weather.atmosphere import earth
from models.dlwp.weather.atmosphere.harmonics import Synthesis, coupling_to_lower_degree
from models.dlwp.weather.atmosphere.insolation import SOLAR_CONSTANT, insolation
from models.dlwp.weather.atmosphere.orography import MOUNTAINS, Mountain, height, land
from models.dlwp.weather.channels import channel, standard_geopotential
from models.dlwp.weather.supplied import CHANNELS, LEVELS_HPA, SUPPLIED, not_supplied
from results.errors import ConfigError

Fields = dict[str, NDArray[np.float32]]

#: Mean over the 32 x 64 points of WeatherBench, where polar rows count more than their area, of the geopotential anomaly of each
#: level in this climate, m2 s-2; it is taken off, since published means are means over points too. [Eight years, default
#: parameters; the mean over the sphere is zero.]
POINT_MEANS = (-3474.0, -1675.0, -700.0)
#: Wind at 10 m over wind at 800 hPa, and the angle by which friction turns it.
SURFACE_WIND_SHARE = 0.6
SURFACE_WIND_TURN_DEG = 20.0
#: Latitude below which that angle shrinks in proportion to latitude: on the equator nothing tells where low pressure is.
TURN_LATITUDE_DEG = 10.0
#: Surface temperature: its mean without mountains, K; its share of the anomaly aloft; K that the overhead sun adds over land;
#: lapse rate up the mountains, K/m.
SURFACE_MEAN_K = 278.4
SURFACE_SHARE = 0.9
SUN_OVER_LAND_K = 10.0
LAPSE_RATE = 0.0065

_ON_LEVEL = re.compile(r"([zuv])(\d+)")


def balanced_geopotential(psi: Tensor) -> Tensor:
    """Geopotential anomaly in linear balance with streamfunctions, coefficients ``[..., l, m]``, m2 s-2.

    ``lap^-1 div(sin(lat) grad)`` joins neighbouring degrees only: with e_lm of
    :func:`.harmonics.coupling_to_lower_degree`::

        Phi_l = 2 Omega [e_l (l - 1)/l psi_(l-1) + e_(l+1) (l + 2)/(l + 1) psi_(l+1)]

    Args:
        psi: streamfunctions, complex ``[..., l, m]``, m2/s.
    """
    truncation = psi.shape[-1] - 1
    coupling = torch.from_numpy(coupling_to_lower_degree(truncation))
    degree = torch.arange(1, truncation + 1, dtype=torch.float64)[:, None]
    phi = torch.zeros_like(psi)
    phi[..., 1:, :] += coupling[1:] * (degree - 1.0) / degree * psi[..., :-1, :]
    # Onto degree l - 1 for each l; the mean stays zero.
    phi[..., 1:-1, :] += (coupling[1:] * (degree + 1.0) / degree)[1:] * psi[..., 2:, :]
    return 2.0 * earth.ROTATION_RATE * phi


class Observer:
    """Fields on a grid.

    Args:
        latitudes: ``[lat]`` degrees north, none on a pole.
        num_longitudes: points along a circle of latitude, from 0 east.
        mountains: those that the flow was computed with.

    Raises:
        ConfigError: a row on a pole.
    """

    def __init__(
        self, latitudes: NDArray[np.float64], num_longitudes: int = 64, mountains: Iterable[Mountain] = MOUNTAINS
    ) -> None:
        self.latitudes = np.asarray(latitudes, np.float64)
        self.longitudes = 360.0 / num_longitudes * np.arange(num_longitudes, dtype=np.float64)
        self._synthesis = Synthesis(21, np.sin(np.radians(self.latitudes)), num_longitudes)
        self._ground_m = height(self.latitudes, self.longitudes, mountains)
        self._land = land(self._ground_m)

    def constants(self) -> Fields:
        """Height of the ground in m, land-sea mask, latitude and longitude in degrees, ``[lat, lon]`` each."""
        lat, lon = np.meshgrid(self.latitudes, self.longitudes, indexing="ij")
        return _narrow({"orography": self._ground_m, "lsm": self._land, "lat2d": lat, "lon2d": lon})

    def channels(self, psi: Tensor, times: NDArray[np.datetime64], names: Iterable[str] = CHANNELS) -> Fields:
        """Channels by their ids, ``[time, lat, lon]`` each, SI units.

        Args:
            psi: streamfunctions of the three levels, complex ``[time, 3, l, m]``, m2/s.
            times: ``[time]``, UTC.
            names: of :data:`models.dlwp.weather.supplied.SUPPLIED`.

        Raises:
            ConfigError: a channel that this atmosphere does not have, or not one time for each state.
        """
        if len(times) != len(psi):
            raise ConfigError(f"{len(times)} times for {len(psi)} states", where="times")
        scene = _Scene(self, psi, times)
        return _narrow({name: scene.channel(name) for name in names})


class _Scene:
    """States on their way to channels; what several channels need is computed once."""

    def __init__(self, observer: Observer, psi: Tensor, times: NDArray[np.datetime64]) -> None:
        self._observer = observer
        self._psi = psi.to(torch.complex128)
        self._times = times
        self._known: dict[str, NDArray[np.float64]] = {}

    def channel(self, name: str) -> NDArray[np.float64]:
        if name not in self._known:
            self._known |= self._compute(name)
        return self._known[name]

    def _compute(self, name: str) -> dict[str, NDArray[np.float64]]:
        if name not in SUPPLIED:
            raise not_supplied(name, where="names")
        match = _ON_LEVEL.fullmatch(name)
        if name == "tisr":
            return {name: insolation(self._times, self._observer.latitudes, self._observer.longitudes)}
        if name == "t850":
            return {name: _mean(name) + self._thickness_temperature()}
        if name == "t2m":
            return {name: self._surface_temperature()}
        if name in ("u10", "v10"):
            return self._surface_wind()
        assert match is not None
        level = int(match[2])
        return {name: self._geopotential(level)} if match[1] == "z" else self._wind(level)

    def _anomaly(self, level: int) -> NDArray[np.float64]:
        """Geopotential of one of the three levels less its mean over points."""
        key = f"anomaly {level}"
        if key not in self._known:
            phi = balanced_geopotential(self._psi)
            fields = self._observer._synthesis.evaluate(phi).numpy()
            self._known |= {f"anomaly {number}": fields[:, number] - mean for number, mean in enumerate(POINT_MEANS)}
        return self._known[key]

    def _geopotential(self, pressure_hpa: int) -> NDArray[np.float64]:
        first = 0 if pressure_hpa <= LEVELS_HPA[1] else 1
        upper, lower = LEVELS_HPA[first : first + 2]
        share = math.log(pressure_hpa / upper) / math.log(lower / upper)
        mean = _mean(f"z{pressure_hpa}") if f"z{pressure_hpa}" in CHANNELS else standard_geopotential(pressure_hpa)
        geopotential: NDArray[np.float64] = mean + (1.0 - share) * self._anomaly(first) + share * self._anomaly(first + 1)
        return geopotential

    def _thickness_temperature(self) -> NDArray[np.float64]:
        """Anomaly of the mean temperature between 500 and 800 hPa, K."""
        thickness = self._anomaly(1) - self._anomaly(2)
        return thickness / (earth.GAS_CONSTANT * math.log(LEVELS_HPA[2] / LEVELS_HPA[1]))

    def _surface_temperature(self) -> NDArray[np.float64]:
        ground, overhead = self._observer._ground_m, SOLAR_CONSTANT * earth.SECONDS_PER_HOUR
        sun = self.channel("tisr") / overhead - 0.25  # a quarter is the planet's mean
        return (
            SURFACE_MEAN_K
            + SURFACE_SHARE * self._thickness_temperature()
            + SUN_OVER_LAND_K * self._observer._land * sun
            - LAPSE_RATE * ground
        )

    def _wind(self, pressure_hpa: int) -> dict[str, NDArray[np.float64]]:
        level = LEVELS_HPA.index(pressure_hpa)
        east, north = self._observer._synthesis.evaluate_gradient(self._psi[:, level])
        return {f"u{pressure_hpa}": -north.numpy() / earth.RADIUS_M, f"v{pressure_hpa}": east.numpy() / earth.RADIUS_M}

    def _surface_wind(self) -> dict[str, NDArray[np.float64]]:
        u, v = (self.channel(f"{component}{LEVELS_HPA[2]}") for component in "uv")
        # Low pressure lies to the left of the wind in the north, to the right in the south.
        turn = math.radians(SURFACE_WIND_TURN_DEG) * np.clip(self._observer.latitudes / TURN_LATITUDE_DEG, -1.0, 1.0)
        cosine, sine = np.cos(turn)[:, None], np.sin(turn)[:, None]
        return {"u10": SURFACE_WIND_SHARE * (cosine * u - sine * v), "v10": SURFACE_WIND_SHARE * (sine * u + cosine * v)}


def _mean(name: str) -> float:
    """Published mean of a channel."""
    mean = channel(name).mean
    assert mean is not None, name
    return mean


def _narrow(fields: dict[str, NDArray[np.float64]]) -> Fields:
    return {name: field.astype(np.float32) for name, field in fields.items()}
