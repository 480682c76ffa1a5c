"""Values that are damaged or cannot be: found when they are read, counted and placed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from models.dlwp.weather.layouts import WeatherBench1
from models.dlwp.weather.reader import open_weather
from results.errors import DataError
from tests.models.dlwp.weather import samples
from tests.models.dlwp.weather.samples import FEW, TIMES, truncate

MADE = samples.fields(FEW)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_damaged_chunk_is_named_when_it_is_read(wb2: Path, in_memory: bool) -> None:
    truncate(wb2 / "2m_temperature" / "2.0.0")
    weather = open_weather(wb2, "wb2_zarr", FEW)
    assert np.isfinite(weather.read(0, 16)).all()
    with pytest.raises(DataError, match="variable '2m_temperature' cannot be read, a chunk is damaged") as caught:
        weather.load() if in_memory else weather.read(15, 18)
    assert caught.value.where.startswith(str(wb2))
    assert "1979-12-" in caught.value.where


@pytest.mark.parametrize("in_memory", [False, True])
def test_values_over_land_that_are_not_finite_are_counted_and_placed(tmp_path: Path, in_memory: bool) -> None:
    """Three values: one over the sea first, two over the continent of 60 to 180 degrees east."""
    made = {"t2m": MADE["t2m"].copy()}
    for frame, row, column in ((6, 0, 0), (6, 20, 12), (9, 21, 30)):
        made["t2m"][frame, row, column] = np.nan
    for format, write in (("wb1_netcdf", samples.write_wb1), ("wb2_zarr", samples.write_wb2)):
        weather = open_weather(write(tmp_path / format, made), format, ["t2m"])
        assert np.isfinite(weather.read(0, 6)).all()
        with pytest.raises(DataError) as caught:
            weather.load() if in_memory else weather.read(4, 12)
        assert caught.value.what.endswith(
            "(channel t2m) has 3 values that are not finite, 2 of them over land, the first at latitude 25.3125, longitude 67.5"
            " on 1979-12-29T12"
        )
    shutil.rmtree(tmp_path / "wb1_netcdf" / "constants")
    with pytest.raises(
        DataError, match="has 3 values that are not finite, the first at latitude -87.1875, longitude 0 on 1979-12"
    ):
        open_weather(tmp_path / "wb1_netcdf", "wb1_netcdf", ["t2m"]).read(0, 36)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 9.96921e36, 0.0])
def test_values_that_cannot_be_are_named(value: float, tmp_path: Path) -> None:
    """Infinities, the fill value of netCDF, a block of zeros."""
    made = {"t2m": MADE["t2m"].copy()}
    made["t2m"][20, 4:6, 7] = value
    folder = samples.write_wb1(tmp_path, made)
    weather = open_weather(folder, "wb1_netcdf", ["t2m"])
    with pytest.raises(DataError, match="has 2 values .* at latitude -64.6875, longitude 39.375 on 1980-01-02T00") as caught:
        weather.read(18, 22)
    assert caught.value.where.endswith("2m_temperature_1980_5.625deg.nc")  # the year of the frame


def test_constants_that_are_missing_or_damaged(wb1: Path) -> None:
    weather = open_weather(wb1, "wb1_netcdf", ["t2m"])
    with pytest.raises(DataError, match="variable 'slt' .channel slt. is missing"):
        weather.constants(["slt"])
    broken = samples.constants()
    broken["orography"][3, 12] = np.nan
    WeatherBench1(times=TIMES, ids=("t2m",)).create(wb1, broken)
    with pytest.raises(DataError, match="channel 'orography' has 1 values that are not finite, the first at latitude -70.3125"):
        open_weather(wb1, "wb1_netcdf", ["t2m"]).constants(["orography"])
    truncate(wb1 / "constants" / "constants_5.625deg.nc")
    with pytest.raises(DataError, match="cut off"):
        open_weather(wb1, "wb1_netcdf", ["t2m"]).constants(["lsm"])
    assert open_weather(wb1, "wb1_netcdf", ["t2m"]).constants(["lat2d"]).shape == (1, 32, 64)


def test_geopotential_that_is_said_to_be_height(wb2: Path) -> None:
    with pytest.raises(DataError, match="data.units is height, but a mean of 54,.* on 500 hPa is that of geopotential") as caught:
        open_weather(wb2, "wb2_zarr", ["z500"], units="height")
    assert caught.value.next_step == "data.units=geopotential"
