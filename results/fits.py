"""Does a backbone saturate? A power law with an offset, fitted to error against parameters.

The form is ``rmse(N) = E + A (N / 1e6)**-alpha`` with E >= 0 and alpha in [0, 3], fitted in log space from many starts. Two
fits of it are kept apart:

* the *robust* one (Huber loss: a residual beyond 2 % counts linearly) gives the curve that is drawn and its interval;
* the *plain* one (least squares) is compared with the pure power law E = 0 by AICc and decides the verdict. It is the one
  that reproduces the reference fits of the published tables. On a clean curve the two agree; they part where one size is
  off the curve: plain least squares bends the whole curve towards that size, Huber leaves it aside.

The verdict is defined by the design notes for the DLWP benchmark (arXiv 2407.14129, whose "saturation" is read off plots).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SCALE = 1e6  # parameters are counted in millions inside the fit
ALPHA_MAX = 3.0
HUBER = 0.02  # residual of log rmse from which on the loss grows linearly
MINIMUM_SIZES = 5  # with three parameters AICc is undefined on four points, and three fit anything
GAIN = 0.02  # doubling N must gain this much, or it is past N_sat
_STARTS = tuple((share, alpha) for share in (0.0, 0.5, 0.9) for alpha in (0.1, 0.3, 0.6, 1.0, 1.8, 2.8))


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """One fitted curve.

    Attributes:
        e: offset, in the metric's unit.
        a: amplitude at a million parameters, same unit.
        alpha: exponent.
        rss: residual sum of squares in log space.
    """

    e: float
    a: float
    alpha: float
    rss: float

    def predict(self, params: ArrayLike) -> Array:
        """The metric at ``params`` real parameters."""
        numbers = np.asarray(params, dtype=np.float64)
        return np.asarray(self.e + self.a * (numbers / SCALE) ** -self.alpha)

    @property
    def n_sat(self) -> float | None:
        """Smallest N from which doubling gains less than 2 % (closed form); None when it always gains more, 0 when never."""
        left = (1 - GAIN) - 2**-self.alpha
        if left <= 0 or self.a == 0:
            return 0.0
        if self.e == 0:
            return None
        try:
            return float(SCALE * (GAIN * self.e / (self.a * left)) ** (-1 / self.alpha))
        except OverflowError:  # an offset so small that it is reached at no number of parameters
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturationFit:
    """What is known about one backbone.

    Attributes:
        verdict: ``saturates``, ``scales`` or ``undecided``.
        reason: the numbers that decided, in words.
        robust, plain, power: the Huber fit, the least-squares fit, and least squares with E = 0; None below three sizes.
        aicc_gain: AICc of the pure power law minus that of the offset fit (> 2: the offset is worth its parameter); None
            below five sizes.
        slope3: slope of log rmse against log N over the last three sizes; None below three sizes.
        n_sat: of the robust fit.
        intervals: 95 % intervals of ``e``, ``a``, ``alpha``, ``n_sat`` of the robust fit over seeds; empty where no size
            has two seeds.
        curve: ``params, low, high``: the band of the robust fit over the range of sizes; empty likewise.
    """

    sizes: int
    seeds: int
    verdict: str
    reason: str
    robust: PowerLaw | None
    plain: PowerLaw | None
    power: PowerLaw | None
    aicc_gain: float | None
    slope3: float | None
    n_sat: float | None
    intervals: dict[str, tuple[float | None, float | None]]
    curve: dict[str, list[float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain form."""
        return {**asdict(self), "intervals": {name: list(bounds) for name, bounds in self.intervals.items()}}


def fit_power_law(params: ArrayLike, rmse: ArrayLike, *, offset: bool = True, robust: bool = False) -> PowerLaw:
    """Fit the curve to one value per size.

    Args:
        params: real parameters, any order.
        rmse: positive values, one per size.
        offset: False holds E at 0.
        robust: Huber loss instead of plain least squares.

    Raises:
        ValueError: fewer than three sizes (two without offset), or a number that is not positive.
    """
    numbers, values = (np.asarray(array, dtype=np.float64).ravel() for array in (params, rmse))
    if numbers.shape != values.shape or numbers.size < (3 if offset else 2):
        raise ValueError(f"{numbers.size} sizes with {values.size} values do not determine a power law")
    if not (np.all(numbers > 0) and np.all(values > 0)):
        raise ValueError("parameters and values of a power law must be positive")
    return _fit(np.log(numbers / SCALE), np.log(values), _starts(numbers, values, offset), offset=offset, robust=robust)


