"""Intervals against closed forms, and their coverage on data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from results.stats import Change, bootstrap_mean, bootstrap_ratio, mean_interval, paired_ratio, percentiles, student


def test_percentiles() -> None:
    assert percentiles(range(101)) == (5, 50, 95)
    assert percentiles([3.0, math.nan, 1.0], at=(50,)) == (2.0,)
    assert all(math.isnan(number) for number in percentiles([]))


@pytest.mark.parametrize("freedom", [1, 2, 4, 30])
def test_student_quantile(freedom: int) -> None:
    assert student(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-10)


def test_mean_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(size=7)
    low, high = scipy.stats.t.interval(0.95, 6, values.mean(), scipy.stats.sem(values))
    found = mean_interval(values)
    assert (found.low, found.high, found.count) == (pytest.approx(low), pytest.approx(high), 7)


def test_one_value_says_nothing_of_the_spread() -> None:
    found = mean_interval([2.5])
    assert (found.effect, found.low, found.high) == (2.5, -math.inf, math.inf)
    assert found.as_dict() == {"effect": 2.5, "low": None, "high": None, "count": 1}


def test_bootstrap_mean_matches_the_normal_interval_and_repeats() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = bootstrap_mean(values, samples=4000)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found == bootstrap_mean(values, samples=4000)
    assert found != bootstrap_mean(values, samples=4000, seed=1)


def test_ratio_of_an_arm_to_itself_is_exactly_one_within_a_seed() -> None:
    """The same test samples are drawn for both arms, so what is common cancels."""
    squared = np.random.default_rng(2).exponential(size=50)
    found = bootstrap_ratio([4 * squared], [squared])
    assert (found.effect, found.low, found.high) == pytest.approx((2, 2, 2), rel=1e-12)
    assert bootstrap_ratio([4 * squared], [squared], "mean").effect == pytest.approx(4)


def test_unpaired_when_the_test_sets_differ() -> None:
    squared = np.random.default_rng(3).exponential(size=50)
    found = bootstrap_ratio([squared], [squared[:40]])
    assert found.low < found.effect < found.high


@given(st.floats(1e-3, 1e3), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_ratio_scales_and_inverts(factor: float, top: int, bottom: int) -> None:
    random = np.random.default_rng(4)
    a, b = [random.exponential(size=30) for _ in range(top)], [random.exponential(size=30) for _ in range(bottom)]
    plain = bootstrap_ratio(a, b, samples=200)
    scaled = bootstrap_ratio([factor**2 * row for row in a], b, samples=200)
    assert scaled.effect == pytest.approx(factor * plain.effect)
    assert (scaled.low, scaled.high) == (pytest.approx(factor * plain.low), pytest.approx(factor * plain.high))
    assert bootstrap_ratio(b, a, samples=200).effect == pytest.approx(1 / plain.effect)
    assert plain.low <= plain.high
    assert plain.count == min(top, bottom)


def test_hierarchical_interval_covers_the_truth() -> None:
    """Seeds differ by 10 %, trajectories by much more but alike in both arms: 95 % of intervals should hold the true ratio.

    Ten seeds an arm reach 90 %; the shared trajectories must not count as noise (the unpaired interval is far wider).
    """
    random = np.random.default_rng(5)
    covered = 0
    widths, loose = [], []
    studies = 200
    for _ in range(studies):
        hard = random.lognormal(0, 1, 40)
        a = [0.64 * hard * random.lognormal(0, 0.1) ** 2 * random.lognormal(0, 0.05, 40) for _ in range(10)]
        b = [hard * random.lognormal(0, 0.1) ** 2 * random.lognormal(0, 0.05, 40) for _ in range(10)]
        found = bootstrap_ratio(a, b, samples=300)
        covered += found.low < 0.8 < found.high
        widths.append(found.high - found.low)
        apart = bootstrap_ratio([row[:39] for row in a], b, samples=300)
        loose.append(apart.high - apart.low)
    assert 0.88 * studies <= covered <= 0.99 * studies
    assert np.mean(loose) > 2 * np.mean(widths)


def test_bad_arms() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_ratio([], [[1.0]])
    with pytest.raises(ValueError, match="unequal"):
        bootstrap_ratio([[1.0, 2.0], [1.0]], [[1.0]])
    with pytest.raises(ValueError, match="median"):
        bootstrap_ratio([[1.0]], [[1.0]], "median")


def test_paired_ratio_closed_form() -> None:
    a, b = [2.0, 8.0], [1.0, 1.0]  # logs ln 2 and 3 ln 2: mean 2 ln 2, standard error ln 2
    found = paired_ratio(a, b).ratio
    assert found.effect == pytest.approx(4)
    assert found.high == pytest.approx(4 * 2 ** scipy.stats.t.ppf(0.975, 1))
    assert paired_ratio(a, b).verdict is Change.CANNOT_TELL


def test_pairing_sees_through_a_drift_that_hides_the_difference() -> None:
    random = np.random.default_rng(6)
    drift = np.exp(random.normal(0, 0.5, 5))
    a, b = 0.9 * drift * np.exp(random.normal(0, 0.005, 5)), drift
    assert paired_ratio(a, b).verdict is Change.FASTER
    assert paired_ratio(b, a).verdict is Change.SLOWER
    assert paired_ratio(a, b[::-1]).verdict is Change.CANNOT_TELL


def test_paired_coverage_is_nominal() -> None:
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(1000):
        drift = np.exp(random.normal(size=5))
        found = paired_ratio(1.1 * drift * np.exp(random.normal(0, 0.05, 5)), drift * np.exp(random.normal(0, 0.05, 5))).ratio
        hits += found.low < 1.1 < found.high
    assert 930 <= hits <= 970


def test_pairs_must_be_pairs_of_positive_numbers() -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="positive"):
        paired_ratio([1.0], [0.0])
    assert paired_ratio([1.0], [2.0]).verdict is Change.CANNOT_TELL
