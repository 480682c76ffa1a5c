"""Scores in closed form: weighted errors, anomaly correlations, ensembles against sums over all pairs, spectra by Parseval."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.dlwp.weather.forecasting import climatology_at, perturbations
from models.dlwp.weather.grid import WEATHERBENCH, cell_areas, equiangular, gaussian, latitude_weights
from models.dlwp.weather.verification import QUANTITIES, Verification, crps, rate, spectral_ratio, zonal_power

LATITUDES = WEATHERBENCH.latitudes
WEIGHTS = torch.from_numpy(latitude_weights(LATITUDES)).unsqueeze(-1)
CHANNELS, HOURS = ("z500", "t850"), (6, 12, 18)


def fields(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, 32, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TRUTH, FIRST, CLIMATE = fields(0, 3, 3, 2), fields(1, 3, 2), fields(2, 3, 3, 2)


def verified(forecast: Tensor, truth: Tensor = TRUTH, first: Tensor = FIRST, climate: Tensor = CLIMATE) -> Verification:
    return Verification(rate(forecast, truth, first, climate, WEIGHTS).numpy(), CHANNELS, HOURS)


def test_weights_are_the_areas_of_cells_and_of_mean_one() -> None:
    areas = cell_areas(WEATHERBENCH)
    np.testing.assert_allclose(latitude_weights(LATITUDES), areas / areas.mean(), rtol=1e-13)
    for grid in (WEATHERBENCH, equiangular(16), gaussian(24)):
        assert latitude_weights(grid.latitudes).mean() == pytest.approx(1, abs=1e-14)


@settings(max_examples=20, deadline=None)
@given(st.floats(-1e4, 1e4), st.booleans())
def test_the_error_of_a_constant_offset_is_the_offset(offset: float, single: bool) -> None:
    """Also where fields come in float32, at every lead and of every channel."""
    forecast, truth = (54_000 + TRUTH, TRUTH + 54_000) if not single else (TRUTH.float(), TRUTH.float().double())
    found = verified(forecast + offset, truth)
    for channel, hours in itertools.product(CHANNELS, HOURS):
        assert found.rmse(channel, hours) == pytest.approx(abs(offset), rel=1e-6, abs=1e-3 if single else 1e-9)


def test_errors_count_by_area_and_the_root_comes_last() -> None:
    """Off by 1 in one row, and by 3 everywhere on another date: the mean of squares over dates, not of roots."""
    forecast = TRUTH.clone()
    forecast[0, :, :, 5] += 1
    forecast[1] -= 3
    found = verified(forecast)
    share = float(np.cos(np.radians(LATITUDES[5])) / np.cos(np.radians(LATITUDES)).sum())
    np.testing.assert_allclose(found.of("error", "t850", 12), [share, 9, 0], atol=1e-12)
    assert found.rmse("t850", 12) == pytest.approx(math.sqrt((share + 9) / 3))


def test_persistence_and_climatology_are_rated_on_the_same_targets() -> None:
    """Truth rises by 2 a frame from its first state; the climatology is 5 below it."""
    truth = FIRST.unsqueeze(1) + 2 * torch.arange(1, 4).view(1, 3, 1, 1, 1)
    found = verified(torch.zeros_like(truth), truth, FIRST, truth - 5)
    for step, hours in enumerate(HOURS, start=1):
        assert found.rmse("z500", hours, "persistence") == pytest.approx(2 * step)
        assert found.rmse("z500", hours, "climatology") == pytest.approx(5)
    curves = found.curves()
    np.testing.assert_allclose(curves["persistence"], np.tile([[2], [4], [6]], 2))
    assert {name: values.shape for name, values in curves.items()} == dict.fromkeys(QUANTITIES[:3], (3, 2))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 10))
def test_anomaly_correlation_of_the_truth_and_of_its_anomaly_stretched_is_one(factor: float) -> None:
    for sign in (1, -1):
        found = verified(CLIMATE + sign * factor * (TRUTH - CLIMATE))
        for channel, hours in itertools.product(CHANNELS, HOURS):
            assert found.acc_pooled(channel, hours) == pytest.approx(sign, abs=1e-12)
            assert found.acc_wb2(channel, hours) == pytest.approx(sign, abs=1e-12)
    assert verified(TRUTH).acc_pooled("z500", 6) == pytest.approx(1, abs=1e-14)


def test_the_climatology_is_that_of_the_month_of_the_valid_time() -> None:
    monthly = np.arange(12 * 3, dtype=np.float32).reshape(12, 3, 1, 1)
    times = np.array(["2016-12-31T18", "2017-01-01T00", "2016-02-29T06", "2017-07-01"], "datetime64[ns]")
    assert climatology_at(times, monthly, 1)[..., 0, 0].tolist() == [[34, 35], [1, 2], [4, 5], [19, 20]]


def test_pooled_correlation_counts_dates_by_their_power_the_other_counts_them_alike() -> None:
    """Three dates: right, wrong way round and ten times as strong, uncorrelated."""
    one = fields(3, 1, 1, 2)
    other = fields(4, 1, 1, 2)
    other -= ((other * one * WEIGHTS).mean((-2, -1)) / (one * one * WEIGHTS).mean((-2, -1)))[..., None, None] * one
    other *= ((one * one * WEIGHTS).mean((-2, -1)) / (other * other * WEIGHTS).mean((-2, -1))).sqrt()[..., None, None]
    truth, forecast = torch.cat([one, 10 * one, one]), torch.cat([one, -10 * one, other])
    zero = torch.zeros_like(truth)
    found = Verification(rate(forecast, truth, zero[:, 0], zero, WEIGHTS).numpy(), CHANNELS, (6,))
    assert found.acc_wb2("z500", 6) == pytest.approx(0, abs=1e-12)
    assert found.acc_pooled("z500", 6) == pytest.approx((1 - 100 + 0) / 102)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_infinitely_wrong(value: float) -> None:
    """One point of one date and lead: its scores are infinite or absent, never a number; all others stand."""
    forecast = TRUTH.clone()
    forecast[1, 2, 0, 7, 7] = value
    found, sound = verified(forecast), verified(TRUTH)
    assert found.of("error", "z500", 18).tolist() == [0, math.inf, 0]
    assert found.rmse("z500", 18) == math.inf
    assert not math.isfinite(found.acc_pooled("z500", 18))
    assert not math.isfinite(found.acc_wb2("z500", 18))
    assert found.rmse("t850", 18) == 0
    assert np.array_equal(found.values[:, :2], sound.values[:, :2])
    assert found.acc_pooled("z500", 12) == pytest.approx(1)


def test_what_was_not_rated_is_refused() -> None:
    for channel, hours in (("u10", 6), ("z500", 24)):
        with pytest.raises(ValueError):
            verified(TRUTH).rmse(channel, hours)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 99))
def test_crps_is_the_double_sum_over_members(count: int, dates: int, seed: int) -> None:
    """Fair form: mean |x - y| minus half the mean |x - x'| over pairs of different members; spread and error by numpy."""
    members, truth = fields(seed, count, dates), fields(seed + 1, dates)
    apart = (members - truth).abs().mean(0)
    pairs = sum((members[i] - members[j]).abs() for i in range(count) for j in range(count)) / (2 * count * (count - 1))
    score, error, spread = crps(members, truth, WEIGHTS)
    assert score.shape == (dates,)
    torch.testing.assert_close(score, ((apart - pairs) * WEIGHTS).mean((-2, -1)))
    torch.testing.assert_close(error, ((members.mean(0) - truth) ** 2 * WEIGHTS).mean((-2, -1)))
    variance = torch.from_numpy(members.numpy().var(0, ddof=1))
    torch.testing.assert_close(spread, (variance * WEIGHTS).mean((-2, -1)))


