"""Axes in closed form, areas that cover the sphere, and stored grids whichever way round they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dlwp.weather.grid import (
    WEATHERBENCH,
    Grid,
    axis_problem,
    cell_areas,
    equiangular,
    gaussian,
    gaussian_latitudes,
    latitude_weights,
    orient,
)
from results.errors import DataError

GRIDS = {
    "5.625": WEATHERBENCH,
    "1.5": equiangular(121, poles=True),
    "0.25": equiangular(721, poles=True),
    "T21": gaussian(32),
    "oblong": equiangular(18, 24),
}


def test_the_papers_grid() -> None:
    assert WEATHERBENCH.shape == (32, 64)
    assert str(WEATHERBENCH) == "32 x 64 equiangular cell centres"
    assert WEATHERBENCH.latitudes[[0, 1, -1]].tolist() == [-87.1875, -81.5625, 87.1875]
    assert WEATHERBENCH.longitudes[[0, 1, -1]].tolist() == [0.0, 5.625, 354.375]


def test_shapes_of_known_grids() -> None:
    assert GRIDS["1.5"].shape == (121, 240)
    assert GRIDS["0.25"].shape == (721, 1440)
    assert GRIDS["0.25"].latitudes[[0, 1, -1]].tolist() == [-90.0, -89.75, 90.0]


def test_gaussian_latitudes() -> None:
    """Two points: sin(lat) = +- 1/sqrt(3); T21: 85.7606 degrees; the rule is exact for polynomials up to degree 2n - 1."""
    assert gaussian_latitudes(2)[0] == pytest.approx([-35.264389682754654, 35.264389682754654])
    latitudes, weights = gaussian_latitudes(32)
    assert latitudes[-1] == pytest.approx(85.7606, abs=1e-4)
    sines = np.sin(np.radians(latitudes))
    for degree in (0, 2, 30, 62):
        assert (weights * sines**degree).sum() == pytest.approx(2 / (degree + 1), abs=1e-14)


@pytest.mark.parametrize("number", [32, 64, 180])
def test_latitude_weights_are_cell_areas(number: int) -> None:
    """Between edges lat -+ d/2 lies sin(lat + d/2) - sin(lat - d/2) = 2 sin(d/2) cos(lat)."""
    grid = equiangular(number)
    weights, areas = latitude_weights(grid.latitudes), cell_areas(grid)
    assert np.abs(weights / (areas / areas.mean()) - 1).max() < 1e-14
    assert weights.mean() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("name", GRIDS)
def test_areas_cover_the_sphere(name: str) -> None:
    areas = cell_areas(GRIDS[name])
    assert (areas > 0).all()
    assert areas.sum() * GRIDS[name].shape[1] == pytest.approx(4 * np.pi, rel=1e-14)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("west", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stored_axes_are_recognised_and_turned(name: str, flip: bool, west: bool, dtype: type) -> None:
    grid = GRIDS[name]
    latitude, longitude = np.meshgrid(grid.latitudes, grid.longitudes, indexing="ij")
    rows = grid.latitudes[::-1] if flip else grid.latitudes
    columns = np.sort(np.where(grid.longitudes >= 180, grid.longitudes - 360, grid.longitudes)) if west else grid.longitudes
    for expected in (None, grid):
        found = orient(rows.astype(dtype), columns.astype(dtype), where="here", grid=expected)
        assert (found.flip, found.roll > 0) == (flip, west)
        assert found.grid.same_as(grid)
        assert found.grid.kind == grid.kind
        stored_latitude, stored_longitude = np.meshgrid(rows, columns, indexing="ij")
        assert np.array_equal(found.apply(stored_latitude), latitude)
        assert np.allclose(np.mod(found.apply(stored_longitude), 360), longitude)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 200), st.integers(1, 100), st.booleans(), st.integers(0, 10**6))
def test_turning_puts_every_value_in_its_place(rows: int, half_columns: int, flip: bool, start: int) -> None:
    columns = 2 * half_columns
    grid = equiangular(rows, columns)
    shift = start % columns
    stored = np.roll(grid.longitudes, -shift)
    stored = np.where(stored < stored[0], stored + 360, stored)  # ascending from anywhere
    latitudes = grid.latitudes[::-1] if flip else grid.latitudes
    found = orient(latitudes, stored, where="here", grid=grid)
    fields = latitudes[:, None] + 1000.0 * np.mod(stored, 360)
    assert np.allclose(found.apply(fields), grid.latitudes[:, None] + 1000.0 * grid.longitudes)


def degrees(*values: float) -> np.ndarray:
    return np.array(values)


@pytest.mark.parametrize(
    ("latitudes", "longitudes", "grid", "says"),
    [
        (WEATHERBENCH.latitudes[:-1], WEATHERBENCH.longitudes, WEATHERBENCH, "31 values from -87.1875 to 81.5625 instead of 32"),
        (np.linspace(-90, 90, 32), WEATHERBENCH.longitudes, WEATHERBENCH, "latitudes .* value 0 is -90 instead of -87.1875"),
        (gaussian(32).latitudes, WEATHERBENCH.longitudes, WEATHERBENCH, "latitudes .* instead of"),
        (WEATHERBENCH.latitudes, WEATHERBENCH.longitudes[:-1], WEATHERBENCH, "longitudes .* 63 values"),
        (WEATHERBENCH.latitudes, WEATHERBENCH.longitudes + 1, WEATHERBENCH, "longitudes .* value 0 is 1 instead of 0"),
        (WEATHERBENCH.latitudes, WEATHERBENCH.longitudes[::-1], WEATHERBENCH, "longitudes .* does not ascend"),
        (WEATHERBENCH.latitudes, np.linspace(0, 360, 65), WEATHERBENCH, "longitudes .* does not ascend"),
        (WEATHERBENCH.latitudes[[0, 2, 1, *range(3, 32)]], WEATHERBENCH.longitudes, None, "latitudes .* does not ascend"),
        (degrees(-80, -10, 30, 80), degrees(0, 90, 180, 270), None, "spaced unevenly, 40 to 70"),
        (degrees(10, 20, 30), degrees(0, 120, 240), None, "3 values from 10 to 30"),
        (degrees(0), degrees(0), None, "1 values"),
        (degrees(-45, np.nan), degrees(0, 180), None, "1 of them finite"),
        (degrees(-45, 45), degrees(0, 90, 180), None, "value 2 is 180 instead of 240"),
    ],
)
def test_foreign_grids_are_refused(latitudes: np.ndarray, longitudes: np.ndarray, grid: Grid | None, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        orient(latitudes, longitudes, where="store, variable 'z'", grid=grid)
    assert caught.value.where == "store, variable 'z'"
    assert "regrid" in caught.value.next_step


def test_an_axis_in_order() -> None:
    assert axis_problem(WEATHERBENCH.latitudes) == ""
    assert axis_problem(WEATHERBENCH.latitudes, WEATHERBENCH.latitudes + 5e-5) == ""
    assert "spaced unevenly" in axis_problem(gaussian(32).latitudes)
