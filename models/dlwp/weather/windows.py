"""From frames to normalised samples: statistics and climatology of the training period, training windows, test forecasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.dlwp.weather.calendar import CADENCE, Times, initial_dates, months, window_starts
from models.dlwp.weather.channels import LEXICON
from models.dlwp.weather.reader import Weather
from models.system import Batch, Draw
from results.errors import ConfigError, DataError

Array = NDArray[np.float32]

#: Frames that are summed at a time.
BLOCK_FRAMES = 64


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and standard deviation of every channel, over time and all grid points alike.

    Attributes:
        mean, std: float32 ``[channel, 1, 1]``.
    """

    mean: Array
    std: Array

    def normalise(self, fields: Array) -> Array:
        """``[.., channel, lat, lon]`` in units of the standard deviation."""
        return np.asarray((fields - self.mean) / self.std, np.float32)

    def restore(self, fields: torch.Tensor) -> torch.Tensor:
        """Normalised ``[.., channel, lat, lon]`` in SI units."""
        return fields * torch.as_tensor(self.std).to(fields) + torch.as_tensor(self.mean).to(fields)


def _blocks(weather: Weather) -> Iterator[tuple[int, Array]]:
    for first in range(0, len(weather.times), BLOCK_FRAMES):
        yield first, weather.read(first, min(first + BLOCK_FRAMES, len(weather.times)))


def published_statistics(ids: Sequence[str]) -> Statistics:
    """Those of the paper (training period 1979-2014).

    Raises:
        ConfigError: there are none of a channel.
    """
    pairs = []
    for name in ids:
        entry = LEXICON[name]
        if entry.mean is None or entry.std is None:
            raise ConfigError(
                f"no mean and standard deviation of '{name}' were published",
                where="data.statistics",
                next_step="data.statistics=computed",
            )
        pairs.append((entry.mean, entry.std))
    mean, std = np.array(pairs, np.float32).reshape(-1, 2).T
    return Statistics(mean[:, None, None], std[:, None, None])


def computed_statistics(weather: Weather) -> Statistics:
    """Those of a period."""
    total, squares, count = 0.0, 0.0, 0
    for _, fields in _blocks(weather):
        wide = fields.astype(np.float64)
        total, squares = total + wide.sum((0, 2, 3)), squares + (wide**2).sum((0, 2, 3))
        count += fields.shape[0] * fields.shape[2] * fields.shape[3]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return _whole(np.asarray(mean), np.asarray(std))


def constant_statistics(fields: Array, ids: Sequence[str], *, published: bool) -> Statistics:
    """Of constant channels; a mask between 0 and 1 stays as it is."""
    if published:
        return published_statistics(ids)
    mean, std = fields.mean((1, 2), dtype=np.float64), fields.std((1, 2), dtype=np.float64)
    masks = np.array([LEXICON[name].units == "1" for name in ids])
    return _whole(np.where(masks, 0.0, mean), np.where(masks, 1.0, std))


def _whole(mean: NDArray[np.float64], std: NDArray[np.float64]) -> Statistics:
    std = np.where(std > 0, std, 1.0)
    return Statistics(mean.astype(np.float32)[:, None, None], std.astype(np.float32)[:, None, None])


def monthly_climatology(weather: Weather) -> Array:
    """Mean of every month at every point, ``[12, channel, lat, lon]``; a month without frames has the mean over all."""
    sums = np.zeros((12, len(weather.ids), *weather.grid.shape))
    counts = np.zeros(12)
    month = months(weather.times)
    for first, fields in _blocks(weather):
        for index, frame in enumerate(fields, start=first):
            sums[month[index]] += frame
            counts[month[index]] += 1
    mean = sums.sum(0) / counts.sum()
    with np.errstate(invalid="ignore"):
        return np.where(counts[:, None, None, None] > 0, sums / np.maximum(counts, 1)[:, None, None, None], mean).astype(
            np.float32
        )


class TrainWindows:
    """Windows of consecutive frames, none across a break between simulations.

    Args:
        weather: a period, prescribed channels first.
        prescribed: how many of its channels are prescribed.
        length: frames of a window.
        constants: normalised, ``[K, lat, lon]``.
    """

    def __init__(
        self, weather: Weather, statistics: Statistics, constants: Array, *, prescribed: int, length: int, stride: int
    ) -> None:
        self._weather, self._statistics, self._constants = weather, statistics, constants
        self._prescribed, self._length = prescribed, length
        self._starts = window_starts(weather.segment, length, stride)
        self.num_samples = len(self._starts)

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """``constants [batch, K, lat, lon]``, ``prescribed [batch, length, P, ..]``, ``prognostic [batch, length, C, ..]``."""
        starts = [int(self._starts[draw.sample]) for draw in draws]
        windows = self._statistics.normalise(np.stack([self._weather.read(s, s + self._length) for s in starts]))
        split = self._prescribed
        return {
            "constants": torch.from_numpy(np.broadcast_to(self._constants, (len(draws), *self._constants.shape)).copy()),
            "prescribed": torch.from_numpy(windows[:, :, :split]),
            "prognostic": torch.from_numpy(windows[:, :, split:]),
        }


def forecast_starts(weather: Weather, data: Any, *, frames: int, wanted: int, whole: bool = True) -> NDArray[np.int64]:
    """Frames that forecasts of a period begin at: twice a week (see :func:`initial_dates`), those whose context and targets the
    period has without a break, thinned evenly to the number wanted.

    Args:
        frames: of a forecast, its first state counted.
        wanted: 0 for all.
        whole: False also takes dates whose targets the period does not have to the end.

    Raises:
        DataError: there is none.
    """
    context = data.context
    first, last = (str(date) for date in data.test)
    dates = initial_dates(first, last, frames if whole else 1)
    starts = []
    for date, index in zip(dates, np.searchsorted(weather.times, dates), strict=True):
        begin, end = index - context + 1, index + (frames if whole else 1)
        if begin < 0 or end > len(weather.times) or weather.segment[begin] != weather.segment[end - 1]:
            continue
        if weather.times[end - 1] - weather.times[begin] == (end - 1 - begin) * CADENCE and weather.times[index] == date:
            starts.append(int(index))
    if not starts:
        raise DataError(
            f"no forecast of {(frames - 1) / 4:g} days begins and ends within {first} to {last} without a break",
            where="data.test",
            next_step="data.forecast_days or data.long_days lower, or a longer period",
        )
    found = np.array(starts)
    return thinned(found, wanted) if wanted else found


def thinned(starts: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """So many of some dates, evenly chosen; all where there are not more."""
    if wanted >= len(starts):
        return starts
    return starts[np.linspace(0, len(starts) - 1, wanted).round().astype(int)]


def valid_times(weather: Weather, start: int, steps: int) -> Times:
    """Times of the frames after ``start``, also beyond the period's end."""
    return weather.times[start] + CADENCE * np.arange(1, steps + 1)