def test_crps_of_two_members_and_of_one() -> None:
    """Members 1 and 4 around the truth 2: (1 + 2) / 2 - 3 / 2 = 0; around 6: (5 + 2) / 2 - 3 / 2 = 2. One member: its error."""
    members = torch.tensor([1.0, 4.0]).view(2, 1, 1, 1).expand(2, 2, 32, 64)
    truth = torch.tensor([2.0, 6.0]).view(2, 1, 1).expand(2, 32, 64)
    score, error, spread = crps(members, truth, WEIGHTS)
    np.testing.assert_allclose(score, [0, 2], atol=1e-12)
    np.testing.assert_allclose(error, [0.25, 12.25])
    np.testing.assert_allclose(spread, [4.5, 4.5])
    score, error, spread = crps(members[:1], truth, WEIGHTS)
    np.testing.assert_allclose(score, [1, 5])
    np.testing.assert_allclose(error, [1, 25])
    np.testing.assert_allclose(spread, [0, 0])


def test_a_reliable_ensemble_has_a_spread_like_its_error_and_the_known_crps() -> None:
    """Members and truth of one normal distribution: fair CRPS 1 / sqrt(pi), spread / skill sqrt(n / (n + 1))."""
    members, truth = fields(8, 5, 40), fields(9, 40)
    score, error, spread = (values.mean().item() for values in crps(members, truth, torch.ones(32, 1)))
    assert score == pytest.approx(1 / math.sqrt(math.pi), rel=0.01)
    assert math.sqrt(spread / error) == pytest.approx(math.sqrt(5 / 6), rel=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 33), st.integers(0, 99))
