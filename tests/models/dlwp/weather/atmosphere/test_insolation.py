"""The sun at the top of the atmosphere: closed forms, symmetries, and the published statistics of WeatherBench."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.dlwp.weather.atmosphere import earth
from models.dlwp.weather.atmosphere.insolation import EQUINOX_DAY, SOLAR_CONSTANT, declination, insolation

HOUR_J = SOLAR_CONSTANT * 3600.0
EPOCH = np.datetime64("2000-01-01", "ns")
LONGITUDES = 5.625 * np.arange(64)


def at(days: float) -> np.datetime64:
    """The time this many days after 1 January 2000."""
    return EPOCH + np.timedelta64(round(days * 86400e9), "ns")


def hours_of(day: str) -> np.ndarray:
    return np.datetime64(day, "ns") + np.arange(1, 25) * np.timedelta64(1, "h")


@pytest.mark.parametrize("time", ["2001-01-03T05", "2010-03-21T12", "2017-06-21T18", "2018-10-09T23"])
def test_the_planet_receives_a_quarter_of_the_solar_constant(time: str) -> None:
    sines, weights = np.polynomial.legendre.leggauss(400)
    found = insolation(np.array([time], dtype="datetime64[ns]"), np.degrees(np.arcsin(sines)), LONGITUDES)
    assert (found.mean(-1) * weights / 2).sum() == pytest.approx(HOUR_J / 4, rel=1e-4)


@pytest.mark.parametrize("latitude", [-60.0, -10.0, 0.0, 45.0])
@pytest.mark.parametrize("day", ["2001-01-15", "2001-06-21", "2001-09-01"])
def test_a_day_in_closed_form(latitude: float, day: str) -> None:
    """S0 / pi [h0 sin(lat) sin(dec) + cos(lat) cos(dec) sin(h0)] with h0 = arccos(-tan(lat) tan(dec)) of the sunset."""
    times = hours_of(day)
    tilt, lat = float(declination(earth.days_since_epoch(times[11:12]))[0]), math.radians(latitude)
    sunset = math.acos(max(-1.0, min(1.0, -math.tan(lat) * math.tan(tilt))))
    expected = sunset * math.sin(lat) * math.sin(tilt) + math.cos(lat) * math.cos(tilt) * math.sin(sunset)
    found = insolation(times, np.array([latitude]), np.array([0.0, 10.0])).mean(0)[0]
    assert found.tolist() == pytest.approx([HOUR_J / math.pi * expected] * 2, rel=1e-3)


def test_each_hour_against_quadrature() -> None:
    """The zenith angle minute by minute, through sunrise, sunset, midnight and noon."""
    times = hours_of("2003-05-05")
    latitudes = np.array([-70.0, -33.0, 5.0, 62.0, 80.0])
    tilt = declination(earth.days_since_epoch(times))[:, None, None, None]
    minutes = (np.arange(3600) + 0.5) / 3600.0 - 1.0  # hours before the stamp
    clock = np.arange(1, 25)[:, None, None, None] + minutes
    angle = 2 * np.pi * (clock / 24.0) + np.radians(LONGITUDES)[None, None, :, None] - np.pi
    lat = np.radians(latitudes)[None, :, None, None]
    height = np.sin(lat) * np.sin(tilt) + np.cos(lat) * np.cos(tilt) * np.cos(angle[:, :, ::8])
    expected = HOUR_J * np.maximum(height, 0.0).mean(-1)
    assert np.abs(insolation(times, latitudes, LONGITUDES[::8]) - expected).max() < 1e-6 * HOUR_J


def test_polar_night_and_polar_day() -> None:
    times = hours_of("2001-06-21")
    found = insolation(times, np.array([-90.0, -70.0, 70.0, 90.0]), LONGITUDES)
    assert (found[:, :2] == 0.0).all()
    assert (found[:, 2] > 0.0).all()
    assert found[:, 3] == pytest.approx(HOUR_J * math.sin(math.radians(23.44)), rel=1e-4)  # the sun circles at one height


def test_the_equinox_is_symmetric() -> None:
    latitudes = np.array([-80.0, -45.0, -3.0, 3.0, 45.0, 80.0])
    equinox = np.array([at(EQUINOX_DAY)])
    found = insolation(equinox, latitudes, LONGITUDES)
    assert np.abs(found - found[:, ::-1]).max() < 1e-9 * HOUR_J
    solstice = insolation(equinox + np.timedelta64(91, "D"), latitudes, LONGITUDES).mean(-1)[0]
    assert (solstice[3:] > solstice[2::-1]).all()


def test_noon_is_at_twelve() -> None:
    """Over Greenwich the hours before and after 12 h are the brightest and alike; 90 degrees east is six hours ahead."""
    found = insolation(hours_of("2001-03-21"), np.array([10.0]), np.array([0.0, 90.0]))[:, 0]
    assert found[11, 0] == pytest.approx(found[12, 0], rel=1e-3)
    assert np.argsort(found[:, 0])[-2:].tolist() in ([11, 12], [12, 11])
    assert np.abs(np.roll(found[:, 1], 6) - found[:, 0]).max() < 2e-3 * HOUR_J


def test_published_statistics() -> None:
    """Mean and deviation of tisr over 1979-2014 in the benchmark's repository, from one year here."""
    times = np.datetime64("2001-01-01", "ns") + np.arange(1460) * np.timedelta64(6, "h")
    found = insolation(times, -87.1875 + 5.625 * np.arange(32), LONGITUDES)
    assert found.mean() == pytest.approx(1074504.8, rel=2e-3)
    assert found.std() == pytest.approx(1439846.4, rel=2e-3)


def test_the_season_keeps_to_the_calendar() -> None:
    """Through leap years, 1979 to 2018, the northern solstice stays within two days of 21 June."""
    for year in range(1979, 2019):
        days = np.datetime64(f"{year}-06-10", "ns") + np.arange(24) * np.timedelta64(1, "D")
        longest = int(np.argmax(declination(earth.days_since_epoch(days))))
        assert abs(longest - 11) <= 2
