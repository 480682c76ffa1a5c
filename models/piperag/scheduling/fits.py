"""Straight lines between work and latency of a retriever, and how far measurements lie from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.errors import DataError


@dataclass(frozen=True, slots=True)
class Line:
    """``y = intercept + slope x``.

    Attributes:
        residual: root of the mean squared residual over the points it was fitted to, in units of ``y``.
        points: how many those are.
    """

    intercept: float
    slope: float
    residual: float
    points: int

    def __call__(self, x: float) -> float:
        """The line's value."""
        return self.intercept + self.slope * x


def least_squares(x: ArrayLike, y: ArrayLike) -> Line:
    """The line of least squares.

    Raises:
        DataError: fewer than two different ``x``.
    """
    xs, ys = _points(x, y)
    slope, intercept = np.polyfit(xs, ys, 1)
    return _line(float(intercept), float(slope), xs, ys)


def quantile_line(x: ArrayLike, y: ArrayLike, quantile: float) -> Line:
    """The line below which a share ``quantile`` of the points lies, by quantile regression (Koenker and Bassett 1978).

    A retriever that has to answer in time is planned with its slow answers, not with its mean.

    Raises:
        DataError: fewer than two different ``x``.
    """
    from scipy.optimize import linprog

    xs, ys = _points(x, y)
    count = len(xs)
    # Unknown: intercept, slope (both free), and by point what it lies above and below the line.
    costs = np.concatenate([[0.0, 0.0], np.full(count, quantile), np.full(count, 1 - quantile)])
    equal = np.hstack([np.ones((count, 1)), xs[:, None], np.eye(count), -np.eye(count)])
    bounds = [(None, None)] * 2 + [(0, None)] * (2 * count)
    found = linprog(costs, A_eq=equal, b_eq=ys, bounds=bounds, method="highs").x
    return _line(float(found[0]), float(found[1]), xs, ys)


def _points(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.shape != ys.shape or len(np.unique(xs)) < 2:
        raise DataError("a line needs at least two different points", where="profile")
    return xs, ys


def _line(intercept: float, slope: float, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> Line:
    residual = float(np.sqrt(np.mean((intercept + slope * xs - ys) ** 2)))
    return Line(intercept, slope, residual, len(xs))


def relative_error(line: Line, x: Sequence[float], y: Sequence[float]) -> float:
    """Median of ``|prediction - y| / y``."""
    return float(np.median([abs(line(one) - other) / other for one, other in zip(x, y, strict=True)]))
