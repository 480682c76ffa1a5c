"""A retriever whose index is sharded over MPI ranks: rank 0 generates, every other rank searches its part.

Start it as ``mpiexec -n 3 python program.py`` (two shards), where the program calls :func:`run` with what rank 0 shall do. MPI
tells nobody that a message is there: whoever waits looks, and sleeps between looks once nothing has come for a while.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from models.piperag.retrieving.backends import BackendSpec
from models.piperag.retrieving.facts import process_facts
from models.piperag.retrieving.faults import Malformed, RetrieverGone
from models.piperag.retrieving.merging import ShardBackend, ShardReply, answer_shard, merge
from models.piperag.retrieving.messages import (
    Answer,
    Ask,
    Facts,
    Ping,
    Pong,
    Refusal,
    Response,
    answer_of,
    decode_request,
    decode_response,
    distances_of,
    encode,
    query_of,
    refusal_of,
    reply_of,
)
from models.piperag.retrieving.pulling import AwaitedReply, PulledRetriever
from models.piperag.types import RetrievalError
from results.errors import EXIT_RUN_FAILED, ConfigError

if TYPE_CHECKING:
    from mpi4py import MPI

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

GENERATOR = 0
_REQUEST, _RESPONSE, _END, _ENDED = 1, 2, 3, 4
#: How long whoever waits only lets others run between looks, and how long it sleeps between looks after that.
_EAGER_S, _SLEEP_S = 0.002, 0.0001


def run(
    communicator: MPI.Intracomm,
    spec: BackendSpec,
    generate: Callable[[RanksRetriever], Result],
    *,
    timeout_s: float = 60.0,
    start_timeout_s: float = 600.0,
) -> Result | None:
    """Generate on rank 0, search on all others until it has ended. Called by every rank of the communicator.

    Args:
        communicator: of two ranks or more; a copy of it is used, so that no message meets one of somebody else's.
        spec: of a :class:`~models.piperag.retrieving.merging.ShardBackend`; given ``shard`` and ``shards`` besides its keywords.
        generate: what rank 0 does with the retriever.

    Returns:
        What ``generate`` returned, on rank 0; None on the others.

    Raises:
        ConfigError: one rank only.
        RetrievalError: on rank 0: a shard cannot be built, or not in time. Whatever ``generate`` raises passes through.
    """
    if communicator.size < 2:
        raise ConfigError("a sharded retriever needs two ranks or more", where="MPI", next_step="mpiexec -n 3 ...")
    own = communicator.Dup()
    if own.rank != GENERATOR:
        _serve(own, spec)
        return None
    retriever = RanksRetriever(own, timeout_s=timeout_s)
    try:
        retriever.start(start_timeout_s)
        return generate(retriever)
    finally:
        retriever.close()


class RanksRetriever(PulledRetriever):
    """Asks all shards, merges what they find. Made by :func:`run`."""

    transport = "ranks"

    def __init__(self, communicator: MPI.Intracomm, *, timeout_s: float = 60.0, grace_s: float = 10.0) -> None:
        super().__init__(timeout_s)
        self._communicator, self._grace_s, self._closed = communicator, grace_s, False
        self._shards = range(1, communicator.size)
        self._partial: dict[int, dict[int, Response]] = {}
        self._sending: list[tuple[MPI.Request, bytes]] = []

    def start(self, timeout_s: float) -> None:
        """Wait until every shard is built.

        Raises:
            RetrievalError: one cannot be, or not in time.
        """
        self.chunk_tokens = self.ask_facts(timeout_s).chunk_tokens

    def where(self) -> str:
        """The shards, for errors."""
        return f"retrieval ranks 1 .. {self._shards[-1]}"

    def send(self, request: bytes) -> None:
        """Start sending to every shard."""
        self._send(request, _REQUEST)

    def _send(self, data: bytes, tag: int) -> None:
        from mpi4py import MPI

        self._sending = [(sent, kept) for sent, kept in self._sending if not sent.Test()]
        for rank in self._shards:
            self._sending.append((self._communicator.Isend([data, MPI.BYTE], dest=rank, tag=tag), data))

    def pump(self, timeout_s: float) -> None:
        """Read what has arrived; look again until something has."""
        look = _Look(timeout_s)
        while (found := _receive(self._communicator, _RESPONSE)) is None:
            if not look.again():
                return
        while found is not None:
            self._take(*found)
            found = _receive(self._communicator, _RESPONSE)

    def _take(self, rank: int, _: int, data: bytes) -> None:
        try:
            response = decode_response(data)
        except Malformed as error:
            self.fail_all(error)
            return
        awaited = self.waiting.get(response.ticket)
        unfit = isinstance(awaited, AwaitedReply) and not (isinstance(response, Answer) and awaited.fits(response))
        if isinstance(response, Refusal) or awaited is None or unfit:
            # One shard that fails fails the query; what the others answer is nobody's then.
            self._partial.pop(response.ticket, None)
            self.deliver(_named(response, rank))
            return
        found = self._partial.setdefault(response.ticket, {})
        found[rank] = response
        if len(found) == len(self._shards):
            del self._partial[response.ticket]
            self.deliver(_merged([found[rank] for rank in self._shards]))

    def close(self) -> None:
        """End all shards; safe to call twice. Where one hangs, all ranks are aborted when this process ends: MPI would wait for
        it for ever."""
        if self._closed:
            return
        self._closed = True
        self.lose(RetrieverGone("the retriever is closed", where=self.where(), next_step="start another one"))
        self._send(b"", _END)
        left, look = set(self._shards), _Look(self._grace_s)
        while left and look.again():
            while (found := _receive(self._communicator, None)) is not None:
                if found[1] == _ENDED:
                    left.discard(found[0])
        if left:
            _log.error(
                "ranks %s did not end within %g s; all ranks are aborted at the end of this one", sorted(left), self._grace_s
            )
            atexit.register(self._communicator.Abort, EXIT_RUN_FAILED)


def _merged(found: list[Response]) -> Response:
    """One response out of those of all shards, which are of one kind."""
    first = found[0]
    try:
        if isinstance(first, Answer):
            answers = [response for response in found if isinstance(response, Answer)]
            shards = [ShardReply(reply=reply_of(answer), distances=distances_of(answer)) for answer in answers]
            return answer_of(merge(shards, first.k), first.ticket)
    except Malformed as error:
        return refusal_of(error, first.ticket)
    if isinstance(first, Facts):
        facts = [response for response in found if isinstance(response, Facts)]
        if len({fact.chunk_tokens for fact in facts}) > 1:
            what = f"shards have windows of {[fact.chunk_tokens for fact in facts]} tokens"
            return refusal_of(RetrievalError(what, where="the shards", next_step="build all from one store"), first.ticket)
        return Facts(ticket=first.ticket, chunk_tokens=first.chunk_tokens, facts={"shards": [fact.facts for fact in facts]})
    return first


def _named(response: Response, rank: int) -> Response:
    if not isinstance(response, Refusal):
        return response
    where = f"rank {rank}: {response.where}"
    return Refusal(ticket=response.ticket, kind=response.kind, what=response.what, where=where, next_step=response.next_step)


class _Look:
    """Paces whoever looks for messages."""

    def __init__(self, timeout_s: float) -> None:
        self._begun = time.monotonic()
        self._timeout_s = timeout_s

    def again(self) -> bool:
        """Let others run; False when the time is over."""
        passed_s = time.monotonic() - self._begun
        if passed_s >= self._timeout_s:
            return False
        if passed_s < _EAGER_S:
            os.sched_yield()
        else:
            time.sleep(_SLEEP_S)
        return True


def _receive(communicator: MPI.Intracomm, tag: int | None) -> tuple[int, int, bytes] | None:
    """Rank, tag and bytes of a message that is there (None: of any tag), None where there is none."""
    from mpi4py import MPI

    status = MPI.Status()
    message = communicator.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG if tag is None else tag, status)
    if message is None:
        return None
    data = bytearray(status.Get_count(MPI.BYTE))
    message.Recv([data, MPI.BYTE])
    return status.Get_source(), status.Get_tag(), bytes(data)


def _serve(communicator: MPI.Intracomm, spec: BackendSpec) -> None:
    """Answer rank 0 until it says that it ends. A shard that could not be built says why to every request."""
    from mpi4py import MPI

    backend: Any = None
    problem: Exception | None = None
    try:
        keywords = {**spec.keywords, "shard": communicator.rank - 1, "shards": communicator.size - 1}
        backend = BackendSpec(spec.path, keywords).build("retrieve_shard")
    except Exception as error:
        problem = error
    look = _Look(float("inf"))
    while True:
        found = _receive(communicator, None)
        if found is None:
            look.again()
            continue
        if found[1] == _END:
            break
        response = encode(_respond(backend, problem, found[2]))
        communicator.Send([response, MPI.BYTE], dest=GENERATOR, tag=_RESPONSE)
        look = _Look(float("inf"))
    if backend is not None:
        backend.close()
    communicator.Send([b"", MPI.BYTE], dest=GENERATOR, tag=_ENDED)


def _respond(backend: ShardBackend, problem: Exception | None, data: bytes) -> Response:
    ticket = 0
    try:
        request = decode_request(data)
        ticket = request.ticket
        if problem is not None:
            raise problem
        if isinstance(request, Ask):
            found = answer_shard(backend, query_of(request))
            return answer_of(found.reply, ticket, found.distances)
        if isinstance(request, Ping):
            return Pong(ticket=ticket)
        return Facts(ticket=ticket, chunk_tokens=backend.chunk_tokens, facts=process_facts())
    except Exception as error:  # a backend's error is its asker's to hear
        return refusal_of(error, ticket)
