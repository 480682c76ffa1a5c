"""Spherical harmonics: against scipy's, round trips, operators with known eigenvalues, exactness of quadratic terms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y
from torch import Tensor

from models.dlwp.weather.atmosphere.advection import Advection
from models.dlwp.weather.atmosphere.harmonics import Synthesis, Transform, coupling_to_lower_degree, pack, unpack
from results.errors import ConfigError

WEATHERBENCH = np.sin(np.radians(-87.1875 + 5.625 * np.arange(32)))


@pytest.fixture(scope="module")
def transform() -> Transform:
    return Transform()


def random_coefficients(*shape: int, truncation: int = 21, seed: int = 0) -> Tensor:
    """Coefficients of random real fields, all degrees alike."""
    random = torch.Generator().manual_seed(seed)
    c = torch.randn(*shape, truncation + 1, truncation + 1, 2, dtype=torch.float64, generator=random)
    c[..., 0, 1] = 0.0  # the coefficients of order 0 are real
    return torch.view_as_complex(c).tril()


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.mark.parametrize(("degree", "order"), [(0, 0), (1, 0), (1, 1), (2, 1), (7, 3), (21, 0), (21, 20), (21, 21)])
def test_single_harmonics_are_those_of_scipy(degree: int, order: int) -> None:
    """At latitudes that are no quadrature points: the real field of (c, its conjugate at -m) is 2 Re(c Y), or c Y for m = 0."""
    synthesis = Synthesis(21, WEATHERBENCH, 64)
    c = torch.zeros(22, 22, dtype=torch.complex128)
    c[degree, order] = 0.7 - (0.4j if order else 0.0)
    colatitude, longitude = np.arccos(WEATHERBENCH)[:, None], 2 * np.pi / 64 * np.arange(64)[None, :]
    expected = (complex(c[degree, order]) * sph_harm_y(degree, order, colatitude, longitude)).real * (2 if order else 1)
    assert np.abs(synthesis.evaluate(c).numpy() - expected).max() < 1e-13


def test_lowest_harmonics_in_closed_form() -> None:
    synthesis = Synthesis(2, np.array([-0.6, 0.3]), 8)
    x, y = np.array([-0.6, 0.3])[:, None], math.sqrt(15 / (8 * math.pi))
    c = torch.zeros(3, 3, dtype=torch.complex128)
    c[2, 1] = 1.0
    longitude = np.pi / 4 * np.arange(8)[None, :]
    expected = -2 * y * x * np.sqrt(1 - x**2) * np.cos(longitude)
    assert np.abs(synthesis.evaluate(c).numpy() - expected).max() < 1e-15


def test_round_trip(transform: Transform) -> None:
    c = random_coefficients(2, 3)
    field = transform.evaluate(c)
    assert field.shape == (2, 3, 32, 64)
    assert close(transform.analyse(field), c, 1e-13)
    assert close(unpack(pack(c), (2, 3)), c, 0.0)


def test_parseval(transform: Transform) -> None:
    """The mean square of a field is the sum of |c|^2 over both signs of m, over 4 pi."""
    c = random_coefficients(1)
    mean_square = (transform.evaluate(c).square().mean(-1) * transform.weights / 2).sum()
    power = c.abs().square().sum() * 2 - c[..., 0].abs().square().sum()
    assert float(mean_square) == pytest.approx(float(power) / (4 * math.pi), rel=1e-13)


def test_both_syntheses_give_one_function() -> None:
    """Gaussian and other latitudes share a point when they are told to."""
    transform = Transform()
    c = random_coefficients(1)
    again = Synthesis(21, transform.sines.numpy()[::-1][:5], 64)
    assert close(again.evaluate(c), transform.evaluate(c).flip(-2)[..., :5, :], 1e-14)


def test_operators_on_gradients(transform: Transform) -> None:
    """div grad f = lap f with eigenvalues -l (l + 1), curl grad f = 0, and the same with k x grad f exchanged."""
    c = random_coefficients(3)
    east, north = transform.gradient(pack(c))
    laplacian = pack(c) * transform.laplacian
    zero = 1e-12 * float(laplacian.abs().max())
    assert transform.laplacian[[0, 1, 2, 21]].tolist() == [0, -2, -6, -462]
    assert (transform.laplacian * transform.inverse_laplacian).tolist() == [0.0] + [1.0] * 21
    assert close(transform.divergence(east, north), laplacian, 1e-13)
    assert float(transform.curl(east, north).abs().max()) < zero
    assert close(transform.curl(-north, east), laplacian, 1e-13)
    assert float(transform.divergence(-north, east).abs().max()) < zero


def test_gradient_of_solid_rotation(transform: Transform) -> None:
    """f = sin(lat) has the gradient cos(lat) to the north and none to the east."""
    c = torch.zeros(22, 22, dtype=torch.complex128)
    c[1, 0] = math.sqrt(4 * math.pi / 3)
    east, north = transform.evaluate_gradient(c)
    assert float(east.abs().max()) < 1e-14
    assert close(north, transform.cosines[:, None].expand(32, 64), 1e-14)


def test_sine_of_latitude_couples_neighbours(transform: Transform) -> None:
    c = random_coefficients(1)[0]
    e = torch.from_numpy(coupling_to_lower_degree(21))
    expected = torch.zeros_like(c)
    expected[1:] += e[1:] * c[:-1]
    expected[:-1] += e[1:] * c[1:]
    assert close(transform.analyse(transform.evaluate(c) * transform.sines[:, None]), expected, 1e-13)


def test_quadratic_terms_are_free_of_aliasing(transform: Transform) -> None:
    """The smallest grid agrees with one four times as fine."""
    psi, q = random_coefficients(2, 3, seed=1)
    fine = Transform(21, 128, 256)
    products = [t.analyse(t.evaluate(psi) * t.evaluate(q)) for t in (transform, fine)]
    assert close(*products, 1e-12)
    carried = []
    for t in (transform, fine):
        east, north = t.gradient(pack(psi))
        tracer = t.field(pack(q))
        carried.append(t.curl(tracer * east, tracer * north))
    assert close(*carried, 1e-12)
    rows = (pack(x).flatten(1, 2) for x in (psi, q))
    assert close(Advection(transform, 3)(*rows).unflatten(1, (2, 3)), carried[1], 1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 63), st.integers(0, 100))
def test_shifts_in_longitude_turn_phases(along: int, seed: int) -> None:
    transform = Transform()
    c = random_coefficients(1, seed=seed)
    turned = c * torch.exp(-1j * 2 * math.pi / 64 * along * torch.arange(22, dtype=torch.float64))
    assert close(transform.evaluate(turned), transform.evaluate(c).roll(along, -1), 1e-12)


def test_what_cannot_be_transformed() -> None:
    with pytest.raises(ConfigError, match="between the poles"):
        Synthesis(21, np.array([-1.0, 0.0, 1.0]), 64)
    for grid in ((31, 64), (32, 63)):
        with pytest.raises(ConfigError, match="aliases quadratic terms"):
            Transform(21, *grid)
