"""Statistics, climatology, training windows and first dates of forecasts, on small made-up stores; simulated years."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.dlwp.weather import windows
from models.dlwp.weather.calendar import CADENCE
from models.dlwp.weather.channels import CONSTANTS, PRESCRIBED, PROGNOSTIC, channel
from models.dlwp.weather.config import Data
from models.dlwp.weather.data import AtmosphereStore, Member, open_period
from models.dlwp.weather.grid import equiangular
from models.dlwp.weather.layouts import WeatherBench2
from models.dlwp.weather.reader import Weather, open_weather
from models.dlwp.weather.windows import (
    Statistics,
    TrainWindows,
    computed_statistics,
    constant_statistics,
    forecast_starts,
    monthly_climatology,
    published_statistics,
    valid_times,
)
from models.system import Draw
from results.errors import ConfigError, DataError
from tests.models.dlwp.weather import samples

GRID = equiangular(4)
IDS = ("tisr", "t850", "u10", "z500")


def stretch(first: str, frames: int) -> NDArray[np.datetime64]:
    return np.datetime64(first, "ns") + CADENCE * np.arange(frames)


#: Two simulations: twelve days across a new year, five days of March two years later.
TIMES = np.concatenate([stretch("1979-12-24", 48), stretch("1982-03-29", 20)])
SEGMENT = np.repeat([3, 7], [48, 20])


def made_up() -> samples.Fields:
    """No two values alike; temperature does not change at all."""
    random = np.random.default_rng(0)
    fields = {}
    for name in IDS:
        entry = channel(name)
        noise = random.uniform(-0.5, 0.5, (len(TIMES), *GRID.shape))
        fields[name] = (entry.mean + entry.std * noise + (2e6 if name == "tisr" else 0)).astype(np.float32)
    fields["t850"][:] = 270.5
    return fields


MADE = made_up()
WHOLE = samples.stack(MADE, IDS)


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Weather:
    folder = tmp_path_factory.mktemp("weather")
    layout = WeatherBench2(times=TIMES, ids=IDS, grid=GRID, segment=SEGMENT, chunk_frames=17)
    fixed = {"orography": np.arange(32, dtype=np.float32).reshape(4, 8), "lsm": np.eye(4, 8, dtype=np.float32)}
    return open_weather(samples.write(layout, folder, MADE, fixed), "wb2_zarr", IDS, grid=GRID)


@pytest.mark.parametrize("block", [7, 34, 256])
def test_statistics_are_numpys(weather: Weather, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over time and points; a channel that does not change is divided by 1."""
    monkeypatch.setattr(windows, "BLOCK_FRAMES", block)
    found = computed_statistics(weather)
    wide = WHOLE.astype(np.float64)
    np.testing.assert_allclose(found.mean[:, 0, 0], wide.mean((0, 2, 3)), rtol=1e-6)
    expected = wide.std((0, 2, 3))
    assert expected[1] == 0
    np.testing.assert_allclose(found.std[:, 0, 0], np.where(expected > 0, expected, 1), rtol=1e-6)
    assert (found.mean.shape, found.mean.dtype, found.std.dtype) == ((4, 1, 1), np.float32, np.float32)


