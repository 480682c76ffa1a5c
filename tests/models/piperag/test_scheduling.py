"""Which retrieval feeds which tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.piperag.scheduling.schedule import SCHEDULES, Schedule
from results.errors import ConfigError

numbers = st.integers(1, 24).flatmap(lambda c: st.tuples(st.just(c), st.integers(1, c), st.integers(1, 200)))


@given(numbers=numbers)
def test_windows_and_intervals_cover_the_text(numbers: tuple[int, int, int]) -> None:
    """Section 3 of RETRO's flexible form: ceil((n - c) / m) intervals, every later token in exactly one of them."""
    chunk, interval, total = numbers
    schedule = Schedule("sequential", chunk, interval, total)
    count = schedule.intervals
    assert count == max(-(-(total - chunk) // interval), 0)
    covered = [p for j in range(count) for p in range(schedule.known(j), schedule.known(j) + schedule.length(j))]
    assert covered == list(range(chunk, total))
    assert [schedule.boundary(known) for known in range(total + 1) if schedule.boundary(known) is not None] == list(range(count))
    # A window ends where its boundary lies: nothing is asked about tokens that are not known yet.
    assert all(schedule.window(j).stop == schedule.known(j) for j in range(count))


@given(numbers=numbers, name=st.sampled_from(SCHEDULES))
def test_retrievals_ask_about_known_tokens_and_at_most_one_is_under_way(numbers: tuple[int, int, int], name: str) -> None:
    schedule = Schedule(name, *numbers)
    open_until = -1
    for place, retrieval in enumerate(schedule.retrievals):
        assert retrieval.number == place
        assert schedule.window(retrieval.window).stop <= schedule.known(retrieval.asked_at)
        # The shift is the window's age when its answer is used.
        assert retrieval.shift == schedule.known(retrieval.used_from) - schedule.window(retrieval.window).stop
        assert 0 <= retrieval.shift <= schedule.chunk
        assert retrieval.asked_at >= open_until
        assert retrieval.used_from < schedule.intervals
        open_until = retrieval.used_from


def test_the_published_counts() -> None:
    """1024 tokens in chunks of 64: RETRO needs 15 retrievals (its code makes a useless 16th at the end), the latency client one
    fewer, and no retrieval none."""
    counts = {name: len(Schedule(name, 64, 64, 1024).retrievals) for name in SCHEDULES}
    assert counts == {"none": 0, "once": 1, "sequential": 15, "pipelined": 15, "client": 14}
    assert len(Schedule("sequential", 64, 8, 1024).retrievals) == 120


def test_pipelined_reads_the_window_before_and_the_client_skips_one() -> None:
    pipelined, client = (Schedule(name, 8, 4, 24) for name in ("pipelined", "client"))
    assert [(r.window, r.shift, r.asked_at, r.used_from) for r in pipelined.retrievals] == [
        (0, 0, 0, 0), (0, 4, 0, 1), (1, 4, 1, 2), (2, 4, 2, 3),
    ]  # fmt: skip
    assert [(r.window, r.shift, r.asked_at, r.used_from) for r in client.retrievals] == [
        (0, 0, 0, 0), (1, 4, 1, 2), (2, 4, 2, 3),
    ]  # fmt: skip
    assert client.used(1) is None


@pytest.mark.parametrize(
    ("name", "interval", "total", "where"),
    [
        ("pipeline", 4, 9, "data.schedule"),
        ("none", 9, 9, "data.interval"),
        ("none", 0, 9, "data.interval"),
        ("none", 4, 0, "data.length"),
    ],
)
def test_what_makes_no_schedule(name: str, interval: int, total: int, where: str) -> None:
    with pytest.raises(ConfigError) as error:
        Schedule(name, 8, interval, total)
    assert error.value.where == where


def test_a_near_match_is_named() -> None:
    with pytest.raises(ConfigError, match="pipelined"):
        Schedule("pipeline", 8, 4, 9)
