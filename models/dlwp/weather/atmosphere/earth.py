"""Numbers of the planet, and its calendar as a continuous count of days."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

RADIUS_M = 6.371e6
#: Angular velocity of the rotation, rad/s.
ROTATION_RATE = 7.292e-5
#: Gas constant of dry air, J kg-1 K-1.
GAS_CONSTANT = 287.05
SECONDS_PER_HOUR = 3600.0
SECONDS_PER_DAY = 86400.0
#: Mean length of a calendar year: seasons advance smoothly through leap years and stay within two days of the calendar.
YEAR_DAYS = 365.2425

_EPOCH = np.datetime64("2000-01-01T00", "ns")


def days_since_epoch(times: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Days since 2000-01-01 0 h UTC of each time, negative before."""
    days: NDArray[np.float64] = (np.asarray(times).astype("datetime64[ns]") - _EPOCH) / np.timedelta64(1, "D")
    return days


def date_of(days: float) -> str:
    """The hour, ``1979-01-02T06``, that lies ``days`` after the epoch, to the nearest one."""
    return str(np.datetime_as_string(_EPOCH + np.timedelta64(round(days * 24.0), "h"), unit="h"))


def season(days: NDArray[np.float64], extreme_day: float) -> NDArray[np.float64]:
    """A cosine over the year, 1 on ``extreme_day`` (days after 1 January 0 h) and -1 half a year later."""
    phase: NDArray[np.float64] = np.cos(2.0 * math.pi * (days - extreme_day) / YEAR_DAYS)
    return phase
