"""The Pareto front against its definition, and the gate between loss curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.equality import gate
from results.pareto import front

numbers = st.integers(-5, 5).map(float)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


@given(st.lists(st.tuples(numbers, numbers), max_size=20))
def test_front_is_exactly_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    chosen = front([x for x, _ in points], [y for _, y in points])
    expected = {i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)}
    assert set(chosen) == expected
    assert len(chosen) == len(expected)
    assert [points[i][0] for i in chosen] == sorted(points[i][0] for i in chosen)


@given(st.lists(st.tuples(numbers, numbers), max_size=12))
def test_directions_mirror(points: list[tuple[float, float]]) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    assert set(front(xs, ys, ("max", "min"))) == set(front([-x for x in xs], ys))
    assert set(front(xs, ys, ("min", "max"))) == set(front(xs, [-y for y in ys]))


def test_front_by_hand() -> None:
    assert front([1, 2, 3, 2, math.nan], [3, 2, 2, 2, 0]) == [0, 1, 3]
    with pytest.raises(ValueError):
        front([1], [1, 2])
    with pytest.raises(ValueError):
        front([1], [1], ("min", "down"))


REFERENCE = np.array([1.0, 0.5, 0.25])


def test_gate_names_the_step_of_the_largest_relative_difference() -> None:
    found = gate(REFERENCE, REFERENCE + [1e-5, 2e-5, 1e-5], 1e-4)
    assert found.passed
    assert found.largest_relative_difference == pytest.approx(4e-5)
    assert found.step in {1, 2}
    worse = gate(REFERENCE, REFERENCE + [1e-5, 2e-5, 4e-5], 1e-4)
    assert not worse.passed
    assert worse.step == 2
    assert "step 2" in worse.detail


def test_equal_curves_pass_at_any_tolerance() -> None:
    assert gate(REFERENCE, REFERENCE, 0.0).passed


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_never_passes(place: int, bad: float) -> None:
    other = REFERENCE.copy()
    other[place] = bad
    for found in (gate(REFERENCE, other, 1.0), gate(other, REFERENCE, 1.0), gate(other, other, 1.0)):
        assert not found.passed
        assert found.step == place


def test_missing_steps_never_pass() -> None:
    short = gate(REFERENCE, REFERENCE[:2], 1.0)
    assert not short.passed
    assert short.detail == "2 steps against 3"
    assert not gate([], [], 1.0).passed
    assert gate(REFERENCE, [], 1.0).step is None


@given(st.floats(1e-6, 1e6), st.floats(-1e-2, 1e-2))
def test_gate_is_relative(scale: float, share: float) -> None:
    found = gate(scale * REFERENCE, scale * REFERENCE * (1 + share), 1.0)
    assert found.largest_relative_difference == pytest.approx(abs(share), rel=1e-6, abs=1e-12)
