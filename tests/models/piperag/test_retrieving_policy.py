"""What a generator does about failures, and the answers of shards made into one."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.piperag.retrieving.facts import process_facts
from models.piperag.retrieving.faults import Malformed, QueryRefused, RetrievalLate, RetrieverGone
from models.piperag.retrieving.merging import ShardReply, answer_shard, merge
from models.piperag.retrieving.policy import Collector, OnFailure
from models.piperag.types import Query, Reply, RetrievalError
from tests.models.piperag.retrieving_backends import Flat, Shard
from tests.models.piperag.retrieving_support import C, assert_same, query


@dataclass
class Settled:
    """A retrieval that has ended."""

    outcome: Reply | RetrievalError
    waited_s: float | None = -1.0

    def done(self) -> bool:
        return True

    def result(self, timeout_s: float | None = None) -> Reply:
        self.waited_s = timeout_s
        if isinstance(self.outcome, RetrievalError):
            raise self.outcome
        return self.outcome


def reply(number: int) -> Reply:
    return Flat().retrieve(query(number))


ERRORS = [
    RetrievalLate("late", where="there", next_step="wait"),
    RetrieverGone("gone", where="there", next_step="start"),
    RetrievalError("raised", where="there"),
    Malformed("unreadable"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_stop_says_what_where_and_what_to_do(error: RetrievalError) -> None:
    collector = Collector(timeout_s=3.0)
    pending = Settled(error)
    with pytest.raises(type(error)) as caught:
        collector.collect(pending, query(1))
    assert pending.waited_s == 3.0
    assert (caught.value.what, caught.value.where) == (error.what, error.where)
    assert caught.value.next_step.startswith(error.next_step)
    assert "old neighbours: on_failure=go_on" in caught.value.next_step
    assert collector.outcomes.late + collector.outcomes.failed == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["reply", "foreign", *range(len(ERRORS))])))
def test_going_on_counts_every_retrieval_once(events: list[str | int]) -> None:
    """Used, late or failed; a reply with another number is never handed over."""
    collector = Collector(OnFailure.GO_ON)
    for number, event in enumerate(events):
        outcome = ERRORS[event] if isinstance(event, int) else reply(number + (event == "foreign"))
        found = collector.collect(Settled(outcome), query(number))
        assert (found is not None) == (event == "reply")
        assert found is None or found.number == number
    facts = collector.facts()
    assert (facts["used"], facts["foreign"]) == (events.count("reply"), events.count("foreign"))
    assert facts["late"] == events.count(0)
    assert facts["used"] + facts["late"] + facts["failed"] == len(events)  # type: ignore[operator]
    assert facts["on_failure"] == "go_on"


def test_a_wrong_query_is_never_gone_on_after() -> None:
    collector = Collector(OnFailure.GO_ON)
    with pytest.raises(QueryRefused):
        collector.collect(Settled(QueryRefused("wrong")), query(1))
    assert collector.outcomes.failed == 1


# Shards --------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_merging_is_sorting_by_distance_then_id_with_the_missing_last(
    data: st.DataObject, shards: int, k: int, batch: int
) -> None:
    """Few distances, so that many tie; every id once, as of an index that is split."""
    ids = iter(data.draw(st.permutations(range(shards * k * batch))))
    found, rows = [], [[] for _ in range(batch)]  # type: ignore[var-annotated]
    for shard in range(shards):
        here = np.full((batch, k), -1)
        distances = np.full((batch, k), np.inf, np.float32)
        for row, place in itertools.product(range(batch), range(k)):
            if data.draw(st.booleans()):
                here[row, place], distances[row, place] = next(ids), data.draw(st.sampled_from([0.0, 0.5, 1.0]))
                rows[row].append((float(distances[row, place]), int(here[row, place])))
        values = np.where(here[..., None] < 0, 0, here[..., None] + 1).repeat(4, axis=2)
        one = Reply(number=3, values=values, ids=here, nprobe=shard + 1, seconds={"search": float(shard)})
        found.append(ShardReply(reply=one, distances=distances))
    merged = merge(found, k)
    assert (merged.number, merged.nprobe, merged.seconds) == (3, shards, {"search": float(shards - 1)})
    for row in range(batch):
        nearest = [identity for _, identity in sorted(rows[row])][:k]
        assert merged.ids[row].tolist() == nearest + [-1] * (k - len(nearest))
    assert (merged.values == (merged.ids + 1)[..., None]).all()


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize(("k", "chunks"), [(2, 200), (5, 4)])
def test_shards_find_together_what_the_whole_finds(shards: int, k: int, chunks: int) -> None:
    whole, parts = Flat(chunks=chunks), [Shard(shard, shards, chunks=chunks) for shard in range(shards)]
    for number in range(10):
        asked = query(number, k=k, batch=3, shift=number)
        assert_same(merge([answer_shard(part, asked) for part in parts], k), whole.retrieve(asked))


@dataclass
class Odd:
    """A shard with distances of its own."""

    distances: np.ndarray[Any, Any]
    chunk_tokens = C

    def retrieve_shard(self, asked: Query) -> ShardReply:
        return replace(Shard(0, 1).retrieve_shard(asked), distances=self.distances)

    def close(self) -> None:
        pass


def test_a_shards_distances_are_checked() -> None:
    good = Shard(0, 1).retrieve_shard(query()).distances
    assert answer_shard(Odd(good), query()).distances is good
    for wrong in (good.astype(np.float64), good[:, :1], good * np.float32("nan")):
        with pytest.raises(RetrievalError, match="the shard answered with distances of"):
            answer_shard(Odd(wrong), query())


# Facts ---------------------------------------------------------------------------------------------------------------


def test_facts_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("HOME_SWEET_HOME", "here")
    facts = process_facts()
    assert facts["pid"] == os.getpid()
    assert facts["cores"] == sorted(os.sched_getaffinity(0))
    assert facts["variables"]["OMP_WAIT_POLICY"] == "PASSIVE"  # type: ignore[index]
    assert "HOME_SWEET_HOME" not in facts["variables"]  # type: ignore[operator]
    assert all("/" not in pool["library"] for pool in facts["pools"])  # type: ignore[attr-defined]
    assert facts["num_threads"] >= 1  # type: ignore[operator]
