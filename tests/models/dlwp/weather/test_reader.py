"""What lies in either layout, and in stores turned every way, comes out the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dlwp.weather.channels import CONSTANTS, GRAVITY
from models.dlwp.weather.grid import WEATHERBENCH, equiangular, gaussian
from models.dlwp.weather.layouts import WeatherBench1, WeatherBench2
from models.dlwp.weather.reader import Weather, open_weather
from results.errors import ConfigError, DataError
from tests.models.dlwp.weather import samples
from tests.models.dlwp.weather.samples import IDS, TIMES, stack

MADE = samples.fields()
HOURLY = np.arange(TIMES[0], TIMES[-1] + np.timedelta64(6, "h"), np.timedelta64(1, "h"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weather three times."""
    root = tmp_path_factory.mktemp("weather")
    netcdf = samples.write_wb1(root / "wb1", MADE)
    (root / "zarr").mkdir()
    return {
        "wb1_netcdf": netcdf,
        "wb1_zarr": samples.convert_to_zarr(netcdf, root / "zarr"),
        "wb2_zarr": samples.write_wb2(root / "wb2", MADE),
    }


FORMATS = pytest.mark.parametrize("format", ["wb1_netcdf", "wb1_zarr", "wb2_zarr"])


@FORMATS
def test_what_was_written_is_read(stores: dict[str, Path], format: str) -> None:
    weather = open_weather(stores[format], format, IDS)
    assert weather.ids == IDS
    assert np.array_equal(weather.times, TIMES)
    assert weather.times.dtype == np.dtype("datetime64[ns]")
    assert np.array_equal(weather.latitudes, WEATHERBENCH.latitudes)
    assert np.array_equal(weather.longitudes, WEATHERBENCH.longitudes)
    assert weather.segment.tolist() == [0] * 36
    assert weather.notes == ()
    fields = weather.read(0, 36)
    assert fields.dtype == np.float32
    assert np.array_equal(fields, stack(MADE, IDS))
    some = ["z1000", "tisr", "t850", "z300"]
    assert np.array_equal(weather.read(13, 19, some), stack(MADE, some)[13:19])
    assert weather.read(3, 5, []).shape == (2, 0, 32, 64)


@FORMATS
def test_memory_gives_the_same_as_disk(stores: dict[str, Path], format: str) -> None:
    weather = open_weather(stores[format], format, IDS)
    assert weather.num_bytes == 36 * 9 * 32 * 64 * 4
    assert not weather.load(memory_limit=weather.num_bytes - 1).in_memory
    before = weather.read(2, 30)
    assert weather.load(memory_limit=weather.num_bytes).in_memory
    assert np.array_equal(weather.read(2, 30), before)
    assert np.array_equal(weather.read(2, 30, IDS[5:]), before[:, 5:])
    assert np.array_equal(weather.read(2, 30, ["z500", "tisr"]), before[:, [6, 0]])
    assert np.shares_memory(weather.read(0, 5, IDS[1:]), weather.read(4, 9))
    part = weather.select("1979-12-30", "1980-01-02")
    assert part.in_memory
    assert np.array_equal(part.read(0, 16), stack(MADE, IDS)[8:24])


@FORMATS
def test_periods(stores: dict[str, Path], format: str) -> None:
    weather = open_weather(stores[format], format, ["t2m", "z500"])
    part = weather.select("1979-12-31", "1980-01-01")
    assert np.array_equal(part.times, TIMES[12:20])
    assert np.array_equal(part.read(1, 8), stack(MADE, ["t2m", "z500"])[13:20])
    again = part.select("1980-01-01", "1980-01-01")
    assert np.array_equal(again.read(0, 4), stack(MADE, ["t2m", "z500"])[16:20])
    with pytest.raises(DataError, match="1979-12-01 to 1980-01-01 is wanted, there is 1979-12-28T00 to 1980-01-05T18"):
        weather.select("1979-12-01", "1980-01-01")
    with pytest.raises(DataError, match="data.splits|is wanted"):
        weather.select("1980-01-01", "1980-01-06")
    with pytest.raises(ConfigError, match="ends before it begins"):
        weather.select("1980-01-02", "1980-01-01")
    for outside in ((-1, 2), (0, 37), (5, 5), (36, 37)):
        with pytest.raises(IndexError):
            weather.read(*outside)
    with pytest.raises(ConfigError, match="channel 'z50' was not opened; did you mean 'z500'"):
        weather.read(0, 1, ["z50"])


