"""What a reader says of stores that are damaged or not what they seem: what, in which file and variable, and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from models.dlwp.weather.calendar import CADENCE
from models.dlwp.weather.channels import GRAVITY
from models.dlwp.weather.layouts import WeatherBench1
from models.dlwp.weather.reader import open_weather
from results.errors import ConfigError, DataError
from tests.models.dlwp.weather import samples
from tests.models.dlwp.weather.samples import FEW, truncate, year


def rewrite(
    variable: str, change: Callable[[xr.Dataset], xr.Dataset], number: int = 1979, then: str = ""
) -> Callable[[Path], None]:
    """Damage: one file, changed and written anew, under another name if ``then`` is given."""

    def damage(store: Path) -> None:
        path = year(store, variable, number)
        with xr.open_dataset(path) as data:
            changed = change(data.load())
        for name in changed.variables:
            changed[name].encoding.clear()
        (path.with_name(then) if then else path).unlink(missing_ok=True)
        changed.to_netcdf(path.with_name(then) if then else path, engine="h5netcdf")

    return damage


def celsius(data: xr.Dataset) -> xr.Dataset:
    return data.assign(t2m=data.t2m - 273.15)


def twelve_hourly(data: xr.Dataset) -> xr.Dataset:
    return data.isel(time=slice(None, None, 2))


#: What is done to a store of WeatherBench 1, what the error says, and the file or folder it names.
WB1: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no store": (shutil.rmtree, "there is no such data store", ""),
    "no variable": (
        lambda store: shutil.rmtree(store / "2m_temperature"),
        "directory '2m_temperature' (channel t2m) is missing; there are: constants, geopotential, temperature, toa_inc",
        "",
    ),
    "no files": (
        lambda store: [path.unlink() for path in (store / "2m_temperature").iterdir()][0],
        "directory '2m_temperature' has no file for data.format=wb1_netcdf",
        "",
    ),
    "other variable": (
        rewrite("2m_temperature", lambda data: data.rename(t2m="T")),
        "variable 't2m' is missing; the file has T",
        "2m_temperature_1979_5.625deg.nc",
    ),
    "no level": (
        rewrite("geopotential", lambda data: data.sel(level=[1000])),
        "variable 'z' is not there on 500 hPa; it has [1000]",
        "",
    ),
    "last year": (
        lambda store: year(store, "2m_temperature", 1980).unlink(),
        "variable 't2m' lacks 1980-01-01T00 to 1980-01-05T18, which variable 't' has",
        "2m_temperature",
    ),
    "gap": (
        rewrite("2m_temperature", lambda data: data.drop_isel(time=[3, 4, 5, 9])),
        "variable 't2m' lacks 1979-12-28T18 to 1979-12-29T06, 1979-12-30T06",
        "2m_temperature",
    ),
    "12 hourly": (
        lambda store: [rewrite("2m_temperature", twelve_hourly, number)(store) for number in (1979, 1980)][0],
        "variable 't2m' has a frame every 12 h; one every 6 h is needed",
        "2m_temperature",
    ),
    "between the hours": (
        rewrite("2m_temperature", lambda data: data.assign_coords(time=data.time + np.timedelta64(90, "m"))),
        "variable 't2m' has no frame at 0, 6, 12 or 18 h; its first stamp is 1979-12-28T01:30",
        "2m_temperature_1979_5.625deg.nc",
    ),
    "back in time": (
        rewrite("2m_temperature", lambda data: data.isel(time=[0, 1, 3, 2, *range(4, 16)])),
        "times of variable 't2m' do not ascend: 1979-12-28T18 is followed by 1979-12-28T12",
        "2m_temperature_1979_5.625deg.nc",
    ),
    "twice": (
        rewrite("2m_temperature", lambda data: data, 1980, "copy.nc"),
        "variable 't2m' has 1980-01-01T00 in 2m_temperature_1980_5.625deg.nc and in copy.nc",
        "2m_temperature",
    ),
    "no dates": (
        rewrite("2m_temperature", lambda data: data.assign_coords(time=np.arange(16))),
        "variable 't2m' has no coordinate time that can be read as dates",
        "2m_temperature_1979_5.625deg.nc",
    ),
    "other dimensions": (
        rewrite("2m_temperature", lambda data: data.expand_dims(number=[0, 1])),
        "variable 't2m' has dimensions number, time, lat, lon instead of time, lat, lon and perhaps level",
        "2m_temperature_1979_5.625deg.nc",
    ),
    "levels near the ground": (
        lambda store: [
            rewrite("2m_temperature", lambda data: data.expand_dims(level=[1000], axis=1), number)(store)
            for number in (1979, 1980)
        ][0],
        "variable 't2m' has dimensions time, level, lat, lon instead of time, lat, lon",
        "2m_temperature",
    ),
    "no axis": (
        rewrite("2m_temperature", lambda data: data.drop_vars("lat")),
        "variable 't2m' has no coordinate lat",
        "2m_temperature_1979_5.625deg.nc",
    ),
    "other grid": (
        rewrite("2m_temperature", lambda data: data.isel(lat=slice(1, None))),
        "the latitudes are not those of the grid of 32 x 64 equiangular cell centres: 31 values from -81.5625",
        "2m_temperature_1979_5.625deg.nc (variable 't2m')",
    ),
    "shifted grid": (
        rewrite("2m_temperature", lambda data: data.assign_coords(lat=data.lat + 0.5)),
        "value 0 is -86.6875 instead of -87.1875",
        "2m_temperature_1979_5.625deg.nc (variable 't2m')",
    ),
    "cut off": (
        lambda store: truncate(year(store, "2m_temperature")),
        "the file cannot be opened, it is cut off or damaged",
        "2m_temperature_1979_5.625deg.nc",
    ),
    "empty file": (
        lambda store: year(store, "2m_temperature").write_bytes(b"") and None,
        "the file cannot be opened, it is cut off or damaged",
        "2m_temperature_1979_5.625deg.nc",
    ),
    "celsius": (
        rewrite("2m_temperature", celsius),
        "values outside 140 to 360 K, the first",
        "2m_temperature_1979_5.625deg.nc",
    ),
    "height": (
        rewrite("geopotential", lambda data: data.assign(z=data.z / GRAVITY)),
        "on 500 hPa is that of geopotential height in m; geopotential is 9.80665 times as much",
        "geopotential_1979_5.625deg.nc",
    ),
    "watts": (
        rewrite("toa_incident_solar_radiation", lambda data: data.assign(tisr=data.tisr / 3600)),
        "is not that of J m-2 in an hour; W m-2 is 3600 times less",
        "toa_incident_solar_radiation_1979_5.625deg.nc",
    ),
}


@pytest.mark.parametrize("name", WB1)
def test_weatherbench1_that_cannot_be_opened(name: str, wb1: Path) -> None:
    damage, says, where = WB1[name]
    damage(wb1)
    with pytest.raises(DataError) as caught:
        open_weather(wb1, "wb1_netcdf", FEW)
    assert says in caught.value.what
    assert caught.value.where.startswith(str(wb1))
    assert caught.value.where.endswith(where)
    assert caught.value.next_step


def drop(name: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        shutil.rmtree(store / name)
        zarr.consolidate_metadata(str(store), zarr_format=2)

    return damage


def shift_hours(store: Path) -> None:
    times: zarr.Array = zarr.open_group(str(store), mode="r+")["time"]  # type: ignore[assignment]
    times[20:] = times[20:] + 6


WB2: dict[str, tuple[Callable[[Path], None], str]] = {
    "no metadata": (lambda store: (store / ".zmetadata").write_text("{") and None, "the store cannot be opened"),
    "not a store": (lambda store: [(store / n).unlink() for n in (".zgroup", ".zmetadata")][0], "the store cannot be opened"),
    "no variable": (drop("2m_temperature"), "variable '2m_temperature' (channel t2m) is missing"),
    "gap": (shift_hours, "variable 'toa_incident_solar_radiation' lacks 1980-01-02T00"),
    "first chunk": (
        lambda store: truncate(store / "geopotential" / "0.0.0.0"),
        "variable 'geopotential' cannot be read, a chunk",
    ),
    "first chunk missing": (
        lambda store: (store / "geopotential" / "0.0.0.0").unlink(),
        "variable 'geopotential' (channel z500) has 2048 values that are not finite, 672 of them over land, the first at",
    ),
}


@pytest.mark.parametrize("name", WB2)
def test_weatherbench2_that_cannot_be_opened(name: str, wb2: Path) -> None:
    damage, says = WB2[name]
    damage(wb2)
    with pytest.raises(DataError) as caught:
        open_weather(wb2, "wb2_zarr", FEW)
    assert says in caught.value.what
    assert str(wb2) in caught.value.where
    assert caught.value.next_step


def test_a_missing_year_is_named(tmp_path: Path) -> None:
    times = np.arange(np.datetime64("1979-01-01", "ns"), np.datetime64("1982-01-01", "ns"), CADENCE)
    layout = WeatherBench1(times=times, ids=("t2m",))
    samples.write(layout, tmp_path, {"t2m": np.broadcast_to(np.float32(280), (len(times), 32, 64))})
    assert len(open_weather(tmp_path, "wb1_netcdf", ["t2m"]).times) == len(times)
    year(tmp_path, "2m_temperature", 1980).unlink()
    with pytest.raises(DataError, match="variable 't2m' lacks the year 1980") as caught:
        open_weather(tmp_path, "wb1_netcdf", ["t2m"])
    assert caught.value.where == str(tmp_path / "2m_temperature")
    assert "segment" in caught.value.next_step


def test_a_quantity_that_only_one_layout_has(wb2: Path) -> None:
    with pytest.raises(DataError, match="variable 'tp' .channel tp. is missing"):
        open_weather(wb2, "wb2_zarr", ["t2m", "tp"])


@pytest.mark.parametrize(
    ("format", "ids", "options", "says"),
    [
        ("wb2_zar", FEW, {}, "data.format is 'wb2_zar'; did you mean 'wb2_zarr'"),
        ("wb2_zarr", ("t2m", "z502"), {}, "there is no weather channel 'z502'; did you mean"),
        ("wb2_zarr", ("t2m", "lsm"), {}, "channel 'lsm' is constant and has no frames"),
        ("wb2_zarr", ("t2m", "t2m"), {}, "'t2m' is named twice"),
        ("wb2_zarr", (), {}, "no channel is wanted"),
        ("wb2_zarr", FEW, {"units": "metres"}, "data.units is 'metres'"),
    ],
)
def test_what_is_asked_for_wrongly(wb2: Path, format: str, ids: tuple[str, ...], options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_weather(wb2, format, ids, **options)  # type: ignore[arg-type]
    assert says in caught.value.what
    assert caught.value.where.startswith("data.")


def test_the_wrong_format(good: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="directory '2m_temperature' has no file for data.format=wb1_netcdf"):
        open_weather(good["wb2_zarr"], "wb1_netcdf", ["t2m"])
    with pytest.raises(DataError, match="has no file for data.format=wb1_zarr"):
        open_weather(good["wb1_netcdf"], "wb1_zarr", ["t850"])
    with pytest.raises(DataError, match="the store cannot be opened"):
        open_weather(good["wb1_netcdf"], "wb2_zarr", ["t850"])
