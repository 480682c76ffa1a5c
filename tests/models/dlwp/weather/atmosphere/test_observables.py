"""Channels of the generated atmosphere: closed forms, balance, and the climate that they show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.dlwp.weather.atmosphere import earth
from models.dlwp.weather.atmosphere.harmonics import Transform, pack, unpack
from models.dlwp.weather.atmosphere.observables import POINT_MEANS, Observer, balanced_geopotential
from models.dlwp.weather.atmosphere.orography import MOUNTAINS, Mountain, height
from models.dlwp.weather.atmosphere.quasi_geostrophic import QuasiGeostrophicModel
from models.dlwp.weather.channels import LEXICON, channel
from models.dlwp.weather.supplied import CHANNELS
from results.errors import ConfigError
from tests.models.dlwp.weather.atmosphere.conftest import Climate

LATITUDES = -87.1875 + 5.625 * np.arange(32)
WEIGHTS = np.cos(np.radians(LATITUDES)) / np.cos(np.radians(LATITUDES)).mean()
NOON = np.array(["2001-01-01T12"], dtype="datetime64[ns]")


@pytest.fixture(scope="module")
def observer() -> Observer:
    return Observer(LATITUDES)


def solid_rotation(u200: float, u500: float, u800: float) -> torch.Tensor:
    """Streamfunctions of zonal winds u cos(lat): psi = -a u sin(lat), ``[1, 3, l, m]``."""
    psi = torch.zeros(1, 3, 22, 22, dtype=torch.complex128)
    speeds = torch.tensor([u200, u500, u800], dtype=torch.float64)
    psi[0, :, 1, 0] = -earth.RADIUS_M * math.sqrt(4 * math.pi / 3) * speeds.to(psi.dtype)
    return psi


def test_balance_against_the_transform() -> None:
    """lap Phi = div(f grad psi), evaluated on a grid that resolves it."""
    transform = Transform(22, 40, 80)
    psi = torch.zeros(2, 23, 23, dtype=torch.complex128)
    psi[:, :22, :22] = QuasiGeostrophicModel().random_streamfunction([1])[0, :2]
    f = 2 * earth.ROTATION_RATE * transform.sines
    east, north = transform.gradient(pack(psi))
    laplacian = unpack(transform.divergence(f * east, f * north), (2,))
    eigenvalues = transform.laplacian.clone()
    eigenvalues[0] = torch.inf
    expected = (laplacian / eigenvalues[:, None])[:, :22, :22]
    found = balanced_geopotential(psi[:, :22, :22])
    assert float((found - expected).abs().max()) < 1e-12 * float(expected.abs().max())


def test_channels_of_solid_rotation(observer: Observer) -> None:
    """psi = -a u sin(lat) is in balance with Phi = -a Omega u sin^2(lat), but for its mean."""
    seen = observer.channels(solid_rotation(30.0, 20.0, 10.0), NOON, (*CHANNELS, "u200", "v200", "u500", "u800", "z800"))
    sine, cosine = np.sin(np.radians(LATITUDES)), np.cos(np.radians(LATITUDES))
    assert all(field.shape == (1, 32, 64) and field.dtype == np.float32 for field in seen.values())
    for name, speed in (("u200", 30.0), ("u500", 20.0), ("u800", 10.0)):
        assert np.abs(seen[name][0] - speed * cosine[:, None]).max() < 1e-5
    assert np.abs(seen["v200"]).max() < 1e-5
    phi = [
        -earth.RADIUS_M * earth.ROTATION_RATE * u * (sine**2 - 1 / 3) - m for u, m in zip((30, 20, 10), POINT_MEANS, strict=True)
    ]
    logs = np.log([200.0, 500.0, 800.0])
    at_300 = phi[0] + (phi[1] - phi[0]) * (math.log(300) - logs[0]) / (logs[1] - logs[0])
    at_1000 = phi[1] + (phi[2] - phi[1]) * (math.log(1000) - logs[1]) / (logs[2] - logs[1])
    for name, anomaly, mean in (("z500", phi[1], 54107.867188), ("z300", at_300, 89399.90625), ("z1000", at_1000, 738.503784)):
        assert np.abs(seen[name][0] - (mean + anomaly)[:, None]).max() < 0.02
    warmth = (phi[1] - phi[2]) / (287.05 * math.log(1.6))
    assert np.abs(seen["t850"][0] - (274.518799 + warmth)[:, None]).max() < 1e-4
    constants, sun = observer.constants(), seen["tisr"][0] / (1361.0 * 3600.0)
    expected = 278.4 + 0.9 * warmth[:, None] - 0.0065 * constants["orography"] + 10.0 * constants["lsm"] * (sun - 0.25)
    assert np.abs(seen["t2m"][0] - expected).max() < 1e-3


def test_surface_wind_turns_towards_low_pressure(observer: Observer) -> None:
    psi = QuasiGeostrophicModel().random_streamfunction([3])
    seen = observer.channels(psi, NOON, ["u10", "v10", "u800", "v800"])
    speeds = [np.hypot(seen[f"u{level}"], seen[f"v{level}"]) for level in ("10", "800")]
    assert np.abs(speeds[0] - 0.6 * speeds[1]).max() < 1e-4
    across = seen["u800"] * seen["v10"] - seen["v800"] * seen["u10"]  # positive: turned to the left
    angle = np.degrees(np.arcsin(np.clip(across / (speeds[0] * speeds[1] + 1e-12), -1, 1)))[0]
    assert np.abs(angle[LATITUDES > 10] - 20.0).max() < 0.1
    assert np.abs(angle[LATITUDES < -10] + 20.0).max() < 0.1


def test_a_westerly_brings_air_towards_the_pole(observer: Observer) -> None:
    """Its low pressure lies there; trades bring air to the equator."""
    seen = observer.channels(solid_rotation(0.0, 0.0, 10.0), NOON, ["v10"])["v10"][0, :, 0]
    assert (np.sign(seen) == np.sign(LATITUDES)).all()


def test_constants(observer: Observer) -> None:
    seen = observer.constants()
    assert list(seen) == ["orography", "lsm", "lat2d", "lon2d"]
    assert seen["lat2d"][:, 5] == pytest.approx(LATITUDES)
    assert seen["lon2d"][3] == pytest.approx(5.625 * np.arange(64))
    assert set(np.unique(seen["lsm"])) == {0.0, 1.0}
    assert 0.1 < (WEIGHTS[:, None] * seen["lsm"]).mean() < 0.35
    for top in MOUNTAINS:
        assert height(np.array([top.lat_deg]), np.array([top.lon_deg]))[0, 0] == pytest.approx(top.height_m, abs=1.0)


def test_a_mountain_falls_off_along_great_circles() -> None:
    top = [Mountain(1000.0, 60.0, 350.0, 10.0)]
    assert height(np.array([50.0, 70.0]), np.array([350.0]), top)[:, 0] == pytest.approx([1000.0 / math.e] * 2)
    east = math.degrees(2 * math.asin(math.sin(math.radians(5.0)) / math.cos(math.radians(60.0))))  # 10 degrees away
    assert height(np.array([60.0]), np.array([350.0 + east - 360.0]), top)[0, 0] == pytest.approx(1000.0 / math.e, rel=0.02)


def test_channels_that_do_not_exist(observer: Observer) -> None:
    psi = solid_rotation(1.0, 1.0, 1.0)
    for name in ("z850", "q500", "u300", "orography"):
        with pytest.raises(ConfigError, match=f"no channel '{name}'"):
            observer.channels(psi, NOON, [name])
    with pytest.raises(ConfigError, match="2 times for 1 states"):
        observer.channels(psi, np.repeat(NOON, 2))


def test_generated_values_pass_for_weather(climate: Climate, observer: Observer) -> None:
    """Every channel lies within the range that readers accept, near its published mean and deviation."""
    seen = [observer.channels(psi, times) for psi, times in zip(climate.psi, climate.times, strict=True)]
    for name in CHANNELS:
        values, entry = np.stack([fields[name] for fields in seen]), LEXICON[name]
        assert entry.low <= values.min() <= values.max() <= entry.high, name
        assert entry.mean is not None
        assert entry.std is not None
        assert abs(values.mean() - entry.mean) < 0.4 * entry.std, name
        assert 0.6 < values.std() / entry.std < 1.35, name


def test_climate(climate: Climate, observer: Observer) -> None:
    """Jets aloft, westerlies and trades below, winter stronger than summer in either hemisphere."""

    def zonal(name: str) -> np.ndarray:
        return climate.each(lambda psi, times: observer.channels(psi, times, [name])[name]).mean((1, 3)).reshape(2, 2, 32).mean(1)

    aloft, below = zonal("u200"), zonal("u800")
    north, south = LATITUDES > 0, LATITUDES < 0
    for season in (0, 1):
        assert 30.0 < aloft[season].max() < 65.0
        assert 6.0 < below[season].max() < 18.0
        tropics = below[season][np.abs(LATITUDES) < 20]
        assert -6.0 < tropics.mean() < -1.0
        assert tropics.max() < 0.5
    assert aloft[0][north].max() > aloft[1][north].max() + 10.0  # January
    assert aloft[1][south].max() > aloft[0][south].max() + 10.0  # July


def test_persistence_of_z500(climate: Climate, observer: Observer) -> None:
    """Root mean square change in 1, 3 and 5 days, latitudes weighted, as known of this model: 470-510, 680-820, 800-870."""
    z500 = climate.each(lambda psi, times: observer.channels(psi, times, ["z500"])["z500"])
    assert 3000.0 < z500.std() < 4500.0
    for days, low, high in ((1, 400, 560), (3, 640, 880), (5, 720, 960)):
        change = z500[:, 4 * days :] - z500[:, : -4 * days]
        assert low < math.sqrt((WEIGHTS[:, None] * change**2).mean()) < high


def test_published_means_come_from_the_lexicon(observer: Observer) -> None:
    still = observer.channels(torch.zeros(1, 3, 22, 22, dtype=torch.complex128), NOON, ["z500", "z200"])
    assert still["z500"][0, 0, 0] == pytest.approx(channel("z500").mean - POINT_MEANS[1], abs=0.01)
    assert still["z200"][0, 0, 0] == pytest.approx(115_563 - POINT_MEANS[0], abs=150.0)  # 11,784 m in the standard atmosphere
