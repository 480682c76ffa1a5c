"""A retriever in a thread of the generator's process: FAISS and torch release the GIL while they compute.

What is Python in it (encoding, reading values) still takes turns with decoding, and both share one process's thread pools; a
process of its own (:mod:`models.piperag.retrieving.process`) shares nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from models.piperag.retrieving.backends import BackendSpec, answer, check_query
from models.piperag.retrieving.facts import process_facts
from models.piperag.retrieving.faults import RetrievalLate, RetrieverGone
from models.piperag.retrieving.hosting import pin
from models.piperag.retrieving.messages import error_of, refusal_of
from models.piperag.retrieving.pulling import Counts
from models.piperag.types import Backend, Pending, Query, Reply, RetrievalError
from results.errors import ConfigError

_log = logging.getLogger(__name__)
_WHERE = "the retriever's thread"


@dataclass(slots=True, eq=False)
class _Work:
    """Something the thread is asked to do: ``outcome`` is set before ``ready``."""

    do: Callable[[Backend], object]
    ready: threading.Event = field(default_factory=threading.Event)
    outcome: object = None
    given_up: bool = False

    def settle(self, outcome: object) -> None:
        """The first outcome counts: one that comes after closing is nobody's."""
        if not self.ready.is_set():
            self.outcome = outcome
            self.ready.set()


class _ThreadPending:
    """A query under way in the thread."""

    def __init__(self, owner: ThreadRetriever, query: Query, work: _Work) -> None:
        self._owner, self._query, self._work = owner, query, work
        self._taken: Reply | RetrievalError | None = None

    def done(self) -> bool:
        """Whether :meth:`result` would not wait."""
        return self._taken is not None or self._work.ready.is_set()

    def result(self, timeout_s: float | None = None) -> Reply:
        """Wait for the reply.

        Raises:
            RetrievalError: there is none; said again at every call.
        """
        if self._taken is None:
            self._taken = self._owner.take(self._query, self._work, timeout_s)
        if isinstance(self._taken, RetrievalError):
            raise self._taken
        return self._taken


