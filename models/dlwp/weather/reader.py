"""Opens weather: a user's WeatherBench 1 or 2, or generated data in the same layouts.

Whatever the store's order of dimensions, past this door latitudes ascend, longitudes ascend from 0, frames are 6 hours apart,
and units are those of the lexicon (:mod:`models.dlwp.weather.channels`). What cannot be turned into that is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from models.dlwp.weather.calendar import CADENCE, describe_gap, hour
from models.dlwp.weather.channels import GRAVITY, Channel, Role, channels
from models.dlwp.weather.frames import MEMORY_LIMIT_BYTES, Computed, Group, Insolation, Weather
from models.dlwp.weather.grid import WEATHERBENCH, Grid
from models.dlwp.weather.pieces import Variable
from models.dlwp.weather.plausible import units_problem
from models.dlwp.weather.sources import FORMATS, Store
from results.errors import ConfigError, DataError, near_matches

__all__ = ["FORMATS", "MEMORY_LIMIT_BYTES", "UNITS", "Weather", "open_weather"]

#: What ``geopotential`` may hold.
UNITS = ("geopotential", "height")
#: How much later than the others a variable may begin, or end earlier: accumulated ones of ERA5 lack their first 7 hours.
END_HOURS = 24


def open_weather(
    path: str | Path,
    format: str,
    ids: Sequence[str],
    *,
    grid: Grid | None = WEATHERBENCH,
    units: str = "geopotential",
    insolation: Insolation | None = None,
) -> Weather:
    """Open a store and hold it against what is wanted: variables, levels, axes, times, and the values of the first frame.

    Args:
        path: the folder with one directory a variable, or the zarr store.
        format: ``data.format``: ``wb1_netcdf``, ``wb1_zarr`` or ``wb2_zarr``.
        ids: prescribed and prognostic channels; constant ones are read by :meth:`Weather.constants`.
        grid: the only grid that is accepted; None for any known kind.
        units: ``height`` where ``geopotential`` holds geopotential height in m.
        insolation: supplies ``tisr`` where the store has none.

    Raises:
        ConfigError: an unknown channel, format or kind of units, or a constant channel.
        DataError: a variable, level, year or frame is missing; grid, dimensions, cadence or units are wrong; a file is damaged;
            a value is not finite or not possible. The message names store and variable.
    """
    if units not in UNITS:
        raise ConfigError(f"data.units is '{units}'{near_matches(units, UNITS)}", where="data.units")
    entries = channels(ids)
    for entry in entries:
        if entry.role is Role.CONSTANT:
            raise ConfigError(f"channel '{entry.id}' is constant and has no frames", where="data.variables")
    store = Store(Path(path), format, grid)
    notes: list[str] = []
    members: dict[tuple[Path, str], list[Channel]] = {}
    variables: dict[tuple[Path, str], Variable] = {}
    for entry in entries:
        variable = store.find(entry)
        if variable is not None:
            variables[variable.key] = variable
            members.setdefault(variable.key, []).append(entry)
        elif entry.id != "tisr" or insolation is None:
            raise store.missing(entry)
    if not variables or store.grid is None:
        raise ConfigError("no channel is wanted whose frames say what times there are", where="data.variables")
    variables = _align(variables, notes)
    times = next(iter(variables.values())).times
    groups = [_group(together, variables[key], units, notes) for key, together in members.items()]
    computed = tuple(entry for entry in entries if all(entry not in together for together in members.values()))
    if computed and insolation is not None:
        groups.append(Group(computed, Computed(insolation, times, store.grid)))
        notes.append("tisr is not in the store: insolation at the top of the atmosphere is computed")
    segments = [variable.segment for variable in variables.values() if variable.segment is not None]
    segment = segments[0] if segments else np.zeros(len(times), np.int64)
    notes += _turned(variables.values())
    weather = Weather(store, groups, tuple(ids), times, segment, store.grid, tuple(notes))
    weather.read(0, 1)
    return weather


def _align(variables: dict[tuple[Path, str], Variable], notes: list[str]) -> dict[tuple[Path, str], Variable]:
    """Cut all variables to the times they share.

    Raises:
        DataError: one begins or ends far from the others, or lacks a frame that another has.
    """
    by_name = sorted(variables.values(), key=lambda variable: variable.name)
    earliest = min(by_name, key=lambda variable: variable.times[0])
    latest = max(by_name, key=lambda variable: variable.times[-1])
    for variable in by_name:
        for first, last, other in (
            (earliest.times[0], variable.times[0] - CADENCE, earliest),
            (variable.times[-1] + CADENCE, latest.times[-1], latest),
        ):
            if first <= last:
                what = f"variable '{variable.name}' lacks {describe_gap(first, last)}, which variable '{other.name}' has"
                if last - first >= np.timedelta64(END_HOURS, "h"):
                    raise DataError(what, where=str(variable.place), next_step="add what is missing")
                notes.append(f"{what}: left out")
    first = max(variable.times[0] for variable in by_name)
    last = min(variable.times[-1] for variable in by_name)
    cut = {key: variable.between(first, last) for key, variable in variables.items()}
    reference = cut[earliest.key].times
    for variable in cut.values():
        odd = np.setxor1d(variable.times, reference)
        if len(odd):
            raise DataError(
                f"of variables '{variable.name}' and '{earliest.name}' only one has the frame of {hour(odd[0])}",
                where=str(variable.place),
                next_step="add the frames that are missing",
            )
    return cut


def _group(entries: list[Channel], variable: Variable, units: str, notes: list[str]) -> Group:
    """Channels of one variable, their units held against its first frame.

    Raises:
        DataError: the units are others.
    """
    height = units == "height" and entries[0].variable == "z"
    fields = variable.read(0, 1, tuple(entry.level_hpa for entry in entries))[0]
    for field, entry in zip(fields, entries, strict=True):
        what, next_step = units_problem(field, entry, height=height)
        if what:
            where = str(variable.path_at(0))
            raise DataError(f"variable '{variable.name}' (channel {entry.id}): {what}", where=where, next_step=next_step)
    if height:
        notes.append(f"geopotential height is multiplied by {GRAVITY}")
    return Group(tuple(entries), variable, GRAVITY if height else 1.0)


def _turned(variables: Iterable[Variable]) -> list[str]:
    """What is done to every frame, in words."""
    notes = []
    pieces = [piece for variable in variables for piece in variable.pieces]
    if any(piece.orientation.flip for piece in pieces):
        notes.append("latitudes are stored from north to south: rows are turned round")
    if any(piece.orientation.roll for piece in pieces):
        notes.append("longitudes are not stored from 0: columns are rolled")
    if any(variable.thinned for variable in variables):
        notes.append("frames are stored more often than every 6 h: those at 0, 6, 12 and 18 h are taken")
    return notes