def fit_saturation(
    params: Sequence[float], rmse_by_seed: Sequence[Sequence[float]], *, seed: int = 0, samples: int = 200
) -> SaturationFit:
    """Fit, compare with the pure power law, and judge.

    Args:
        params: real parameters of each size; points without skill must have been left out.
        rmse_by_seed: for each size the values of its seeds; a size enters with their geometric mean.
        seed: of the bootstrap over seeds.
        samples: bootstrap samples.

    Raises:
        ValueError: lengths differ, a size has no seed, or a number is not positive.
    """
    if len(params) != len(rmse_by_seed) or any(len(values) == 0 for values in rmse_by_seed):
        raise ValueError("every size needs the values of its seeds")
    order = np.argsort(np.asarray(params, dtype=np.float64), kind="stable")
    numbers = np.asarray(params, dtype=np.float64)[order]
    by_seed = [np.asarray(rmse_by_seed[index], dtype=np.float64) for index in order]
    if any(not np.all(values > 0) for values in by_seed) or not np.all(numbers > 0):
        raise ValueError("parameters and values of a power law must be positive")
    means = np.exp([np.log(values).mean() for values in by_seed])
    seeds = min((values.size for values in by_seed), default=0)
    sizes = numbers.size
    if sizes < 3:
        return SaturationFit(
            sizes=sizes, seeds=seeds, verdict="undecided", reason=f"{sizes} sizes with skill; a verdict needs {MINIMUM_SIZES}",
            robust=None, plain=None, power=None, aicc_gain=None, slope3=None, n_sat=None, intervals={}, curve={},
        )  # fmt: skip
    plain, power = fit_power_law(numbers, means), fit_power_law(numbers, means, offset=False)
    robust = fit_power_law(numbers, means, robust=True)
    slope3 = float(np.polyfit(np.log(numbers[-3:]), np.log(means[-3:]), 1)[0])
    gain = None if sizes < MINIMUM_SIZES else aicc(power.rss, sizes, 2) - aicc(plain.rss, sizes, 3)
    verdict, reason = judge(plain, gain, slope3, float(means.min()), sizes)
    intervals, curve = _bootstrap(numbers, by_seed, robust, seed, samples)
    return SaturationFit(
        sizes=sizes, seeds=seeds, verdict=verdict, reason=reason, robust=robust, plain=plain, power=power, aicc_gain=gain,
        slope3=slope3, n_sat=robust.n_sat, intervals=intervals, curve=curve,
    )  # fmt: skip


def judge(plain: PowerLaw, aicc_gain: float | None, slope3: float, best: float, sizes: int) -> tuple[str, str]:
    """Verdict and reason.

    ``saturates``: the offset wins by AICc > 2 and E > 0.5 x the best value, or slope3 > -0.05. ``scales``: the pure power law
    wins and slope3 <= -0.1. Else, and below five sizes, ``undecided``.
    """
    if aicc_gain is None:
        return "undecided", f"{sizes} sizes with skill; a verdict needs {MINIMUM_SIZES}"
    if aicc_gain > 2 and plain.e > 0.5 * best:
        return "saturates", f"an offset E = {plain.e:.3g} ({plain.e / best:.0%} of the best value) wins by AICc {aicc_gain:.1f}"
    if slope3 > -0.05:
        return "saturates", f"flat over the last three sizes: slope {slope3:+.3f} > -0.05"
    if aicc_gain <= 0 and slope3 <= -0.1:
        return "scales", f"the pure power law wins by AICc {-aicc_gain:.1f}, slope over the last three sizes {slope3:+.3f}"
    return "undecided", f"AICc gain of an offset {aicc_gain:+.1f}, slope over the last three sizes {slope3:+.3f}"


def aicc(rss: float, count: int, parameters: int) -> float:
    """Corrected Akaike criterion of a least-squares fit (Hurvich and Tsai 1989).

    The residual sum is floored at rounding level, so that exact data do not win by infinity.

    Raises:
        ValueError: ``count`` is below ``parameters + 2``: the correction is undefined.
    """
    left = count - parameters - 1
    if left <= 0:
        raise ValueError(f"AICc is undefined for {parameters} parameters on {count} points")
    floor = count * (64 * np.finfo(np.float64).eps) ** 2
    return count * math.log(max(rss, floor) / count) + 2 * parameters + 2 * parameters * (parameters + 1) / left


