"""The generation loop on a virtual clock: times are the closed form's exactly, tokens depend on positions alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.piperag.scheduling.choosing import Fixed
from models.piperag.scheduling.clock import VirtualClock
from models.piperag.scheduling.generator import generate
from models.piperag.scheduling.latency import overlap_efficiency, pipelined_s, sequential_s, speed_up
from models.piperag.scheduling.predicting import predict
from models.piperag.scheduling.profile import GeneratorProfile, Profile, RetrieverProfile
from models.piperag.scheduling.schedule import SCHEDULES, Schedule
from models.piperag.scheduling.trace import Trace
from models.piperag.types import Pending, Query, Reply, RetrievalError, Tokens
from results.errors import ConfigError

VOCABULARY = 17


class SimulatedDecoder:
    """Takes a step's time from the clock; its next token is a hash of all it has read."""

    def __init__(self, clock: VirtualClock, step_s: Callable[[int], float]) -> None:
        self.clock, self.step_s = clock, step_s

    def begin(self, batch: int, total: int) -> None:
        self.state, self.position, self.read = np.zeros(batch, dtype=np.int64), 0, np.zeros(batch, dtype=np.int64)

    def feed(self, tokens: Tokens, values: Tokens | None) -> NDArray[np.float32]:
        self.position += 1
        self.clock.advance(self.step_s(self.position))
        if values is not None:
            self.read = values.reshape(len(values), -1) @ np.arange(1, values[0].size + 1)
        self.state = (self.state * 31 + tokens * 7 + self.read + 1) % 100_003
        scores = np.full((len(tokens), VOCABULARY), -3.0, dtype=np.float32)
        scores[np.arange(len(tokens)), 1 + self.state % (VOCABULARY - 1)] = -0.5
        return scores


class SimulatedRetriever:
    """Answers after a time; values are a function of the windows and the shift."""

    def __init__(self, clock: VirtualClock, delay_s: Callable[[int], float]) -> None:
        self.clock, self.delay_s, self.asked = clock, delay_s, []

    def submit(self, query: Query) -> Pending:
        self.asked.append(query)
        return SimulatedPending(self, query, self.clock.now_s() + self.delay_s(query.number))

    def close(self) -> None:
        pass

    def facts(self) -> dict[str, object]:
        return {}


class SimulatedPending:
    def __init__(self, retriever: SimulatedRetriever, query: Query, ready_s: float) -> None:
        self.retriever, self.query, self.ready_s = retriever, query, ready_s

    def done(self) -> bool:
        return self.retriever.clock.now_s() >= self.ready_s

    def result(self, timeout_s: float | None = None) -> Reply:
        self.retriever.clock.wait_until(self.ready_s)
        batch, c = self.query.windows.shape
        values = np.repeat(self.query.windows.sum(1)[:, None, None] + self.query.shift, self.query.k, axis=1)
        values = np.repeat(values, 2 * c, axis=2) % 97
        ids = np.zeros((batch, self.query.k), dtype=np.int64)
        return Reply(number=self.query.number, values=values, ids=ids, nprobe=self.query.nprobe)


def simulate(
    schedule: Schedule, step_s: Callable[[int], float], delay_s: Callable[[int], float], given_tokens: int = 1
) -> tuple[Trace, SimulatedRetriever]:
    clock = VirtualClock()
    retriever = SimulatedRetriever(clock, delay_s)
    start = np.arange(1, 2 * given_tokens + 1).reshape(2, given_tokens)
    decoder = SimulatedDecoder(clock, step_s)
    return generate(decoder, retriever, schedule, start=start, chooser=Fixed(4), k=2, clock=clock), retriever


def before_s(schedule: Schedule, step_s: Callable[[int], float]) -> float:
    """The tokens before the first boundary."""
    return sum(step_s(position) for position in range(1, min(schedule.chunk, schedule.total)))


