"""Laws of parallel scaling, fitted in closed form, and where an efficiency falls below a floor. Plain numbers in and out.

Amdahl (1967), fixed problem: ``T(N) = T(1) (s + (1 - s) / N)``. Gustafson (1988), problem proportional to the ranks:
throughput ``X(N) = X(1) (s + (1 - s) N)``. Both are linear in two unknowns, so no start values and no bounds are needed; the
equations are divided by what was measured, because the errors of timings are relative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

#: Two unknowns, and two counts more to see whether the law describes what was measured.
MINIMUM_COUNTS = 4


class Mode(StrEnum):
    """What stays the same when ranks are added."""

    STRONG = "strong"  # the global batch
    WEAK = "weak"  # the batch of one rank


LAW = {Mode.STRONG: "Amdahl", Mode.WEAK: "Gustafson"}


@dataclass(frozen=True, slots=True)
class Law:
    """One fitted law.

    Attributes:
        serial: serial fraction s. Outside [0, 1] the law does not hold: below 0 ranks gain more than their number (caches),
            above 1 more ranks take longer.
        misfit: root mean square of the relative residuals.
    """

    serial: float
    misfit: float


def fit(mode: Mode, ranks: ArrayLike, step_s: ArrayLike) -> Law:
    """Fit Amdahl's law (strong) or Gustafson's (weak) to step times.

    Args:
        ranks: rank counts, at least two different ones.
        step_s: time per step at each, in seconds; of any one unit, since only ratios matter.

    Raises:
        ValueError: too few counts, unequal lengths, or a number that is not positive and finite.
    """
    counts, times = (np.asarray(values, dtype=np.float64).ravel() for values in (ranks, step_s))
    if counts.size != times.size:
        raise ValueError(f"{counts.size} rank counts for {times.size} times")
    for values in (counts, times):
        if not (np.all(np.isfinite(values)) and np.all(values > 0)):
            raise ValueError("a law of scaling needs positive numbers")
    if np.unique(counts).size < 2:
        raise ValueError("a law of scaling needs two rank counts")
    measured, growing = (times, 1 / counts) if mode is Mode.STRONG else (counts / times, counts)
    equations = np.stack([np.ones_like(counts), growing], axis=1) / measured[:, None]
    (constant, proportional), *_ = np.linalg.lstsq(equations, np.ones_like(counts), rcond=None)
    residuals = equations @ np.array([constant, proportional]) - 1
    return Law(float(constant / (constant + proportional)), float(np.sqrt(np.mean(residuals**2))))


def speed_up(mode: Mode, serial: float, ranks: ArrayLike, base: float = 1) -> np.ndarray:
    """The speed-up over ``base`` ranks that a law with this serial fraction predicts: of time (strong), of throughput (weak)."""
    counts = np.asarray(ranks, dtype=np.float64)

    def rate(count: np.ndarray | float) -> np.ndarray | float:
        return 1 / (serial + (1 - serial) / count) if mode is Mode.STRONG else serial + (1 - serial) * count

    return np.asarray(rate(counts) / rate(base))


def crossing(ranks: Sequence[float], efficiency: Sequence[float], floor: float) -> float | None:
    """Rank count at which efficiency first falls below ``floor``, linear in log(ranks) between the two counts around it.

    Args:
        ranks: ascending.

    Returns:
        The count; the first one where efficiency already starts below; None where it does not fall below within ``ranks``.
    """
    previous: tuple[float, float] | None = None
    for count, value in zip(ranks, efficiency, strict=True):
        if value < floor:
            if previous is None:
                return float(count)
            before, above = previous
            share = (above - floor) / (above - value)
            return math.exp(math.log(before) + share * (math.log(count) - math.log(before)))
        previous = (count, value)
    return None
