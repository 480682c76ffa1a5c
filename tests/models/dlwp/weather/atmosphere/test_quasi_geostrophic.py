"""The three-level model: linear waves, invariants, torque, agreement with a plain implementation, batches, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.dlwp.weather.atmosphere import earth, levels
from models.dlwp.weather.atmosphere.observables import Observer
from models.dlwp.weather.atmosphere.parameters import QuasiGeostrophicParameters
from models.dlwp.weather.atmosphere.quasi_geostrophic import QuasiGeostrophicModel, simulate
from results.errors import ConfigError, DivergedError
from tests.models.dlwp.weather.atmosphere.plain_reference import PlainModel

FREE = {"radiative_days": math.inf, "ekman_days": math.inf, "diffusion_days": math.inf}


def model(**options: object) -> QuasiGeostrophicModel:
    return QuasiGeostrophicModel(QuasiGeostrophicParameters(**options))  # type: ignore[arg-type]


def dates(*text: str) -> np.ndarray:
    return np.array(text, dtype="datetime64[ns]")


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Integral over the sphere of the product of two real fields, ``[...]``, of coefficients ``[..., l, m]``."""
    product = (a.conj() * b).real
    return 2 * product.sum((-1, -2)) - product[..., 0].sum(-1)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def last(states: object) -> Tensor:
    *_, state = states  # type: ignore[misc]
    return state


def test_vertical_modes() -> None:
    """Eigenvalues of the coupling, times the square of the radius: 0 and i1 + i2 -+ sqrt(i1^2 - i1 i2 + i2^2)."""
    found = torch.linalg.eigvalsh(levels.coupling(QuasiGeostrophicParameters())) * earth.RADIUS_M**2
    assert found.tolist() == pytest.approx([0.0, 108.82181, 457.73554], abs=5e-6)


@pytest.mark.parametrize(("mode", "rate"), [(0, -4.861333e-6), (1, -1.0505554e-6), (2, -2.990145e-7)])
def test_linear_waves(mode: int, rate: float) -> None:
    """A single harmonic in a vertical mode is carried west as a whole at -2 Omega / (l (l + 1) + lambda a^2), here l 5, m 4."""
    flow = model(**FREE, mountains=(), time_step_h=0.25)
    values, vectors = torch.linalg.eigh(levels.coupling(flow.parameters))
    exact = -2 * earth.ROTATION_RATE / (30 + float(values[mode]) * earth.RADIUS_M**2)
    assert exact == pytest.approx(rate, rel=2e-7)
    psi = torch.zeros(1, 3, 22, 22, dtype=torch.complex128)
    psi[0, :, 5, 4] = 1e6 * vectors[:, mode]
    change = flow.streamfunction(flow.tendency(psi, dates("2001-01-01")))
    assert relative(change, -4j * exact * psi) < 1e-8
    after = last(flow.integrate(psi, dates("2001-01-01"), 5))
    assert relative(after, psi * np.exp(-4j * exact * 86400.0)) < 1e-8


def test_inversion_is_the_inverse() -> None:
    flow = model()
    psi = flow.random_streamfunction([0, 1])
    assert relative(flow.streamfunction(flow.potential_vorticity(psi)), psi) < 1e-14


def test_free_flow_conserves_energy_and_enstrophy() -> None:
    """Energy -sum psi q / 2, and the square of the absolute potential vorticity of each level, over mountains too."""
    flow = model(**FREE, time_step_h=0.5)
    psi = flow.random_streamfunction([5])
    background = flow._planetary()

    def invariants(state: Tensor) -> tuple[float, list[float]]:
        q = flow.potential_vorticity(state)
        enstrophy = inner(q + background, q + background)[0] / 2
        return -float(inner(state, q).sum()) / 2, enstrophy.tolist()

    q, rate = flow.potential_vorticity(psi), flow.tendency(psi, dates("2001-01-01"))
    size = inner(rate, rate).sqrt()
    assert float((inner(psi, rate).sum() / (inner(psi, psi).sqrt() * size).sum()).abs()) < 1e-15
    assert float((inner(q + background, rate) / (inner(q, q).sqrt() * size)).abs().max()) < 1e-14
    energy, enstrophy = invariants(psi)
    after = last(flow.integrate(psi, dates("2001-01-01"), 5))
    assert relative(after, psi) > 0.1  # it does move
    energy_after, enstrophy_after = invariants(after)
    assert energy_after == pytest.approx(energy, rel=1e-7)
    assert enstrophy_after == pytest.approx(enstrophy, rel=1e-7)