@pytest.mark.parametrize("rho", [0.25, 0.5, 1, 2, 4])
def test_times_are_the_closed_form(rho: float) -> None:
    """Constant steps and retrievals, whole intervals: exact, in binary fractions. The limit is (1 + rho) / max(1, rho)."""
    chunk, interval, total = 16, 8, 16 + 8 * 12
    step, retrieval = 0.125, rho * 8 * 0.125
    found = {}
    for name in ("sequential", "pipelined"):
        trace, _ = simulate(Schedule(name, chunk, interval, total), lambda _: step, lambda _: retrieval)
        found[name] = trace.total_s - before_s(trace.schedule, lambda _: step)
    assert found["sequential"] == 12 * (1 + retrieval)
    assert found["pipelined"] == retrieval + 11 * max(1, retrieval) + 1
    assert found["sequential"] / found["pipelined"] == pytest.approx(speed_up(rho, 12))
    assert found["sequential"] / found["pipelined"] < (1 + rho) / max(1, rho) <= 2
    assert overlap_efficiency(found["sequential"], found["pipelined"], [1.0] * 12, [retrieval] * 12) == pytest.approx(1)


@given(
    numbers=st.integers(2, 12).flatmap(lambda c: st.tuples(st.just(c), st.integers(1, c), st.integers(c + 1, 60))),
    delays=st.lists(st.integers(0, 64), min_size=64, max_size=64),
    steps=st.lists(st.integers(1, 16), min_size=64, max_size=64),
)
def test_times_of_uneven_steps_and_retrievals(numbers: tuple[int, int, int], delays: list[int], steps: list[int]) -> None:
    """The exact closed forms, and what the trace says of itself."""
    for name, total_s in (("sequential", sequential_s), ("pipelined", pipelined_s)):
        schedule = Schedule(name, *numbers)
        trace, _ = simulate(schedule, lambda position: steps[position] / 8, lambda number: delays[number] / 8)
        generation = trace.interval_generation_s()
        retrieval = [delays[event.number] / 8 for event in trace.events]
        before = before_s(schedule, lambda position: steps[position] / 8)
        assert trace.total_s == before + total_s(generation, retrieval)
        assert trace.total_s == before + sum(generation) + trace.stall_s
        assert all(event.used_s >= event.asked_s + delays[event.number] / 8 for event in trace.events)


@given(
    name=st.sampled_from(SCHEDULES),
    numbers=st.integers(2, 12).flatmap(lambda c: st.tuples(st.just(c), st.integers(1, c), st.integers(c, 60), st.integers(1, c))),
    delays=st.lists(st.floats(0, 100), min_size=64, max_size=64),
)
def test_delays_change_times_alone(name: str, numbers: tuple[int, int, int, int], delays: list[float]) -> None:
    """Invariant 9: the same tokens and the same queries, whatever the retriever takes."""
    *shape, given_tokens = numbers
    schedule = Schedule(name, *shape)
    prompt, asked = simulate(schedule, lambda _: 1.0, lambda number: delays[number], given_tokens)
    at_once, asked_at_once = simulate(schedule, lambda _: 1.0, lambda _: 0.0, given_tokens)
    np.testing.assert_array_equal(prompt.tokens, at_once.tokens)
    assert [(q.number, q.nprobe, q.shift, q.windows.tolist()) for q in asked.asked] == [
        (q.number, q.nprobe, q.shift, q.windows.tolist()) for q in asked_at_once.asked
    ]
    # A window holds the tokens that were known; none of a later one is asked about.
    for query, retrieval in zip(asked.asked, schedule.retrievals, strict=True):
        np.testing.assert_array_equal(query.windows, prompt.tokens[:, schedule.window(retrieval.window)])


