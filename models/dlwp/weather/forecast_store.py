"""Forecasts on disk as WeatherBench 2 keeps them: ``time`` is a forecast's start, ``prediction_timedelta`` how far it reaches.

Written block by block while a rollout goes on, every forecast in chunks of its own, so that any number of ranks may write; read
back to be rated without a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.dlwp.weather.calendar import CADENCE, Times
from models.dlwp.weather.channels import LEXICON
from models.dlwp.weather.forecasting import BLOCK_STEPS
from models.dlwp.weather.grid import Grid, orient
from models.dlwp.weather.pieces import first_line
from results.errors import DataError

DIMS = ("time", "prediction_timedelta", "latitude", "longitude")


def create(folder: Path, times: Times, steps: int, ids: tuple[str, ...], grid: Grid) -> None:
    """Lay out the store, one variable ``id[time, prediction_timedelta, latitude, longitude]`` a channel; one process calls it."""
    import zarr

    group = zarr.open_group(str(folder), mode="w", zarr_format=2)
    hours = (times - np.datetime64("1959-01-01", "ns")) // np.timedelta64(1, "h")
    leads = (np.arange(1, steps + 1) * (CADENCE // np.timedelta64(1, "h"))).astype(np.int64)
    axes: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
        "time": (hours.astype(np.int64), {"units": "hours since 1959-01-01", "calendar": "proleptic_gregorian"}),
        "prediction_timedelta": (leads, {"units": "hours"}),
        "latitude": (grid.latitudes, {"units": "degrees_north"}),
        "longitude": (grid.longitudes, {"units": "degrees_east"}),
    }
    for name, (values, attributes) in axes.items():
        array = group.create_array(
            name, shape=values.shape, chunks=values.shape, dtype=values.dtype, compressors=None,
            fill_value=np.nan if values.dtype.kind == "f" else None,  # a stored 0 is no missing value
            attributes={"_ARRAY_DIMENSIONS": [name], **attributes},
        )  # fmt: skip
        array[...] = values
    for name in ids:
        group.create_array(
            name,
            shape=(len(times), steps, *grid.shape),
            chunks=(1, min(BLOCK_STEPS, steps), *grid.shape),
            dtype="float32",
            fill_value=np.nan,
            attributes={"_ARRAY_DIMENSIONS": list(DIMS), "units": LEXICON[name].units},
        )
    zarr.consolidate_metadata(str(folder), zarr_format=2)


def write(folder: Path, date: int, before: int, fields: NDArray[np.float32], ids: tuple[str, ...]) -> None:
    """A block ``[step, channel, lat, lon]`` of one forecast; blocks begin at multiples of :data:`BLOCK_STEPS`."""
    import zarr

    group: Any = zarr.open_group(str(folder), mode="r+", zarr_format=2)
    for index, name in enumerate(ids):
        group[name][date, before : before + len(fields)] = fields[:, index]


class ForecastStore:
    """A user's or a run's forecasts, opened for reading.

    Attributes:
        times: ``[forecast]``.
        steps: how many of six hours each has.

    Raises:
        DataError: it is no such store, lacks a channel, or lies on another grid or at other leads.
    """

    def __init__(self, folder: Path, ids: tuple[str, ...], grid: Grid) -> None:
        import xarray as xr

        try:
            self._data = xr.open_zarr(str(folder), chunks=None, decode_timedelta=True)
        except Exception as error:
            what = f"there is no readable forecast store: {first_line(error)}"
            raise DataError(what, where=str(folder), next_step="check data.rate") from error
        self._folder, self._ids = folder, ids
        missing = [name for name in (*DIMS, *ids) if name not in self._data.variables]
        if missing:
            raise self._error(f"it lacks {', '.join(missing)}")
        rows, columns = self._data["latitude"].values, self._data["longitude"].values
        self._orientation = orient(rows, columns, where=str(folder), grid=grid)
        leads = self._data["prediction_timedelta"].values
        wanted = CADENCE * np.arange(1, len(leads) + 1)
        if not np.array_equal(leads.astype("timedelta64[h]"), wanted.astype("timedelta64[h]")):
            raise self._error("its leads are not 6, 12, 18 hours and so on")
        self.times: Times = self._data["time"].values.astype("datetime64[ns]")
        self.steps = len(leads)

    def read(self, time: np.datetime64, before: int, count: int) -> NDArray[np.float32]:
        """``[step, channel, lat, lon]`` of the forecast from ``time``.

        Raises:
            DataError: there is no such forecast, or a chunk is damaged.
        """
        place = np.flatnonzero(self.times == time)
        if not len(place):
            raise self._error(f"it has no forecast from {np.datetime_as_string(time, unit='h')}")
        part = self._data.isel(time=int(place[0]), prediction_timedelta=slice(before, before + count))
        try:
            fields = [part[name].compute().transpose(*DIMS[1:]).values for name in self._ids]
        except Exception as error:
            raise self._error(f"a chunk cannot be read: {first_line(error)}") from error
        return self._orientation.apply(np.stack(fields, axis=1).astype(np.float32))

    def _error(self, what: str) -> DataError:
        return DataError(f"the forecast store does not fit: {what}", where=str(self._folder), next_step="check data.rate")