def test_power_of_all_wavenumbers_is_the_mean_square(points: int, seed: int) -> None:
    """Even and odd numbers of points."""
    field = torch.randn(2, 3, points, generator=torch.Generator().manual_seed(seed))
    power = zonal_power(field)
    assert power.shape == (2, 3, points // 2 + 1)
    torch.testing.assert_close(power.sum(-1), field.double().square().mean(-1))


@pytest.mark.parametrize(("wavenumber", "points"), [(0, 16), (3, 16), (8, 16), (7, 15)])
def test_a_wave_has_its_power_in_its_wavenumber(wavenumber: int, points: int) -> None:
    """2 cos(k lon) has a mean square of 2; of 4 where it does not oscillate, or between two points alone."""
    angle = 2 * math.pi * wavenumber * torch.arange(points, dtype=torch.float64) / points
    power = zonal_power(2 * torch.cos(angle).view(1, 1, -1))[0, 0]
    expected = torch.zeros(points // 2 + 1, dtype=torch.float64)
    expected[wavenumber] = 4 if wavenumber in (0, points / 2) else 2
    torch.testing.assert_close(power, expected, atol=1e-12, rtol=0)


def test_spectral_ratio() -> None:
    """1 of equal fields, 4 of doubled ones; only small scales between 30 and 60 degrees count."""
    truth = fields(5, 4)
    assert spectral_ratio(truth, truth, LATITUDES, first=10) == 1
    assert spectral_ratio(2 * truth, truth, LATITUDES, first=10) == pytest.approx(4)
    longitude = torch.from_numpy(np.radians(WEATHERBENCH.longitudes))
    elsewhere = truth + 100 * torch.cos(9 * longitude)
    assert spectral_ratio(elsewhere, truth, LATITUDES, first=10) == pytest.approx(1)
    assert spectral_ratio(truth + 100 * torch.cos(10 * longitude), truth, LATITUDES, first=10) > 1000
    inside = torch.from_numpy((np.abs(LATITUDES) >= 30) & (np.abs(LATITUDES) <= 60))
    assert spectral_ratio(torch.where(inside[:, None], truth, 0), truth, LATITUDES, first=10) == 1
    assert spectral_ratio(torch.where(inside[:, None], 0, truth), truth, LATITUDES, first=10) == 0


def test_perturbations_have_the_deviation_asked_for_and_are_smooth() -> None:
    found = perturbations(3, (2, 32, 64), 0.02, seed=4)
    assert found.shape == (3, 2, 32, 64)
    torch.testing.assert_close(found.std((-2, -1)), torch.full((3, 2), 0.02))
    assert torch.equal(found, perturbations(3, (2, 32, 64), 0.02, seed=4))
    assert not torch.equal(found, perturbations(3, (2, 32, 64), 0.02, seed=5))
    power = zonal_power(found).mean((0, 1, 2))
    assert power[20:].sum() < 0.01 * power[1:].sum()
    assert (found.roll(1, -1) - found).abs().max() < 3 * found.std()
