"""What a point's data amount to: opened periods, and all that follows from the training period. Kept for the next caller."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.dlwp.weather.config import Data
from models.dlwp.weather.data import open_period
from models.dlwp.weather.forecasting import Scene
from models.dlwp.weather.mesh import mesh_of
from models.dlwp.weather.reader import Weather
from models.dlwp.weather.windows import (
    Statistics,
    computed_statistics,
    constant_statistics,
    monthly_climatology,
    published_statistics,
)
from models.system import Point
from results.store import canonical_json


@dataclass(frozen=True, eq=False)
class Prepared:
    """What follows from the training period alone.

    Attributes:
        constants: normalised, ``[K, lat, lon]``.
        climatology: monthly means, ``[12, channel, lat, lon]``, prescribed channels first.
    """

    train: Weather
    statistics: Statistics
    constants: NDArray[np.float32]
    climatology: NDArray[np.float32]


class _Key:
    """A data section, a root and a period, compared by content."""

    def __init__(self, data: Data, root: Path, period: str) -> None:
        self.data, self.root, self.period = data, root, period
        self._text = canonical_json({"data": vars(data), "root": str(root), "period": period})

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text


def prepared(point: Point) -> Prepared:
    """Open the training period and compute what follows from it."""
    return _prepared(_Key(point.data, point.data_root, "train"))


@lru_cache(maxsize=1)
def _prepared(key: _Key) -> Prepared:
    data = key.data
    train = open_period(data, key.root, "train")
    published = data.statistics == "published"
    statistics = published_statistics(train.ids) if published else computed_statistics(train)
    fixed = train.constants(data.constants)
    constants = constant_statistics(fixed, data.constants, published=published).normalise(fixed)
    return Prepared(train, statistics, constants, monthly_climatology(train))


def opened(point: Point, period: str) -> Weather:
    """A period."""
    return _opened(_Key(point.data, point.data_root, period))


@lru_cache(maxsize=2)
def _opened(key: _Key) -> Weather:
    return open_period(key.data, key.root, key.period)


def test_scene(point: Point, device: torch.device) -> Scene:
    """The test period, ready to be forecast."""
    ready = prepared(point)
    return Scene(
        weather=opened(point, "test"),
        statistics=ready.statistics,
        constants=ready.constants,
        prescribed=len(point.data.prescribed),
        context=point.data.context,
        mesh=mesh_of(point.data, point.variant),
        device=device,
    )
