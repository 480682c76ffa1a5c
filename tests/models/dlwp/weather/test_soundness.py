"""Long rollouts that are made up: blow-ups at a known frame, offsets, trends, winds, and the published verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.dlwp.weather.grid import WEATHERBENCH, equiangular, latitude_weights
from models.dlwp.weather.soundness import OUTLIER_U10, OUTLIER_Z500_RMSE, TRADES, WESTERLIES, Soundness, band

LATITUDES = WEATHERBENCH.latitudes
SHAPE = WEATHERBENCH.shape
#: Climatology of z500, and a wind that blows as it should over the South westerlies.
MEAN, WIND = 54_100.0, 6.8


def rollout(frames: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A sound atmosphere, its climatology and its wind, ``[time, lat, lon]`` each."""
    random = torch.Generator().manual_seed(seed)
    z500 = MEAN + 1000 * torch.randn(frames, *SHAPE, generator=random)
    u10 = WIND + 2 * torch.randn(frames, *SHAPE, generator=random)
    return z500, u10, torch.full((frames, *SHAPE), MEAN)


def sums(z500: Tensor, u10: Tensor, reference: Tensor, truth: Tensor | None = None, block: int = 8) -> Soundness:
    """Added block by block, as a rollout does."""
    made = Soundness(LATITUDES)
    for first in range(0, len(z500), block):
        part = slice(first, first + block)
        made.add(z500[part], u10[part], reference[part], None if truth is None else truth[part])
    return made


BREAKS = {
    "z500 is not a number": ("z500", math.nan),
    "z500 is infinite": ("z500", math.inf),
    "one value of z500 beyond the bound of the mean": ("z500", MEAN + 1.2 * OUTLIER_Z500_RMSE * math.sqrt(32 * 64)),
    "u10 is not a number": ("u10", math.nan),
    "u10 beyond its bound": ("u10", -1.01 * OUTLIER_U10),
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("frame", [0, 5, 8, 23])
def test_a_rollout_counts_to_the_frame_it_blows_up_at(name: str, frame: int) -> None:
    """At any place of a block; what comes later enters nothing, however sound it looks."""
    channel, value = BREAKS[name]
    z500, u10, reference = rollout(30)
    truth = torch.randn(30, *SHAPE)
    (z500 if channel == "z500" else u10)[frame, 16, 3] = value
    found = sums(z500, u10, reference, truth)
    assert (found.broken_after, found.frames, found.compared) == (frame, frame, frame)
    assert len(found.mean_z500) == len(found.westerlies) == frame
    assert not found.sound
    alone = sums(z500[:frame], u10[:frame], reference[:frame], truth[:frame])
    assert alone.broken_after is None
    assert dict(found.metrics()) == dict(alone.metrics())
    assert all(math.isfinite(value) for value in found.metrics().values())
    assert (found.metrics() == {}) == (frame == 0)


def test_what_lies_within_the_bounds_breaks_nothing() -> None:
    """An area-weighted error just below the bound, and wind up to it."""
    z500, u10, reference = rollout(4)
    z500[2] = MEAN + 0.999 * OUTLIER_Z500_RMSE
    u10[1, 0, 0] = OUTLIER_U10
    assert sums(z500, u10, reference).broken_after is None
    z500[2] = MEAN - 1.001 * OUTLIER_Z500_RMSE
    assert sums(z500, u10, reference).broken_after == 2


@settings(max_examples=20, deadline=None)
@given(st.floats(-20, 20), st.integers(1, 20), st.integers(1, 9))
def test_profiles_of_a_constant_offset_differ_by_it(offset: float, frames: int, block: int) -> None:
    """In every band, weighted or not."""
    z500, u10, reference = rollout(frames)
    found = sums(z500, u10 + offset, reference, u10, block)
    for weighted in (False, True):
        for bands in (None, TRADES, WESTERLIES):
            assert found.profile_rmse(bands, weighted=weighted) == pytest.approx(abs(offset), rel=1e-5, abs=1e-5)
    metrics = found.metrics()
    for name in ("u10_profile_rmse", "u10_trades_rmse", "u10_westerlies_rmse"):
        assert metrics[name] == pytest.approx(abs(offset), rel=1e-5, abs=1e-5)


def test_profiles_are_means_over_time_and_longitude() -> None:
    """What cancels over time or along a row is no difference; bands see their own rows; areas weigh."""
    z500, u10, reference = rollout(6)
    wave = torch.cos(torch.linspace(0, 2 * math.pi, 65)[:-1])
    back_and_forth = torch.tensor([5.0, -5.0] * 3).view(6, 1, 1)
    assert sums(z500, u10 + 9 * wave + back_and_forth, reference, u10).profile_rmse() == pytest.approx(0, abs=1e-5)
    rows = torch.zeros(32, 1)
    rows[band(LATITUDES, TRADES)] = 3
    found = sums(z500, u10 + rows, reference, u10)
    share = band(LATITUDES, TRADES).mean()
    assert found.profile_rmse(TRADES) == pytest.approx(3, rel=1e-5)
    assert found.profile_rmse(WESTERLIES) == pytest.approx(0, abs=1e-5)
    assert found.profile_rmse() == pytest.approx(3 * math.sqrt(share), rel=1e-5)
    weights = latitude_weights(LATITUDES)
    expected = 3 * math.sqrt(weights[band(LATITUDES, TRADES)].sum() / weights.sum())
    assert found.profile_rmse(weighted=True) == pytest.approx(expected, rel=1e-5)
    assert expected > 3 * math.sqrt(share)


def test_only_frames_whose_truth_is_known_are_compared() -> None:
    """A forecast that outlives the truth: what it does afterwards has no part in the difference, but in the drift."""
    z500, u10, reference = rollout(24)
    made = Soundness(LATITUDES)
    made.add(z500[:8], u10[:8] + 2, reference[:8], u10[:8])
    made.add(z500[8:], u10[8:] + 50, reference[8:])
    assert (made.frames, made.compared) == (24, 8)
    assert made.profile_rmse() == pytest.approx(2, rel=1e-5)
    without = sums(z500, u10, reference)
    assert math.isnan(without.profile_rmse())
    assert set(without.metrics()) == {"z500_drift"}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.floats(-20, 20))
