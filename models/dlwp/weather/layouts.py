"""Writes generated weather as WeatherBench 1 and 2 lay theirs out, so that one reader serves it and a user's own.

A layout is created once; then any number of processes write blocks of frames, each block in files of its own; then it is
finished. Both carry one more coordinate than the originals: ``segment[time]``, the number of the simulation a frame belongs to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.dlwp.weather.calendar import Times
from models.dlwp.weather.channels import LEVELS_HPA, Channel, channels
from models.dlwp.weather.grid import WEATHERBENCH, Grid
from results.errors import ConfigError
from results.store import canonical_json, write_bytes

Fields = Mapping[str, NDArray[Any]]

_EPOCHS = {"wb1": "hours since 1900-01-01", "wb2": "hours since 1959-01-01"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout(ABC):
    """What is written, and how it is cut into blocks.

    Attributes:
        times: ``[time]`` of all frames, ascending.
        ids: prescribed and prognostic channels.
        segment: ``[time]`` number of the simulation; without it all frames belong to one.
        grid: points.
        attributes: of the whole store, plain JSON values.
    """

    times: Times
    ids: tuple[str, ...]
    segment: NDArray[np.integer] | None = None
    grid: Grid = field(default=WEATHERBENCH)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.times) == 0 or (np.diff(self.times) <= np.timedelta64(0)).any():
            raise ValueError("times do not ascend")
        channels(self.ids)

    @abstractmethod
    def blocks(self) -> list[range]:
        """Frames of the smallest blocks that share no file, in order."""

    def create(self, folder: Path, constants: Fields) -> None:
        """Lay out metadata, coordinates and constants in an existing folder; called once, before any block.

        Args:
            constants: constant channels, ``[lat, lon]`` each, in the units of the lexicon.

        Raises:
            ConfigError: an unknown constant, or a channel that this layout has no name for.
            ValueError: a constant is of another shape.
        """
        for entry in channels(constants):
            if np.shape(constants[entry.id]) != self.grid.shape:
                raise ValueError(f"constant '{entry.id}' is {np.shape(constants[entry.id])}, the grid is {self.grid.shape}")
        self._create(folder, constants)

    @abstractmethod
    def _create(self, folder: Path, constants: Fields) -> None: ...

    def write(self, folder: Path, first_frame: int, fields: Fields) -> None:
        """Write one or several whole blocks. Doing so again writes the same bytes.

        Args:
            first_frame: index of the first frame.
            fields: every channel of :attr:`ids`, ``[time, lat, lon]`` each, in the units of the lexicon.

        Raises:
            ValueError: a channel is missing or too many, shapes differ, or the frames do not start and end on borders of
                blocks: then another process may be writing the same file.
        """
        if set(fields) != set(self.ids):
            raise ValueError(f"fields are {', '.join(sorted(fields))}; the layout holds {', '.join(sorted(self.ids))}")
        shapes = {name: np.shape(values) for name, values in fields.items()}
        frames = next(iter(shapes.values()))[0]
        if set(shapes.values()) != {(frames, *self.grid.shape)}:
            raise ValueError(f"fields are {shapes}, not all [time, {self.grid.shape[0]}, {self.grid.shape[1]}]")
        blocks = [block for block in self.blocks() if first_frame <= block.start and block.stop <= first_frame + frames]
        if sum(map(len, blocks)) != frames:
            raise ValueError(f"frames {first_frame} to {first_frame + frames - 1} are not whole blocks")
        for block in blocks:
            rows = slice(block.start - first_frame, block.stop - first_frame)
            self._write_block(folder, block, {name: np.asarray(fields[name][rows], np.float32) for name in self.ids})

    @abstractmethod
    def _write_block(self, folder: Path, block: range, fields: Mapping[str, NDArray[np.float32]]) -> None: ...

    def finish(self, folder: Path) -> None:  # noqa: B027 (files of WeatherBench 1 need nothing more)
        """Called once, after all blocks."""

    def _segment(self) -> NDArray[np.int32]:
        return np.zeros(len(self.times), np.int32) if self.segment is None else np.asarray(self.segment, np.int32)

    def _variables(self, name: str) -> dict[str, list[Channel]]:
        """Channels by the variable that holds them, levels ascending; ``name`` is the attribute with the variable's name."""
        found: dict[str, list[Channel]] = {}
        for entry in channels(self.ids):
            found.setdefault(getattr(entry, name), []).append(entry)
        return {key: sorted(entries, key=lambda entry: entry.level_hpa or 0) for key, entries in found.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class WeatherBench1(Layout):
    """One directory a variable, one netCDF file a year: ``geopotential/geopotential_1979_5.625deg.nc`` with
    ``z[time, level, lat, lon]``; ``constants/constants_5.625deg.nc``. A block is a calendar year. Files are whole or absent.
    """

    def blocks(self) -> list[range]:
        years = self.times.astype("datetime64[Y]").astype(int)
        borders = [0, *(np.flatnonzero(np.diff(years)) + 1).tolist(), len(years)]
        return [range(begin, end) for begin, end in zip(borders[:-1], borders[1:], strict=True)]

    def _create(self, folder: Path, constants: Fields) -> None:
        for name in ("constants", *self._variables("folder")):
            (folder / name).mkdir(parents=True, exist_ok=True)
        latitude, longitude = np.meshgrid(self.grid.latitudes, self.grid.longitudes, indexing="ij")
        every = {"lat2d": latitude, "lon2d": longitude, **constants}
        variables = {
            entry.id: (("lat", "lon"), np.asarray(every[entry.id], np.float32), {"units": entry.units})
            for entry in channels(every)
        }
        self._save(folder / "constants" / f"constants_{self._resolution()}.nc", variables, {})

    def _write_block(self, folder: Path, block: range, fields: Mapping[str, NDArray[np.float32]]) -> None:
        frames = slice(block.start, block.stop)
        year = self.times[block.start].astype("datetime64[Y]")
        for name, entries in self._variables("folder").items():
            coordinates: dict[str, Any] = {"time": self.times[frames], "segment": ("time", self._segment()[frames])}
            dims: tuple[str, ...] = ("time", "lat", "lon")
            values = fields[entries[0].id]
            if entries[0].level_hpa is not None:
                dims, values = ("time", "level", "lat", "lon"), np.stack([fields[entry.id] for entry in entries], 1)
                levels = np.array([entry.level_hpa for entry in entries], np.int32)
                coordinates["level"] = ("level", levels, {"units": "millibars"})
            variables = {entries[0].variable: (dims, values, {"units": entries[0].units})}
            self._save(folder / name / f"{name}_{year}_{self._resolution()}.nc", variables, coordinates)

    def _save(self, path: Path, variables: Mapping[str, Any], coordinates: Mapping[str, Any]) -> None:
        import xarray as xr

        axes = {
            "lat": ("lat", self.grid.latitudes, {"units": "degrees_north"}),
            "lon": ("lon", self.grid.longitudes, {"units": "degrees_east"}),
        }
        attributes = {  # netCDF knows numbers and text only
            key: value if isinstance(value, str | int | float) else canonical_json(value)
            for key, value in self.attributes.items()
        }
        data = xr.Dataset(dict(variables), coords={**axes, **coordinates}, attrs=attributes)
        encoding = {"time": {"units": _EPOCHS["wb1"], "dtype": "int32"}} if "time" in coordinates else {}
        write_bytes(path, bytes(data.to_netcdf(engine="h5netcdf", encoding=encoding)))

    def _resolution(self) -> str:
        return f"{180 / self.grid.shape[0]:g}deg"


@dataclass(frozen=True, kw_only=True, eq=False)
class WeatherBench2(Layout):
    """One zarr store of version 2 with consolidated metadata and long names, ``geopotential[time, level, longitude, latitude]``
    as the regridded stores have it, levels in hPa. A block is a chunk along time. All variables share one axis of levels: one
    that is not among the channels is NaN there.

    Attributes:
        chunk_frames: frames of a chunk.
    """

    chunk_frames: int = 100

    def blocks(self) -> list[range]:
        total = len(self.times)
        return [range(first, min(first + self.chunk_frames, total)) for first in range(0, total, self.chunk_frames)]

    def _create(self, folder: Path, constants: Fields) -> None:
        import zarr

        if "" in self._variables("wb2_variable"):
            missing = ", ".join(entry.id for entry in self._variables("wb2_variable")[""])
            raise ConfigError(f"WeatherBench 2 has no counterpart of {missing}", where="data.variables")
        group = zarr.open_group(str(folder), mode="a", zarr_format=2, attributes=dict(self.attributes))
        hours = (self.times - np.datetime64("1959-01-01", "ns")) // np.timedelta64(1, "h")
        calendar = {"units": _EPOCHS["wb2"], "calendar": "proleptic_gregorian"}
        self._coordinate(group, "time", ("time",), hours.astype(np.int64), calendar)
        self._coordinate(group, "segment", ("time",), self._segment(), {"long_name": "number of the simulation"})
        self._coordinate(group, "latitude", ("latitude",), self.grid.latitudes, {"units": "degrees_north"})
        self._coordinate(group, "longitude", ("longitude",), self.grid.longitudes, {"units": "degrees_east"})
        levels = self._levels()
        if levels:
            self._coordinate(group, "level", ("level",), np.array(levels, np.int64), {"units": "hPa"})
        for entry in channels(constants):
            if entry.wb2_variable:  # latitude and longitude are axes
                values = np.asarray(constants[entry.id], np.float32).T / np.float32(entry.wb2_factor)
                units = {"units": "m**2 s**-2" if entry.id == "orography" else entry.units}
                self._coordinate(group, entry.wb2_variable, ("longitude", "latitude"), values, units)
        for name, entries in self._variables("wb2_variable").items():
            self._field(group, name, entries)

    def finish(self, folder: Path) -> None:
        """Consolidate metadata: readers then open the store by one file."""
        import warnings

        import zarr

        with warnings.catch_warnings():  # what marks the parts of a store that is being built is no part of it
            warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
            zarr.consolidate_metadata(str(folder), zarr_format=2)

    def _write_block(self, folder: Path, block: range, fields: Mapping[str, NDArray[np.float32]]) -> None:
        import zarr

        group: Any = zarr.open_group(str(folder), mode="r+", zarr_format=2)
        levels = self._levels()
        for name, entries in self._variables("wb2_variable").items():
            if entries[0].level_hpa is None:
                values = fields[entries[0].id].swapaxes(-1, -2)
            else:
                values = np.full((len(block), len(levels), *self.grid.shape[::-1]), np.nan, np.float32)
                for entry in entries:
                    values[:, levels.index(entry.level_hpa)] = fields[entry.id].swapaxes(-1, -2)
            group[name][block.start : block.stop] = values

    def _levels(self) -> list[int | None]:
        return [level for level in LEVELS_HPA if any(entry.level_hpa == level for entry in channels(self.ids))]

    def _field(self, group: Any, name: str, entries: list[Channel]) -> None:
        import numcodecs

        dims, shape = ["time", "longitude", "latitude"], [len(self.times), *self.grid.shape[::-1]]
        if entries[0].level_hpa is not None:
            dims.insert(1, "level")
            shape.insert(1, len(self._levels()))
        group.create_array(
            name,
            shape=tuple(shape),
            chunks=(min(self.chunk_frames, shape[0]), *shape[1:]),
            dtype="float32",
            compressors=numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE),
            fill_value=np.nan,
            attributes={"_ARRAY_DIMENSIONS": dims, "units": entries[0].units, "coordinates": "segment"},  # for xarray
            overwrite=True,
        )

    def _coordinate(self, group: Any, name: str, dims: tuple[str, ...], values: NDArray[Any], attributes: dict[str, str]) -> None:
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=values.dtype,
            compressors=None,
            fill_value=np.nan if values.dtype.kind == "f" else None,
            attributes={"_ARRAY_DIMENSIONS": list(dims), **attributes},
            overwrite=True,
        )
        array[...] = values