def test_texts_that_are_followed_are_rated() -> None:
    clock = VirtualClock()
    schedule = Schedule("sequential", 4, 2, 12)
    texts = np.arange(1, 25).reshape(2, 12) % VOCABULARY
    trace = generate(
        SimulatedDecoder(clock, lambda _: 1.0), SimulatedRetriever(clock, lambda _: 1.0), schedule,
        start=texts[:, :1], forced=texts, chooser=Fixed(1), k=1, clock=clock,
    )  # fmt: skip
    np.testing.assert_array_equal(trace.tokens, texts)
    assert np.isnan(trace.losses[:, 0]).all()
    assert np.isin(trace.losses[:, 1:], [0.5, 3.0]).all()
    assert trace.perplexity() == pytest.approx(float(np.exp(trace.losses[:, 4:].mean())))


def test_an_answer_to_another_query_is_an_error_and_no_answer_keeps_the_old_neighbours() -> None:
    clock = VirtualClock()
    schedule = Schedule("pipelined", 4, 2, 12)
    start = np.array([[1]])
    decoder = SimulatedDecoder(clock, lambda _: 1.0)

    def mixed_up(pending: Pending, query: Query) -> Reply:
        reply = pending.result()
        return Reply(number=reply.number + (query.number == 2), values=reply.values, ids=reply.ids, nprobe=1)

    def run(wait: Callable[[Pending, Query], Reply | None]) -> Trace:
        retriever = SimulatedRetriever(clock, lambda _: 1.0)
        return generate(decoder, retriever, schedule, start=start, chooser=Fixed(1), k=1, wait=wait, clock=clock)

    with pytest.raises(RetrievalError, match="answer to query 3 came for query 2"):
        run(mixed_up)
    whole, partly = (
        run(lambda pending, query: pending.result()),
        run(lambda pending, query: None if query.number else pending.result()),
    )
    assert [event.failure != "" for event in partly.events] == [False, True, True, True]
    boundary = schedule.known(1)
    np.testing.assert_array_equal(whole.tokens[:, :boundary], partly.tokens[:, :boundary])
    assert (whole.tokens != partly.tokens).any()


@pytest.mark.parametrize("given_tokens", [0, 5])
def test_the_start_has_one_token_at_least_and_fits_the_window(given_tokens: int) -> None:
    with pytest.raises(ConfigError) as error:
        simulate(Schedule("none", 4, 2, 12), lambda _: 1.0, lambda _: 1.0, given_tokens)
    assert error.value.where == "data.given"


def test_a_schedule_that_retrieves_needs_a_retriever() -> None:
    clock = VirtualClock()
    with pytest.raises(ConfigError, match="there is no retriever"):
        generate(
            SimulatedDecoder(clock, lambda _: 1.0), None, Schedule("once", 4, 4, 8), start=np.array([[1]]), chooser=Fixed(1), k=1
        )


@given(
    name=st.sampled_from(SCHEDULES),
    numbers=st.integers(2, 12).flatmap(lambda c: st.tuples(st.just(c), st.integers(1, c), st.integers(c, 60))),
    steps=st.lists(st.integers(1, 16), min_size=64, max_size=64),
    nprobe=st.integers(1, 64),
)
def test_predictions_are_what_the_loop_takes(name: str, numbers: tuple[int, int, int], steps: list[int], nprobe: int) -> None:
    """A prediction from exact profiles is the simulated time: one walk through the schedule, two implementations."""
    schedule = Schedule(name, *numbers)
    line = lambda lists: 0.5 + 0.25 * lists  # noqa: E731
    profile = Profile(
        generator=GeneratorProfile(step_s=tuple(step / 8 for step in steps), encoder_s=0.0),
        retriever=RetrieverProfile(nprobe=(1, 64), search_s=((line(1),), (line(64),)), encode_s=0.0),
    )
    trace, _ = simulate(schedule, lambda position: steps[position] / 8, lambda _: line(nprobe))
    found = predict(profile, schedule, Fixed(nprobe))
    assert found.total_s == pytest.approx(trace.total_s)
    assert found.stall_s == pytest.approx(trace.stall_s)
    assert found.retrieval_s == pytest.approx(len(schedule.retrievals) * line(nprobe))
