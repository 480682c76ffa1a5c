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
    builtin_statistics,
    channel,
    channels,
    id_of,
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
    mean, std = builtin_statistics(["z500", "t2m", "tisr", "lsm"])
    assert mean.tolist() == [54107.867188, 278.44608, 1074504.8, 0.0]
    assert std.tolist() == [3349.03125, 21.24761, 1439846.4, 1.0]
    with pytest.raises(ConfigError, match="no built-in statistics of channel 'q500'") as caught:
        builtin_statistics(["z500", "q500"])
    assert caught.value.next_step == "data.stats=compute"


def test_statistics_of_the_axes_in_closed_form() -> None:
    """n equally spaced numbers have the standard deviation step x sqrt((n^2 - 1) / 12)."""
    mean, std = builtin_statistics(["lat2d", "lon2d"])
    assert mean.tolist() == [0.0, 5.625 * 63 / 2]
    assert std == pytest.approx([5.625 * np.sqrt((n * n - 1) / 12) for n in (32, 64)], rel=1e-8)


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
    assert id_of(variable, level) == name
    if wb2:
        assert id_of(wb2, level) == name
    assert entry.units


def test_every_name_leads_back_to_its_id() -> None:
    assert len(LEXICON) == 11 + 8 * len(LEVELS_HPA)
    for name, entry in LEXICON.items():
        assert id_of(entry.variable, entry.level_hpa) == entry.id == name
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


def test_a_channel_named_twice_and_an_unknown_variable() -> None:
    with pytest.raises(ConfigError, match="'t2m' is named twice"):
        channels(["t2m", "z500", "t2m"])
    with pytest.raises(ConfigError, match="called 'geopotentail' on 500 hPa; did you mean 'geopotential'"):
        id_of("geopotentail", 500)
    with pytest.raises(ConfigError, match="called 'geopotential' on 510 hPa"):
        id_of("geopotential", 510)


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
