"""The saturation fit: exact recovery, the reference fits of the published tables, verdicts, and its bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from results.fits import PowerLaw, aicc, fit_power_law, fit_saturation, judge
from results.published import load_published, of_metric

BUDGETS = {"5k": 5e3, "50k": 5e4, "500k": 5e5, "1M": 1e6, "2M": 2e6, "4M": 4e6, "8M": 8e6, "16M": 16e6}
SIZES = [2e3, 6e3, 2e4, 5e4, 2e5]

#: Published RMSE by budget (arXiv 2407.14129, Navier-Stokes) with the reference fit: E, A, alpha, slope3, verdict.
REFERENCE = {
    "exp 1 U-Net": ("50k", [0.0269, 0.0157, 0.0145, 0.0131, 0.0126, 0.0126], 0.0115, 0.0028, 0.574, -0.028, "saturates"),
    "exp 1 TFNO2D": (
        "5k", [0.0632, 0.0139, 0.0055, 0.0046, 0.0043, 0.0054, 0.0041, 0.0046], 0.0043, 0.0007, 0.829, -0.116, "saturates",
    ),
    "exp 1 TFNO3D L4": ("50k", [0.0998, 0.0173, 0.0127, 0.0107, 0.0091, 0.0083], 0.0078, 0.0050, 0.974, -0.183, "saturates"),
    "exp 1 FourCastNet": (
        "5k", [0.1558, 0.0404, 0.0201, 0.0154, 0.0164, 0.0153, 0.0149], 0.0141, 0.0029, 0.732, -0.069, "saturates",
    ),
    "exp 1 Swin": ("5k", [0.1637, 0.0603, 0.0107, 0.0084, 0.0070], 0.0011, 0.0078, 0.592, -0.306, "scales"),
    "exp 2 U-Net": ("50k", [0.3874, 0.3217, 0.3117, 0.3239, 0.3269, 0.3085], 0.3177, 0.0009, 1.47, -0.035, "saturates"),
    "exp 2 TFNO2D": (
        "5k", [0.4955, 0.3091, 0.2322, 0.2203, 0.2236, 0.2349, 0.2358], 0.2199, 0.0141, 0.565, 0.038, "saturates",
    ),
    "exp 3 TFNO2D": (
        "5k", [0.4846, 0.2897, 0.1778, 0.1585, 0.1449, 0.1322, 0.1248, 0.1210], 0.0886, 0.0720, 0.325, -0.064, "saturates",
    ),
    "exp 3 TFNO3D L4": (
        "50k", [0.4799, 0.2754, 0.2438, 0.2197, 0.2028, 0.1814, 0.1740], 0.1365, 0.1076, 0.387, -0.110, "saturates",
    ),
    "exp 3 Swin": ("5k", [0.6187, 0.4698, 0.2374, 0.2078, 0.1910], 0.0, 0.216, 0.212, -0.157, "scales"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_fits_of_the_published_tables(name: str) -> None:
    first, values, e, a, alpha, slope3, verdict = REFERENCE[name]
    budgets = list(BUDGETS.values())[list(BUDGETS).index(first) :][: len(values)]
    found = fit_saturation(budgets, [[value] for value in values])
    assert found.plain is not None
    assert found.plain.e == pytest.approx(e, abs=6e-5)
    assert found.plain.a == pytest.approx(a, abs=6e-5 if a < 0.1 else 6e-4)
    assert found.plain.alpha == pytest.approx(alpha, abs=6e-4 if alpha < 1 else 6e-3)
    assert found.slope3 == pytest.approx(slope3, abs=6e-4)
    assert found.verdict == verdict
    assert found.intervals == {}, "one value per size has no spread over seeds"


def test_reference_values_are_the_published_rows() -> None:
    names = {
        "U-Net": "U-Net",
        "TFNO2D": "TFNO2D L4",
        "TFNO3D L4": "TFNO3D L4",
        "FourCastNet": "FourCastNet p4",
        "Swin": "SwinTransformer",
    }
    rows = of_metric(load_published("dlwp"), "rmse")
    for name, (first, values, *_) in REFERENCE.items():
        experiment, model = f"exp{name[4]}", names[name[6:]]
        known = {row["budget"]: row["value"] for row in rows if (row["experiment"], row["published_as"]) == (experiment, model)}
        budgets = list(BUDGETS)[list(BUDGETS).index(first) :][: len(values)]
        assert [known[budget] for budget in budgets] == values, name


@pytest.mark.parametrize("robust", [False, True])
def test_exact_data_are_recovered(robust: bool) -> None:
    truth = PowerLaw(0.01, 0.02, 0.5, 0.0)
    found = fit_power_law(SIZES, truth.predict(SIZES), robust=robust)
    assert (found.e, found.a, found.alpha) == pytest.approx((0.01, 0.02, 0.5), rel=1e-6)


@given(st.floats(0.0, 0.9), st.floats(0.1, 2.0), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_recovery_and_units(share: float, alpha: float, unit: float) -> None:
    """Any law is recovered in prediction, in whatever unit the error is measured."""
    sizes = np.geomspace(5e3, 5e6, 7)
    truth = PowerLaw(unit * share, unit * (1 - share) * 5 ** (alpha - 1), alpha, 0.0)
    values = truth.predict(sizes)
    found = fit_power_law(sizes, values)
    assert found.predict(sizes) == pytest.approx(values, rel=1e-5)


def test_no_start_beats_the_fit() -> None:
    """A global search over the same objective (independent of our starts) finds nothing better."""
    _, values, *_ = REFERENCE["exp 1 TFNO2D"]
    x, y = np.log(np.array(list(BUDGETS.values())) / 1e6), np.log(values)

    def cost(theta: np.ndarray) -> float:
        return float(np.sum((np.log(theta[0] + np.exp(theta[1] - theta[2] * x)) - y) ** 2))

    best = scipy.optimize.differential_evolution(cost, [(0, 0.006), (-12, 0), (0, 3)], rng=0, tol=1e-12, maxiter=400)
    assert fit_power_law(list(BUDGETS.values()), values).rss <= best.fun * (1 + 1e-6)


def test_huber_leaves_one_bad_size_aside() -> None:
    sizes = np.geomspace(5e3, 5e6, 9)
    truth = PowerLaw(0.01, 0.02, 0.5, 0.0)
    values = truth.predict(sizes)
    values[5] *= 1.3
    robust, plain = (fit_power_law(sizes, values, robust=flag) for flag in (True, False))
    good = np.delete(np.arange(9), 5)
    error = {law: np.abs(np.log(law.predict(sizes) / truth.predict(sizes)))[good].max() for law in (robust, plain)}
    assert error[robust] < 0.03
    assert error[robust] < 0.4 * error[plain]


def test_n_sat_is_where_doubling_gains_two_per_cent() -> None:
    law = PowerLaw(0.01, 0.02, 0.5, 0.0)
    assert law.n_sat is not None
    once, twice = law.predict([law.n_sat, 2 * law.n_sat])
    assert twice / once == pytest.approx(0.98, rel=1e-12)
    assert PowerLaw(0.0, 0.02, 0.5, 0.0).n_sat is None, "a pure power law always gains"
    assert PowerLaw(0.0, 0.02, 0.01, 0.0).n_sat == 0, "unless it is so flat that it never does"


def test_aicc() -> None:
    assert aicc(0.5, 8, 3) == pytest.approx(8 * math.log(0.5 / 8) + 6 + 24 / 4)
    assert math.isfinite(aicc(0.0, 5, 3))
    with pytest.raises(ValueError, match="undefined"):
        aicc(0.5, 4, 3)


@pytest.mark.parametrize(
    ("e", "gain", "slope3", "verdict"),
    [
        (0.06, 2.1, -0.3, "saturates"),
        (0.04, 2.1, -0.3, "undecided"),
        (0.06, 1.9, -0.07, "undecided"),
        (0.0, -3.0, -0.049, "saturates"),
        (0.0, -3.0, -0.1, "scales"),
        (0.0, -3.0, -0.09, "undecided"),
        (0.06, None, -0.3, "undecided"),
    ],
)
def test_verdicts(e: float, gain: float | None, slope3: float, verdict: str) -> None:
    found, reason = judge(PowerLaw(e, 0.1, 0.5, 0.0), gain, slope3, 0.1, 6)
    assert found == verdict
    assert reason


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_fewer_than_five_sizes_are_undecided(count: int) -> None:
    sizes = SIZES[:count]
    found = fit_saturation(sizes, [[0.1], [0.05], [0.03], [0.02]][:count])
    assert found.verdict == "undecided"
    assert f"{count} sizes" in found.reason
    assert found.aicc_gain is None
    assert (found.robust is None) == (count < 3)


def test_interval_over_seeds_holds_the_truth_and_repeats() -> None:
    truth = PowerLaw(0.01, 0.02, 0.5, 0.0)
    sizes = np.geomspace(5e3, 5e6, 7)
    random = np.random.default_rng(3)
    values = [[value * math.exp(random.normal() * 0.01) for _ in range(4)] for value in truth.predict(sizes)]
    found = fit_saturation(sizes, values, samples=60)
    for name in ("e", "a", "alpha"):
        low, high = found.intervals[name]
        assert low is not None
        assert high is not None
        assert low < getattr(truth, name) < high
    band = found.curve
    assert np.all(np.array(band["low"]) <= np.array(band["high"]))
    assert band["params"][0] == pytest.approx(sizes[0])
    assert found == fit_saturation(sizes, values, samples=60)
    assert found.intervals != fit_saturation(sizes, values, samples=60, seed=1).intervals
    shuffled = [6, 0, 3, 1, 5, 2, 4]
    assert found == fit_saturation([sizes[i] for i in shuffled], [values[i] for i in shuffled], samples=60)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="seeds"):
        fit_saturation([1e4, 2e4], [[0.1], []])
    with pytest.raises(ValueError, match="positive"):
        fit_saturation([1e4], [[-0.1]])
    with pytest.raises(ValueError, match="do not determine"):
        fit_power_law([1e4, 2e4], [0.1, 0.2])
