"""Retrievers whose answers arrive as messages and are read by whoever waits: no thread runs in the generator's process."""

from __future__ import annotations

import itertools
import math
import time
import weakref
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

from models.piperag.retrieving.backends import check_query
from models.piperag.retrieving.faults import Malformed, QueryRefused, RetrievalLate, RetrieverGone
from models.piperag.retrieving.messages import (
    MAX_REQUEST_BYTES,
    Answer,
    AskFacts,
    Facts,
    Ping,
    Pong,
    Refusal,
    Request,
    Response,
    ask_of,
    encode,
    error_of,
    reply_of,
)
from models.piperag.types import Pending, Query, Reply, RetrievalError
from results.errors import ConfigError

Outcome = TypeVar("Outcome")


@dataclass(slots=True)
class Counts:
    """What became of a retriever's queries.

    Attributes:
        asked: queries submitted.
        answered: replies handed over.
        failed: refused, raised in the backend, or without anybody left to answer.
        late: given up when their time was over.
        foreign: answered with the number of another query; never used.
        dropped: answers that arrived when nobody awaited them any more.
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    late: int = 0
    foreign: int = 0
    dropped: int = 0


class Awaited(Generic[Outcome]):
    """A request under way.

    Attributes:
        what: named in errors.
        ticket: under which the answer comes back.
        outcome: of the request, or why there is none; None while it is under way.
    """

    __slots__ = ("__weakref__", "_kind", "_owner", "outcome", "ticket", "what")

    def __init__(self, owner: PulledRetriever, what: str, kind: type[Outcome]) -> None:
        self._owner, self.what, self._kind = owner, what, kind
        self.ticket = next(owner.tickets)
        self.outcome: Outcome | RetrievalError | None = None

    def accept(self, response: Response) -> None:
        """Take what came back under the request's ticket."""
        self.outcome = response if isinstance(response, self._kind) else self._unfit(response)

    def _unfit(self, response: Response) -> RetrievalError:
        if isinstance(response, Refusal):
            return error_of(response)
        return self._owner.error(f"{self.what} was answered with {type(response).__name__}", "correct the other end")

    def done(self) -> bool:
        """Whether :meth:`result` would not wait."""
        if self.outcome is None:
            self._owner.pump(0.0)
        return self.outcome is not None

    def result(self, timeout_s: float | None = None) -> Outcome:
        """Wait for the outcome.

        Args:
            timeout_s: None: as long as the retriever waits for any.

        Raises:
            RetrievalError: there is none; said again at every call.
        """
        if self.outcome is None:
            self._owner.wait_for(self, timeout_s)
        assert self.outcome is not None
        if isinstance(self.outcome, RetrievalError):
            raise self.outcome
        return self.outcome


class AwaitedReply(Awaited[Reply]):
    """A query under way."""

    __slots__ = ("_number", "_shape")

    def __init__(self, owner: PulledRetriever, query: Query) -> None:
        super().__init__(owner, f"query {query.number}", Reply)
        batch, tokens = query.windows.shape
        self._number, self._shape = query.number, (batch, query.k, 2 * tokens)

    def fits(self, answer: Answer) -> bool:
        """Whether an answer is that of this query, of whatever it holds."""
        return answer.number == self._number and (answer.rows, answer.k, answer.tokens) == self._shape

    def accept(self, response: Response) -> None:
        """Take an answer, if it is that of this query."""
        counts = self._owner.counts
        self.outcome = self._read(response)
        counts.answered += isinstance(self.outcome, Reply)
        counts.failed += isinstance(self.outcome, RetrievalError)

    def _read(self, response: Response) -> Reply | RetrievalError:
        if not isinstance(response, Answer):
            return self._unfit(response)
        if response.number != self._number:
            self._owner.counts.foreign += 1
            return self._wrong(f"the number of query {response.number}")
        if not self.fits(response):
            return self._wrong(f"values of {[response.rows, response.k, response.tokens]} instead of {list(self._shape)}")
        try:
            return reply_of(response)
        except Malformed as error:
            return error

    def _wrong(self, what: str) -> RetrievalError:
        return self._owner.error(f"{self.what} was answered with {what}", "correct the backend")