@FORMATS
def test_constants(stores: dict[str, Path], format: str) -> None:
    weather = open_weather(stores[format], format, ["t2m"])
    fields = weather.constants(CONSTANTS)
    assert (fields.shape, fields.dtype) == ((4, 32, 64), np.float32)
    assert np.allclose(fields[0], samples.constants()["orography"], rtol=1e-6)
    assert np.array_equal(fields[1], samples.constants()["lsm"])
    assert np.array_equal(fields[2], np.broadcast_to(WEATHERBENCH.latitudes.astype(np.float32)[:, None], (32, 64)))
    assert np.array_equal(fields[3], np.broadcast_to(WEATHERBENCH.longitudes.astype(np.float32), (32, 64)))
    with pytest.raises(ConfigError, match="channel 't2m' is not constant but prognostic"):
        weather.constants(["t2m"])


def hourly(made: samples.Fields) -> samples.Fields:
    """Between frames lies what must not be read."""
    found = {}
    for name, values in made.items():
        found[name] = np.repeat(values, 6, axis=0) + 1
        found[name][::6] = values
    return found


def save(folder: Path, variable: str, data: xr.DataArray) -> Path:
    (folder / variable).mkdir(parents=True)
    data.to_dataset().to_netcdf(folder / variable / f"{variable}_1979_5.625deg.nc", engine="h5netcdf")
    return folder


def geopotential(made: samples.Fields, times: np.ndarray) -> xr.DataArray:
    levels = [300, 500, 700, 1000]
    return xr.DataArray(
        stack(made, [f"z{level}" for level in levels]),
        coords={"time": times, "level": levels, "lat": WEATHERBENCH.latitudes, "lon": WEATHERBENCH.longitudes},
        dims=("time", "level", "lat", "lon"),
        name="z",
    )


@pytest.mark.parametrize(
    ("turn", "note"),
    [
        (lambda z: z.isel(lat=slice(None, None, -1)), "rows are turned round"),
        (lambda z: z.assign_coords(lon=(z.lon + 180) % 360 - 180).sortby("lon"), "columns are rolled"),
        (lambda z: z.transpose("lon", "level", "time", "lat"), ""),
        (lambda z: z.isel(level=[3, 1, 0, 2]), ""),
        (lambda z: z.astype("float64"), ""),
        (lambda z: z.rename(lat="latitude", lon="longitude"), ""),
        (
            lambda z: (
                z.isel(lat=slice(None, None, -1))
                .assign_coords(lon=(z.lon + 180) % 360 - 180)
                .sortby("lon")
                .rename(lat="latitude", lon="longitude")
                .transpose("level", "longitude", "time", "latitude")
            ),
            "columns are rolled",
        ),
    ],
)
@pytest.mark.parametrize("every_hour", [False, True])
def test_stores_turned_every_way(
    turn: Callable[[xr.DataArray], xr.DataArray], note: str, every_hour: bool, tmp_path: Path
) -> None:
    made = {name: values for name, values in MADE.items() if name.startswith("z")}
    data = geopotential(hourly(made), HOURLY) if every_hour else geopotential(made, TIMES)
    folder = save(tmp_path, "geopotential", turn(data))
    weather = open_weather(folder, "wb1_netcdf", ["z700", "z300"])
    assert np.array_equal(weather.times, TIMES)
    assert np.array_equal(weather.read(0, 36), stack(MADE, ["z700", "z300"]))
    assert np.array_equal(weather.load().read(5, 11, ["z300"]), stack(MADE, ["z300"])[5:11])
    assert note in "; ".join(weather.notes)
    assert ("6 h" in "; ".join(weather.notes)) == every_hour


