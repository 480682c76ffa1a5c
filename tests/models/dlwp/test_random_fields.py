"""Gaussian random fields: statistics in closed form, independence of what else is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dlwp.random_fields import gaussian_fields, pointwise_std, sqrt_eigenvalues
from results.errors import ConfigError


@pytest.mark.parametrize(("alpha", "std"), [(2.5, 0.26195), (2.0, 0.34690)])
def test_mean_and_spread(alpha: float, std: float) -> None:
    """The pointwise standard deviation is sqrt(sum of eigenvalues) / s^2; 0.26195 and 0.34690 on 64 x 64."""
    assert pointwise_std(64, alpha=alpha) == pytest.approx(std, abs=5e-6)
    fields = gaussian_fields(64, "train", range(400), seed=0, alpha=alpha)
    assert fields.shape == (400, 64, 64)
    assert np.abs(fields.mean((1, 2))).max() < 1e-15
    assert np.sqrt((fields**2).mean()) == pytest.approx(std, rel=0.02)


def test_spectrum_follows_the_power_law() -> None:
    """E |w_k|^2 of the real part is half of 2 lambda_k, mirrored: lambda_k itself."""
    s = 32
    fields = gaussian_fields(s, "train", range(2000), seed=3)
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(0)
    expected = sqrt_eigenvalues(s) ** 2
    inner = expected > 0
    assert np.median(power[inner] / expected[inner]) == pytest.approx(1.0, abs=0.01)
    assert np.abs(power[inner] / expected[inner] - 1).max() < 0.2  # 2000 draws: 4.5 % a mode at most of the modes


def test_isotropy_and_decorrelation() -> None:
    fields = gaussian_fields(32, "train", range(1500), seed=1)
    variance = fields.var(0)
    assert variance.max() / variance.min() < 1.4
    assert abs(np.corrcoef(fields[0].ravel(), fields[1].ravel())[0, 1]) < 0.3


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=6), st.integers(0, 2**64 - 1), st.sampled_from(["train", "val", "test"])
)
def test_a_sample_is_a_function_of_seed_set_and_index(samples: list[int], seed: int, split: str) -> None:
    together = gaussian_fields(8, split, samples, seed=seed)
    for field, sample in zip(together, samples, strict=True):
        assert np.array_equal(field, gaussian_fields(8, split, [sample], seed=seed)[0])


def test_seeds_sets_and_indices_differ() -> None:
    keys = [(0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "test", 0), (0, "train", 1)]
    drawn = [gaussian_fields(8, split, [sample], seed=seed) for seed, split, sample in keys]
    assert all(not np.array_equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert gaussian_fields(8, "train", [], seed=0).shape == (0, 8, 8)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"alpha": 1.0}, "data.alpha"),
        ({"alpha": float("nan")}, "data.alpha"),
        ({"tau": 0.0}, "data.tau"),
        ({"seed": -1}, "data.store_seed"),
        ({"split": "dev"}, "split"),
    ],
)
def test_wrong_parameters(options: dict[str, object], where: str) -> None:
    arguments: dict[str, object] = {"split": "train", "seed": 0, **options}
    with pytest.raises(ConfigError) as caught:
        gaussian_fields(8, samples=[0], **arguments)  # type: ignore[arg-type]
    assert caught.value.where == where