class PulledRetriever(ABC):
    """What is common to retrievers behind a pipe, a network and MPI. For one thread: submit, ask and wait in the same.

    Attributes:
        chunk_tokens: length of a window, c; told by the other end.
        timeout_s: how long a result is waited for unless its caller says otherwise.
        counts: what became of the queries.
        tickets: numbers of requests, none of them twice.
        waiting: requests under way by ticket.
    """

    transport: str
    chunk_tokens: int

    def __init__(self, timeout_s: float, token: str = "") -> None:
        if not timeout_s > 0:
            raise ConfigError(f"a timeout of {timeout_s} s", where="the retriever", next_step="give a positive one")
        self.timeout_s, self._token = timeout_s, token
        self.counts = Counts()
        self.gone: RetrieverGone | None = None  # why nothing can be asked now
        self.tickets = itertools.count(1)
        # A generation that ends may leave its last query behind: nobody needs to be told of its answer then.
        self.waiting: weakref.WeakValueDictionary[int, Awaited[Reply] | Awaited[Facts] | Awaited[Pong]]
        self.waiting = weakref.WeakValueDictionary()

    @abstractmethod
    def send(self, request: bytes) -> None:
        """Send without waiting.

        Raises:
            RetrieverGone: there is nobody to send to.
        """

    @abstractmethod
    def pump(self, timeout_s: float) -> None:
        """Read what has arrived and hand it over (:meth:`deliver`); wait up to ``timeout_s`` for the first of it. Whoever finds
        that nobody answers any more calls :meth:`lose`. Does not raise."""

    @abstractmethod
    def where(self) -> str:
        """Whom errors speak of."""

    def submit(self, query: Query) -> Pending:
        """Start a retrieval. Does not wait.

        Raises:
            QueryRefused: the query is wrong. Whatever else goes wrong is said by its result.
        """
        query = check_query(query, self.chunk_tokens)
        pending = AwaitedReply(self, query)
        request = ask_of(query, pending.ticket, self._token)
        if len(request.windows) > MAX_REQUEST_BYTES - 1024:
            what = f"query {query.number} has {len(request.windows)} bytes, too many for a message"
            raise QueryRefused(what, where=self.where(), next_step="split the batch")
        self.counts.asked += 1
        self._post(request, pending)
        return pending

    def ping(self, timeout_s: float | None = None) -> float:
        """Seconds to the other end and back.

        Raises:
            RetrievalError: nobody answers.
        """
        begun = time.perf_counter()
        awaited: Awaited[Pong] = Awaited(self, "a ping", Pong)
        self._post(Ping(ticket=awaited.ticket, token=self._token), awaited)
        awaited.result(timeout_s)
        return time.perf_counter() - begun

    def ask_facts(self, timeout_s: float | None = None) -> Facts:
        """Window length and facts of the other end.

        Raises:
            RetrievalError: nobody answers.
        """
        awaited: Awaited[Facts] = Awaited(self, "the question who retrieves", Facts)
        self._post(AskFacts(ticket=awaited.ticket, token=self._token), awaited)
        return awaited.result(timeout_s)

    def facts(self) -> dict[str, object]:
        """Transport, what became of the queries, and the facts of whoever retrieves (``unknown`` says why there are none)."""
        own: dict[str, object] = {"transport": self.transport, "counts": asdict(self.counts)}
        try:
            return own | self.ask_facts().facts
        except RetrievalError as error:
            return own | {"unknown": error.what}

    def _post(self, request: Request, awaited: Awaited[Reply] | Awaited[Facts] | Awaited[Pong]) -> None:
        self.pump(0.0)  # whether somebody is there may have changed
        self.waiting[request.ticket] = awaited
        try:
            if self.gone is not None:
                raise self.gone
            self.send(encode(request))
        except RetrieverGone as error:
            self._fail(request.ticket, error)

    def wait_for(self, awaited: Awaited[Outcome], timeout_s: float | None) -> None:
        """Read until a request has its outcome, which :class:`RetrievalLate` may be."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while awaited.outcome is None:
            rest_s = deadline - time.monotonic()
            self.pump(max(rest_s, 0.0))
            if awaited.outcome is None and rest_s <= 0:
                self._give_up(awaited, limit_s)

    def _give_up(self, awaited: Awaited[Outcome], limit_s: float) -> None:
        self.counts.late += isinstance(awaited, AwaitedReply)
        self.waiting.pop(awaited.ticket, None)
        awaited.outcome = RetrievalLate(
            f"{awaited.what} was not answered within {limit_s:g} s", where=self.where(),
            next_step="allow more time, scan fewer lists (nprobe), or look at what else the retriever's cores do",
        )  # fmt: skip

    def deliver(self, response: Response) -> None:
        """Hand a response to whoever awaits it; drop it where nobody does."""
        awaited = self.waiting.pop(response.ticket, None)
        if awaited is not None:
            awaited.accept(response)
        elif isinstance(response, Refusal) and response.ticket == 0:
            self.fail_all(error_of(response))
        elif isinstance(response, Answer | Refusal):
            self.counts.dropped += 1

    def lose(self, error: RetrieverGone) -> None:
        """Nobody answers any more."""
        self.gone = error
        self.fail_all(error)

    def fail_all(self, error: RetrievalError) -> None:
        """Tell everybody who waits."""
        for ticket in list(self.waiting):
            self._fail(ticket, error)

    def _fail(self, ticket: int, error: RetrievalError) -> None:
        awaited = self.waiting.pop(ticket, None)
        if awaited is not None:
            awaited.outcome = error
            self.counts.failed += isinstance(awaited, AwaitedReply)

    def error(self, what: str, next_step: str) -> RetrievalError:
        """An error about the other end."""
        return RetrievalError(what, where=self.where(), next_step=next_step)


def milliseconds(seconds: float) -> int:
    """For ``poll``, rounded up: rounding down would spin through the last one."""
    return math.ceil(min(seconds, 86400.0) * 1000)
