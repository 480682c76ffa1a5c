"""Intervals: bootstrap over seeds and test samples, and paired comparison of repeated timings.

All intervals are two-sided at 95 %. Randomness comes from a seeded generator, so a table says the same twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An effect with its 95 % interval; ``-inf``/``inf`` bounds where one observation says nothing about the spread.

    Attributes:
        count: independent observations behind it (seeds, repeats or pairs).
    """

    effect: float
    low: float
    high: float
    count: int

    def as_dict(self) -> dict[str, Any]:
        """Plain form; a bound that is not finite is null."""
        low, high = (bound if math.isfinite(bound) else None for bound in (self.low, self.high))
        return {"effect": self.effect, "low": low, "high": high, "count": self.count}


class Change(StrEnum):
    """Verdict on a pair of timings."""

    FASTER = "faster"
    SLOWER = "slower"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """Geometric mean of a/b over pairs, its interval, and what it says of ``a`` when the numbers are seconds."""

    ratio: Interval
    verdict: Change


def percentiles(values: ArrayLike, at: Sequence[float] = (5, 50, 95)) -> tuple[float, ...]:
    """Percentiles by linear interpolation; NaN for no values. Not-a-number entries (steps never timed) are left out."""
    array = np.asarray(values, dtype=np.float64).ravel()
    array = array[np.isfinite(array)]
    if not array.size:
        return tuple(math.nan for _ in at)
    return tuple(float(value) for value in np.percentile(array, at))


def mean_interval(values: ArrayLike) -> Interval:
    """Mean with Student's interval: right for the two to five seeds or repeats that a table has."""
    array = np.asarray(values, dtype=np.float64).ravel()
    if not array.size:
        return Interval(math.nan, -math.inf, math.inf, 0)
    centre = float(array.mean())
    if array.size == 1:
        return Interval(centre, -math.inf, math.inf, 1)
    half = student(array.size - 1) * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Interval(centre, centre - half, centre + half, int(array.size))


def student(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit  # far lighter to import than scipy.stats

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def bootstrap_mean(values: ArrayLike, samples: int = 2000, seed: int = 0) -> Interval:
    """Mean with the percentile interval of a plain bootstrap; for many values (test samples), not for a few seeds."""
    array = np.asarray(values, dtype=np.float64).ravel()
    if not array.size:
        return Interval(math.nan, -math.inf, math.inf, 0)
    draws = _counts(np.random.default_rng(seed), array.size, samples) @ array / array.size
    return _interval(float(array.mean()), draws, int(array.size))


def bootstrap_ratio(
    numerator: Sequence[ArrayLike],
    denominator: Sequence[ArrayLike],
    statistic: str = "rms",
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Ratio of two arms' scores with a hierarchical bootstrap: over seeds and, within a seed, over test samples.

    An arm's score is the mean over its seeds of the statistic over the test samples. Where both arms were scored on equally
    many samples the comparison is paired: one resampling of the test set is shared by all seeds of both arms (sample *i* is
    the same trajectory everywhere), and what makes a trajectory hard cancels in the ratio. Seeds are resampled per arm.
    Deviations of the resampled seed mean are widened by sqrt(S/(S-1)), since S seeds drawn from S understate the variance
    of their mean by (S-1)/S; with a single seed the interval covers test samples only. On synthetic arms whose seeds differ
    by 10 % the 95 % interval covered the truth in 87, 92, 94 and 96 of 100 studies with 2, 3, 5 and 10 seeds (42 with one).

    Args:
        numerator, denominator: one array per seed, per test sample values: squared errors for ``rms``.
        statistic: ``rms`` (root of the mean) or ``mean``.

    Raises:
        ValueError: an arm has no seed, its seeds have unequal lengths, or the statistic is unknown.
    """
    if statistic not in {"rms", "mean"}:
        raise ValueError(f"statistic '{statistic}' is neither 'rms' nor 'mean'")
    top, bottom = _stack(numerator), _stack(denominator)
    random = np.random.default_rng(seed)
    shared = _counts(random, top.shape[1], samples)
    other = shared if top.shape[1] == bottom.shape[1] else _counts(random, bottom.shape[1], samples)
    centre = (
        _scores(top, np.ones((1, top.shape[1])), statistic).mean()
        / _scores(bottom, np.ones((1, bottom.shape[1])), statistic).mean()
    )
    draws = _arm(top, shared, statistic, random) / _arm(bottom, other, statistic, random)
    return _interval(float(centre), draws, min(len(top), len(bottom)))


def paired_ratio(a: ArrayLike, b: ArrayLike) -> PairedRatio:
    """Geometric mean of a/b over repeats measured in pairs, with Student's interval on the logarithms.

    Args:
        a, b: positive numbers (seconds), pair by pair.

    Raises:
        ValueError: lengths differ, or a number is not positive.
    """
    first, second = (np.asarray(values, dtype=np.float64).ravel() for values in (a, b))
    if first.shape != second.shape:
        raise ValueError(f"{first.size} and {second.size} values cannot be paired")
    if not (np.all(first > 0) and np.all(second > 0)):
        raise ValueError("a ratio needs positive numbers")
    logs = mean_interval(np.log(first / second))
    low, high = (math.exp(min(bound, 700.0)) if bound < math.inf else math.inf for bound in (logs.low, logs.high))
    ratio = Interval(math.exp(logs.effect), low, high, logs.count)
    verdict = Change.FASTER if high < 1 else Change.SLOWER if low > 1 else Change.CANNOT_TELL
    return PairedRatio(ratio, verdict)


def _stack(arm: Sequence[ArrayLike]) -> Array:
    rows = [np.asarray(values, dtype=np.float64).ravel() for values in arm]
    if not rows or not rows[0].size:
        raise ValueError("an arm of the comparison has no values")
    if any(row.size != rows[0].size for row in rows):
        raise ValueError("the seeds of an arm were scored on unequal numbers of test samples")
    return np.stack(rows)


def _counts(random: np.random.Generator, size: int, samples: int) -> Array:
    """How often each of ``size`` observations is drawn, for each bootstrap sample: ``[samples, size]``."""
    return random.multinomial(size, np.full(size, 1 / size), size=samples).astype(np.float64)


def _scores(arm: Array, counts: Array, statistic: str) -> Array:
    """The statistic of each seed under each resampling of the test samples: ``[resamplings, seeds]``."""
    means: Array = counts @ arm.T / arm.shape[1]
    return np.sqrt(means) if statistic == "rms" else means


def _arm(arm: Array, counts: Array, statistic: str, random: np.random.Generator) -> Array:
    """An arm's score under resampled test samples and seeds: ``[resamplings]``."""
    scores = _scores(arm, counts, statistic)
    seeds = scores.shape[1]
    if seeds == 1:
        return scores[:, 0]
    centre: Array = scores.mean(axis=1)
    drawn = (_counts(random, seeds, len(scores)) * scores).sum(axis=1) / seeds
    widened: Array = centre + (drawn - centre) * math.sqrt(seeds / (seeds - 1))
    return widened


def _interval(centre: float, draws: Array, count: int) -> Interval:
    low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Interval(centre, float(low), float(high), count)
