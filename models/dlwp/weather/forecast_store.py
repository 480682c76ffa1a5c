"""Forecasts on disk as WeatherBench 2 keeps them: ``time`` is a forecast's start, ``prediction_timedelta`` how far it reaches.

Written chunk by chunk while a rollout goes on, every forecast in chunks of its own, so that any number of ranks may write; read
back to be rated without a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.dlwp.weather.calendar import CADENCE, Times
from models.dlwp.weather.channels import LEXICON
from models.dlwp.weather.forecasting import BLOCK_STEPS, Blocks, Forecaster, Scene
from models.dlwp.weather.grid import Grid, orient
from models.dlwp.weather.pieces import first_line
from models.whole_chunks import whole_chunks
from results.errors import DataError

#: A chunk of one variable has at most so many bytes before compression: decades on a coarse grid are no mass of small files,
#: and a fine grid is held in memory for no longer than it must.
CHUNK_BYTES = 1 << 20
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
            chunks=(1, chunk_steps(steps, grid.shape), *grid.shape),
            dtype="float32",
            fill_value=np.nan,
            attributes={"_ARRAY_DIMENSIONS": list(DIMS), "units": LEXICON[name].units},
        )
    zarr.consolidate_metadata(str(folder), zarr_format=2)


def chunk_steps(steps: int, shape: tuple[int, int]) -> int:
    """Steps of a chunk: a multiple of :data:`BLOCK_STEPS`, or all."""
    blocks = max(CHUNK_BYTES // (4 * shape[0] * shape[1] * BLOCK_STEPS), 1)
    return min(blocks * BLOCK_STEPS, steps)


def keep(blocks: Blocks, folder: Path, dates: Sequence[int], ids: tuple[str, ...], steps: int) -> Blocks:
    """Pass blocks on, and write them into the store, whole chunks at a time.

    Args:
        dates: places of the forecasts in the store.
        steps: that the store has of each.
    """
    import zarr

    group: Any = zarr.open_group(str(folder), mode="r+", zarr_format=2)
    chunk, first, held = 0, 0, []
    for before, block in blocks:
        fields = block.cpu().numpy()
        chunk = chunk or chunk_steps(steps, fields.shape[-2:])
        held.append(fields)
        after = before + fields.shape[1]
        if after - first == chunk or after == steps:
            whole = np.concatenate(held, axis=1)
            for date, forecast in zip(dates, whole, strict=True):
                for index, name in enumerate(ids):
                    group[name][date, first:after] = forecast[:, index]
            first, held = after, []
        yield before, block


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
            self._data = xr.open_zarr(whole_chunks(folder), chunks=None, decode_timedelta=True)
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

    def forecaster(self, scene: Scene) -> Forecaster:
        """These forecasts, in place of a model's."""

        def blocks(starts: NDArray[np.int64], steps: int) -> Blocks:
            for before in range(0, steps, BLOCK_STEPS):
                count = min(BLOCK_STEPS, steps - before)
                fields = [self.read(scene.weather.times[start], before, count) for start in starts]
                yield before, torch.from_numpy(np.stack(fields)).to(scene.device)

        return Forecaster(blocks, longest=self.steps)

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
