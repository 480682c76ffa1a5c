"""Spherical transforms against scipy's harmonics and the usual quadrature; the layer's symmetries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import assoc_legendre_p_all, sph_harm_y
from torch import Tensor

from models.dlwp.weather.grid import Grid, cell_areas, equiangular, gaussian, gaussian_latitudes, latitude_weights
from models.layers import spherical
from models.layers.spherical import SphericalConv, SphericalTransform, _Convolution, legendre, matrices, transform

CPU = torch.device("cpu")
GRIDS = [equiangular(32), gaussian(32), equiangular(16), gaussian(10)]


def basis_of(grid: Grid, degrees: int, orders: int) -> SphericalTransform:
    return transform(tuple(grid.latitudes.tolist()), grid.shape[1], degrees, orders, CPU)


def analyse(field: Tensor, basis: SphericalTransform) -> Tensor:
    """Complex ``[degree, order * batch, channel]``."""
    return torch.complex(*spherical.analyse(field, basis).unbind(1))


def synthesise(modes: Tensor, basis: SphericalTransform, batch: int) -> Tensor:
    return spherical.synthesise(torch.stack([modes.real, modes.imag], dim=1), basis, batch)


def coefficients(degrees: int, orders: int, batch: int, channels: int, seed: int = 0) -> Tensor:
    """Of a real field: none where the order exceeds the degree, real of order 0."""
    pairs = torch.randn(degrees, orders, batch, channels, 2, generator=torch.Generator().manual_seed(seed))
    pairs[:, 0, ..., 1] = 0
    found = torch.view_as_complex(pairs)
    allowed = torch.arange(degrees)[:, None] >= torch.arange(orders)
    return (found * allowed[..., None, None]).reshape(degrees, orders * batch, channels)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_legendre_functions_are_scipys(grid: Grid) -> None:
    degrees = orders = grid.shape[0]
    colatitude = np.radians(90 - grid.latitudes)
    found = legendre(grid.latitudes, degrees, orders)
    unit = assoc_legendre_p_all(degrees - 1, orders - 1, np.cos(colatitude), norm=True)[0]  # [degree, order, latitude]
    np.testing.assert_allclose(found, unit[:, :orders].transpose(1, 2, 0) / np.sqrt(2 * np.pi), atol=1e-12)
    np.testing.assert_allclose(found[4, :, 7], sph_harm_y(7, 4, colatitude, 0.0).real, atol=1e-13)
    assert all((table[:, :order] == 0).all() for order, table in enumerate(found))


def test_legendre_functions_are_orthonormal() -> None:
    latitudes, weights = gaussian_latitudes(24)
    functions = legendre(latitudes, 24, 24)
    for order, table in enumerate(functions):
        inner = 2 * np.pi * (table * weights[:, None]).T @ table
        np.testing.assert_allclose(inner[order:, order:], np.eye(24 - order), atol=1e-13)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("share", [1.0, 0.66])
def test_a_round_trip_gives_band_limited_fields_back(grid: Grid, share: float) -> None:
    """Float32, up to as many degrees as there are rows; on Gaussian latitudes and on cell centres."""
    degrees = int(grid.shape[0] * share)
    orders = min(degrees, grid.shape[1] // 2)
    basis = basis_of(grid, degrees, orders)
    modes = coefficients(degrees, orders, 2, 3)
    field = synthesise(modes, basis, 2)
    assert (field.shape, field.dtype) == ((grid.shape[1], grid.shape[0], 2, 3), torch.float32)
    again = analyse(field, basis)
    assert relative(again, modes) < 1e-6
    assert relative(synthesise(again, basis, 2), field) < 1e-6


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(GRIDS), st.data())
def test_a_harmonic_has_one_coefficient(grid: Grid, data: st.DataObject) -> None:
    """scipy's harmonic, real part and imaginary part, by its degree and order."""
    degree = data.draw(st.integers(0, grid.shape[0] - 1))
    order = data.draw(st.integers(0, min(degree, grid.shape[1] // 2 - 1)))
    colatitude, longitude = np.meshgrid(np.radians(90 - grid.latitudes), np.radians(grid.longitudes), indexing="ij")
    harmonic = sph_harm_y(degree, order, colatitude, longitude)
    basis = basis_of(grid, grid.shape[0], min(grid.shape))
    field = torch.tensor(np.stack([harmonic.real, harmonic.imag], -1), dtype=torch.float32).permute(1, 0, 2).unsqueeze(2)
    found = analyse(field, basis).view(grid.shape[0], -1, 2)
    half = 1.0 if order == 0 else 0.5  # the other half is that of the opposite order
    expected = torch.zeros_like(found)
    expected[degree, order, 0] = half
    expected[degree, order, 1] = 0 if order == 0 else -0.5j
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_on_gaussian_latitudes_analysis_is_close_to_the_quadrature_and_on_cell_centres_better_than_areas() -> None:
    """Cosines differ from the Gaussian weights by little: so do the matrices. Areas of cells are no exact quadrature."""
    grid = gaussian(32)
    usual = 2 * np.pi * gaussian_latitudes(32)[1] * legendre(grid.latitudes, 32, 32).transpose(0, 2, 1)
    assert np.abs(matrices(grid.latitudes, 64, 32, 32)[1][:, 0] - usual).max() < 2e-3 * np.abs(usual).max()
    cells = equiangular(32)
    functions = legendre(cells.latitudes, 32, 32)
    areas = cell_areas(cells) * 64
    by_areas = [np.abs((table * areas[:, None]).T[m:] @ table[:, m:] - np.eye(32 - m)).max() for m, table in enumerate(functions)]
    exact = [np.abs(matrix[0, m:] @ functions[m, :, m:] - np.eye(32 - m)).max() for m, matrix in enumerate(matrices_of(cells))]
    assert max(by_areas) > 0.1
    assert max(exact) < 1e-12


def matrices_of(grid: Grid) -> NDArray[np.float64]:
    return matrices(grid.latitudes, grid.shape[1], grid.shape[0], grid.shape[0])[1]


def test_the_highest_order_of_an_even_number_of_columns_counts_once() -> None:
    """(-1)^j along longitude has power at order width / 2 alone, and comes back."""
    grid = equiangular(8, 8)
    basis = basis_of(grid, 8, 5)
    field = torch.tensor([1.0, -1.0] * 4).view(8, 1, 1, 1) * torch.tensor(np.cos(np.radians(grid.latitudes)) ** 4).view(
        1, 8, 1, 1
    )
    modes = analyse(field.float(), basis)
    assert modes[:, :4].abs().max() < 1e-6
    assert relative(synthesise(modes, basis, 1), field.float()) < 1e-6


@pytest.mark.parametrize(("degrees", "orders"), [(9, 4), (8, 10)])
def test_more_than_a_grid_holds_is_refused(degrees: int, orders: int) -> None:
    with pytest.raises(ValueError, match=f"{degrees} degrees and {orders} orders do not fit 8 rows of 16 points"):
        matrices(equiangular(8).latitudes, 16, degrees, orders)


def test_area_weights() -> None:
    """Cosines of equally spaced centres are their cells' areas; their mean is 1."""
    for rows in (8, 32, 180):
        grid = equiangular(rows)
        weights, areas = latitude_weights(grid.latitudes), cell_areas(grid)
        np.testing.assert_allclose(weights, areas / areas.mean(), rtol=1e-13)
        assert weights.mean() == pytest.approx(1, abs=1e-14)
    assert latitude_weights(gaussian(20).latitudes).mean() == pytest.approx(1, abs=1e-14)


def layer_of(grid: Grid, real: bool) -> SphericalConv:
    torch.manual_seed(0)
    rows = grid.shape[0]
    layer = SphericalConv(3, 4, tuple(grid.latitudes.tolist()), grid.shape[1], degrees=rows, orders=rows)
    if real:
        with torch.no_grad():
            layer.weight[..., 1] = 0
    return layer


@pytest.mark.parametrize("grid", [equiangular(16), gaussian(16)], ids=str)
def test_the_layer_multiplies_every_degree_by_its_matrix(grid: Grid) -> None:
    layer, basis = layer_of(grid, real=False), basis_of(grid, 16, 16)
    modes = coefficients(16, 16, 2, 3)
    product = torch.einsum("lbi,lio->lbo", modes, torch.view_as_complex(layer.weight.detach()))
    torch.testing.assert_close(layer(synthesise(modes, basis, 2)), synthesise(product, basis, 2), atol=2e-5, rtol=1e-4)
    assert layer.weight.numel() == 2 * 3 * 4 * 16


@pytest.mark.parametrize("grid", [equiangular(16), gaussian(16)], ids=str)
def test_rotations_that_keep_the_grid_commute(grid: Grid) -> None:
    """Any turn about the axis. The half turn about an axis through the equator exchanges orders m and -m, which complex
    matrices treat differently: with real ones it commutes, too. A reflection is no rotation, and commutes all the same."""
    field = torch.randn(32, 16, 2, 3)

    def about_equator(values: Tensor) -> Tensor:
        return values.flip(0).roll(1, 0).flip(1)  # longitude j to -j, latitude to its opposite

    for real in (False, True):
        layer = layer_of(grid, real)
        with torch.no_grad():
            out = layer(field)
            torch.testing.assert_close(layer(field.roll(5, 0)), out.roll(5, 0), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(layer(field.flip(1)), out.flip(1), atol=1e-5, rtol=1e-5)
            apart = (layer(about_equator(field)) - about_equator(out)).abs().max()
        assert apart < 1e-5 if real else apart > 1e-2


@pytest.mark.parametrize(("enter", "leave", "batch"), [(2, 3, 2), (3, 1, 1), (1, 1, 2)])
def test_gradients_of_the_layer(enter: int, leave: int, batch: int) -> None:
    """More channels out than in, and fewer: what lies in between then fits the memory of its neighbours, or does not."""
    grid = gaussian(6)
    basis = SphericalTransform(*(matrix.double() for matrix in basis_of(grid, 5, 4)))
    field = torch.randn(12, 6, batch, enter, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, enter, leave, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: _Convolution.apply(*inputs, *basis), (field, weight))
    kept = weight.detach().clone()
    _Convolution.apply(field, weight, *basis).sum().backward()
    assert torch.equal(weight, kept)


def test_transforms_stay_in_full_precision_and_planning_leaves_them_alone() -> None:
    layer, field = layer_of(equiangular(12), real=False), torch.randn(24, 12, 1, 3)
    expected = layer(field)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(field), expected)
    low = layer.bfloat16()(field.bfloat16())
    assert low.dtype == torch.bfloat16
    assert relative(low.float(), expected) < 0.02
    spherical._cache.clear()  # the first use is on meta
    assert layer.to("meta")(torch.empty(24, 12, 1, 3, device="meta")).shape == (24, 12, 1, 4)
    assert torch.equal(layer_of(equiangular(12), real=False)(field), expected)


def test_the_layer_keeps_the_variance_of_an_active_half() -> None:
    """Variance 2 / in: a ReLU behind it halves the mean square."""
    torch.manual_seed(0)
    grid = gaussian(24)
    layer = SphericalConv(64, 64, tuple(grid.latitudes.tolist()), 48, degrees=24, orders=24)
    field = synthesise(coefficients(24, 24, 1, 64), basis_of(grid, 24, 24), 1)
    weights = torch.tensor(latitude_weights(grid.latitudes)).view(1, -1, 1, 1)
    before, after = ((values.square() * weights).mean().item() for values in (field, layer(field).detach()))
    assert after / before == pytest.approx(2, rel=0.15)