def _starts(numbers: Array, values: Array, offset: bool) -> list[tuple[float, float, float]]:
    """Starting points (E, log A, alpha): offsets as shares of the best value, amplitudes that pass through the first size."""
    best, first = float(values.min()), int(np.argmin(numbers))
    found = []
    for share, alpha in _STARTS:
        if share and not offset:
            continue
        e = share * best
        rest = max(float(values[first]) - e, 0.05 * best)
        found.append((e, math.log(rest) + alpha * math.log(numbers[first] / SCALE), alpha))
    return found


def _fit(x: Array, y: Array, starts: Sequence[tuple[float, float, float]], *, offset: bool, robust: bool) -> PowerLaw:
    """Bounded trust-region least squares from each start; the smallest cost wins. ``x``, ``y``: log N/1e6, log rmse."""
    from scipy.optimize import least_squares

    best_value = math.exp(float(y.min()))

    def parts(theta: Array) -> tuple[Array, Array, float]:
        e = theta[2] * best_value if offset else 0.0
        power = np.exp(theta[0] - theta[1] * x)
        return e + power, power, e

    def residuals(theta: Array) -> Array:
        return np.asarray(np.log(parts(theta)[0]) - y)

    def jacobian(theta: Array) -> Array:
        total, power, _ = parts(theta)
        columns = [power / total, -x * power / total]
        if offset:
            columns.append(best_value / total)
        return np.stack(columns, axis=1)

    # E is scaled by the best value, so that all three parameters are of order one.
    lower, upper = [-60.0, 0.0], [60.0, ALPHA_MAX]
    if offset:
        lower, upper = [*lower, 0.0], [*upper, 1.5]
    found = None
    for e, log_a, alpha in starts:
        theta = [log_a, alpha, e / best_value] if offset else [log_a, alpha]
        solution = least_squares(
            residuals,
            np.clip(theta, np.asarray(lower) + 1e-9, np.asarray(upper) - 1e-9),
            jac=jacobian,
            bounds=(lower, upper),
            loss="huber" if robust else "linear",
            f_scale=HUBER if robust else 1.0,
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
            max_nfev=300,
        )
        if found is None or solution.cost < found.cost * (1 - 1e-9):
            found = solution
    assert found is not None, "there is always a start"
    theta = found.x
    e = float(theta[2] * best_value) if offset else 0.0
    if e < 1e-9 * best_value:  # the interior method stops short of the bound
        e = 0.0
    return PowerLaw(e, math.exp(theta[0]), float(theta[1]), float(np.sum(residuals(theta) ** 2)))


def _bootstrap(
    numbers: Array, by_seed: Sequence[Array], robust: PowerLaw, seed: int, samples: int
) -> tuple[dict[str, tuple[float | None, float | None]], dict[str, list[float]]]:
    """Refit with the seeds of every size drawn anew; equal draws are fitted once."""
    if not any(values.size > 1 for values in by_seed):
        return {}, {}
    random = np.random.default_rng(seed)
    logs = [np.log(values) for values in by_seed]
    x = np.log(numbers / SCALE)
    grid = np.geomspace(numbers[0], numbers[-1], 60)
    known: dict[bytes, PowerLaw] = {}
    fits = []
    for _ in range(samples):
        drawn = np.array([np.sort(random.choice(values, values.size)).mean() for values in logs])
        key = drawn.tobytes()
        if key not in known:
            values = np.exp(drawn)
            starts = [(robust.e, math.log(robust.a), robust.alpha), _starts(numbers, values, True)[9]]
            known[key] = _fit(x, drawn, starts, offset=True, robust=True)
        fits.append(known[key])
    tail = [2.5, 97.5]
    intervals: dict[str, tuple[float | None, float | None]] = {}
    for name in ("e", "a", "alpha"):
        low, high = np.percentile([getattr(fit, name) for fit in fits], tail)
        intervals[name] = (float(low), float(high))
    n_sats = np.sort([math.inf if fit.n_sat is None else fit.n_sat for fit in fits])
    low, high = (float(n_sats[round(at * (samples - 1))]) for at in (0.025, 0.975))  # inf does not interpolate
    intervals["n_sat"] = (low if math.isfinite(low) else None, high if math.isfinite(high) else None)
    low_band, high_band = np.percentile([fit.predict(grid) for fit in fits], tail, axis=0)
    return intervals, {"params": grid.tolist(), "low": low_band.tolist(), "high": high_band.tolist()}
