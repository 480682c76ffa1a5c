"""Known counts of the paper's periods, and windows that cross no seam."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.dlwp.weather.calendar import (
    CADENCE,
    days_of_year,
    describe_gap,
    gaps,
    hours_of_day,
    initial_dates,
    months,
    on_cadence,
    window_starts,
)
from results.errors import ConfigError


def period(first: str, stop: str, step: np.timedelta64 = CADENCE) -> np.ndarray:
    return np.arange(np.datetime64(first, "ns"), np.datetime64(stop, "ns"), step)


def test_windows_of_the_training_period() -> None:
    """52,592 frames hold 10,518 windows of 5, 658 batches of 16; the published loader counts (frames - 5) // 5 = 10,517."""
    times = period("1979-01-02", "2015-01-01")
    assert len(times) == 52_592
    starts = window_starts(np.zeros(len(times), int), 5)
    assert len(starts) == 10_518
    assert len(starts) - 1 == (len(times) - 5) // 5 == 10_517
    assert starts[:3].tolist() == [0, 5, 10]


@pytest.mark.parametrize(("frames", "count"), [(57, 205), (1461, 104)])
def test_initial_dates_of_the_test_period(frames: int, count: int) -> None:
    dates = initial_dates("2017-01-01", "2018-12-31", frames)
    assert len(dates) == count
    assert dates[:2].tolist() == period("2017-01-01", "2017-01-05", np.timedelta64(3, "D")).tolist()
    assert set(np.diff(dates).astype("timedelta64[D]").astype(int).tolist()) == {3, 4}
    ends = dates + (frames - 1) * CADENCE
    assert ends.max() <= np.datetime64("2018-12-31T18")


def test_periods_without_initial_dates() -> None:
    assert len(initial_dates("2017-01-01", "2017-01-10", 57)) == 0
    assert len(initial_dates("2017-01-01", "2017-01-01", 1)) == 0
    with pytest.raises(ConfigError, match="'2017-13-01' is not a date"):
        initial_dates("2017-13-01", "2018-12-31", 57)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 12))
def test_windows_cross_no_seam(lengths: list[int], length: int, stride: int) -> None:
    segment = np.repeat(np.arange(len(lengths)) % 2, lengths)  # the numbers may come again
    starts = window_starts(segment, length, stride)
    assert len(starts) == sum(max(0, (frames - length) // stride + 1) for frames in lengths)
    for start in starts:
        assert len(set(segment[start : start + length])) == 1
        assert start + length <= len(segment)
    seams = np.cumsum(lengths)
    assert not any(start < seam < start + length for start in starts for seam in seams)
    assert (np.diff(starts) > 0).all()


def test_windows_that_overlap_or_do_not() -> None:
    segment = np.zeros(11, int)
    assert window_starts(segment, 5).tolist() == [0, 5]
    assert window_starts(segment, 5, 1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert window_starts(segment, 12).tolist() == []
    for length, stride in ((0, 1), (5, 0)):
        with pytest.raises(ValueError, match="windows of"):
            window_starts(segment, length, stride)


def test_every_sixth_of_hourly_stamps() -> None:
    hourly = period("1979-01-01T07", "1979-01-03", np.timedelta64(1, "h"))
    chosen = hourly[on_cadence(hourly)]
    assert chosen.tolist() == period("1979-01-01T12", "1979-01-03").tolist()
    assert len(on_cadence(hourly + np.timedelta64(30, "m"))) == 0


def test_gaps_and_their_names() -> None:
    times = np.concatenate(
        [period("1979-01-01", "1980-01-01"), period("1982-01-01", "1982-03-01"), period("1982-03-02", "1982-04-01")]
    )
    found = gaps(times)
    assert [describe_gap(*gap) for gap in found] == ["the years 1980 to 1981", "1982-03-01T00 to 1982-03-01T18"]
    segment = np.repeat([4, 5], [365 * 4, len(times) - 365 * 4])
    assert [describe_gap(*gap) for gap in gaps(times, segment)] == ["1982-03-01T00 to 1982-03-01T18"]
    year, one = np.datetime64("1981", "ns"), np.datetime64("1981-05-01T06", "ns")
    assert describe_gap(year, np.datetime64("1982", "ns") - CADENCE) == "the year 1981"
    assert describe_gap(one, one) == "1981-05-01T06"
    assert gaps(times[:10]) == []


@given(st.datetimes(min_value=pd.Timestamp("1959-01-01"), max_value=pd.Timestamp("2200-01-01")))
def test_indices_of_climatologies_agree_with_pandas(moment: object) -> None:
    stamp = pd.Timestamp(moment).floor("6h")  # type: ignore[arg-type]
    times = np.array([stamp.to_datetime64()], "datetime64[ns]")
    assert months(times)[0] == stamp.month - 1
    assert days_of_year(times)[0] == stamp.dayofyear - 1
    assert hours_of_day(times)[0] == stamp.hour // 6


def test_days_of_leap_years() -> None:
    times = np.array(["2015-12-31T18", "2016-02-29T00", "2016-03-01T06", "2016-12-31T12"], "datetime64[ns]")
    assert days_of_year(times).tolist() == [364, 59, 60, 365]
    assert months(times).tolist() == [11, 1, 2, 11]
    assert hours_of_day(times).tolist() == [3, 0, 1, 2]