class ThreadRetriever:
    """Answers in a thread. May be shared by several callers; queries are answered one after the other.

    Args:
        spec: the backend, built in the thread: OpenMP keeps its thread count per calling thread.
        cores: that the thread, and those it starts, may use; None: those of its starter.
        timeout_s: how long a result is waited for unless its caller says otherwise.
        start_timeout_s: how long building the backend may take.
        grace_s: how long :meth:`close` waits for a query under way.

    Raises:
        ConfigError: the timeout is not positive.
        RetrievalError: the backend was not built: ``spec`` is wrong, the cores are not there, it raised, or it took too long.
    """

    transport = "thread"

    def __init__(
        self,
        spec: BackendSpec,
        *,
        cores: Sequence[int] | None = None,
        timeout_s: float = 60.0,
        start_timeout_s: float = 600.0,
        grace_s: float = 5.0,
    ) -> None:
        if not timeout_s > 0:
            raise ConfigError(f"a timeout of {timeout_s} s", where="the retriever", next_step="give a positive one")
        self.timeout_s, self._grace_s = timeout_s, grace_s
        self.counts = Counts()
        self.gone: RetrieverGone | None = None
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        # A daemon: a backend that hangs must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, args=(spec, cores), name="tenfold-retriever", daemon=True)
        self._built = _Work(lambda backend: backend.chunk_tokens)
        self._current: _Work | None = None
        self._thread.start()
        if not self._built.ready.wait(start_timeout_s):
            self.close()
            raise RetrievalLate(
                f"the backend was not built within {start_timeout_s:g} s", where=_WHERE, next_step="allow more time"
            )
        if isinstance(self._built.outcome, RetrievalError):
            self.close()
            raise self._built.outcome
        assert isinstance(self._built.outcome, int)
        self.chunk_tokens = self._built.outcome

    def submit(self, query: Query) -> Pending:
        """Start a retrieval.

        Raises:
            QueryRefused: the query is wrong. Whatever else goes wrong is said by its result.
        """
        query = check_query(query, self.chunk_tokens)
        with self._lock:
            self.counts.asked += 1
        work = _Work(lambda backend: answer(backend, query))
        self._put(work)
        return _ThreadPending(self, query, work)

    def _put(self, work: _Work) -> None:
        # Under the lock: behind what _end has emptied, nobody would ever settle it.
        with self._lock:
            if self.gone is not None:
                work.settle(self.gone)
            else:
                self._queue.put(work)

    def take(self, query: Query, work: _Work, timeout_s: float | None) -> Reply | RetrievalError:
        """The outcome of a query, waited for; counted."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        in_time = work.ready.wait(limit_s)
        with self._lock:
            if not in_time and not work.ready.is_set():
                work.given_up = True
                self.counts.late += 1
                return RetrievalLate(
                    f"query {query.number} was not answered within {limit_s:g} s", where=_WHERE,
                    next_step="allow more time, scan fewer lists (nprobe), or look at what else the retriever's cores do",
                )  # fmt: skip
            outcome = work.outcome
            if isinstance(outcome, Reply) and outcome.number == query.number:
                self.counts.answered += 1
                return outcome
            self.counts.failed += 1
            if isinstance(outcome, Reply):
                self.counts.foreign += 1
                what = f"query {query.number} was answered with the number of query {outcome.number}"
                return RetrievalError(what, where=_WHERE, next_step="correct the backend")
        assert isinstance(outcome, RetrievalError)
        return outcome

    def facts(self) -> dict[str, object]:
        """Transport, what became of the queries, and the facts of the process as the thread sees it."""
        work = _Work(lambda backend: process_facts())
        self._put(work)
        own: dict[str, object] = {"transport": self.transport, "counts": asdict(self.counts)}
        if not work.ready.wait(self.timeout_s):
            return own | {"unknown": f"not answered within {self.timeout_s:g} s"}
        if isinstance(work.outcome, RetrievalError):
            return own | {"unknown": work.outcome.what}
        assert isinstance(work.outcome, dict)
        return own | work.outcome

    def close(self) -> None:
        """End the thread; safe to call twice. One that hangs in its backend cannot be ended: it is left, with a warning."""
        self._end(RetrieverGone("the retriever is closed", where=_WHERE, next_step="start another one"))
        self._thread.join(self._grace_s)
        if self._thread.is_alive():
            _log.warning("a retrieval still runs %g s after its retriever was closed; its thread is left behind", self._grace_s)

    def _end(self, reason: RetrieverGone) -> None:
        with self._lock:
            if self.gone is None:
                self.gone = reason
            if self._current is not None:
                self._current.settle(self.gone)
            while not self._queue.empty():
                work = self._queue.get()
                if work is not None:
                    work.settle(self.gone)
            self._queue.put(None)

    def _run(self, spec: BackendSpec, cores: Sequence[int] | None) -> None:
        why = RetrievalError("it was closed")
        try:
            if cores is not None:
                pin(cores)
            backend = spec.build()
            self._built.settle(backend.chunk_tokens)
            try:
                while (work := self._queue.get()) is not None:
                    self._do(work, backend)
            finally:
                backend.close()
        except BaseException as error:  # SystemExit too: the thread ends, and whoever waits must hear of it
            why = _as_retrieval_error(error)
        self._built.settle(why)
        self._end(RetrieverGone(f"the retriever's thread has ended: {why.what}", where=_WHERE, next_step="start another one"))

    def _do(self, work: _Work, backend: Backend) -> None:
        self._current = work
        try:
            outcome = work.do(backend)
        except Exception as error:
            outcome = _as_retrieval_error(error)
        with self._lock:
            self._current = None
            self.counts.dropped += work.given_up
            work.settle(outcome)


def _as_retrieval_error(error: BaseException) -> RetrievalError:
    return error if isinstance(error, RetrievalError) else error_of(refusal_of(error, 0, _WHERE))
