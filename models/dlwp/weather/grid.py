"""Latitude-longitude grids: axes, weights and areas, and how a stored grid is recognised and turned the usual way round.

Everywhere past a reader latitudes ascend (south to north) and longitudes ascend from 0 degrees east. Three kinds of rows are
known: equally spaced cell centres (WeatherBench at 5.625 degrees), equally spaced with a row on each pole (1.5 and 0.25
degrees), and Gaussian latitudes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.errors import DataError

#: Stored axes are float32 here and there.
TOLERANCE_DEGREES = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A grid in standard order.

    Attributes:
        latitudes: ``[lat]`` degrees north, ascending.
        longitudes: ``[lon]`` degrees east, 0 first, ascending, equally spaced.
        kind: what its rows are.
    """

    latitudes: NDArray[np.float64]
    longitudes: NDArray[np.float64]
    kind: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.latitudes), len(self.longitudes)

    def __str__(self) -> str:
        return f"{self.shape[0]} x {self.shape[1]} {self.kind}"

    def same_as(self, other: Grid) -> bool:
        """Whether both have the same points."""
        return self.shape == other.shape and bool(np.allclose(self.latitudes, other.latitudes, rtol=0, atol=TOLERANCE_DEGREES))


def equiangular(num_latitudes: int, num_longitudes: int | None = None, *, poles: bool = False) -> Grid:
    """Equally spaced rows: cell centres, or with ``poles`` from -90 to 90. Without ``num_longitudes`` cells are square."""
    places = np.arange(num_latitudes) / (num_latitudes - 1) if poles else (np.arange(num_latitudes) + 0.5) / num_latitudes
    latitudes = 180.0 * places - 90.0
    kind = "equiangular with poles" if poles else "equiangular cell centres"
    return Grid(latitudes, _longitudes(num_longitudes or 2 * (num_latitudes - poles)), kind)


def gaussian(num_latitudes: int, num_longitudes: int | None = None) -> Grid:
    """Rows on the Gaussian latitudes; without ``num_longitudes`` twice as many columns as rows."""
    return Grid(gaussian_latitudes(num_latitudes)[0], _longitudes(num_longitudes or 2 * num_latitudes), "Gaussian")


