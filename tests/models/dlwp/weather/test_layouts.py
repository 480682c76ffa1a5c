"""Both layouts as others see them (xarray), written by one process or by several, whole blocks only."""

from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from models.dlwp.weather.calendar import CADENCE
from models.dlwp.weather.channels import GRAVITY
from models.dlwp.weather.grid import WEATHERBENCH, equiangular
from models.dlwp.weather.layouts import Layout, WeatherBench1, WeatherBench2
from results.errors import ConfigError
from tests.models.dlwp.weather import samples
from tests.models.dlwp.weather.samples import IDS, TIMES

MADE = samples.fields()
WB1 = WeatherBench1(times=TIMES, ids=IDS, attributes={"recipe": {"days": 9}})
WB2 = WeatherBench2(times=TIMES, ids=IDS, chunk_frames=8, attributes={"recipe": {"days": 9}})


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_weatherbench1_as_xarray_sees_it(tmp_path: Path) -> None:
    samples.write(WB1, tmp_path, MADE)
    folders = {path.name for path in tmp_path.iterdir()}
    assert folders == {
        "constants", "geopotential", "temperature", "2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind",
        "toa_incident_solar_radiation",
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "geopotential").iterdir()) == [
        "geopotential_1979_5.625deg.nc",
        "geopotential_1980_5.625deg.nc",
    ]
    with xr.open_dataset(tmp_path / "geopotential" / "geopotential_1980_5.625deg.nc") as data:
        assert data.z.dims == ("time", "level", "lat", "lon")
        assert (data.z.dtype, data.level.dtype, data.lat.dtype) == (np.float32, np.int32, np.float64)
        assert data.level.values.tolist() == [300, 500, 700, 1000]
        assert np.array_equal(data.time.values, TIMES[16:])
        assert np.array_equal(data.z.sel(level=700).values, MADE["z700"][16:])
        assert data.attrs["recipe"] == '{"days":9}'
    with xr.open_dataset(tmp_path / "2m_temperature" / "2m_temperature_1979_5.625deg.nc") as data:
        assert data.t2m.dims == ("time", "lat", "lon")
        assert data.t2m.attrs["units"] == "K"
    with xr.open_dataset(tmp_path / "constants" / "constants_5.625deg.nc") as data:
        assert {"orography", "lsm", "lat2d", "lon2d"} == set(data.data_vars)
        assert np.array_equal(data.lat2d[:, 3], WEATHERBENCH.latitudes)


def test_weatherbench2_as_xarray_sees_it(tmp_path: Path) -> None:
    samples.write(WB2, tmp_path, MADE)
    data = xr.open_zarr(str(tmp_path), consolidated=True, chunks=None)
    assert data.geopotential.dims == ("time", "level", "longitude", "latitude")
    assert data["2m_temperature"].dims == ("time", "longitude", "latitude")
    assert data.level.values.tolist() == [300, 500, 700, 850, 1000]
    assert np.array_equal(data.time.values, TIMES)
    assert np.array_equal(data.geopotential.sel(level=500).transpose("time", "latitude", "longitude"), MADE["z500"])
    assert np.array_equal(data.temperature.sel(level=850).transpose("time", "latitude", "longitude"), MADE["t850"])
    assert np.isnan(data.temperature.sel(level=500)).all()
    assert "segment" in data.coords
    orography = samples.constants()["orography"]
    assert np.allclose(data.geopotential_at_surface.transpose("latitude", "longitude"), GRAVITY * orography, rtol=1e-6)
    assert data.attrs["recipe"] == {"days": 9}
    assert (tmp_path / ".zmetadata").exists()
    assert (tmp_path / "geopotential" / "4.0.0.0").exists()


def test_blocks() -> None:
    assert WB1.blocks() == [range(16), range(16, 36)]
    assert WB2.blocks() == [range(8), range(8, 16), range(16, 24), range(24, 32), range(32, 36)]


def write_block(job: tuple[Layout, Path, range]) -> None:
    layout, folder, block = job
    layout.write(folder, block.start, {name: values[block.start : block.stop] for name, values in MADE.items()})


