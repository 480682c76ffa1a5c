"""The one loop that generates: latency and quality are measured on the same code, so that they are of the same thing.

In the published implementation they are not: its latency client counts characters where its perplexity code counts tokens, so
that dynamic nprobe means two different traces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.piperag.scheduling.choosing import Chooser
from models.piperag.scheduling.clock import Clock, MachineClock
from models.piperag.scheduling.schedule import Retrieval, Schedule
from models.piperag.scheduling.trace import RetrievalEvent, Trace
from models.piperag.types import Pending, Query, Reply, RetrievalError, Retriever, Tokens
from results.errors import ConfigError


class Decoder(Protocol):
    """A language model that decodes token by token and reads neighbours."""

    def begin(self, batch: int, total: int) -> None:
        """Forget everything; make room for ``total`` tokens."""

    def feed(self, tokens: Tokens, values: Tokens | None) -> NDArray[np.float32]:
        """Take the newest token of each text and give log-probabilities of the next.

        Args:
            tokens: ``[batch]``.
            values: ``[batch, k, 2c]``, neighbours that this token and later ones read; None keeps what there is.

        Returns:
            ``[batch, vocabulary]``.
        """


#: How a caller waits for an answer; None where generation is to go on without it.
Wait = Callable[[Pending, Query], Reply | None]


def wait_for_ever(pending: Pending, query: Query) -> Reply | None:
    """No failure is survived."""
    return pending.result()


def generate(
    decoder: Decoder,
    retriever: Retriever | None,
    schedule: Schedule,
    *,
    start: Tokens,
    chooser: Chooser,
    k: int,
    forced: Tokens | None = None,
    wait: Wait = wait_for_ever,
    clock: Clock | None = None,
    on_token: Callable[[int], None] = lambda known: None,
) -> Trace:
    """Generate greedily, or along given texts.

    Args:
        retriever: None for a schedule without retrievals.
        start: ``[batch, given]`` first tokens of every text, 1 to ``c`` of them.
        chooser: lists to scan, by tokens known and interval.
        forced: ``[batch, total]`` the texts to be followed and rated; None decodes greedily, and no token ends a text early, so
            that every schedule does equal work.
        wait: gives the answer to a query, or None to keep the old neighbours.
        on_token: called with the number of tokens known after each step.

    Raises:
        ConfigError: shapes that do not fit the schedule.
        RetrievalError: the retriever failed and ``wait`` did not survive it, or an answer belongs to another query.
    """
    clock = clock or MachineClock()
    batch, given = start.shape
    if not 1 <= given <= min(schedule.chunk, schedule.total):
        raise ConfigError(f"{given} tokens at the start, and 1 to {schedule.chunk} are possible", where="data.given")
    if forced is not None and forced.shape != (batch, schedule.total):
        raise ConfigError(f"texts of shape {forced.shape}, not {(batch, schedule.total)}", where="data.length")
    if schedule.retrievals and retriever is None:
        raise ConfigError(f"schedule '{schedule.name}' retrieves, and there is no retriever", where="data.schedule")
    tokens = np.zeros((batch, schedule.total), dtype=np.int64)
    tokens[:, :given] = start
    losses = np.full((batch, schedule.total), np.nan)
    step_s = np.full(schedule.total, np.nan)
    flight = _Flight(retriever, schedule, tokens, chooser, k, wait, clock)
    decoder.begin(batch, schedule.total)
    begun = clock.now_s()
    for position in range(given - 1):  # no boundary lies before c tokens are known
        decoder.feed(tokens[:, position], None)
    for known in range(given, schedule.total):
        boundary = schedule.boundary(known)
        values = None if boundary is None else flight.cross(boundary)
        before = clock.now_s()
        scores = decoder.feed(tokens[:, known - 1], values)
        following = scores.argmax(1) if forced is None else forced[:, known]
        step_s[known] = clock.now_s() - before
        tokens[:, known] = following
        if forced is not None:
            losses[:, known] = -scores[np.arange(batch), following]
        on_token(known + 1)
    return Trace(
        schedule=schedule,
        given=given,
        tokens=tokens,
        losses=losses,
        step_s=step_s,
        events=flight.events,
        total_s=clock.now_s() - begun,
    )


class _Flight:
    """The retrievals of a generation: at most one is under way beside decoding."""

    def __init__(
        self,
        retriever: Retriever | None,
        schedule: Schedule,
        tokens: Tokens,
        chooser: Chooser,
        k: int,
        wait: Wait,
        clock: Clock,
    ) -> None:
        self.events: list[RetrievalEvent] = []
        self._retriever, self._schedule, self._tokens, self._chooser, self._k = retriever, schedule, tokens, chooser, k
        self._wait, self._clock = wait, clock
        self._under_way: dict[int, tuple[Query, Pending]] = {}

    def cross(self, boundary: int) -> Tokens | None:
        """Take the answer that is due, ask for the next; the values that the coming tokens read, None where they stay."""
        due, beside = self._schedule.used(boundary), self._schedule.asked(boundary)
        values = None
        if due is not None:
            if due.is_waited_for:
                self._ask(due)
            values = self._take(due)
        if beside is not None:
            self._ask(beside)
        return values

    def _ask(self, retrieval: Retrieval) -> None:
        assert self._retriever is not None
        known = self._schedule.known(retrieval.asked_at)
        query = Query(
            number=retrieval.number,
            windows=self._tokens[:, self._schedule.window(retrieval.window)].copy(),
            k=self._k,
            nprobe=self._chooser(known, self._schedule.interval),
            shift=retrieval.shift,
        )
        event = RetrievalEvent(
            number=retrieval.number,
            window=retrieval.window,
            shift=retrieval.shift,
            known=known,
            nprobe=query.nprobe,
            asked_s=self._clock.now_s(),
        )
        self.events.append(event)
        self._under_way[retrieval.number] = (query, self._retriever.submit(query))

    def _take(self, retrieval: Retrieval) -> Tokens | None:
        query, pending = self._under_way.pop(retrieval.number)
        event = self.events[retrieval.number]
        before = self._clock.now_s()
        reply = self._wait(pending, query)
        now = self._clock.now_s()
        event.waited_s = now - before
        if reply is None:
            event.failure = "no answer was used"
            return None
        if reply.number != query.number:
            raise RetrievalError(
                f"the answer to query {reply.number} came for query {query.number}",
                where="retriever",
                next_step="the retriever attributes replies wrongly; nothing was decoded from it",
            )
        event.used_s, event.seconds = now, dict(reply.seconds)
        return reply.values