def gaussian_latitudes(num_latitudes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitudes ``[lat]``, degrees, ascending, whose sines are the zeros of the Legendre polynomial of degree
    ``num_latitudes``, and their quadrature weights ``[lat]`` over the sine of latitude, of sum 2."""
    sines, weights = np.polynomial.legendre.leggauss(num_latitudes)
    return np.degrees(np.arcsin(sines)).astype(np.float64), weights.astype(np.float64)


def _longitudes(num_longitudes: int) -> NDArray[np.float64]:
    return np.arange(num_longitudes, dtype=np.float64) * (360.0 / num_longitudes)


#: The paper's grid: 32 x 64 cell centres, 5.625 degrees.
WEATHERBENCH = equiangular(32)


def latitude_weights(latitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """``cos(lat) / mean(cos(lat))``, ``[lat]``, of mean 1; equal to the areas of cells where rows are equally spaced centres."""
    cosines = np.cos(np.radians(latitudes))
    return cosines / cosines.mean()


def cell_areas(grid: Grid) -> NDArray[np.float64]:
    """Exact area of one cell in each row, ``[lat]``, steradians: the cells' edges lie half-way between rows and on the poles, and
    together they cover the sphere, 4 pi."""
    edges = np.concatenate([[-90.0], 0.5 * (grid.latitudes[1:] + grid.latitudes[:-1]), [90.0]])
    # sin(b) - sin(a), without the cancellation near the poles.
    half, middle = np.radians(np.diff(edges)) / 2, np.radians(edges[1:] + edges[:-1]) / 2
    return 2.0 * np.cos(middle) * np.sin(half) * (2.0 * np.pi / grid.shape[1])


def axis_problem(values: NDArray[np.float64], expected: NDArray[np.float64] | None = None) -> str:
    """What is wrong with an ascending axis, or ``""``.

    Args:
        values: ``[n]`` degrees.
        expected: ``[n]`` where every point is known; without it points must be equally spaced.
    """
    steps = np.diff(values)
    if len(values) < 2 or not np.isfinite(values).all():
        return f"{len(values)} values, {int(np.isfinite(values).sum())} of them finite"
    if not (steps > 0).all():
        return f"does not ascend: {values[np.argmin(steps)]:g} is followed by {values[np.argmin(steps) + 1]:g}"
    span = f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
    if expected is None:
        return "" if np.ptp(steps) <= TOLERANCE_DEGREES else f"{span} are spaced unevenly, {steps.min():g} to {steps.max():g}"
    if len(values) != len(expected):
        return f"{span} instead of {len(expected)} from {expected[0]:g} to {expected[-1]:g}"
    worst = int(np.argmax(np.abs(values - expected)))
    if abs(values[worst] - expected[worst]) > TOLERANCE_DEGREES:
        return f"value {worst} is {values[worst]:g} instead of {expected[worst]:g}"
    return ""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored fields are turned into standard order.

    Attributes:
        grid: the grid in standard order.
        flip: rows are stored from north to south.
        roll: columns before the one at 0 degrees.
    """

    grid: Grid
    flip: bool
    roll: int

    def apply(self, fields: NDArray[np.float32]) -> NDArray[np.float32]:
        """``[..., lat, lon]`` as stored, in standard order; a view where nothing is rolled."""
        if self.flip:
            fields = fields[..., ::-1, :]
        return np.roll(fields, -self.roll, axis=-1) if self.roll else fields


def orient(
    latitudes: NDArray[np.float64], longitudes: NDArray[np.float64], *, where: str, grid: Grid | None = None
) -> Orientation:
    """Recognise stored axes, whichever way round they are.

    Args:
        latitudes: ``[lat]`` as stored, ascending or descending.
        longitudes: ``[lon]`` as stored, ascending from 0 or from -180.
        where: store and variable, for messages.
        grid: the only grid that is accepted; without it any of the known kinds is.

    Raises:
        DataError: the axes are not those of the grid, or of none that is known.
    """
    latitudes, longitudes = np.asarray(latitudes, np.float64), np.asarray(longitudes, np.float64)
    flip = bool(len(latitudes) > 1 and latitudes[0] > latitudes[-1])
    rows = latitudes[::-1] if flip else latitudes
    east = np.mod(longitudes, 360.0)
    east = np.where(east > 360.0 - TOLERANCE_DEGREES, east - 360.0, east)  # a rounding error below 0 is 0
    roll = int(np.argmin(east)) if len(east) else 0
    if grid is None:
        number = len(latitudes)
        known = [equiangular(number), equiangular(number, poles=True), gaussian(number)] if 2 <= number <= 10_000 else []
        kinds = [candidate for candidate in known if not axis_problem(rows, candidate.latitudes)]
        if not kinds:
            what = axis_problem(rows) or f"{number} values from {rows[0]:g} to {rows[-1]:g}"
            raise _wrong("latitudes", what, "cell centres, rows from pole to pole or Gaussian latitudes", where)
        grid = Grid(kinds[0].latitudes, _longitudes(len(longitudes)), kinds[0].kind)
    for name, values, expected in (
        ("latitudes", rows, grid.latitudes),
        ("longitudes", np.roll(east, -roll), grid.longitudes),
    ):
        what = axis_problem(values, expected)
        if what:
            raise _wrong(name, what, f"the grid of {grid}", where)
    return Orientation(grid, flip, roll)


def _wrong(axis: str, what: str, wanted: str, where: str) -> DataError:
    return DataError(
        f"the {axis} are not those of {wanted}: {what}",
        where=where,
        next_step="give data on that grid, or regrid them (conservatively) first",
    )