@pytest.mark.parametrize("layout", [WB1, WB2], ids=["wb1", "wb2"])
def test_processes_that_own_different_blocks(layout: Layout, tmp_path: Path) -> None:
    """Any order, side by side, a block twice: the same bytes as by one process."""
    alone = samples.write(layout, tmp_path / "alone", MADE)
    together = tmp_path / "together"
    together.mkdir()
    layout.create(together, samples.constants())
    jobs = [(layout, together, block) for block in [*layout.blocks()[::-1], layout.blocks()[0]]]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(write_block, jobs, chunksize=1)
    layout.finish(together)
    assert digests(together) == digests(alone)
    assert not [path for path in together.rglob("*") if "tmp" in path.name or "partial" in path.name]


@pytest.mark.parametrize("layout", [WB1, WB2], ids=["wb1", "wb2"])
def test_blocks_share_no_file(layout: Layout, tmp_path: Path) -> None:
    layout.create(tmp_path, samples.constants())
    owner: dict[str, int] = {}
    for number, block in enumerate(layout.blocks()):
        before = digests(tmp_path)
        write_block((layout, tmp_path, block))
        after = digests(tmp_path)
        assert {name: after[name] for name in before} == before
        for name in after.keys() - before.keys():
            assert owner.setdefault(name, number) == number
    assert len(owner) == 6 * len(layout.blocks())  # one file of each variable


@pytest.mark.parametrize("layout", [WB1, WB2], ids=["wb1", "wb2"])
@pytest.mark.parametrize(("first", "stop"), [(0, 15), (1, 16), (3, 7), (16, 35), (12, 20)])
def test_blocks_that_are_not_whole_are_refused(layout: Layout, first: int, stop: int, tmp_path: Path) -> None:
    layout.create(tmp_path, samples.constants())
    before = digests(tmp_path)
    with pytest.raises(ValueError, match=f"frames {first} to {stop - 1} are not whole blocks"):
        layout.write(tmp_path, first, {name: values[first:stop] for name, values in MADE.items()})
    assert digests(tmp_path) == before


def test_wrong_fields_are_refused(tmp_path: Path) -> None:
    WB1.create(tmp_path, samples.constants())
    with pytest.raises(ValueError, match="the layout holds"):
        WB1.write(tmp_path, 0, {name: MADE[name] for name in IDS[:-1]})
    with pytest.raises(ValueError, match="not all"):
        WB1.write(tmp_path, 0, {**MADE, "t2m": MADE["t2m"][:-1]})
    with pytest.raises(ValueError, match="not all"):
        WB1.write(tmp_path, 0, {name: values.swapaxes(1, 2) for name, values in MADE.items()})
    for layout in (WB1, WB2):
        with pytest.raises(ValueError, match=r"constant 'lsm' is \(64, 32\), the grid is \(32, 64\)"):
            layout.create(tmp_path, {"lsm": np.zeros((64, 32))})
    with pytest.raises(ValueError, match="do not ascend"):
        WeatherBench1(times=TIMES[::-1], ids=IDS)
    with pytest.raises(ConfigError, match="no weather channel 'z42'"):
        WeatherBench2(times=TIMES, ids=("z42",))
    with pytest.raises(ConfigError, match="no counterpart of tp"):
        WeatherBench2(times=TIMES, ids=("tp",)).create(tmp_path, {})


def test_other_grids_and_segments(tmp_path: Path) -> None:
    """1.5 degrees with poles; two simulations, which need not lie a calendar year apart."""
    grid = equiangular(121, poles=True)
    times = np.concatenate([TIMES[:4], TIMES[:4] + np.timedelta64(400, "D")])
    layout = WeatherBench1(times=times, ids=("t2m",), segment=np.repeat([3, 7], 4), grid=grid)
    made = {"t2m": np.full((8, *grid.shape), 280.0)}
    samples.write(layout, tmp_path, made, {})
    files = sorted((tmp_path / "2m_temperature").iterdir())
    assert [path.name for path in files] == ["2m_temperature_1979_1.4876deg.nc", "2m_temperature_1981_1.4876deg.nc"]
    with xr.open_dataset(files[1]) as data:
        assert data.segment.values.tolist() == [7, 7, 7, 7]
        assert data.sizes["lat"] == 121
    assert (np.diff(times) >= CADENCE).all()
