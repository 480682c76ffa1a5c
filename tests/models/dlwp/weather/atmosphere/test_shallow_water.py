"""Shallow water on the sphere: gravity waves, the balanced jet, conservation, and the instability of the jet with a bump."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from models.dlwp.weather.atmosphere import earth
from models.dlwp.weather.atmosphere.shallow_water import JET_SOUTH, ShallowWaterModel, galewsky, galewsky_wind
from results.errors import ConfigError, DivergedError

DAY_STEPS = 480


@pytest.fixture(scope="module")
def inviscid() -> ShallowWaterModel:
    return ShallowWaterModel(diffusion_h=math.inf)


def winds(model: ShallowWaterModel, state: Tensor) -> tuple[Tensor, Tensor]:
    east, north = model.wind(state)
    return east / model.transform.cosines, north / model.transform.cosines


def invariants(model: ShallowWaterModel, state: Tensor) -> tuple[float, float]:
    """Energy (Phi |v|^2 + Phi^2) / 2 and potential enstrophy (zeta + f)^2 / (2 Phi), means over the sphere."""
    t = model.transform
    (u, v), phi = winds(model, state), t.field(state[:, :, 2])
    absolute = t.field(state[:, :, 0]) + model.coriolis

    def mean(field: Tensor) -> float:
        return float((field.mean(0) * t.weights / 2).sum())

    return mean(phi * (u**2 + v**2) / 2 + phi**2 / 2), mean(absolute**2 / (2 * phi))


def test_gravity_waves() -> None:
    """On a planet at rest that does not turn, a small bump of one harmonic oscillates at sqrt(l (l + 1) Phi0) / a."""
    model = ShallowWaterModel(21, 32, time_step_s=30.0, diffusion_h=math.inf, rotation_rate=0.0)
    degree, mean = 6, 9.80665e4
    state = torch.zeros(22, 2, 3, 1, 22, dtype=torch.float64)
    state[0, 0, 2, 0, 0] = mean * math.sqrt(4 * math.pi)
    state[3, 0, 2, 0, degree] = 1e-2
    frequency = math.sqrt(degree * (degree + 1) * mean) / earth.RADIUS_M
    steps = round(2 * math.pi / frequency / 30.0 / 3)  # a third of a period
    after = model.integrate(state, steps)
    assert float(after[3, 0, 2, 0, degree]) == pytest.approx(1e-2 * math.cos(frequency * steps * 30.0), rel=1e-3)
    assert float(after[:, :, 0].abs().max()) < 1e-18


def test_the_balanced_height_is_the_integral_of_the_jet(inviscid: ShallowWaterModel) -> None:
    """Phi = -integral of a u (f + u tan(lat) / a), but for what truncation takes of the jet: 1e-4 of the 10 km."""
    state, t = galewsky(inviscid, bump_m=0.0), inviscid.transform
    latitudes = torch.arcsin(t.sines).numpy()
    u, v = winds(inviscid, state)
    assert np.abs(u[0, 0].numpy() - galewsky_wind(latitudes)).max() < 0.25
    assert float(u.max()) == pytest.approx(80.0, abs=2.5)
    assert float(v.abs().max()) < 1e-11

    def slope(lat: float) -> float:
        wind = float(galewsky_wind(np.array([lat]))[0])
        return -wind * (2 * earth.ROTATION_RATE * earth.RADIUS_M * math.sin(lat) + wind * math.tan(lat))

    profile = np.array([quad(slope, JET_SOUTH, lat, limit=200)[0] if lat > JET_SOUTH else 0.0 for lat in latitudes])
    expected = profile - (profile * t.weights.numpy() / 2).sum() + 9.80665e4
    assert np.abs(t.field(state[:, :, 2])[0, 0].numpy() - expected).max() < 3.0


def test_the_balanced_jet_is_steady(inviscid: ShallowWaterModel) -> None:
    """For a day, although it is unstable: rounding has not grown past 1e-10 m/s yet."""
    state = galewsky(inviscid, bump_m=0.0)
    before, after = (winds(inviscid, s) for s in (state, inviscid.integrate(state, DAY_STEPS)))
    assert float((after[0] - before[0]).abs().max()) < 1e-10
    assert float(after[1].abs().max()) < 1e-10


def test_a_day_with_the_bump_conserves(inviscid: ShallowWaterModel) -> None:
    """Mass to rounding, energy and potential enstrophy to 1e-7; with hyperdiffusion they only fall."""
    viscous = ShallowWaterModel()
    state = torch.cat([galewsky(inviscid), galewsky(inviscid, bump_m=300.0)], 3)
    after = inviscid.integrate(state, DAY_STEPS)
    mass = after[0, 0, 2, :, 0] / state[0, 0, 2, :, 0]
    assert float((mass - 1).abs().max()) < 1e-14
    assert float(winds(inviscid, after)[1].abs().max()) > 1.0  # waves have spread
    before, later = invariants(inviscid, state), invariants(inviscid, after)
    assert later == pytest.approx(before, rel=1e-7)
    damped = invariants(viscous, viscous.integrate(state[:, :, :, :1], DAY_STEPS // 4))
    alone = invariants(inviscid, state[:, :, :, :1])
    assert all(-1e-2 < a / b - 1 < -1e-7 for a, b in zip(damped, alone, strict=True))


def test_third_order_in_time() -> None:
    """Halving the step divides the error by 8, from the first step on."""
    ends = []
    for step_s in (240.0, 120.0, 60.0, 30.0):
        model = ShallowWaterModel(21, 32, time_step_s=step_s, diffusion_h=math.inf)
        ends.append(model.integrate(galewsky(model, bump_m=1000.0), round(7200 / step_s))[:, :, 2])
    differences = [float((a - b).abs().max()) for a, b in zip(ends, ends[1:], strict=False)]
    assert all(2.7 < math.log2(a / b) < 3.5 for a, b in zip(differences, differences[1:], strict=False)), differences


def test_members_do_not_meet(inviscid: ShallowWaterModel) -> None:
    state = torch.cat([galewsky(inviscid), galewsky(inviscid, bump_m=-50.0)], 3)
    together = inviscid.integrate(state, 20)
    for member in (0, 1):
        alone = inviscid.integrate(state[:, :, :, member : member + 1], 20)
        scale = alone.abs().amax((0, 1, 3, 4), keepdim=True)
        assert float(((together[:, :, :, member : member + 1] - alone) / scale).abs().max()) < 1e-12


def test_errors() -> None:
    with pytest.raises(ConfigError, match="is not positive"):
        ShallowWaterModel(time_step_s=0.0)
    model = ShallowWaterModel(21, 32, time_step_s=3000.0)
    with pytest.raises(DivergedError, match="within 200 steps of 3000 s"):
        model.integrate(galewsky(model), 200)
