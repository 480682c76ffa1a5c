"""Laws of scaling on exact times: the serial fraction that made them comes back, and the floor is where algebra puts it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.scaling_laws import Mode, crossing, fit, speed_up

COUNTS = st.lists(st.integers(1, 4096), min_size=4, max_size=10, unique=True).map(sorted)
SERIAL = st.floats(0, 1)
SECONDS = st.floats(1e-6, 1e4)


def amdahl(serial: float, ranks: list[int], one_s: float) -> list[float]:
    return [one_s * (serial + (1 - serial) / count) for count in ranks]


def gustafson(serial: float, ranks: list[int], one_s: float) -> list[float]:
    """Step time at a batch proportional to the ranks: ranks over scaled speed-up."""
    return [one_s * count / (count - serial * (count - 1)) for count in ranks]


@pytest.mark.parametrize("serial", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("ranks", [[1, 2, 4, 8], [2, 3, 5, 7, 96]])
def test_the_known_fraction_returns(serial: float, ranks: list[int]) -> None:
    for mode, law in ((Mode.STRONG, amdahl), (Mode.WEAK, gustafson)):
        found = fit(mode, ranks, law(serial, ranks, 0.37))
        assert found.serial == pytest.approx(serial, abs=1e-9)
        assert found.misfit < 1e-9


@given(SERIAL, COUNTS, SECONDS)
def test_amdahl_returns_for_any_counts(serial: float, ranks: list[int], one_s: float) -> None:
    found = fit(Mode.STRONG, ranks, amdahl(serial, ranks, one_s))
    # At thousands of ranks alone a small serial part is all there is to see, and T(1) an extrapolation by as much.
    assert found.serial == pytest.approx(serial, abs=1e-9 * max(1, ranks[0]) ** 2)
    assert found.misfit < 1e-9


@given(SERIAL, COUNTS, SECONDS)
def test_gustafson_returns_for_any_counts(serial: float, ranks: list[int], one_s: float) -> None:
    found = fit(Mode.WEAK, ranks, gustafson(serial, ranks, one_s))
    assert found.serial == pytest.approx(serial, abs=1e-9 * max(1, ranks[0]) ** 2)
    assert found.misfit < 1e-9


@given(SERIAL, COUNTS, SECONDS, st.floats(1e-3, 1e3), st.sampled_from(list(Mode)), st.randoms(use_true_random=False))
def test_unit_and_order_do_not_matter(serial, ranks, one_s, unit, mode, random) -> None:  # type: ignore[no-untyped-def]
    times = [time * (1 + 0.05 * random.uniform(-1, 1)) for time in amdahl(serial, ranks, one_s)]
    order = random.sample(range(len(ranks)), len(ranks))
    plain = fit(mode, ranks, times)
    other = fit(mode, [ranks[i] for i in order], [unit * times[i] for i in order])
    assert other.misfit == pytest.approx(plain.misfit, rel=1e-6, abs=1e-9)
    if 0 <= plain.serial <= 1 and ranks[0] < 10:
        assert other.serial == pytest.approx(plain.serial, rel=1e-5, abs=1e-7)


def test_a_law_that_does_not_hold_shows_it() -> None:
    growing = fit(Mode.STRONG, [1, 2, 4, 8], [1.0, 1.5, 1.9, 2.2])
    assert growing.serial > 1
    assert fit(Mode.STRONG, [1, 2, 4, 8], [1.0, 0.45, 0.2, 0.09]).serial < 0
    with_a_minimum = fit(Mode.STRONG, [1, 2, 4, 8, 16], [1.0, 0.5, 0.3, 0.5, 0.9])
    assert with_a_minimum.misfit > 0.1


def test_predicted_speed_up_is_the_textbooks() -> None:
    assert speed_up(Mode.STRONG, 0.1, [1, 10]).tolist() == pytest.approx([1, 1 / (0.1 + 0.09)])
    assert speed_up(Mode.WEAK, 0.1, [1, 10]).tolist() == pytest.approx([1, 10 - 0.1 * 9])
    assert speed_up(Mode.STRONG, 0.0, [8], base=2).tolist() == pytest.approx([4])
    times = amdahl(0.07, [2, 4, 8], 1.3)
    assert speed_up(Mode.STRONG, 0.07, [8], base=2)[0] == pytest.approx(times[0] / times[2])


@pytest.mark.parametrize(
    ("ranks", "times"),
    [
        ([1, 2], [1.0]),
        ([2, 2, 2, 2], [1.0, 1, 1, 1]),
        ([1, 2, 3, 4], [1.0, 0.5, 0.0, 0.2]),
        ([1, 2, 3, 4], [1.0, math.nan, 1, 1]),
    ],
)
def test_numbers_that_make_no_curve_are_refused(ranks: list[int], times: list[float]) -> None:
    with pytest.raises(ValueError, match="rank counts|positive|two"):
        fit(Mode.STRONG, ranks, times)


def test_crossing_in_closed_form() -> None:
    assert crossing([1, 4], [1.0, 0.4], 0.7) == pytest.approx(2.0)  # half-way in log2
    assert crossing([1, 2, 4], [1.0, 0.9, 0.7], 0.7) is None  # not below
    assert crossing([4, 8], [0.5, 0.9], 0.7) == 4
    assert crossing([1, 2, 4, 8], [1.0, 0.6, 0.9, 0.1], 0.7) == pytest.approx(2**0.75)  # the first time
    assert crossing([], [], 0.7) is None


@given(st.lists(st.floats(0.01, 1.5), min_size=2, max_size=8), st.floats(0.1, 0.9))
def test_efficiency_interpolated_at_the_crossing_is_the_floor(efficiency: list[float], floor: float) -> None:
    ranks = [2**place for place in range(len(efficiency))]
    found = crossing(ranks, efficiency, floor)
    if found is None:
        assert min(efficiency) >= floor
        return
    assert ranks[0] <= found <= ranks[-1]
    if found > 1:
        assert float(np.interp(math.log(found), np.log(ranks), efficiency)) == pytest.approx(floor)
    assert all(value >= floor for count, value in zip(ranks, efficiency, strict=True) if count < found)
