"""Frames of weather, opened for reading: ``[time, channel, lat, lon]`` from disk or from memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.dlwp.weather.calendar import Times, day, hour
from models.dlwp.weather.channels import LEXICON, Channel, Role, channels
from models.dlwp.weather.grid import Grid
from models.dlwp.weather.pieces import MEND, Variable
from models.dlwp.weather.plausible import value_problem
from models.dlwp.weather.sources import Store
from results.errors import ConfigError, DataError, near_matches

#: Insolation of one hour, J m-2: (times, latitudes, longitudes) to ``[time, lat, lon]``.
Insolation = Callable[[Times, NDArray[np.float64], NDArray[np.float64]], NDArray[np.floating]]

#: A period below this is read into memory by :meth:`Weather.load`: the paper's channels and training years are 3.6 GiB.
MEMORY_LIMIT_BYTES = 4 * 2**30
#: What is read of one variable at a time.
BLOCK_FRAMES = 1464
BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Computed:
    """Insolation in the place of a stored variable."""

    insolation: Insolation
    times: Times
    grid: Grid
    name: str = "insolation"

    def read(self, start: int, stop: int, levels_hpa: tuple[int | None, ...]) -> NDArray[np.float32]:
        """``[time, 1, lat, lon]``, J m-2."""
        fields = self.insolation(self.times[start:stop], self.grid.latitudes, self.grid.longitudes)
        return np.asarray(fields, np.float32)[:, None]

    def between(self, first: np.datetime64, last: np.datetime64) -> Computed:
        """As that of a variable."""
        return replace(self, times=self.times[(self.times >= first) & (self.times <= last)])

    def path_at(self, frame: int) -> str:
        """Where it comes from."""
        return self.name


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that are read at once: levels of one variable.

    Attributes:
        entries: its channels.
        variable: where they lie.
        factor: what stored values are multiplied by.
    """

    entries: tuple[Channel, ...]
    variable: Variable | Computed
    factor: float = 1.0