def test_a_quarter_degree_store_of_weatherbench2(tmp_path: Path) -> None:
    """Latitude from 90 to -90 before longitude, as the unregridded store has it (here 7.5 degrees)."""
    grid = equiangular(25, poles=True)
    values = np.random.default_rng(0).uniform(220, 300, (6, 2, *grid.shape)).astype(np.float32)
    data = xr.DataArray(
        values,
        coords={"time": TIMES[:6], "level": [500, 850], "latitude": grid.latitudes, "longitude": grid.longitudes},
        dims=("time", "level", "latitude", "longitude"),
        name="temperature",
    ).isel(latitude=slice(None, None, -1))
    data.to_dataset().to_zarr(str(tmp_path / "store"), zarr_format=2, consolidated=True)
    with pytest.raises(DataError, match="25 values from -90 to 90 instead of 32"):
        open_weather(tmp_path / "store", "wb2_zarr", ["t850"])
    weather = open_weather(tmp_path / "store", "wb2_zarr", ["t850", "t500"], grid=None)
    assert weather.grid.same_as(grid)
    assert np.array_equal(weather.read(0, 6), values[:, ::-1])


@pytest.mark.parametrize("format", ["wb1_netcdf", "wb2_zarr"])
def test_a_gaussian_grid(format: str, tmp_path: Path) -> None:
    layout = (WeatherBench1 if format == "wb1_netcdf" else WeatherBench2)(times=TIMES, ids=("z500",), grid=gaussian(32))
    samples.write(layout, tmp_path / "store", {"z500": MADE["z500"]})
    for grid in (None, gaussian(32)):
        weather = open_weather(tmp_path / "store", format, ["z500"], grid=grid)
        assert weather.grid.kind == "Gaussian"
        assert np.array_equal(weather.read(0, 36)[:, 0], MADE["z500"])


def test_single_level_directories(tmp_path: Path) -> None:
    """geopotential_500 and temperature_850, with and without the level inside."""
    z = geopotential(MADE, TIMES).sel(level=500)
    save(tmp_path, "geopotential_500", z)
    save(tmp_path, "temperature_850", z.copy(data=MADE["t850"]).rename("t").drop_vars("level"))
    weather = open_weather(tmp_path, "wb1_netcdf", ["z500", "t850"])
    assert np.array_equal(weather.read(0, 36), stack(MADE, ["z500", "t850"]))
    with pytest.raises(DataError, match="directory 'geopotential' .channel z700. is missing"):
        open_weather(tmp_path, "wb1_netcdf", ["z700"])


def test_both_a_full_and_a_single_level_directory(tmp_path: Path) -> None:
    save(tmp_path, "geopotential", geopotential(MADE, TIMES).sel(level=[300, 700]))
    save(tmp_path, "geopotential_500", geopotential(MADE, TIMES).sel(level=500))
    weather = open_weather(tmp_path, "wb1_netcdf", ["z500", "z300"])
    assert np.array_equal(weather.read(0, 36), stack(MADE, ["z500", "z300"]))
    with pytest.raises(DataError, match=r"not there on 1000 hPa; it has \[300, 700\]"):
        open_weather(tmp_path, "wb1_netcdf", ["z1000"])


def test_geopotential_height_is_multiplied_where_the_user_says_so(tmp_path: Path) -> None:
    heights = geopotential(MADE, TIMES) / GRAVITY
    folder = save(tmp_path, "geopotential", heights.astype("float32"))
    with pytest.raises(DataError, match=r"geopotential height in m; geopotential is 9.80665 times as much") as caught:
        open_weather(folder, "wb1_netcdf", ["z500"])
    assert "data.units=height" in caught.value.next_step
    weather = open_weather(folder, "wb1_netcdf", ["z1000", "z500"], units="height")
    assert np.allclose(weather.read(0, 36), stack(MADE, ["z1000", "z500"]), rtol=1e-6)
    assert weather.notes == ("geopotential height is multiplied by 9.80665",)


