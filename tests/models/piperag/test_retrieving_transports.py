"""What every transport promises: the direct call's reply, errors to whoever asked, no reply to another query, nothing left."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.piperag.retrieving.backends import answer
from models.piperag.retrieving.faults import QueryRefused, RetrievalLate, RetrieverGone
from models.piperag.retrieving.policy import Collector, OnFailure
from models.piperag.types import Query, RetrievalError
from results.errors import ConfigError
from tests.models.piperag.retrieving_backends import Delayed, Flat
from tests.models.piperag.retrieving_support import (
    TRANSPORTS,
    AnyRetriever,
    C,
    assert_same,
    nothing_left_behind,
    opened,
    query,
    spec,
    until,
)

per_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(scope="module")
def steady() -> Iterator[dict[str, AnyRetriever]]:
    """One retriever of each transport whose backend takes ``nprobe`` times 0.1 ms."""
    with contextlib.ExitStack() as stack:
        yield {transport: stack.enter_context(opened(transport, spec("Delayed"))) for transport in TRANSPORTS}


@pytest.fixture(scope="module")
def direct() -> Delayed:
    return Delayed()


@per_transport
def test_a_reply_is_that_of_the_direct_call(transport: str, steady: dict[str, AnyRetriever], direct: Delayed) -> None:
    retriever = steady[transport]
    assert retriever.chunk_tokens == C
    for number, (batch, k, shift) in enumerate([(1, 2, 0), (1, 1, C), (3, 2, 5), (64, 4, 16), (2, 300, 1)]):
        asked = query(number, batch=batch, k=k, shift=shift, nprobe=1 + number)
        pending = retriever.submit(asked)
        reply = pending.result()
        assert_same(reply, answer(direct, asked))
        assert pending.result() is reply
        assert pending.done()
    sliced = replace(query(), windows=np.repeat(query().windows, 2, axis=1)[:, ::2], k=np.int64(2), nprobe=np.int32(3))
    assert_same(retriever.submit(sliced).result(), answer(direct, sliced))


@per_transport
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.randoms(use_true_random=False), st.integers(1, 10**6))
def test_delays_do_not_change_which_reply_belongs_to_which_query(
    transport: str, steady: dict[str, AnyRetriever], direct: Delayed, delays: list[int], order: object, seed: int
) -> None:
    """Several queries under way, waited for in any order."""
    asked = [query(seed + place, nprobe=delay) for place, delay in enumerate(delays)]
    pending = [(one, steady[transport].submit(one)) for one in asked]
    order.shuffle(pending)  # type: ignore[attr-defined]
    for one, under_way in pending:
        assert_same(under_way.result(), answer(direct, one))


@per_transport
def test_polling_tells_when_a_result_does_not_wait(transport: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with opened(transport, spec("Faulty", faults={"1": "late"}, gate=str(gate))) as retriever:
        pending = retriever.submit(query(1))
        assert not any(pending.done() for _ in range(10))
        gate.touch()
        until(pending.done)
        assert_same(pending.result(timeout_s=0.0), answer(Flat(), query(1)))


@per_transport
def test_numbers_may_begin_anew(transport: str, steady: dict[str, AnyRetriever], direct: Delayed) -> None:
    """Two generations count from 0; the first has left queries behind that nobody waits for."""
    for _ in range(2):
        steady[transport].submit(query(0, nprobe=20))
    again = replace(query(5), number=0)
    assert_same(steady[transport].submit(again).result(), answer(direct, again))


@per_transport
def test_a_wrong_query_is_refused_before_it_leaves(transport: str, steady: dict[str, AnyRetriever]) -> None:
    with pytest.raises(QueryRefused, match="shorter than the window"):
        steady[transport].submit(query(tokens=C - 1))
    assert steady[transport].submit(query()).result().number == 0


@per_transport
def test_facts_tell_who_retrieves(transport: str, steady: dict[str, AnyRetriever]) -> None:
    facts = steady[transport].facts()
    assert facts["transport"] == transport
    assert facts["cores"]
    assert facts["host"]
    assert 0 < facts["resident_gib"] <= facts["peak_resident_gib"]  # type: ignore[operator]
    assert any(pool["api"] == "openmp" for pool in facts["pools"])  # type: ignore[attr-defined]
    assert facts["counts"]["asked"] >= 0  # type: ignore[index]
    if transport != "thread":
        assert facts["variables"]["OMP_NUM_THREADS"] == "1"  # type: ignore[index]
        assert facts["variables"]["OMP_WAIT_POLICY"] == "PASSIVE"  # type: ignore[index]


@per_transport
def test_faults_concern_their_own_query(transport: str, tmp_path: Path) -> None:
    """One backend that raises, answers with another number, in another shape, and late; others are answered in between."""
    gate, direct = tmp_path / "gate", Flat()
    faults = {"1": "raise", "3": "number", "5": "shape", "7": "late"}
    with nothing_left_behind(), opened(transport, spec("Faulty", faults=faults, gate=str(gate))) as retriever:

        def answered(number: int) -> None:
            assert_same(retriever.submit(query(number)).result(), answer(direct, query(number)))

        for number, said in ((1, "the backend raised ValueError: on purpose"), (3, "number of query 4"), (5, "values of int64")):
            answered(number - 1)
            pending = retriever.submit(query(number))
            with pytest.raises(RetrievalError, match=said) as caught:
                pending.result()
            assert caught.value.where
            assert caught.value.next_step
            assert pending.done()
            with pytest.raises(RetrievalError, match=said):
                pending.result()
        late, behind = retriever.submit(query(7)), retriever.submit(query(8))
        with pytest.raises(RetrievalLate, match=r"query 7 was not answered within 0\.05 s"):
            late.result(timeout_s=0.05)
        assert not behind.done()
        gate.touch()
        assert_same(behind.result(), answer(direct, query(8)))
        with pytest.raises(RetrievalLate):
            late.result()
        counts = retriever.counts
        assert (counts.asked, counts.answered, counts.failed, counts.late) == (8, 4, 3, 1)
        assert (counts.foreign, counts.dropped) == (1, 1)


@per_transport
def test_a_generation_stops_or_goes_on(transport: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with opened(transport, spec("Faulty", faults={"1": "raise", "2": "late", "4": "number"}, gate=str(gate))) as retriever:
        goes_on = Collector(OnFailure.GO_ON)
        found = [goes_on.collect(retriever.submit(query(number)), query(number)) for number in (0, 1)]
        goes_on.timeout_s = 0.1
        found += [goes_on.collect(retriever.submit(query(2)), query(2))]
        gate.touch()
        patient = Collector(OnFailure.GO_ON)
        found += [patient.collect(retriever.submit(query(number)), query(number)) for number in (3, 4)]
        assert [reply and reply.number for reply in found] == [0, None, None, 3, None]
        assert (goes_on.outcomes.used, goes_on.outcomes.failed, goes_on.outcomes.late) == (1, 1, 1)
        assert (patient.outcomes.used, patient.outcomes.failed) == (1, 1)
        stops = Collector(OnFailure.STOP)
        with pytest.raises(RetrievalError, match="on purpose") as caught:
            stops.collect(retriever.submit(query(1)), query(1))
        assert "on_failure=go_on" in caught.value.next_step


@per_transport
def test_a_backend_that_leaves_is_noticed_by_everybody_who_waits(transport: str) -> None:
    """SystemExit in the backend; the default timeout is a minute, and nobody waits for it."""
    with nothing_left_behind(), opened(transport, spec("Faulty", faults={"1": "leave"})) as retriever:
        first, second = retriever.submit(query(1)), retriever.submit(query(2))
        for pending in (second, first):
            with pytest.raises(RetrievalError):
                pending.result(timeout_s=30)
        until(lambda: retriever.submit(query(3)).done() and retriever.gone is not None)
        with pytest.raises(RetrieverGone):
            retriever.submit(query(3)).result()
        assert "unknown" in retriever.facts()


@per_transport
def test_closing_twice_and_asking_afterwards(transport: str) -> None:
    with nothing_left_behind(), opened(transport, spec("Delayed")) as retriever:
        pending = retriever.submit(query(1, nprobe=10_000))
        retriever.close()
        retriever.close()
        for one in (pending, retriever.submit(query(2))):
            with pytest.raises(RetrieverGone, match="is closed"):
                one.result()
        assert "closed" in str(retriever.facts()["unknown"])


@per_transport
@pytest.mark.parametrize(("fault", "said"), [("raise", "the backend raised ValueError: on purpose"), ("leave", "on purpose")])
def test_a_backend_that_cannot_be_built_is_said_at_once(transport: str, fault: str, said: str) -> None:
    if transport == "network":
        pytest.skip("a server that cannot build its backend ends: test_retrieving_network")
    if (transport, fault) == ("process", "leave"):
        said = "ended with status 1"
    with nothing_left_behind(), pytest.raises(RetrievalError, match=said):
        opened(transport, spec("Faulty", at_start=fault)).__enter__()
    with nothing_left_behind(), pytest.raises(RetrievalError, match="has no callable 'Flatt'; did you mean 'Flat'"):
        opened(transport, spec("Flatt")).__enter__()


@per_transport
def test_a_timeout_is_positive(transport: str) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        opened(transport, spec(), timeout_s=0.0).__enter__()


def test_queries_of_several_threads_share_one_thread_retriever() -> None:
    direct, wrong = Flat(), []

    def ask(first: int) -> None:
        for number in range(first, first + 20):
            asked: Query = query(number)
            try:
                assert_same(retriever.submit(asked).result(), answer(direct, asked))
            except BaseException as error:
                wrong.append(error)

    with opened("thread", spec()) as retriever:
        threads = [threading.Thread(target=ask, args=(100 * place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert retriever.counts.answered == 80
    assert not wrong
