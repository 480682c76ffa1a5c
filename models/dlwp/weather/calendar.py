"""Frames in time: gaps, segments, windows, dates on which forecasts begin, indices of climatologies.

Times are ``datetime64[ns]``, UTC. A frame is a state every 6 hours, at 0, 6, 12 and 18 h. A segment is a stretch of frames that
follow each other without a gap in the same simulation: no window crosses from one into the next.
"""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

from results.errors import ConfigError

Times = NDArray[np.datetime64]

CADENCE_HOURS = 6
CADENCE = np.timedelta64(CADENCE_HOURS, "h")
#: Days after the first, in each week, on which test forecasts begin.
INITIAL_DAYS = (0, 3)


def on_cadence(times: Times) -> NDArray[np.intp]:
    """Indices of the stamps at 0, 6, 12 and 18 h: every sixth of hourly ones."""
    since_midnight = times - times.astype("datetime64[D]")
    return np.flatnonzero(since_midnight % CADENCE == np.timedelta64(0, "ns"))


def gaps(times: Times, segment: NDArray[np.integer] | None = None) -> list[tuple[np.datetime64, np.datetime64]]:
    """First and last frame that are missing from each gap; a gap between two segments is none."""
    wide = np.diff(times) > CADENCE
    if segment is not None:
        wide &= np.diff(segment) == 0
    return [(times[index] + CADENCE, times[index + 1] - CADENCE) for index in np.flatnonzero(wide)]


def describe_gap(first: np.datetime64, last: np.datetime64) -> str:
    """Name what is missing: ``the years 1981 to 1983``, or ``1981-03-01T06 to 1981-03-04T18``."""
    begins, ends = first.astype("datetime64[Y]"), last.astype("datetime64[Y]")
    whole_years = first == begins and last + CADENCE == ends + np.timedelta64(1, "Y")
    if whole_years:
        return f"the year {begins}" if begins == ends else f"the years {begins} to {ends}"
    return hour(first) if first == last else f"{hour(first)} to {hour(last)}"


def hour(time: np.datetime64) -> str:
    """``1979-01-02T06``."""
    return str(np.datetime_as_string(time, unit="h"))


def day(text: str, *, where: str = "data.splits") -> np.datetime64:
    """A date, ``1979-01-02``, as ``datetime64[D]``.

    Raises:
        ConfigError: it is none.
    """
    try:
        return np.datetime64(date.fromisoformat(str(text)), "D")
    except ValueError:
        raise ConfigError(f"'{text}' is not a date like 1979-01-02", where=where) from None


def window_starts(segment: NDArray[np.integer], length: int, stride: int | None = None) -> NDArray[np.int64]:
    """First frames of all windows that fit into one segment, ascending.

    Args:
        segment: ``[time]`` number of each frame's segment.
        length: frames of a window.
        stride: frames from one start to the next inside a segment; without it windows do not overlap.

    1979-01-02 to 2014-12-31 has 52,592 frames: 10,518 windows of 5. The published loader leaves out the last one.

    Raises:
        ValueError: length or stride is not positive.
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1:
        raise ValueError(f"windows of {length} frames every {stride} frames")
    borders = np.flatnonzero(np.diff(segment)) + 1
    begins = np.concatenate([[0], borders])
    ends = np.concatenate([borders, [len(segment)]])
    starts = [np.arange(begin, end - length + 1, stride) for begin, end in zip(begins, ends, strict=True)]
    return np.concatenate(starts).astype(np.int64)


def initial_dates(first_date: str, last_date: str, frames: int) -> Times:
    """Dates (0 h) on which test forecasts begin: the first day, three days later, and so on every week.

    A forecast of ``frames`` frames, its first state counted, begins while ``frames`` more steps of 6 h do not lead past the last
    date at 0 h. That is stricter than need be by up to a day, and the paper's rule: 2017-01-01 to 2018-12-31 has 205 dates for
    57 frames and 104 for 1461.

    Raises:
        ConfigError: a date is none.
    """
    first, last = day(first_date), day(last_date)
    latest = last.astype("datetime64[ns]") - frames * CADENCE
    weekly = [np.arange(first + offset, last + 1, 7) for offset in INITIAL_DAYS]
    dates = np.sort(np.concatenate(weekly)).astype("datetime64[ns]")
    return dates[dates <= latest]


def months(times: Times) -> NDArray[np.int64]:
    """Month of each time, 0 (January) .. 11: the index into a monthly climatology."""
    return times.astype("datetime64[M]").astype(np.int64) % 12


def days_of_year(times: Times) -> NDArray[np.int64]:
    """Day of each time in its own year, 0 .. 365: the index along ``dayofyear`` (1 .. 366) of a WeatherBench 2 climatology."""
    return (times.astype("datetime64[D]") - times.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)


def hours_of_day(times: Times) -> NDArray[np.int64]:
    """Which of 0, 6, 12 and 18 h each time is, 0 .. 3: the index along ``hour`` of a WeatherBench 2 climatology."""
    return ((times - times.astype("datetime64[D]")) // CADENCE).astype(np.int64)
