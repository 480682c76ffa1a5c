"""The generated weather: a store that a ``data`` section describes, and the door to it and to a user's own data.

Every calendar year of the three periods is simulated from a start of its own (so that years are independent and can be made in
parallel); years of the validation or test period that are simulated whole follow each other without a break, so that forecasts of
more than a year can be rated. A generated year has at most 365 days.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.dlwp.weather.calendar import CADENCE, CADENCE_HOURS, day
from models.dlwp.weather.grid import Grid, equiangular, gaussian
from models.dlwp.weather.layouts import Layout, WeatherBench1, WeatherBench2
from models.dlwp.weather.reader import Weather, open_weather
from models.stores import StoreSpec

#: Simulations that are stepped together: several cost little more than one.
PART_MEMBERS = 4
YEAR_DAYS = 365
PER_DAY = 24 // CADENCE_HOURS
#: A chunk of a zarr store has at most so many frames.
CHUNK_FRAMES = 100

PERIODS = ("train", "val", "test")


@dataclass(frozen=True)
class Member:
    """One simulation.

    Attributes:
        year: it begins on 1 January of it.
        first_frame: index of its first frame in the store.
        frames: how many it has.
    """

    year: int
    first_frame: int
    frames: int


def grid_of(data: Any) -> Grid:
    """The grid of a ``data`` section."""
    return (gaussian if data.grid == "gaussian" else equiangular)(data.latitudes)


@dataclass(frozen=True)
class AtmosphereStore(StoreSpec):
    """A simulated atmosphere in a layout of WeatherBench.

    Attributes:
        data: the section; only the keys that determine the fields enter the recipe.
    """

    name: ClassVar[str] = "dlwp-atmosphere"  # type: ignore[misc]
    version: ClassVar[int] = 1  # type: ignore[misc]

    data: Any
    recipe: Mapping[str, Any] = field(init=False)
    parts: int = field(init=False)

    def __post_init__(self) -> None:
        data = self.data
        recipe = {
            "years": {name: [int(str(date)[:4]) for date in getattr(data, name)] for name in PERIODS},
            "days": min(data.days, YEAR_DAYS),
            "channels": [*data.prescribed, *data.prognostic],
            "constants": list(data.constants),
            "latitudes": data.latitudes,
            "grid": data.grid,
            "format": data.format,
            "spin_up_days": data.spin_up_days,
            "store_seed": data.store_seed,
        }
        object.__setattr__(self, "recipe", recipe)
        object.__setattr__(self, "parts", -(-len(self.members) // PART_MEMBERS))

    @cached_property
    def members(self) -> list[Member]:
        """All simulations, in order of time."""
        frames, days, latest = 0, self.recipe["days"], None
        found: list[Member] = []
        for name in sorted(PERIODS, key=lambda period: self.recipe["years"][period]):
            first, last = self.recipe["years"][name]
            for year in range(first, last + 1):
                if year == latest:
                    continue  # two periods share a calendar year
                # The year before must have been simulated to its very end: a leap year is not.
                follows = name != "train" and year > first and days == YEAR_DAYS and _days_in(year - 1) == YEAR_DAYS
                if follows:
                    before = found[-1]
                    found[-1] = Member(before.year, before.first_frame, before.frames + days * PER_DAY)
                else:
                    found.append(Member(year, frames, days * PER_DAY))
                frames, latest = frames + days * PER_DAY, year
        return found

    def layout(self) -> Layout:
        """How it lies on disk."""
        times, segment = [], []
        for number, member in enumerate(self.members):
            times.append(np.datetime64(f"{member.year}-01-01", "ns") + CADENCE * np.arange(member.frames))
            segment.append(np.full(member.frames, number))
        shared: dict[str, Any] = {
            "times": np.concatenate(times),
            "segment": np.concatenate(segment),
            "ids": tuple(self.recipe["channels"]),
            "grid": grid_of(self.data),
            "attributes": {
                "title": "Three-level quasi-geostrophic atmosphere on the sphere, T21: generated, not reanalysis",
                "source": "after Marshall and Molteni 1993, analytic forcing",
                "recipe": dict(self.recipe),
                "store_version": self.version,
            },
        }
        if self.data.format == "wb1_netcdf":
            return WeatherBench1(**shared)
        year_frames = self.recipe["days"] * PER_DAY
        chunk = max(size for size in range(1, CHUNK_FRAMES + 1) if year_frames % size == 0)
        return WeatherBench2(**shared, chunk_frames=chunk)

    def create(self, folder: Path) -> None:
        """Lay out metadata, coordinates and constants."""
        from models.dlwp.weather.atmosphere.observables import Observer

        grid = grid_of(self.data)
        constants = Observer(grid.latitudes, grid.shape[1]).constants()
        self.layout().create(folder, {name: constants[name] for name in self.recipe["constants"]})

    def build_part(self, folder: Path, part: int) -> None:
        """Simulate some members together and write their frames.

        Raises:
            DivergedError: a member left the finite numbers.
        """
        import torch

        from models.dlwp.weather.atmosphere.observables import Observer
        from models.dlwp.weather.atmosphere.quasi_geostrophic import simulate

        members = self.members[part * PART_MEMBERS : (part + 1) * PART_MEMBERS]
        layout, grid = self.layout(), grid_of(self.data)
        observer = Observer(grid.latitudes, grid.shape[1])
        seeds = [_seed(self.recipe["store_seed"], member.year) for member in members]
        starts = np.array([f"{member.year}-01-01" for member in members], "datetime64[ns]")
        longest = max(member.frames for member in members)
        states = simulate(seeds, starts, longest, spin_up_days=self.recipe["spin_up_days"])
        # All members are cut into blocks alike; a year is a block of WeatherBench 1, a chunk one of WeatherBench 2.
        lengths = {len(block) for block in layout.blocks()}
        block = lengths.pop() if len(lengths) == 1 else self.recipe["days"] * PER_DAY
        for first in range(0, longest, block):
            psi = torch.stack([next(states) for _ in range(min(block, longest - first))])
            for index, member in enumerate(members):
                count = min(member.frames - first, len(psi))
                if count > 0:
                    begin = member.first_frame + first
                    fields = observer.channels(psi[:count, index], layout.times[begin : begin + count], layout.ids)
                    layout.write(folder, begin, fields)

    def finish(self, folder: Path) -> None:
        """Consolidate metadata."""
        self.layout().finish(folder)


def _days_in(year: int) -> int:
    return int((np.datetime64(f"{year + 1}-01-01") - np.datetime64(f"{year}-01-01")).astype(int))


def _seed(store_seed: int, year: int) -> int:
    return int(np.random.SeedSequence([store_seed, year]).generate_state(1)[0])


def open_period(data: Any, root: Path, period: str) -> Weather:
    """One period of a ``data`` section, prescribed channels first.

    Args:
        root: folder of generated stores.
        period: ``train``, ``val`` or ``test``.

    Raises:
        DataError, ConfigError: as :func:`models.dlwp.weather.reader.open_weather`.
    """
    from models.dlwp.weather.atmosphere.insolation import insolation

    place = Path(data.path or "") if data.source == "path" else AtmosphereStore(data).folder(root)
    ids = [*data.prescribed, *data.prognostic]
    weather = open_weather(place, data.format, ids, grid=grid_of(data), units=data.units, insolation=insolation)
    first, last = (str(date) for date in getattr(data, period))
    if data.source == "generated":  # years may have been simulated in part, and begin on 1 January
        last = min(last, str(weather.times[weather.times < day(last) + np.timedelta64(1, "D")][-1].astype("datetime64[D]")))
    return weather.select(first, last).load()


def frame_bytes(data: Any, frames: int) -> int:
    """Bytes of so many frames in memory."""
    rows, columns = grid_of(data).shape
    return frames * (len(data.prescribed) + len(data.prognostic)) * rows * columns * 4


def period_frames(data: Any, period: str) -> int:
    """Frames of a period, as planned: whole days of every calendar year."""
    first, last = (day(str(date)) for date in getattr(data, period))
    years: NDArray[Any] = np.arange(first.astype("datetime64[Y]"), last.astype("datetime64[Y]") + np.timedelta64(1, "Y"))
    whole = (last - first).astype(int) + 1
    return int(min(whole, len(years) * data.days if data.source == "generated" else whole)) * PER_DAY
