"""Runs a trained model over test dates: block by block of steps, so that a forecast of any length needs the memory of a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.dlwp.weather.atmosphere.insolation import insolation
from models.dlwp.weather.calendar import CADENCE, Times, months
from models.dlwp.weather.mesh import Mesh
from models.dlwp.weather.reader import Weather
from models.dlwp.weather.windows import Statistics
from results.errors import DataError

#: Steps of one call of the model: two days.
BLOCK_STEPS = 8

#: Forecasts block by block: (steps before the block, ``[date, steps of the block, channel, lat, lon]`` in SI units).
Blocks = Iterator[tuple[int, Tensor]]


@dataclass(frozen=True, eq=False)
class Forecaster:
    """Where forecasts come from: a model that makes them, or a store that has them.

    Attributes:
        blocks: called with the frames to begin at and how many steps to go.
        model: None where forecasts are given.
        longest: steps that given forecasts have.
    """

    blocks: Callable[[NDArray[np.int64], int], Blocks]
    model: nn.Module | None = None
    longest: int | None = None

    def reach(self, steps: int) -> int:
        """How many of so many steps there are."""
        return steps if self.longest is None else min(steps, self.longest)


@dataclass(frozen=True, eq=False)
class Scene:
    """What forecasts of a period need besides the model.

    Attributes:
        weather: the period, prescribed channels first.
        statistics: of its channels.
        constants: normalised, ``[K, lat, lon]``.
        prescribed: how many channels are prescribed.
        context: frames a step takes.
    """

    weather: Weather
    statistics: Statistics
    constants: NDArray[np.float32]
    prescribed: int
    context: int
    mesh: Mesh
    device: torch.device

    @property
    def prognostic(self) -> tuple[str, ...]:
        """Ids of what is predicted."""
        return self.weather.ids[self.prescribed :]

    def has(self, start: int, first: int, count: int) -> bool:
        """Whether the period has ``count`` frames from ``first`` steps after ``start`` on, in the same simulation."""
        end = start + first + count
        return end <= len(self.weather.times) and bool(self.weather.segment[start] == self.weather.segment[end - 1])

    def frames(self, start: int, first: int, count: int) -> Tensor:
        """Prognostic fields of these frames, ``[time, channel, lat, lon]``, SI units."""
        begin = start + first
        return torch.from_numpy(np.array(self.weather.read(begin, begin + count, self.prognostic))).to(self.device)

    def forcing(self, start: int, first: int, count: int) -> Tensor:
        """Prescribed fields, normalised; insolation is computed beyond the end of the period.

        Raises:
            DataError: another prescribed channel is not there.
        """
        begin = start + first
        total = int(np.flatnonzero(self.weather.segment == self.weather.segment[start])[-1]) + 1
        parts = []
        ids = self.weather.ids[: self.prescribed]
        if not ids:
            return torch.zeros(count, 0, *self.weather.grid.shape, device=self.device)
        stored = max(min(begin + count, total) - begin, 0)
        if stored:
            parts.append(self.weather.read(begin, begin + stored, ids))
        if stored < count:
            if ids != ("tisr",):
                raise DataError(f"prescribed channels {', '.join(ids)} end before the forecast does", where="data.test")
            times = self.weather.times[start] + CADENCE * np.arange(first + stored, first + count)
            parts.append(np.asarray(insolation(times, self.weather.latitudes, self.weather.longitudes), np.float32)[:, None])
        fields = np.concatenate(parts)
        mean, std = self.statistics.mean[: self.prescribed], self.statistics.std[: self.prescribed]
        return torch.from_numpy(np.asarray((fields - mean) / std, np.float32)).to(self.device)

    def initial(self, start: int) -> Tensor:
        """The context that ends at ``start``, normalised prognostic ``[context, channel, lat, lon]``."""
        fields = self.weather.read(start - self.context + 1, start + 1, self.prognostic)
        mean, std = self.statistics.mean[self.prescribed :], self.statistics.std[self.prescribed :]
        return torch.from_numpy(np.asarray((fields - mean) / std, np.float32)).to(self.device)

    def restore(self, fields: Tensor) -> Tensor:
        """Normalised prognostic fields in SI units."""
        part = Statistics(self.statistics.mean[self.prescribed :], self.statistics.std[self.prescribed :])
        return part.restore(fields)


def forecast(model: nn.Module, scene: Scene, starts: NDArray[np.int64], steps: int, *, noise: Tensor | None = None) -> Blocks:
    """Forecast from several dates together; all ranks call the model equally often.

    Args:
        starts: frames to begin at.
        noise: added to the normalised first state, ``[date, channel, lat, lon]``.
    """
    mesh = scene.mesh
    constants = mesh.enter(torch.from_numpy(scene.constants).to(scene.device)).unsqueeze(0)
    constants = constants.expand(len(starts), *constants.shape[1:])
    frames = torch.stack([scene.initial(int(start)) for start in starts])
    if noise is not None:
        frames = frames + noise.unsqueeze(1)
    newest, state = mesh.enter(frames), None
    for before in range(0, steps, BLOCK_STEPS):
        count = min(BLOCK_STEPS, steps - before)
        first = before - scene.context + 1
        given = torch.stack([scene.forcing(int(start), first, scene.context - 1 + count) for start in starts])
        with torch.no_grad():
            out, (newest, state) = model(constants, mesh.enter(given), newest, count, state, True)
        yield before, scene.restore(mesh.leave(out))


def by_model(model: nn.Module, scene: Scene) -> Forecaster:
    """Forecasts that a model makes."""
    return Forecaster(partial(forecast, model, scene), model)


def climatology_at(times: Times, monthly: NDArray[np.float32], prescribed: int) -> NDArray[np.float32]:
    """The monthly climatology of prognostic channels at some times, ``[time, channel, lat, lon]``."""
    return monthly[months(times), prescribed:]


def perturbations(count: int, shape: tuple[int, ...], scale: float, seed: int) -> Tensor:
    """First-guess errors of an ensemble: smooth noise, ``[count, *shape]``, of standard deviation ``scale`` in every channel.

    White noise is averaged over a few cells three times: what is left has scales that the atmosphere's errors have.
    """
    random = torch.Generator().manual_seed(seed)
    field = torch.randn(count, *shape, generator=random)
    for _ in range(3):
        field = (field + field.roll(1, -1) + field.roll(-1, -1)) / 3
        padded = torch.cat([field[..., :1, :], field, field[..., -1:, :]], dim=-2)
        field = (padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]) / 3
    scaled: Tensor = field * (scale / field.std((-2, -1), keepdim=True))
    return scaled