@pytest.mark.parametrize("block", [7, 256])
def test_monthly_climatology_is_numpys(weather: Weather, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of each month at each point; of months that never came, the mean over all frames."""
    monkeypatch.setattr(windows, "BLOCK_FRAMES", block)
    found = monthly_climatology(weather)
    assert (found.shape, found.dtype) == ((12, 4, *GRID.shape), np.float32)
    month = [int(str(time)[5:7]) for time in TIMES]
    for number in range(1, 13):
        there = np.array(month) == number
        assert there.any() == (number in (1, 3, 4, 12))
        expected = WHOLE[there] if there.any() else WHOLE
        np.testing.assert_allclose(found[number - 1], expected.mean(0, dtype=np.float64), rtol=1e-6)


def test_published_statistics() -> None:
    table = {
        "tisr": (1074504.8, 1439846.4), "t850": (274.518799, 15.591469), "t2m": (278.44608, 21.24761),
        "u10": (-0.09109575, 5.547917), "v10": (0.2246149, 4.7760262), "z300": (89399.90625, 5087.197266),
        "z500": (54107.867188, 3349.03125), "z700": (28924.949219, 2132.567627), "z1000": (738.503784, 1069.619141),
        "orography": (379.4976, 859.87225), "lsm": (0, 1), "lat2d": (0, 51.936146), "lon2d": (177.1875, 103.910362),
    }  # fmt: skip
    ids = (*PRESCRIBED, *PROGNOSTIC, *CONSTANTS)
    assert set(ids) == set(table)
    found = published_statistics(ids)
    np.testing.assert_allclose(found.mean[:, 0, 0], [table[name][0] for name in ids], rtol=1e-6)
    np.testing.assert_allclose(found.std[:, 0, 0], [table[name][1] for name in ids], rtol=1e-6)
    assert published_statistics([]).mean.shape == (0, 1, 1)
    with pytest.raises(ConfigError, match="of 'z200' were published") as caught:
        published_statistics(["z500", "z200"])
    assert (caught.value.where, caught.value.next_step) == ("data.statistics", "data.statistics=computed")


def test_statistics_of_constants_leave_masks_alone(weather: Weather) -> None:
    fixed = weather.constants(CONSTANTS)
    found = constant_statistics(fixed, CONSTANTS, published=False)
    mask = CONSTANTS.index("lsm")
    for index in range(4):
        mean, std = (0, 1) if index == mask else (fixed[index].mean(), fixed[index].std())
        assert found.mean[index, 0, 0] == pytest.approx(mean, rel=1e-6, abs=1e-5)
        assert found.std[index, 0, 0] == pytest.approx(std, rel=1e-6)
    assert np.array_equal(found.normalise(fixed)[mask], fixed[mask])
    assert constant_statistics(fixed, CONSTANTS, published=True).mean[0, 0, 0] == np.float32(379.4976)
    for published in (False, True):
        assert constant_statistics(fixed[:0], [], published=published).normalise(fixed[:0]).shape == (0, 4, 8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(0.1, 1e4)), min_size=1, max_size=4), st.integers(0, 99))
def test_restoring_undoes_normalising(pairs: list[tuple[float, float]], seed: int) -> None:
    mean, std = np.array(pairs, np.float32).T[..., None, None]
    statistics = Statistics(mean, std)
    normal = np.random.default_rng(seed).standard_normal((2, len(pairs), 3, 5)).astype(np.float32)
    restored = statistics.restore(torch.from_numpy(normal)).numpy()
    assert np.allclose(restored, normal * std + mean, rtol=1e-6)
    assert np.allclose(statistics.normalise(restored), normal, atol=1e-5 + 2e-7 * np.abs(mean / std).max())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 9), st.integers(0, 4), st.data())
def test_windows_hold_what_was_written_and_cross_no_segment(
    weather: Weather, length: int, stride: int, prescribed: int, data: st.DataObject
) -> None:
    """Every window is one of those that fit into a segment, its values those of the store."""
    statistics, constants = Statistics(*np.float32([[[[2.0]]], [[[4.0]]]])), np.ones((2, 4, 8), np.float32)
    made = TrainWindows(weather, statistics, constants, prescribed=prescribed, length=length, stride=stride)
    fitting = [*range(0, 48 - length + 1, stride), *range(48, 68 - length + 1, stride)]
    assert made.num_samples == len(fitting)
    if not fitting:
        return
    chosen = data.draw(st.lists(st.integers(0, len(fitting) - 1), min_size=1, max_size=3))
    batch = made.batch([Draw(sample=index, key=0) for index in chosen])
    expected = np.stack([(WHOLE[fitting[index] :][:length] - 2) / 4 for index in chosen])
    assert len({int(SEGMENT[fitting[index] + place]) for index in chosen[:1] for place in range(length)}) == 1
    assert np.array_equal(batch["prescribed"].numpy(), expected[:, :, :prescribed])
    assert np.array_equal(batch["prognostic"].numpy(), expected[:, :, prescribed:])
    assert batch["constants"].shape == (len(chosen), 2, 4, 8)
    assert all(tensor.dtype == torch.float32 for tensor in batch.values())


@dataclass
class Frames:
    """What first dates are chosen by."""

    times: NDArray[np.datetime64]
    segment: NDArray[np.int64]

    @classmethod
    def of(cls, *stretches: tuple[str, int]) -> Frames:
        times = np.concatenate([stretch(*one) for one in stretches])
        return cls(times, np.repeat(np.arange(len(stretches)), [frames for _, frames in stretches]))


PUBLISHED = Frames.of(("2017-01-01", 730 * 4))


@pytest.mark.parametrize(("frames", "dates"), [(57, 205), (1461, 104)])
def test_published_first_dates(frames: int, dates: int) -> None:
    """Twice a week: 205 forecasts of 14 days, 104 of a year; the first two on 1 and 4 January 2017."""
    starts = forecast_starts(PUBLISHED, Data(), frames=frames, wanted=0)
    assert len(starts) == dates
    assert PUBLISHED.times[starts[:2]].tolist() == np.array(["2017-01-01", "2017-01-04"], "datetime64[ns]").tolist()
    assert starts[-1] + frames <= len(PUBLISHED.times)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300))
def test_thinning_is_even(wanted: int) -> None:
    """As many as wanted, no date twice, the first and the last among them, gaps alike but for rounding."""
    everyone = forecast_starts(PUBLISHED, Data(), frames=57, wanted=0).tolist()
    found = forecast_starts(PUBLISHED, Data(), frames=57, wanted=wanted).tolist()
    assert len(found) == len(set(found)) == min(wanted, 205)
    places = [everyone.index(start) for start in found]
    assert places[0] == 0
    assert places == sorted(places)
    if wanted > 1:
        assert places[-1] == 204
        assert np.ptp(np.diff(places)) <= 1


def test_no_forecast_begins_or_ends_beyond_a_break_and_none_twice() -> None:
    """Twenty days of two years; the year after the gap begins on a date of the weekly rhythm."""
    frames = Frames.of(("1981-01-01", 80), ("1984-01-01", 80))
    data = Data(test=["1981-01-01", "1984-01-20"])
    starts = forecast_starts(frames, data, frames=21, wanted=0)
    dates = [str(time)[:10] for time in frames.times[starts]]
    early = ["1981-01-01", "1981-01-04", "1981-01-08", "1981-01-11", "1981-01-15"]
    assert dates == [*early, "1984-01-01", "1984-01-05", "1984-01-08", "1984-01-12"]
    for start in starts:
        assert frames.segment[start] == frames.segment[start + 20]
    late = forecast_starts(frames, data, frames=21, wanted=0, whole=False)
    assert [str(time)[:10] for time in frames.times[late]][5:7] == ["1981-01-18", "1984-01-01"]
    assert set(starts) < set(late)
    with pytest.raises(DataError, match="no forecast of 20 days begins and ends within 1981-01-01 to 1984-01-20") as caught:
        forecast_starts(frames, data, frames=81, wanted=0)
    assert caught.value.where == "data.test"


def test_a_forecast_stays_in_its_simulation_where_the_next_follows_without_a_gap() -> None:
    frames = Frames.of(("1981-01-01", 40), ("1981-01-11", 40))
    starts = forecast_starts(frames, Data(test=["1981-01-01", "1981-01-20"]), frames=13, wanted=0)
    assert starts.tolist() == [0, 12, 40, 56]


def test_a_context_needs_frames_before_the_first_date() -> None:
    frames = Frames.of(("1981-01-01", 80))
    data = Data(test=["1981-01-01", "1981-01-20"])
    alone = forecast_starts(frames, data, frames=21, wanted=0)
    assert alone.tolist() == [0, 12, 28, 40]
    assert forecast_starts(frames, replace(data, context=3), frames=21, wanted=0).tolist() == [12, 28, 40]
    # A period of a longer stretch: frames before it may be context, and dates count from its own first day.
    later = replace(data, test=["1981-01-03", "1981-01-12"], context=3)
    assert forecast_starts(frames, later, frames=21, wanted=0).tolist() == [8, 20]
    assert forecast_starts(frames, later, frames=1, wanted=0).tolist() == [8, 20, 36]


def test_forecasts_reach_beyond_the_end() -> None:
    frames = Frames.of(("1981-12-30", 8))
    times = valid_times(frames, 6, 4)
    expected = ["1981-12-31T18", "1982-01-01T00", "1982-01-01T06", "1982-01-01T12"]
    assert [str(np.datetime_as_string(time, unit="h")) for time in times] == expected


def test_whole_years_of_validation_and_test_follow_on(tmp_path: Path) -> None:
    """2015 has 365 days and 2016 follows; training years are simulated apart, and so is a year after a leap year."""
    year = 365 * 4
    spec = AtmosphereStore(Data(train=["2012-01-01", "2014-12-31"], test=["2016-12-31", "2019-12-31"]))
    assert spec.members == [
        *(Member(2012 + number, number * year, year) for number in range(3)),
        Member(2015, 3 * year, 2 * year),
        Member(2017, 5 * year, 3 * year),
    ]
    layout = spec.layout()
    assert (np.diff(layout.times) > 0).all()
    for number, member in enumerate(spec.members):
        times = layout.times[layout.segment == number]
        assert (np.diff(times) == np.timedelta64(6, "h")).all()
        assert str(times[0])[:13] == f"{member.year}-01-01T00"
    short = AtmosphereStore(replace(spec.data, days=364))
    assert [member.frames for member in short.members] == [4 * 364] * 8
    # A year that two periods share is simulated once, also where it followed on.
    shared = AtmosphereStore(
        Data(train=["2010-01-01", "2010-12-31"], val=["2013-01-01", "2014-06-30"], test=["2014-07-01", "2015-12-31"])
    )
    assert shared.members == [Member(2010, 0, year), Member(2013, year, 3 * year)]
    assert (np.diff(shared.layout().times) > 0).all()


def build_store(data: Data, root: Path, parts: list[int]) -> Path:
    spec = AtmosphereStore(data)
    place = spec.folder(root)
    place.mkdir(parents=True)
    spec.create(place)
    for part in parts:
        spec.build_part(place, part)
    spec.finish(place)
    return place


@pytest.mark.parametrize("format", ["wb2_zarr", "wb1_netcdf"])
def test_parts_may_be_built_in_any_order(tmp_path: Path, format: str) -> None:
    """Five years are two parts; the second first, and the first again: the same bytes, and no year like another."""
    data = Data(train=["1979-01-01", "1981-01-02"], val=["1982-01-01", "1982-01-02"], test=["1983-01-01", "1983-01-02"])
    data = replace(data, format=format, days=2, spin_up_days=1, latitudes=8, prognostic=["t850", "u10", "z500"])
    assert AtmosphereStore(data).parts == 2
    first = build_store(data, tmp_path / "first", [0, 1])
    second = build_store(data, tmp_path / "second", [1, 0, 1])
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    weather = open_period(data, tmp_path / "first", "train")
    assert weather.segment.tolist() == np.repeat(range(3), 8).tolist()
    assert len({weather.read(8 * year, 8 * year + 1).tobytes() for year in range(3)}) == 3
