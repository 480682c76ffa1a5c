"""Holds values against what a channel can be: finite, in range, in the units of the lexicon."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.dlwp.weather.calendar import Times, hour
from models.dlwp.weather.channels import GRAVITY, Channel, looks_like_height
from models.dlwp.weather.grid import Grid

#: Somewhere the sun is always near the zenith: about 5e6 J m-2 in an hour, but 1,400 W m-2.
INSOLATION_PEAK = 1e6


def units_problem(frame: NDArray[np.float32], entry: Channel, *, height: bool = False) -> tuple[str, str]:
    """What is wrong with the units of one whole field ``[lat, lon]`` as stored, and what to do, or two empty strings.

    Args:
        height: it is said to be geopotential height.
    """
    mean, peak = float(np.mean(frame, dtype=np.float64)), float(frame.max())
    if entry.variable == "z" and entry.level_hpa is not None and entry.level_hpa != 1000:
        if looks_like_height(entry.level_hpa, mean) and not height:
            what = f"a mean of {mean:,.0f} on {entry.level_hpa} hPa is that of geopotential height in m"
            return f"{what}; geopotential is {GRAVITY} times as much", "data.units=height multiplies it"
        if height and not looks_like_height(entry.level_hpa, mean):
            what = f"data.units is height, but a mean of {mean:,.0f} on {entry.level_hpa} hPa is that of geopotential"
            return what, "data.units=geopotential"
    if entry.id == "tisr" and peak < INSOLATION_PEAK:
        what = f"a peak of {peak:,.0f} is not that of J m-2 in an hour; W m-2 is 3600 times less"
        return what, "convert the variable"
    return "", ""


def value_problem(
    fields: NDArray[np.float32],
    entry: Channel,
    grid: Grid,
    times: Times | None = None,
    land_mask: Callable[[], NDArray[np.bool_] | None] = lambda: None,
) -> tuple[int, str]:
    """What is wrong with values, and in which frame it is first, or ``(0, "")``.

    Args:
        fields: ``[time, lat, lon]``.
        entry: their channel.
        grid: their points.
        times: ``[time]``, or None of a constant.
        land_mask: called when there is something to say: ``[lat, lon]``, or None where it is not known.
    """
    # A value that is not a number makes both comparisons false.
    if fields.min() >= entry.low and fields.max() <= entry.high:
        return 0, ""
    bad = ~np.isfinite(fields)
    if not bad.any():
        bad = (fields < entry.low) | (fields > entry.high)
        frame, row, column = np.argwhere(bad)[0]
        what = f"{int(bad.sum())} values outside {entry.low:g} to {entry.high:g} {entry.units}"
        return int(frame), f"{what}, the first {fields[frame, row, column]:g} {_place(grid, row, column, times, frame)}"
    land = land_mask()
    on_land = np.zeros_like(bad) if land is None else bad & land
    frame, row, column = np.argwhere(on_land if on_land.any() else bad)[0]
    which = f", {int(on_land.sum())} of them over land" if land is not None else ""
    where = _place(grid, row, column, times, frame)
    return int(frame), f"{int(bad.sum())} values that are not finite{which}, the first {where}"


def _place(grid: Grid, row: int, column: int, times: Times | None, frame: int) -> str:
    when = "" if times is None else f" on {hour(times[frame])}"
    return f"at latitude {grid.latitudes[row]:g}, longitude {grid.longitudes[column]:g}{when}"
