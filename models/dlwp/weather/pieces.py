"""A stored variable as pieces along time, one file each, opened but not read.

Dimensions are told apart by name, never by place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.dlwp.weather.calendar import CADENCE, CADENCE_HOURS, Times, describe_gap, gaps, hour
from models.dlwp.weather.grid import Orientation
from results.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

MEND = "mend the store or data.path"


@dataclass(frozen=True, slots=True)
class Piece:
    """A variable in one file or store, opened but not read.

    Attributes:
        path: the file or store.
        array: the stored array, its dimensions renamed to time, level, lat and lon.
        times: ``[time]`` of the frames in use.
        rows: ``[time]`` their places along the array's time.
        levels_hpa: in stored order; empty where the file does not say.
        orientation: how its fields are turned.
    """

    path: Path
    array: xr.DataArray
    times: Times
    rows: NDArray[np.intp]
    levels_hpa: tuple[int, ...]
    orientation: Orientation

    def read(self, frames: slice, levels_hpa: tuple[int | None, ...]) -> NDArray[np.float32]:
        """``[time, len(levels_hpa), lat, lon]`` in standard order.

        Raises:
            DataError: the file is damaged.
        """
        chosen: dict[str, Any] = {"time": _as_slice(self.rows[frames])}
        on_levels = "level" in self.array.dims
        if on_levels:
            # A span of levels, of which some are then taken: indexing by a list would do the same.
            places = np.array([self.levels_hpa.index(level or 0) for level in levels_hpa])
            lowest = int(places.min())
            chosen["level"] = slice(lowest, int(places.max()) + 1)
        dims = ("time", "level", "lat", "lon") if on_levels else ("time", "lat", "lon")
        try:
            # Read, then turn: turning what is not yet read makes xarray index point by point, in twenty times the memory.
            values = self.array.isel(chosen).compute().transpose(*dims).values
        except Exception as error:
            span = f"{hour(self.times[frames][0])} to {hour(self.times[frames][-1])}"
            raise DataError(
                f"variable '{self.array.name}' cannot be read, a chunk is damaged: {first_line(error)}",
                where=f"{self.path} ({span})",
                next_step=MEND,
            ) from error
        values = values[:, places - lowest] if on_levels else values[:, None]
        return self.orientation.apply(np.asarray(values, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable over all its years.

    Attributes:
        name: what the store calls it.
        place: the folder or store it lies in.
        pieces: in order of time.
        times: ``[time]`` of all pieces, 6 hours apart inside a segment.
        segment: ``[time]`` where the store has such a coordinate.
        thinned: the store has more stamps than one every 6 hours.
    """

    name: str
    place: Path
    pieces: tuple[Piece, ...]
    times: Times
    segment: NDArray[np.int64] | None
    thinned: bool

    def read(self, start: int, stop: int, levels_hpa: tuple[int | None, ...]) -> NDArray[np.float32]:
        """Frames ``start .. stop - 1``, ``[time, len(levels_hpa), lat, lon]``.

        Raises:
            DataError: a file is damaged.
        """
        blocks, before = [], 0
        for piece in self.pieces:
            frames = slice(max(start - before, 0), min(stop - before, len(piece.rows)))
            if frames.start < frames.stop:
                blocks.append(piece.read(frames, levels_hpa))
            before += len(piece.rows)
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    @property
    def key(self) -> tuple[Path, str]:
        """What tells it from others."""
        return self.place, self.name

    def path_at(self, frame: int) -> Path:
        """The file that holds a frame."""
        ends = np.cumsum([len(piece.rows) for piece in self.pieces])
        return self.pieces[int(np.searchsorted(ends, frame, side="right"))].path

    def between(self, first: np.datetime64, last: np.datetime64) -> Variable:
        """The frames from ``first`` to ``last``, both counted."""

        def inside(times: Times) -> NDArray[np.bool_]:
            return (times >= first) & (times <= last)

        pieces = [
            replace(piece, times=piece.times[inside(piece.times)], rows=piece.rows[inside(piece.times)]) for piece in self.pieces
        ]
        kept = inside(self.times)
        segment = None if self.segment is None else self.segment[kept]
        return replace(self, pieces=tuple(piece for piece in pieces if len(piece.rows)), times=self.times[kept], segment=segment)


def check_times(name: str, pieces: list[Piece], times: Times, segment: NDArray[np.int64] | None, place: Path) -> None:
    """Hold the times of all pieces against each other.

    Raises:
        DataError: two files overlap, frames are not 6 hours apart, or some are missing and no segment explains it.
    """
    for piece, after in zip(pieces[:-1], pieces[1:], strict=True):
        if after.times[0] <= piece.times[-1]:
            what = f"variable '{name}' has {hour(after.times[0])} in {piece.path.name} and in {after.path.name}"
            raise DataError(what, where=str(place), next_step="keep one of the files")
    steps = np.diff(times)
    if len(steps) and np.median(steps.astype(np.int64)) != CADENCE / np.timedelta64(1, "ns"):
        hours = np.median(steps.astype(np.int64)) / 3.6e12
        raise DataError(
            f"variable '{name}' has a frame every {hours:g} h; one every {CADENCE_HOURS} h is needed",
            where=str(place),
            next_step=f"give frames every {CADENCE_HOURS} h or more often",
        )
    lacking = gaps(times, segment)
    if lacking:
        listed = ", ".join(describe_gap(*gap) for gap in lacking[:3])
        more = f" and {len(lacking) - 3} more stretches" if len(lacking) > 3 else ""
        raise DataError(
            f"variable '{name}' lacks {listed}{more}",
            where=str(place),
            next_step="add what is missing, or a coordinate segment[time] whose number changes where frames do not follow",
        )


def _as_slice(index: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Evenly spaced indices as a slice, which is read in one piece."""
    steps = np.unique(np.diff(index))
    if len(steps) > 1 or (len(steps) == 1 and steps[0] < 1):
        return index
    return slice(int(index[0]), int(index[-1]) + 1, int(steps[0]) if len(steps) else 1)


def first_line(error: Exception) -> str:
    """What a library said, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