def test_hyperdiffusion_alone() -> None:
    """It takes 1/e of the highest degree in its time and next to nothing of the largest eddies."""
    flow = model(**{**FREE, "diffusion_days": 2.0}, mountains=())
    for degree, left in ((21, math.exp(-1.0)), (5, math.exp(-((30 / 462) ** 4)))):
        psi = torch.zeros(1, 3, 22, 22, dtype=torch.complex128)
        psi[0, :, degree, 0] = 1e5  # zonal: it does not move
        after = last(flow.integrate(psi, dates("2001-01-01"), 9))
        assert relative(after, left * psi) < 1e-12


def test_rest_relaxes_towards_the_shear_of_the_forcing() -> None:
    """Without friction the differences of zonal wind approach sin^2(2 lat) times 20 and 14 m/s, but for truncation."""
    flow = model(**{**FREE, "radiative_days": 0.2}, mountains=(), seasonal_share=0.0)
    psi = last(flow.integrate(torch.zeros(1, 3, 22, 22, dtype=torch.complex128), dates("2001-01-01"), 81))
    latitudes = np.arange(-85.0, 86.0, 10.0)
    seen = Observer(latitudes).channels(psi, dates("2001-01-21"), ["u200", "u500", "u800"])
    u200, u500, u800 = (seen[name][0, :, 0] for name in ("u200", "u500", "u800"))
    profile = np.sin(2 * np.radians(latitudes)) ** 2
    assert np.abs(u200 - u500 - 20 * profile).max() < 0.1
    assert np.abs(u500 - u800 - 14 * profile).max() < 0.1


def test_friction_is_the_only_torque_on_a_smooth_planet() -> None:
    """The sum over levels of the harmonic (1, 0), which is angular momentum, changes by Ekman friction alone."""
    flow, rough = model(mountains=()), model()
    psi = flow.random_streamfunction([7])
    friction = float(psi[0, 2, 1, 0].real) * 2 / earth.RADIUS_M**2 / (3 * 86400.0)
    torques = [float(m.tendency(psi, dates("2001-01-01"))[0, :, 1, 0].real.sum()) for m in (flow, rough)]
    assert torques[0] == pytest.approx(friction, rel=1e-11)
    assert abs(torques[1] / friction - 1) > 1e-3  # mountains add theirs


def test_trades_balance_westerlies_on_a_smooth_planet() -> None:
    """In the long run friction cannot turn the planet: cos^2(lat) u at 800 hPa, summed over latitudes, cancels."""
    parameters = QuasiGeostrophicParameters(mountains=(), time_step_h=2.0)
    states = list(simulate([1, 2], dates("2001-03-01", "2001-09-01"), 240, parameters=parameters, spin_up_days=60.0))
    psi = torch.stack(states).mean(0)
    latitudes = -87.1875 + 5.625 * np.arange(32)
    u = Observer(latitudes).channels(psi, dates("2001-03-01", "2001-03-01"), ["u800"])["u800"].mean((0, 2))
    parts = u * np.cos(np.radians(latitudes)) ** 2
    westerly, easterly = parts.clip(0).sum(), -parts.clip(max=0).sum()
    assert westerly > 8.0
    assert easterly == pytest.approx(westerly, rel=0.1)
    assert u[np.abs(latitudes) < 20].max() < 0.0


def test_agreement_with_the_plain_implementation() -> None:
    flow, plain = model(), PlainModel()
    psi = flow.random_streamfunction([3, 4])
    start = dates("2001-07-11T06", "2003-02-11T18")
    rates = flow.tendency(psi, start)
    after = last(flow.integrate(psi, start, 2))
    for member, day in enumerate(earth.days_since_epoch(start)):
        q = plain.vorticities(psi[member].numpy())
        assert relative(rates[member], torch.from_numpy(plain.tendency(q, day))) < 1e-13
        assert relative(after[member], torch.from_numpy(plain.advance(psi[member].numpy(), day, 6))) < 1e-12


