"""Finds the variables of a user's weather store: year files of WeatherBench 1, netCDF or zarr, or one store of WeatherBench 2.

Nothing but coordinates is read before frames are asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.dlwp.weather.calendar import CADENCE_HOURS, Times, hour, on_cadence
from models.dlwp.weather.channels import Channel, Role
from models.dlwp.weather.grid import Grid, Orientation, orient
from models.dlwp.weather.pieces import MEND, Piece, Variable, check_times, first_line
from models.whole_chunks import whole_chunks
from results.errors import ConfigError, DataError, near_matches

if TYPE_CHECKING:
    import xarray as xr

FORMATS = ("wb1_netcdf", "wb1_zarr", "wb2_zarr")
_STANDARD_NAMES = {"latitude": "lat", "longitude": "lon"}


class Store:
    """A user's data, or generated ones in the same layout.

    Args:
        path: the folder with one directory a variable, or the zarr store.
        format: one of ``FORMATS``.
        grid: the grid that all variables must be on, or None for any known one; the first variable then sets it.

    Raises:
        ConfigError: there is no such format.
        DataError: there is no such store.
    """

    def __init__(self, path: Path, format: str, grid: Grid | None) -> None:
        if format not in FORMATS:
            raise ConfigError(f"data.format is '{format}'{near_matches(format, FORMATS)}", where="data.format")
        if not path.exists():
            raise DataError("there is no such data store", where=str(path), next_step="check data.path")
        self.path, self.format, self.grid = path, format, grid
        self._opened: dict[Path, list[tuple[Path, xr.Dataset]]] = {}
        self._variables: dict[tuple[Path, str], Variable] = {}

    def find(self, entry: Channel) -> Variable | None:
        """The variable that holds a channel, or None.

        Raises:
            DataError: it lacks the channel's level, a file cannot be opened, or dimensions, axes or times are wrong.
        """
        levels: set[int] = set()
        found = False
        for place, name in self._places(entry):
            if not any(name in dataset for _, dataset in self._open(place)):
                continue
            found = True
            variable = self._variables.get((place, name)) or self._assemble(place, name)
            self._variables[place, name] = variable
            on_levels = any("level" in piece.array.dims for piece in variable.pieces)
            if entry.level_hpa is None and on_levels:
                raise _wrong_dims(variable.pieces[0].array, "time, lat, lon", place)
            common = set.intersection(*(set(piece.levels_hpa) for piece in variable.pieces))
            # A directory of a single level (geopotential_500) need not repeat it inside.
            single = place.name != entry.folder and not on_levels
            if entry.level_hpa is None or entry.level_hpa in common or (single and not common):
                return variable
            levels |= common
        if found:
            raise self._error(
                f"variable '{self._name(entry)}' is not there on {entry.level_hpa} hPa; it has {sorted(levels) or 'no levels'}",
                f"add the level, or take {entry.id} out of {_key(entry)}",
            )
        return None

    def missing(self, entry: Channel) -> DataError:
        """The error for a channel that :meth:`find` does not find."""
        what = f"variable '{self._name(entry)}' (channel {entry.id}) is missing"
        if self.format == "wb2_zarr":
            what += near_matches(self._name(entry), map(str, self._open(self.path)[0][1].data_vars))
        elif not (self.path / entry.folder).is_dir():
            there = ", ".join(sorted(place.name for place in self.path.iterdir() if place.is_dir())) or "none"
            what = f"directory '{entry.folder}' (channel {entry.id}) is missing; there are: {there}"
        return self._error(what, f"add it, or take {entry.id} out of {_key(entry)}")

    def constant(self, entry: Channel) -> NDArray[np.float32] | None:
        """A field without time, ``[lat, lon]`` in the units of the lexicon, or None where the store has none.

        Raises:
            DataError: dimensions or axes are wrong, or the file is damaged.
        """
        for place, name in self._places(entry):
            for path, dataset in self._open(place):
                if name in dataset:
                    array = dataset[name]
                    if set(array.dims) != {"lat", "lon"}:
                        raise _wrong_dims(array, "lat, lon", path)
                    orientation = self._orient(array, path)
                    try:
                        values = np.asarray(array.transpose("lat", "lon").values, np.float32)
                    except Exception as error:
                        what = f"variable '{name}' cannot be read, a chunk is damaged: {first_line(error)}"
                        raise DataError(what, where=str(path), next_step=MEND) from error
                    return orientation.apply(values * np.float32(self.factor(entry)))
        return None

    def factor(self, entry: Channel) -> float:
        """What stored values are multiplied by to have the units of the lexicon."""
        return entry.wb2_factor if self.format == "wb2_zarr" else 1.0

    def _name(self, entry: Channel) -> str:
        return (entry.wb2_variable or entry.id) if self.format == "wb2_zarr" else entry.variable

    def _places(self, entry: Channel) -> list[tuple[Path, str]]:
        """Where a channel may lie, and the name it has there."""
        if self.format == "wb2_zarr":
            return [(self.path, entry.wb2_variable)] if entry.wb2_variable else []
        level = entry.level_hpa
        names = [entry.folder] if level is None else [entry.folder, f"{entry.folder}_{level}", f"{entry.folder}_{level}hPa"]
        return [(self.path / name, entry.variable) for name in names if (self.path / name).is_dir()]

    def _open(self, place: Path) -> list[tuple[Path, xr.Dataset]]:
        """Files of a directory, or the one store, with latitudes and longitudes called lat and lon."""
        if place not in self._opened:
            paths = [place] if self.format == "wb2_zarr" else sorted(place.glob("*.nc" if "netcdf" in self.format else "*.zarr"))
            if not paths:
                raise self._error(f"directory '{place.name}' has no file for data.format={self.format}", "check data.format")
            self._opened[place] = [(path, _open_dataset(path)) for path in paths]
        return self._opened[place]

    def _assemble(self, place: Path, name: str) -> Variable:
        pieces, segments, thinned = [], [], False
        for path, dataset in self._open(place):
            if name not in dataset:
                there = ", ".join(map(str, dataset.data_vars)) or "nothing"
                raise DataError(f"variable '{name}' is missing; the file has {there}", where=str(path), next_step=MEND)
            array = dataset[name]
            if not {"time", "lat", "lon"} <= set(array.dims) <= {"time", "level", "lat", "lon"}:
                raise _wrong_dims(array, "time, lat, lon and perhaps level", path)
            times = _times(array, path)
            rows = on_cadence(times)
            thinned |= len(rows) < len(times)
            if len(rows) == 0:
                what = (
                    f"variable '{name}' has no frame at 0, 6, 12 or 18 h; its first stamp is {times[0] if len(times) else 'none'}"
                )
                raise DataError(what, where=str(path), next_step=f"give frames every {CADENCE_HOURS} h")
            pieces.append(Piece(path, array, times[rows], rows, _levels(array), self._orient(array, path)))
            if "segment" in dataset.variables:
                segments.append(np.asarray(dataset["segment"].values, np.int64)[rows])
        order = sorted(range(len(pieces)), key=lambda index: pieces[index].times[0])
        pieces = [pieces[index] for index in order]
        whole = len(segments) == len(pieces)
        segment = np.concatenate([segments[index] for index in order]) if whole else None
        times = np.concatenate([piece.times for piece in pieces])
        check_times(name, pieces, times, segment, place)
        return Variable(name, place, tuple(pieces), times, segment, thinned)

    def _orient(self, array: xr.DataArray, path: Path) -> Orientation:
        for axis in ("lat", "lon"):
            if axis not in array.coords:
                raise DataError(f"variable '{array.name}' has no coordinate {axis}", where=str(path), next_step=MEND)
        where = f"{path} (variable '{array.name}')"
        orientation = orient(array["lat"].values, array["lon"].values, where=where, grid=self.grid)
        self.grid = orientation.grid
        return orientation

    def _error(self, what: str, next_step: str) -> DataError:
        return DataError(what, where=str(self.path), next_step=next_step)


def _key(entry: Channel) -> str:
    """Where a channel is asked for."""
    return f"data.{entry.role}s" if entry.role is Role.CONSTANT else f"data.{entry.role}"


def _open_dataset(path: Path) -> xr.Dataset:
    import xarray as xr

    try:
        if path.suffix == ".nc":
            found = xr.open_dataset(path, cache=False, decode_timedelta=False)
        else:
            consolidated = (path / ".zmetadata").exists()
            store: Any = whole_chunks(path)  # xarray takes any store of zarr, and does not say so
            found = xr.open_dataset(
                store, engine="zarr", chunks=None, cache=False, consolidated=consolidated, decode_timedelta=False
            )
    except Exception as error:
        what = f"the {'file' if path.is_file() else 'store'} cannot be opened, it is cut off or damaged: {first_line(error)}"
        raise DataError(what, where=str(path), next_step="fetch or write it again") from error
    return found.rename({old: new for old, new in _STANDARD_NAMES.items() if old in found.variables or old in found.dims})


def _times(array: xr.DataArray, path: Path) -> Times:
    """All stamps of a file, which must be dates and ascend."""
    if "time" not in array.coords or not np.issubdtype(array["time"].dtype, np.datetime64):
        what = f"variable '{array.name}' has no coordinate time that can be read as dates"
        raise DataError(what, where=str(path), next_step=MEND)
    times = array["time"].values.astype("datetime64[ns]")
    back = np.flatnonzero(np.diff(times) <= np.timedelta64(0))
    if len(back):
        first = back[0]
        what = f"times of variable '{array.name}' do not ascend: {hour(times[first])} is followed by {hour(times[first + 1])}"
        raise DataError(what, where=str(path), next_step="sort the file by time and drop what is there twice")
    return times


def _levels(array: xr.DataArray) -> tuple[int, ...]:
    if "level" not in array.coords:
        return ()
    return tuple(int(level) for level in np.atleast_1d(array["level"].values))


def _wrong_dims(array: xr.DataArray, wanted: str, path: Path) -> DataError:
    what = f"variable '{array.name}' has dimensions {', '.join(map(str, array.dims))} instead of {wanted}"
    return DataError(what, where=str(path), next_step=MEND)