def test_drift_of_a_linear_trend(frames: int, slope: float) -> None:
    """Last tenth minus first: the slope over the frames between their middles."""
    z500 = MEAN + slope * torch.arange(frames, dtype=torch.float64).view(-1, 1, 1).expand(frames, *SHAPE)
    _, u10, reference = rollout(frames)
    found = sums(z500, u10, reference)
    assert found.drift_z500 == pytest.approx(slope * (frames - max(frames // 10, 1)), abs=1e-6)


def test_means_over_the_globe_count_by_area() -> None:
    z500, u10, reference = rollout(1)
    z500[0] = torch.from_numpy(MEAN + 100 * np.sin(np.radians(LATITUDES)) ** 2)[:, None]
    areas = latitude_weights(LATITUDES)
    expected = MEAN + 100 * float((np.sin(np.radians(LATITUDES)) ** 2 * areas).mean())
    found = sums(z500, u10, reference)
    assert found.mean_z500 == [pytest.approx(expected, abs=0.01)]
    assert expected == pytest.approx(MEAN + 100 / 3, abs=0.1)
    assert found.westerlies == [pytest.approx(u10[0, band(LATITUDES, WESTERLIES)].mean().item(), rel=1e-6)]


def constant(frames: int, z: float, u: float) -> tuple[Tensor, Tensor, Tensor]:
    whole = torch.ones(frames, *SHAPE)
    return z * whole, u * whole, z * whole


@pytest.mark.parametrize(
    ("z", "u", "sound"),
    [(54_210, 6.77, True), (52_990, 6.8, False), (55_510, 6.8, False), (54_200, 2.9, False), (54_200, 12.1, False)],
)
def test_the_published_verdict(z: float, u: float, sound: bool) -> None:
    assert sums(*constant(130, z, u)).sound == sound


def test_the_verdict_is_one_of_months() -> None:
    """A few days outside are forgiven, a month is not; also where the last month is short."""
    for outside, sound in ((4, True), (119, False)):
        z500, u10, reference = constant(200, 54_000, WIND)
        u10[:outside] = 20
        assert sums(z500, u10, reference).sound == sound
    z500, u10, reference = constant(130, 54_000, WIND)
    u10[120:] = 20
    assert not sums(z500, u10, reference).sound


def test_a_grid_without_rows_over_the_westerlies_is_judged_by_the_rest() -> None:
    coarse = equiangular(8).latitudes
    assert not band(coarse, WESTERLIES).any()
    for z, sound in ((54_000.0, True), (60_000.0, False)):
        made = Soundness(coarse)
        whole = torch.ones(3, 8, 16)
        made.add(z * whole, WIND * whole, z * whole, WIND * whole)
        assert made.sound == sound
        assert math.isnan(made.profile_rmse(WESTERLIES))
        assert set(made.metrics()) == {"u10_profile_rmse", "u10_trades_rmse", "z500_drift"}


def test_bands_of_both_hemispheres() -> None:
    latitudes = np.array([-60.0, -55, -50, -45, -20, -15, -10, 0, 10, 20, 45, 55])
    assert latitudes[band(latitudes, TRADES)].tolist() == [-20, -15, -10, 10, 20]
    assert latitudes[band(latitudes, WESTERLIES)].tolist() == [-55, -50, -45]