@pytest.mark.parametrize("format", ["wb1_netcdf", "wb2_zarr"])
def test_insolation_is_supplied_where_there_is_none(format: str, tmp_path: Path) -> None:
    made = {name: MADE[name] for name in ("t2m", "z500")}
    write = samples.write_wb1 if format == "wb1_netcdf" else samples.write_wb2
    folder = write(tmp_path / "store", made)

    def insolation(times: np.ndarray, latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
        hours = (times - TIMES[0]) / np.timedelta64(1, "h")
        return 2e6 + hours[:, None, None] + latitudes[:, None] + longitudes

    ids = ["t2m", "tisr", "z500"]
    with pytest.raises(DataError, match="tisr"):
        open_weather(folder, format, ids)
    weather = open_weather(folder, format, ids, insolation=insolation)
    assert weather.notes == ("tisr is not in the store: insolation at the top of the atmosphere is computed",)
    expected = insolation(TIMES, WEATHERBENCH.latitudes, WEATHERBENCH.longitudes).astype(np.float32)
    for found in (weather.read(3, 9), weather.select("1979-12-28", "1980-01-01").load().read(3, 9)):
        assert np.array_equal(found[:, 1], expected[3:9])
        assert np.array_equal(found[:, [0, 2]], stack(MADE, ["t2m", "z500"])[3:9])
    with pytest.raises(ConfigError, match="what times there are"):
        open_weather(folder, format, ["tisr"], insolation=insolation)


def test_accumulated_quantities_begin_seven_hours_late(tmp_path: Path) -> None:
    """As the published file of 1979: the first frame all share is that of 12 h."""
    save(tmp_path, "geopotential", geopotential(hourly(MADE), HOURLY))
    tisr = geopotential(hourly(MADE), HOURLY).sel(level=300).drop_vars("level").rename("tisr")
    tisr = tisr.copy(data=hourly(MADE)["tisr"]).isel(time=slice(7, None))
    save(tmp_path, "toa_incident_solar_radiation", tisr)
    weather = open_weather(tmp_path, "wb1_netcdf", ["tisr", "z500"])
    assert np.array_equal(weather.times, TIMES[2:])
    assert np.array_equal(weather.read(0, 34), stack(MADE, ["tisr", "z500"])[2:])
    assert "variable 'tisr' lacks 1979-12-28T00 to 1979-12-28T06, which variable 'z' has: left out" in weather.notes


@pytest.mark.parametrize("format", ["wb1_netcdf", "wb2_zarr"])
def test_segments_explain_gaps(format: str, tmp_path: Path) -> None:
    times = np.concatenate([TIMES[:20], TIMES[:16] + np.timedelta64(10 * 365, "D")])
    segment = np.repeat([0, 1], [20, 16])
    layout = (WeatherBench1 if format == "wb1_netcdf" else WeatherBench2)(times=times, ids=("z500",), segment=segment)
    samples.write(layout, tmp_path / "store", {"z500": MADE["z500"]})
    weather = open_weather(tmp_path / "store", format, ["z500"])
    assert weather.segment.tolist() == segment.tolist()
    assert np.array_equal(weather.times, times)
    later = weather.select("1989-12-25", "1989-12-26")
    assert set(later.segment.tolist()) == {1}
    assert np.array_equal(later.read(0, 4)[:, 0], MADE["z500"][20:24])
    with pytest.raises(DataError, match="no frame from 1984-01-01"):
        weather.select("1984-01-01", "1984-12-31")


@pytest.fixture(scope="module")
def opened(stores: dict[str, Path]) -> list[Weather]:
    return [open_weather(path, format, IDS) for format, path in stores.items()]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_window_of_any_channels(opened: list[Weather], data: st.DataObject) -> None:
    weather = data.draw(st.sampled_from(opened))
    start = data.draw(st.integers(0, 35))
    stop = data.draw(st.integers(start + 1, 36))
    ids = data.draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=5, unique=True))
    assert np.array_equal(weather.read(start, stop, ids), stack(MADE, ids)[start:stop])
