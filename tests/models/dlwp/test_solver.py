"""Navier-Stokes solvers: closed-form flows, invariants, convergence, agreement of the fast and the published scheme."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.dlwp.navier_stokes import NavierStokesSolver, forcing_field, published_scheme
from models.dlwp.navier_stokes.band import LADDER, Band, to_grid, to_spectrum
from models.dlwp.navier_stokes.solver import FEWEST_STEPS
from models.dlwp.navier_stokes.torus import highest_kept
from models.dlwp.random_fields import gaussian_fields
from results.errors import ConfigError, DivergedError

torch.set_num_threads(1)


def grid(s: int) -> tuple[Tensor, Tensor]:
    x = torch.arange(s, dtype=torch.float64) / s
    return torch.meshgrid(x, x, indexing="ij")


def random_fields(count: int, s: int = 32, alpha: float = 2.5) -> Tensor:
    return torch.from_numpy(gaussian_fields(s, "test", range(count), seed=11, alpha=alpha))


def rms(x: Tensor) -> float:
    return float(x.double().pow(2).mean().sqrt())


def solver(s: int = 32, viscosity: float = 1e-3, **options: object) -> NavierStokesSolver:
    return NavierStokesSolver(s, viscosity, dtype=torch.float64, **options)  # type: ignore[arg-type]


def test_an_eddy_lattice_only_decays() -> None:
    """2 cos(4 pi x) cos(4 pi y) has a single |k|, so advection vanishes: w(t) = exp(-32 pi^2 nu t) w(0)."""
    x, y = grid(32)
    w0 = (2 * torch.cos(4 * math.pi * x) * torch.cos(4 * math.pi * y))[None]
    factor = math.exp(-32 * math.pi**2 * 1e-3)
    assert factor == pytest.approx(0.72918533983, abs=5e-12)
    assert rms(solver(forcing=0.0).solve(w0, 1)[0, 0] - factor * w0) < 1e-13
    error = rms(published_scheme(w0, 1, viscosity=1e-3, forcing=0.0)[0, 0] - factor * w0)
    assert error < 4e-9
    twice = rms(published_scheme(w0, 1, viscosity=1e-3, forcing=0.0, time_step=2e-3)[0, 0] - factor * w0)
    assert twice / error == pytest.approx(4.0, rel=0.05)  # Crank-Nicolson is of second order


def test_forced_flow_from_rest() -> None:
    """f depends on x + y alone, so advection vanishes: w(t) = f (1 - exp(-lambda t)) / lambda, lambda = 8 pi^2 nu."""
    force, rest = forcing_field(32), torch.zeros(1, 32, 32, dtype=torch.float64)
    rate = 8 * math.pi**2 * 1e-3
    frames = solver().solve(rest, 5)[0]
    for t in range(1, 6):
        assert rms(frames[t - 1] - force * (1 - math.exp(-rate * t)) / rate) < 1e-10
    assert (1 - math.exp(-rate)) / rate == pytest.approx(0.9615404227, abs=5e-11)
    assert rms(published_scheme(rest, 1, viscosity=1e-3)[0, 0] - 0.9615404227 * force) < 1e-5


def test_inviscid_flow_conserves_energy_and_enstrophy() -> None:
    x, y = grid(32)
    w0 = torch.sin(2 * math.pi * x) * torch.cos(4 * math.pi * y) + 0.5 * torch.cos(2 * math.pi * (3 * x - y))
    band = Band(32, highest_kept(32), 0.0, 0.0, whole=True, dtype=torch.float64, device=torch.device("cpu"))

    def invariants(w: Tensor) -> tuple[float, float]:
        velocity = band.velocity(to_spectrum(w[None]))
        return 0.5 * float(w.pow(2).mean()), 0.5 * float(velocity.pow(2).sum(0).mean())

    enstrophy, energy = invariants(w0)
    assert (enstrophy, energy) == (pytest.approx(0.1875, abs=1e-14), pytest.approx(7.9157174721e-4, abs=1e-13))
    frames = solver(viscosity=0.0, forcing=0.0, time_step=0.02).solve(w0[None], 2)[0]
    assert rms(frames[-1] - w0) > 0.05  # it does move
    after = invariants(frames[-1])
    assert abs(after[0] - enstrophy) < 1e-11
    assert abs(after[1] - energy) < 1e-11


def test_tendency_is_the_advection_of_the_textbook() -> None:
    """Against u . grad w with spectral derivatives by numpy, for a field whose products the grid resolves."""
    s, cut = 32, highest_kept(32)
    w = to_spectrum(random_fields(2, s))
    kx = torch.fft.fftfreq(s, 1 / s, dtype=torch.float64)[None, :]
    ky = torch.fft.rfftfreq(s, 1 / s, dtype=torch.float64)[:, None]
    inside = (kx.abs() <= cut) & (ky <= cut)
    w = w * inside[..., None]
    band = Band(s, cut, 1e-3, 0.3 - 0.2j, whole=True, dtype=torch.float64, device=torch.device("cpu"))
    c = torch.view_as_complex(w).numpy()

    def field(spectrum: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(spectrum.swapaxes(-1, -2), s=(s, s), norm="forward")

    dx, dy = 2j * np.pi * kx.numpy(), 2j * np.pi * ky.numpy()
    squared = 4 * np.pi**2 * (kx**2 + ky**2).numpy()
    psi = c / np.where(squared == 0, 1.0, squared)
    advection = field(dy * psi) * field(dx * c) - field(dx * psi) * field(dy * c)
    expected = -np.fft.rfft2(advection, norm="forward").swapaxes(-1, -2) * inside.numpy()
    expected[:, 1, 1] += 0.3 - 0.2j
    found = torch.view_as_complex(band.tendency(w)).numpy()
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()


def test_order_of_convergence() -> None:
    w0 = random_fields(1)
    exact = solver(time_step=1 / 256).solve(w0, 1)
    errors = [rms(solver(time_step=1 / n).solve(w0, 1) - exact) for n in (8, 16, 32)]
    assert all(3.8 < math.log2(a / b) < 4.3 for a, b in zip(errors, errors[1:], strict=False)), errors
    published = [rms(published_scheme(w0, 1, viscosity=1e-3, time_step=1 / n) - exact) for n in (250, 500, 1000)]
    assert all(0.97 < math.log2(a / b) < 1.03 for a, b in zip(published, published[1:], strict=False)), published
    assert errors[0] < published[-1]


@pytest.mark.parametrize(
    ("s", "viscosity", "frames", "dtype", "bound"),
    [(32, 1e-3, 10, torch.float32, 2e-5), (64, 1e-4, 4, torch.float32, 2e-4), (32, 1e-3, 4, torch.float64, 2e-6)],
)
def test_chosen_steps_and_grids_are_accurate(s: int, viscosity: float, frames: int, dtype: torch.dtype, bound: float) -> None:
    """Every frame of the adaptive solver against a refined float64 run on the full grid, relative to the field."""
    w0 = random_fields(3, s)
    refined = solver(s, viscosity, time_step=1 / 64).solve(w0, frames)
    found = NavierStokesSolver(s, viscosity, dtype=dtype).solve(w0, frames)
    assert found.dtype == dtype
    for frame in range(frames):
        assert rms(found[:, frame] - refined[:, frame]) < bound * rms(refined[:, frame])


def test_a_flow_that_speeds_up_is_marched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near rest under a force 100 times the published one, the first choice of steps is too long for what follows."""
    w0 = random_fields(2) * 1e-2
    chosen: list[int] = []
    march = Band.march

    def spy(band: Band, w: Tensor, steps: int) -> Tensor:
        chosen.append(steps)
        return march(band, w, steps)

    monkeypatch.setattr(Band, "march", spy)
    found = solver(forcing=10.0).solve(w0, 1)
    assert chosen[0] == FEWEST_STEPS
    assert chosen[-1] > chosen[0]
    refined = solver(forcing=10.0, time_step=1 / 512).solve(w0, 1)
    assert rms(found - refined) < 1e-5 * rms(refined)


