"""Faces and halos against healpy's own index functions, resampling against fields that are known everywhere."""

from __future__ import annotations

import healpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y

from models.dlwp.weather.grid import WEATHERBENCH, Grid, cell_areas, equiangular, gaussian
from models.dlwp.weather.healpix import centres, from_healpix, pixels, to_healpix
from models.layers.healpix import neighbourhoods, pad_faces

torch.set_num_threads(1)

#: Directions of healpy's eight neighbours, as (row, column) steps in a face.
STEPS = {"SW": (1, 0), "W": (1, -1), "NW": (0, -1), "N": (-1, -1), "NE": (-1, 0), "E": (-1, 1), "SE": (0, 1), "S": (1, 1)}


def harmonic(degree: int, order: int, latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """A real spherical harmonic of amplitude about 1."""
    values = sph_harm_y(degree, abs(order), np.radians(90 - latitudes), np.radians(longitudes))
    part = values.real if order >= 0 else values.imag
    scale = np.abs(sph_harm_y(degree, abs(order), np.radians(np.linspace(0, 180, 721)), 0.0)).max()
    return np.asarray(part / scale)


def on_grid(degree: int, order: int, grid: Grid) -> np.ndarray:
    latitude, longitude = np.meshgrid(grid.latitudes, grid.longitudes, indexing="ij")
    return harmonic(degree, order, latitude, longitude)


@pytest.mark.parametrize("nside", [1, 2, 4, 8, 32])
def test_every_pixel_has_one_place(nside: int) -> None:
    assert sorted(pixels(nside).ravel().tolist()) == list(range(12 * nside**2))
    assert (pixels(nside) // nside**2 == np.arange(12)[:, None, None]).all()  # nested: faces one after the other


def test_corners_and_bands() -> None:
    """Row 0, column 0 is the northern corner; rows run south-west, columns south-east."""
    latitudes, longitudes = centres(8)
    assert (latitudes[:4, 0, 0] > 80).all()
    assert (latitudes[8:, -1, -1] < -80).all()
    assert np.allclose(latitudes[4:8, 3, 4], latitudes[4:8, 4, 3])
    assert (np.diff(latitudes, axis=1) < 0).all()
    assert (np.diff(latitudes, axis=2) < 0).all()
    assert longitudes[0, 7, 0] < 45 < longitudes[0, 0, 7]
    assert (latitudes[0] > 0).all()
    for band in (0, 4, 8):
        for k in range(4):
            assert np.allclose((longitudes[band + k] - longitudes[band]) % 360, 90 * k)


@pytest.mark.parametrize("nside", [0, 3, 12])
def test_sides_that_are_no_power_of_two_are_refused(nside: int) -> None:
    with pytest.raises(ValueError, match=f"nside {nside} is not a power of two"):
        pixels(nside)


@pytest.mark.parametrize("nside", [1, 2, 4, 8, 16])
def test_halos_hold_the_true_neighbours(nside: int) -> None:
    """Every pixel, eight directions. Where healpy knows no neighbour (24 times: three faces meet in eight corners) the halo is
    the mean of the two pixels that are neighbours of the corner pixel on either side."""
    place = np.empty(12 * nside**2, int)
    place[pixels(nside).ravel()] = np.arange(12 * nside**2)
    true = healpy.get_all_neighbours(nside, pixels(nside).ravel(), nest=True)
    true = np.where(true < 0, -1, place[true]).reshape(8, 12, nside, nside)
    one, other = neighbourhoods(nside, 1)
    missing = 0
    for neighbours, (row, column) in zip(true, STEPS.values(), strict=True):
        window = (slice(None), slice(1 + row, 1 + row + nside), slice(1 + column, 1 + column + nside))
        known = neighbours >= 0
        assert np.array_equal(one[window][known], neighbours[known])
        assert np.array_equal(other[window][known], neighbours[known])
        for face, i, j in np.argwhere(~known):
            beside = {one[face, 1 + i + row, 1 + j], one[face, 1 + i, 1 + j + column]}
            assert {one[window][face, i, j], other[window][face, i, j]} == beside
            missing += 1
    assert missing == 24


@pytest.mark.parametrize("padding", [1, 2, 3, 8])
def test_padding_a_constant_gives_the_constant(padding: int) -> None:
    field = torch.full((2, 12, 3, 8, 8), 1.7)
    padded = pad_faces(field, padding)
    assert padded.shape == (2, 12, 3, 8 + 2 * padding, 8 + 2 * padding)
    assert (padded == 1.7).all()


def turn(field: torch.Tensor) -> torch.Tensor:
    """90 degrees east: face k takes the place of face k + 1 in each band."""
    return field.unflatten(1, (3, 4)).roll(1, dims=2).flatten(1, 2)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.integers(1, 2), st.integers(0, 2**31))
def test_padding_commutes_with_a_quarter_turn(nside: int, padding: int, seed: int) -> None:
    field = torch.randn(2, 12, 3, nside, nside, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(pad_faces(turn(field), padding), turn(pad_faces(field, padding)))


def test_a_convolution_commutes_with_a_quarter_turn() -> None:
    conv = torch.nn.Conv2d(3, 5, 3)
    field = torch.randn(2, 12, 3, 8, 8)

    def apply(faces: torch.Tensor) -> torch.Tensor:
        return conv(pad_faces(faces, 1).flatten(0, 1)).unflatten(0, (2, 12))

    assert apply(field).shape == (2, 12, 5, 8, 8)
    assert torch.allclose(apply(turn(field)), turn(apply(field)), atol=1e-6)


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_halos_continue_smooth_fields(padding: int) -> None:
    """Along rows and columns of the padded faces a smooth field has no jumps but those of its own gradient."""
    latitudes, longitudes = centres(16)
    field = torch.from_numpy(harmonic(2, 1, latitudes, longitudes))[None, :, None]
    inner = max(field.diff(dim=dim).abs().max().item() for dim in (-1, -2))
    padded = pad_faces(field, padding)
    edges = padded.clone()  # the squares where three faces meet are no part of this
    corners = torch.from_numpy((lambda pair: pair[0] != pair[1])(neighbourhoods(16, padding)))
    edges[0, :, 0][corners] = float("nan")
    for dim in (-1, -2):
        steps = edges.diff(dim=dim).abs()
        assert steps[~steps.isnan()].max().item() < 1.6 * inner


def test_gradients_return_to_where_values_came_from() -> None:
    """The sum over the padded field counts each pixel as often as it was copied."""
    field = torch.zeros(1, 12, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    pad_faces(field, 1).sum().backward()
    one, other = neighbourhoods(4, 1)
    counts = 0.5 * (np.bincount(one.ravel(), minlength=192) + np.bincount(other.ravel(), minlength=192))
    assert field.grad is not None
    assert np.array_equal(field.grad.numpy().ravel(), counts)


def test_padding_wider_than_a_face_is_refused() -> None:
    for padding in (0, 5):
        with pytest.raises(ValueError, match="cannot be padded"):
            pad_faces(torch.zeros(1, 12, 1, 4, 4), padding)


def test_padding_on_meta_tensors_leaves_nothing_behind() -> None:
    assert pad_faces(torch.zeros(1, 12, 2, 4, 4, device="meta"), 1).shape == (1, 12, 2, 6, 6)
    assert pad_faces(torch.ones(1, 12, 2, 4, 4), 1).sum() == 12 * 2 * 36


@pytest.mark.parametrize("grid", [WEATHERBENCH, gaussian(32), equiangular(33, poles=True), equiangular(16)], ids=str)
@pytest.mark.parametrize("nside", [4, 8, 32])
def test_weights_are_means(grid: Grid, nside: int) -> None:
    for resampler in (to_healpix(grid, nside), from_healpix(nside, grid)):
        assert resampler.weights.min() >= -1e-12
        assert torch.allclose(resampler.weights.sum(0), torch.ones(1, dtype=torch.float64))
        field = torch.full((2, 3, *resampler.source), 5.0)
        assert resampler(field).shape == (2, 3, *resampler.target)
        assert torch.allclose(resampler(field), torch.tensor(5.0))


def test_latitude_is_interpolated_exactly_between_rows() -> None:
    latitudes, _ = centres(8)
    field = torch.from_numpy(np.broadcast_to(WEATHERBENCH.latitudes[:, None], WEATHERBENCH.shape).copy())
    assert np.abs(to_healpix(WEATHERBENCH, 8)(field).numpy() - latitudes).max() < 1e-12


def test_longitude_is_interpolated_exactly_across_the_date_line() -> None:
    """A sawtooth that is linear except between the last column and the first."""
    latitudes, longitudes = centres(8)
    field = torch.from_numpy(np.broadcast_to(WEATHERBENCH.longitudes, WEATHERBENCH.shape).copy())
    inside = longitudes <= WEATHERBENCH.longitudes[-1]
    assert np.abs(to_healpix(WEATHERBENCH, 8)(field).numpy() - longitudes)[inside].max() < 1e-12
    assert np.abs(latitudes).max() < 87.1875


@pytest.mark.parametrize("nside", [32, 64])
def test_across_the_pole(nside: int) -> None:
    """Pixels nearer to a pole than the last row: z = sin(lat) and x = cos(lat) cos(lon) go on smoothly on the other side."""
    latitudes, longitudes = centres(nside)
    polar = np.abs(latitudes) > WEATHERBENCH.latitudes[-1]
    assert polar.any()
    for order in (0, 1):
        found = to_healpix(WEATHERBENCH, nside)(torch.from_numpy(on_grid(1, order, WEATHERBENCH))).numpy()
        assert np.abs(found - harmonic(1, order, latitudes, longitudes))[polar].max() < 0.0025


#: Largest error and its area-weighted root mean square after a round trip by 5.625 degrees and nside 8, by degree of a harmonic
#: of amplitude 1. Interpolation smooths by about degree^2; the largest errors lie next to the poles.
ROUND_TRIP = {1: (0.024, 0.0035), 2: (0.050, 0.0075), 3: (0.075, 0.014), 4: (0.103, 0.023)}


@pytest.mark.parametrize("degree", ROUND_TRIP)
def test_round_trip_on_smooth_fields(degree: int) -> None:
    there, back = to_healpix(WEATHERBENCH, 8), from_healpix(8, WEATHERBENCH)
    orders = range(-degree, degree + 1)
    fields = torch.from_numpy(np.stack([on_grid(degree, order, WEATHERBENCH) for order in orders]))
    error = (back(there(fields)) - fields).numpy()
    areas = cell_areas(WEATHERBENCH)[:, None] * np.ones(64)
    root_mean_square = np.sqrt((areas * error**2).sum((1, 2)) / areas.sum())
    largest, typical = ROUND_TRIP[degree]
    assert np.abs(error).max() < largest
    assert root_mean_square.max() < typical


@pytest.mark.parametrize("order", [1, -2])
def test_a_round_trip_does_not_turn_the_field(order: int) -> None:
    """The phase along longitude stays to a thousandth of a degree (published code shifts by a degree)."""
    there, back = to_healpix(WEATHERBENCH, 8), from_healpix(8, WEATHERBENCH)
    field = on_grid(abs(order), order, WEATHERBENCH)
    returned = back(there(torch.from_numpy(field))).numpy()
    before, after = (np.fft.rfft(values, axis=-1)[8:24, abs(order)].sum() for values in (field, returned))
    assert abs(np.degrees(np.angle(after / before))) / abs(order) < 1e-3


def test_a_resampler_follows_its_field() -> None:
    resampler = to_healpix(WEATHERBENCH, 4)
    for dtype in (torch.float32, torch.float64):
        assert resampler(torch.ones(32, 64, dtype=dtype)).dtype == dtype
    assert resampler.state_dict() == {}
    with pytest.raises(ValueError, match="63 columns"):
        to_healpix(equiangular(32, 63), 4)