def test_fourth_order_in_time() -> None:
    """Halving the step divides the error by 16 (hyperdiffusion, split off, is of first order and off here)."""
    psi = model().random_streamfunction([9])
    steps = (3.0, 1.5, 0.75, 0.375)
    coarse = [last(model(diffusion_days=math.inf, time_step_h=h).integrate(psi, dates("2001-01-01"), 3)) for h in steps]
    differences = [float((a - b).abs().max()) for a, b in zip(coarse, coarse[1:], strict=False)]
    assert all(3.6 < math.log2(a / b) < 4.4 for a, b in zip(differences, differences[1:], strict=False)), differences


def test_a_member_does_not_depend_on_its_batch() -> None:
    """Beyond rounding, which half a day makes 1e-13 of the flow at most."""
    flow = model()
    psi = flow.random_streamfunction(range(6))
    starts = dates(*(f"200{year}-0{1 + year}-01" for year in range(6)))
    everyone = last(flow.integrate(psi, starts, 3))
    for some in ([0], [4, 5], [5, 3, 1]):
        assert relative(last(flow.integrate(psi[some], starts[some], 3)), everyone[some]) < 1e-13


def test_the_same_seeds_give_the_same_bits() -> None:
    options = {"seeds": [11, 12, 13, 14, 15], "starts": dates(*["2001-01-01"] * 5), "frames": 2, "spin_up_days": 0.5}
    first, second = (torch.stack(list(simulate(**options))) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(first, second)
    assert first.shape == (2, 5, 3, 22, 22)
    assert first.dtype == torch.complex128


def test_spin_up_runs_through_the_days_before() -> None:
    flow = model()
    random = flow.random_streamfunction([8])
    expected = list(flow.integrate(random, dates("2000-12-30T12"), 8))[6:]
    found = list(simulate([8], dates("2001-01-01"), 2, spin_up_days=1.5))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert relative(next(simulate([8], dates("2001-01-01"), 1, spin_up_days=0.0)), random) < 1e-13


def test_random_streamfunctions() -> None:
    flow = model()
    psi = flow.random_streamfunction(range(40))
    assert torch.equal(psi[7:9], flow.random_streamfunction([7, 8]))
    mean_square = inner(psi, psi).mean() / (4 * math.pi)
    assert float(mean_square.sqrt()) == pytest.approx(2e6, rel=0.03)
    assert float(psi[..., 0, 0].abs().max()) == 0.0


def test_leaving_the_finite_numbers_names_member_and_day() -> None:
    flow = model()
    psi = flow.random_streamfunction(range(6))
    psi[5] *= 1e4
    with pytest.raises(DivergedError, match=r"member 5 left the finite numbers by day 0.25 \(2001-01-01T06\)"):
        list(flow.integrate(psi, dates(*["2001-01-01"] * 6), 3))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"time_step_h": 0.7}, "time_step_h"),
        ({"time_step_h": 12.0}, "time_step_h"),
        ({"time_step_h": 0.0}, "time_step_h"),
        ({"ekman_days": -3.0}, "ekman_days"),
        ({"shear_upper": math.nan}, "shear_upper"),
        ({"scale_height_km": math.inf}, "scale_height_km"),
    ],
)
def test_parameters_that_make_no_sense(options: dict[str, float], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model(**options)
    assert caught.value.where == where


def test_batches_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="2 dates for 1 members"):
        next(simulate([1], dates("2001-01-01", "2002-01-01"), 1, spin_up_days=0.0))
    with pytest.raises(ConfigError, match="not a multiple of 6 h"):
        next(simulate([1], dates("2001-01-01"), 1, spin_up_days=0.3))
    with pytest.raises(ConfigError, match="seed -1"):
        next(simulate([-1], dates("2001-01-01"), 1, spin_up_days=0.0))
