"""Made-up weather of the right shape and size, for tests of layouts and readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.dlwp.weather.channels import PRESCRIBED, PROGNOSTIC, channel
from models.dlwp.weather.grid import WEATHERBENCH
from models.dlwp.weather.layouts import Layout, WeatherBench1, WeatherBench2

IDS = (*PRESCRIBED, *PROGNOSTIC)
#: A few of them, enough to damage.
FEW = ("tisr", "t850", "t2m", "z500", "z1000")
#: Nine days across a new year.
TIMES = np.arange(np.datetime64("1979-12-28", "ns"), np.datetime64("1980-01-06", "ns"), np.timedelta64(6, "h"))

Fields = dict[str, NDArray[np.float32]]


def fields(ids: tuple[str, ...] = IDS, frames: int = len(TIMES), seed: int = 0) -> Fields:
    """``[time, 32, 64]`` each: the published mean and half the deviation, no two values alike."""
    random = np.random.default_rng(seed)
    made = {}
    for name in ids:
        entry = channel(name)
        noise = random.uniform(-1.0, 1.0, (frames, *WEATHERBENCH.shape))
        made[name] = (entry.mean + 0.5 * entry.std * noise).astype(np.float32)
    if "tisr" in made:
        made["tisr"] = np.maximum(made["tisr"] * 3 - 1e6, 0).astype(np.float32)
    return made


def constants() -> Fields:
    """A continent on a third of the sphere."""
    latitude, longitude = np.meshgrid(WEATHERBENCH.latitudes, WEATHERBENCH.longitudes, indexing="ij")
    land = (longitude >= 60) & (longitude < 180)
    height = np.where(land, 2000 + 10 * latitude, 0)
    return {"orography": height.astype(np.float32), "lsm": land.astype(np.float32)}


def write(layout: Layout, folder: Path, made: Fields, fixed: Fields | None = None) -> Path:
    """A whole store, in one process."""
    folder.mkdir(parents=True, exist_ok=True)
    layout.create(folder, constants() if fixed is None else fixed)
    layout.write(folder, 0, made)
    layout.finish(folder)
    return folder


def write_wb1(folder: Path, made: Fields, times: NDArray[np.datetime64] = TIMES) -> Path:
    return write(WeatherBench1(times=times, ids=tuple(made)), folder, made)


def write_wb2(folder: Path, made: Fields, times: NDArray[np.datetime64] = TIMES, chunk_frames: int = 8) -> Path:
    return write(WeatherBench2(times=times, ids=tuple(made), chunk_frames=chunk_frames), folder, made)


def convert_to_zarr(netcdf: Path, folder: Path) -> Path:
    """Every file of a WeatherBench 1 folder as a zarr store of its own."""
    for path in netcdf.rglob("*.nc"):
        with xr.open_dataset(path) as data:
            for variable in data.variables.values():
                variable.encoding.clear()
            data.to_zarr(str(folder / path.relative_to(netcdf).with_suffix(".zarr")), zarr_format=2, consolidated=True)
    return folder


def stack(made: Fields, ids: tuple[str, ...] | list[str]) -> NDArray[np.float32]:
    """``[time, channel, lat, lon]``: what a reader should hand out."""
    return np.stack([made[name] for name in ids], axis=1)


def year(store: Path, variable: str, number: int = 1979) -> Path:
    """A file of WeatherBench 1."""
    return store / variable / f"{variable}_{number}_5.625deg.nc"


def truncate(path: Path) -> None:
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
