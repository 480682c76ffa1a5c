"""The lexicon against the paper's table, and both name sets against each other."""

from __future__ import annotations

import numpy as np
import pytest

from models.dlwp.weather.channels import (
    CONSTANTS,
    GRAVITY,
    LEVELS_HPA,
    LEXICON,
    PRESCRIBED,
    PROGNOSTIC,
    Role,
    channel,
    channels,
    looks_like_height,
    standard_geopotential,
)
from results.errors import ConfigError


def test_channels_of_the_paper_in_its_order() -> None:
    assert CONSTANTS == ("orography", "lsm", "lat2d", "lon2d")
    assert PRESCRIBED == ("tisr",)
    assert PROGNOSTIC == ("t850", "t2m", "u10", "v10", "z300", "z500", "z700", "z1000")
    for ids, role in ((CONSTANTS, Role.CONSTANT), (PRESCRIBED, Role.PRESCRIBED), (PROGNOSTIC, Role.PROGNOSTIC)):
        assert {entry.role for entry in channels(ids)} == {role}


def test_published_statistics() -> None:
    entries = channels(["z500", "t2m", "tisr", "lsm"])
    assert [entry.mean for entry in entries] == [54107.867188, 278.44608, 1074504.8, 0.0]
    assert [entry.std for entry in entries] == [3349.03125, 21.24761, 1439846.4, 1.0]


def test_statistics_of_the_axes_in_closed_form() -> None:
    """n equally spaced numbers have the standard deviation step x sqrt((n^2 - 1) / 12)."""
    latitude, longitude = channels(["lat2d", "lon2d"])
    assert (latitude.mean, longitude.mean) == (0.0, 5.625 * 63 / 2)
    for entry, points in ((latitude, 32), (longitude, 64)):
        assert entry.std == pytest.approx(5.625 * np.sqrt((points**2 - 1) / 12), rel=1e-8)


@pytest.mark.parametrize(
    ("name", "folder", "variable", "wb2", "level"),
    [
        ("z500", "geopotential", "z", "geopotential", 500),
        ("t850", "temperature", "t", "temperature", 850),
        ("q1000", "specific_humidity", "q", "specific_humidity", 1000),
        ("t2m", "2m_temperature", "t2m", "2m_temperature", None),
        ("v10", "10m_v_component_of_wind", "v10", "10m_v_component_of_wind", None),
        ("tisr", "toa_incident_solar_radiation", "tisr", "toa_incident_solar_radiation", None),
        ("orography", "constants", "orography", "geopotential_at_surface", None),
        ("lsm", "constants", "lsm", "land_sea_mask", None),
        ("lat2d", "constants", "lat2d", "", None),
    ],
)
def test_names(name: str, folder: str, variable: str, wb2: str, level: int | None) -> None:
    entry = channel(name)
    assert (entry.folder, entry.variable, entry.wb2_variable, entry.level_hpa) == (folder, variable, wb2, level)
    assert entry.units


def test_every_channel_has_a_name_and_a_range_of_its_own() -> None:
    assert len(LEXICON) == 11 + 8 * len(LEVELS_HPA)
    assert len({(entry.variable, entry.level_hpa) for entry in LEXICON.values()}) == len(LEXICON)
    for name, entry in LEXICON.items():
        assert entry.id == name
        assert entry.low < entry.high
        assert entry.mean is None or entry.low <= entry.mean <= entry.high


@pytest.mark.parametrize(
    ("name", "says"),
    [("z501", "'z500'"), ("t2", "'t2m'"), ("orograpy", "'orography'"), ("humidity", "")],
)
def test_an_unknown_channel_has_near_matches(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"no weather channel '{name}'") as caught:
        channel(name)
    assert says in caught.value.what
    assert caught.value.where == "data.variables"


def test_a_channel_named_twice() -> None:
    with pytest.raises(ConfigError, match="'t2m' is named twice"):
        channels(["t2m", "z500", "t2m"])


def test_standard_atmosphere() -> None:
    """Heights of the standard atmosphere's tables: 5,574 m at 500 hPa, 11,784 m at 200 hPa, 20,576 m at 50 hPa."""
    for level_hpa, height_m in ((1000, 111), (500, 5574), (200, 11784), (50, 20576)):
        assert standard_geopotential(level_hpa) / GRAVITY == pytest.approx(height_m, abs=1)


@pytest.mark.parametrize("level_hpa", LEVELS_HPA[:-1])
def test_height_is_told_from_geopotential(level_hpa: int) -> None:
    """On every level but the lowest, whatever the season: means differ by a few per cent."""
    standard = standard_geopotential(level_hpa)
    for factor in (0.85, 1.0, 1.15):
        assert not looks_like_height(level_hpa, factor * standard)
        assert looks_like_height(level_hpa, factor * standard / GRAVITY)


def test_the_border_between_height_and_geopotential() -> None:
    assert looks_like_height(500, 9_999)
    assert not looks_like_height(500, 10_001)
    assert not looks_like_height(1000, 75)
