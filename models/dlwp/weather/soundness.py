"""Whether a long rollout stays an atmosphere: mean winds, drift, time to blow-up. Everything is summed up on the way.

Profiles of u10 (Karlbauer et al. 2024, physical soundness): mean over time and longitude, root mean square difference to the
truth, unweighted as published and weighted by area; over all latitudes, the trades (10 to 20 degrees of both hemispheres) and the
South westerlies (45 to 55 S).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.dlwp.weather.grid import latitude_weights

Array = NDArray[np.float64]

#: Latitudes in degrees: bands that profiles are compared in.
TRADES = ((-20.0, -10.0), (10.0, 20.0))
WESTERLIES = ((-55.0, -45.0),)
#: A state is an outlier beyond these (published: such runs are left out).
OUTLIER_Z500_RMSE, OUTLIER_U10 = 5000.0, 100.0
#: A run has failed when its global mean z500, in m2/s2, or its u10 over the South westerlies leaves these.
SOUND_Z500, SOUND_U10 = (53000.0, 55500.0), (3.0, 12.0)


@dataclass(eq=False)
class Soundness:
    """Running sums of one rollout.

    Attributes:
        latitudes: ``[lat]`` degrees.
        frames: of the forecast, up to the first outlier.
        profile, truth_profile: sums over time of the zonal mean of u10, ``[lat]``, where the truth is known.
        compared: frames in them.
        mean_z500: global mean of every frame.
        westerlies: mean u10 over the South westerlies of every frame.
        broken_after: frames before the first outlier, None while there was none.
    """

    latitudes: Array
    frames: int = 0
    profile: Array = field(init=False)
    truth_profile: Array = field(init=False)
    compared: int = 0
    mean_z500: list[float] = field(default_factory=list)
    westerlies: list[float] = field(default_factory=list)
    broken_after: int | None = None

    def __post_init__(self) -> None:
        self.profile = np.zeros(len(self.latitudes))
        self.truth_profile = np.zeros(len(self.latitudes))
        self._weights = latitude_weights(self.latitudes)
        self._south = band(self.latitudes, WESTERLIES)

    def add(self, z500: Tensor, u10: Tensor, reference_z500: Tensor, truth_u10: Tensor | None = None) -> None:
        """Frames of a forecast, ``[time, lat, lon]`` each; the reference is the climatology of their times.

        Nothing is added after an outlier: the sums are those of the sound part, of the forecast and of the truth.

        Args:
            truth_u10: None where it is not known.
        """
        parts = (z500, u10, reference_z500, u10 if truth_u10 is None else truth_u10)
        for z, u, mean, true in zip(*(part.double().cpu().numpy() for part in parts), strict=True):
            if self.broken_after is not None:
                return
            error = np.sqrt((((z - mean) ** 2).mean(-1) * self._weights).mean())
            if not (error <= OUTLIER_Z500_RMSE and np.abs(u).max() <= OUTLIER_U10):  # also where it is not a number
                self.broken_after = self.frames
                return
            zonal = u.mean(-1)
            self.frames += 1
            self.mean_z500.append(float((z.mean(-1) * self._weights).mean()))
            self.westerlies.append(float(zonal[self._south].mean()) if self._south.any() else float("nan"))
            if truth_u10 is not None:
                self.profile += zonal
                self.truth_profile += true.mean(-1)
                self.compared += 1

    def profile_rmse(self, bands: tuple[tuple[float, float], ...] | None = None, *, weighted: bool = False) -> float:
        """Difference of mean profiles in m/s; NaN where there is nothing to compare."""
        if not self.compared:
            return float("nan")
        apart = ((self.profile - self.truth_profile) / self.compared) ** 2
        rows = np.ones(len(apart), bool) if bands is None else band(self.latitudes, bands)
        if not rows.any():
            return float("nan")
        weights = self._weights[rows] if weighted else np.ones(rows.sum())
        return float(np.sqrt((apart[rows] * weights).sum() / weights.sum()))

    @property
    def drift_z500(self) -> float:
        """Global mean of the last tenth minus that of the first, m2/s2."""
        tenth = max(len(self.mean_z500) // 10, 1)
        series = np.array(self.mean_z500)
        return float(series[-tenth:].mean() - series[:tenth].mean()) if len(series) else float("nan")

    @property
    def sound(self) -> bool:
        """Published verdict: means over 30 days stay within their bounds to the end."""
        if self.broken_after is not None:
            return False
        month = 120
        for series, (low, high) in ((self.mean_z500, SOUND_Z500), (self.westerlies, SOUND_U10)):
            means = [float(np.mean(series[first : first + month])) for first in range(0, len(series), month)]
            if any(mean < low or mean > high for mean in means):  # a coarse grid may have no row there, and no verdict
                return False
        return True

    def metrics(self) -> Mapping[str, float]:
        """By the catalogue's names; what cannot be said is left out."""
        found = {
            "u10_profile_rmse": self.profile_rmse(),
            "u10_trades_rmse": self.profile_rmse(TRADES),
            "u10_westerlies_rmse": self.profile_rmse(WESTERLIES),
            "z500_drift": self.drift_z500,
        }
        return {name: value for name, value in found.items() if np.isfinite(value)}


def band(latitudes: Array, bands: tuple[tuple[float, float], ...]) -> NDArray[np.bool_]:
    """Which rows lie in one of some bands."""
    return np.any([(latitudes >= south) & (latitudes <= north) for south, north in bands], axis=0)