class Weather:
    """Frames of one period, opened for reading.

    Attributes:
        ids: prescribed and prognostic channels, in the order they were asked for.
        times: ``[time]`` datetime64[ns].
        segment: ``[time]`` number of each frame's stretch: no window may cross a change.
        grid: points, in standard order.
        notes: what was done to the data on the way, in words.
    """

    def __init__(
        self,
        store: Store,
        groups: Sequence[Group],
        ids: tuple[str, ...],
        times: Times,
        segment: NDArray[np.int64],
        grid: Grid,
        notes: tuple[str, ...],
    ) -> None:
        self._store, self._groups = store, tuple(groups)
        self.ids, self.times, self.segment, self.grid, self.notes = ids, times, segment, grid, notes
        self._memory: NDArray[np.float32] | None = None
        self._land: NDArray[np.bool_] | None = None

    @property
    def latitudes(self) -> NDArray[np.float64]:
        """``[lat]`` degrees north, ascending."""
        return self.grid.latitudes

    @property
    def longitudes(self) -> NDArray[np.float64]:
        """``[lon]`` degrees east, ascending from 0."""
        return self.grid.longitudes

    @property
    def num_bytes(self) -> int:
        """Bytes the period takes in memory as float32."""
        return len(self.times) * len(self.ids) * self.grid.shape[0] * self.grid.shape[1] * 4

    @property
    def in_memory(self) -> bool:
        """Whether :meth:`load` read the whole period."""
        return self._memory is not None

    def read(self, start: int, stop: int, ids: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Frames ``start .. stop - 1``, float32 ``[time, channel, lat, lon]``; a view where they are in memory.

        Args:
            ids: some of :attr:`ids`, in any order; without it all.

        Raises:
            IndexError: there are no such frames.
            ConfigError: a channel was not opened.
            DataError: a file is damaged, or a value is not finite or not possible.
        """
        if not 0 <= start < stop <= len(self.times):
            raise IndexError(f"frames {start} to {stop - 1} lie outside 0 to {len(self.times) - 1}")
        columns = self._columns(self.ids if ids is None else ids)
        if self._memory is not None:
            if columns and columns == list(range(columns[0], columns[-1] + 1)):
                return self._memory[start:stop, columns[0] : columns[-1] + 1]
            return self._memory[start:stop, columns]
        fields = np.empty((stop - start, len(columns), *self.grid.shape), np.float32)
        for group in self._groups:
            wanted = tuple(entry for entry in group.entries if self.ids.index(entry.id) in columns)
            if wanted:
                places = [columns.index(self.ids.index(entry.id)) for entry in wanted]
                fields[:, places] = self._read_group(replace(group, entries=wanted), start, stop)
        return fields

    def constants(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Constant channels, float32 ``[channel, lat, lon]``. ``lat2d`` and ``lon2d`` are made from the axes.

        Raises:
            ConfigError: an unknown channel, or one that is not constant.
            DataError: the store has none, or it is damaged.
        """
        fields = np.empty((len(ids), *self.grid.shape), np.float32)
        for index, entry in enumerate(channels(ids)):
            if entry.role is not Role.CONSTANT:
                raise ConfigError(f"channel '{entry.id}' is not constant but {entry.role}", where="data.variables")
            if entry.id in ("lat2d", "lon2d"):
                fields[index] = self.latitudes[:, None] if entry.id == "lat2d" else self.longitudes
                continue
            stored = self._store.constant(entry)
            if stored is None:
                raise self._store.missing(entry)
            _, what = value_problem(stored[None], entry, self.grid)
            if what:
                raise DataError(f"channel '{entry.id}' has {what}", where=str(self._store.path), next_step=MEND)
            fields[index] = stored
        return fields

    def select(self, first_date: str, last_date: str) -> Weather:
        """The frames of a period; both dates, like 1979-01-02, count whole.

        Raises:
            ConfigError: a date is none, or the last comes before the first.
            DataError: the store begins after the first or ends before the last.
        """
        first, last = day(first_date), day(last_date)
        if last < first:
            raise ConfigError(f"the period {first_date} to {last_date} ends before it begins", where="data.splits")
        dates = self.times.astype("datetime64[D]")
        if first < dates[0] or last > dates[-1]:
            raise DataError(
                f"the period {first_date} to {last_date} is wanted, there is {hour(self.times[0])} to {hour(self.times[-1])}",
                where=str(self._store.path),
                next_step="change data.train, data.val or data.test, or add the missing years",
            )
        kept = np.flatnonzero((dates >= first) & (dates <= last))
        if len(kept) == 0:
            what = f"the store has no frame from {first_date} to {last_date}"
            raise DataError(what, where=str(self._store.path), next_step="change data.train, data.val or data.test")
        begin, end = int(kept[0]), int(kept[-1]) + 1
        times = self.times[begin:end]
        groups = [replace(group, variable=group.variable.between(times[0], times[-1])) for group in self._groups]
        part = Weather(self._store, groups, self.ids, times, self.segment[begin:end], self.grid, self.notes)
        if self._memory is not None:
            part._memory = self._memory[begin:end]
        return part

    def load(self, memory_limit: int = MEMORY_LIMIT_BYTES) -> Weather:
        """Bring the period into memory if it takes at most ``memory_limit`` bytes; a larger one is read from disk window by
        window. A year of one variable is read at a time.

        Raises:
            DataError: as :meth:`read`.
        """
        if self._memory is None and self.num_bytes <= memory_limit:
            memory = np.empty((len(self.times), len(self.ids), *self.grid.shape), np.float32)
            for group in self._groups:
                places = [self.ids.index(entry.id) for entry in group.entries]
                frame_bytes = 4 * len(places) * self.grid.shape[0] * self.grid.shape[1]
                step = max(1, min(BLOCK_FRAMES, BLOCK_BYTES // frame_bytes))
                for start in range(0, len(self.times), step):
                    stop = min(start + step, len(self.times))
                    memory[start:stop, places] = self._read_group(group, start, stop)
            self._memory = memory
        return self

    def _columns(self, ids: Sequence[str]) -> list[int]:
        for name in ids:
            if name not in self.ids:
                raise ConfigError(f"channel '{name}' was not opened{near_matches(name, self.ids)}", where="data.variables")
        return [self.ids.index(name) for name in ids]

    def _read_group(self, group: Group, start: int, stop: int) -> NDArray[np.float32]:
        """``[time, channel of the group, lat, lon]``, checked."""
        times, variable = self.times[start:stop], group.variable
        fields = variable.read(start, stop, tuple(entry.level_hpa for entry in group.entries))
        if group.factor != 1.0:
            fields = fields * np.float32(group.factor)
        for index, entry in enumerate(group.entries):
            frame, what = value_problem(fields[:, index], entry, self.grid, times, self._land_mask)
            if what:
                raise DataError(
                    f"variable '{variable.name}' (channel {entry.id}) has {what}",
                    where=str(variable.path_at(start + frame)),
                    next_step=MEND,
                )
        return fields

    def _land_mask(self) -> NDArray[np.bool_] | None:
        """``[lat, lon]`` where land is, if the store says so."""
        if self._land is None:
            with contextlib.suppress(DataError):  # what is being reported matters more
                stored = self._store.constant(LEXICON["lsm"])
                self._land = None if stored is None else stored > 0.5
        return self._land