def test_a_flow_that_becomes_finer_is_marched_again_on_a_larger_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large eddies alone fit the smallest grid, but fast ones fold each other within a unit of time."""
    x, y = grid(64)
    w0 = 12 * (torch.cos(2 * math.pi * x) + torch.cos(4 * math.pi * y) + torch.sin(2 * math.pi * (x + 2 * y)))[None]
    sizes: list[int] = []
    march = Band.march

    def spy(band: Band, w: Tensor, steps: int) -> Tensor:
        sizes.append(band.size)
        return march(band, w, steps)

    monkeypatch.setattr(Band, "march", spy)
    found = NavierStokesSolver(64, 1e-3).solve(w0, 1)
    assert sizes[0] == 32
    assert sizes[-1] > 32
    refined = solver(64, time_step=1 / 256).solve(w0, 1)
    assert rms(found - refined) < 2e-4 * rms(refined)


def test_stable_speed_without_viscosity_is_that_of_runge_kutta() -> None:
    band = Band(64, 21, 0.0, 0.0, whole=True, dtype=torch.float64, device=torch.device("cpu"))
    assert band.fastest == pytest.approx(math.sqrt(8) * LADDER / (2 * math.pi * 21), rel=1e-9)
    viscous = Band(64, 21, 1e-3, 0.0, whole=True, dtype=torch.float64, device=torch.device("cpu"))
    assert (viscous.fastest > band.fastest).all()


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12), st.sampled_from([torch.float32, torch.float64]))
def test_a_trajectory_does_not_depend_on_its_batch(order: list[int], size: int, dtype: torch.dtype) -> None:
    """Bit for bit, although slow and fast ones choose different steps and grids."""
    w0 = random_fields(12, 16) * torch.linspace(0.1, 8.0, 12, dtype=torch.float64)[:, None, None]
    chosen = order[:size]
    everyone = NavierStokesSolver(16, 1e-4, dtype=dtype).solve(w0, 3)
    some = NavierStokesSolver(16, 1e-4, dtype=dtype).solve(w0[chosen], 3)
    assert torch.equal(some, everyone[chosen])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 31), st.integers(0, 31))
def test_shifts_that_keep_the_forcing_commute(along: int, sample: int) -> None:
    """f(x + d, y - d) = f(x, y): shifting the initial field shifts the solution. The mean stays zero."""
    w0 = torch.from_numpy(gaussian_fields(32, "val", [sample], seed=5))
    frames = solver(time_step=0.1).solve(torch.cat([w0, w0.roll((along, -along), (1, 2))]), 2)
    assert torch.allclose(frames[1], frames[0].roll((along, -along), (1, 2)), atol=1e-12)
    assert float(frames.mean((-1, -2)).abs().max()) < 1e-14


def test_bands_carry_modes_to_smaller_grids_and_back() -> None:
    spectrum = to_spectrum(random_fields(2))
    band = Band(24, 7, 1e-3, 0.0, whole=False, dtype=torch.float64, device=torch.device("cpu"))
    part = band.take(spectrum)
    emptied = spectrum.clone()
    band.give(torch.zeros_like(part), emptied)
    coarse = to_grid(torch.view_as_complex(part), 24)
    fine = to_grid(torch.view_as_complex(spectrum - emptied), 32)
    assert torch.allclose(coarse[:, ::3, ::3], fine[:, ::4, ::4], atol=1e-14)  # the same function at shared points
    band.give(part, emptied)
    assert torch.equal(emptied, spectrum)


@pytest.mark.parametrize("shape", [(1, 32, 16), (1, 31, 31), (32, 32), (1, 64, 64)])
def test_only_the_square_grid_is_accepted(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        solver().solve(torch.zeros(shape), 1)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 31},
        {"resolution": 4},
        {"viscosity": -1e-3},
        {"viscosity": math.nan},
        {"time_step": 0.3},
        {"time_step": 0.0},
        {"dtype": torch.bfloat16},
    ],
)
def test_numbers_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        NavierStokesSolver(**{"resolution": 32, "viscosity": 1e-3, **options})  # type: ignore[arg-type]
    assert caught.value.where == f"data.{'float64' if 'dtype' in options else next(iter(options))}"


def test_blow_up_names_step_and_viscosity() -> None:
    w0 = random_fields(3, 16)
    w0[1] *= 1e3
    with pytest.raises(DivergedError, match=r"by step \d+0 at viscosity 1e-05"):
        NavierStokesSolver(16, 1e-5, time_step=0.1).solve(w0, 20)
    with pytest.raises(DivergedError, match=r"by step \d+ at viscosity 1e-05"):
        published_scheme(w0 * 100, 2, viscosity=1e-5, time_step=0.01)
    w0[2, 3, 4] = math.inf
    with pytest.raises(DivergedError, match="by step 0 at viscosity 0.001"):
        NavierStokesSolver(16, 1e-3).solve(w0, 1)
