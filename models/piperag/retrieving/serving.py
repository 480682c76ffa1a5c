"""A server that answers several generators: a ZeroMQ ROUTER in front of one backend.

One thread talks, one searches. Clients take turns. Nothing that a client sends can end the server, and a client that went away
only costs the searches that it had asked for.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import socket

import zmq

from models.piperag.retrieving.addresses import LOOPBACK, endpoint, is_loopback, split_address
from models.piperag.retrieving.backends import BackendSpec
from models.piperag.retrieving.facts import process_facts
from models.piperag.retrieving.faults import Malformed, RetrieverGone
from models.piperag.retrieving.messages import (
    MAX_REQUEST_BYTES,
    MAX_SECRET_CHARACTERS,
    Ask,
    Facts,
    Message,
    Ping,
    Pong,
    Refusal,
    Request,
    decode_request,
    encode,
    refusal_of,
)
from models.piperag.retrieving.searching import Searcher
from models.piperag.retrieving.turns import Turns
from models.piperag.types import RetrievalError
from results.errors import ConfigError, RunError

_log = logging.getLogger(__name__)
#: Messages that are read before answers are looked at again.
_BURST = 64
#: Messages of one client that wait in its connection.
_WAITING_MESSAGES = 64
#: A token that can be guessed is none.
MIN_TOKEN_CHARACTERS = 16
#: How long what was said last may take to leave.
_LINGER_MS = 500


#: How often the ends of a connection ask each other whether they are there, and how long no answer means no.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 1000, 5000


def set_heartbeat(sock: zmq.Socket[bytes]) -> None:
    """A host that vanishes closes no connection: its other end has to ask."""
    sock.heartbeat_ivl = HEARTBEAT_MS
    sock.heartbeat_timeout = sock.heartbeat_ttl = HEARTBEAT_TIMEOUT_MS


class Server:
    """Listens from its creation on, serves in :meth:`serve`.

    Args:
        spec: the backend, built in a thread of this process.
        bind: address to listen on; port 0: a free one.
        token: that every request must carry; needed wherever other machines can reach the address. It keeps strangers out and
            hides nothing: it travels in clear.

    Attributes:
        address: that clients connect to.

    Raises:
        ConfigError: the address is none, or lets other machines in without a token.
        RunError: it cannot be listened on.
    """

    def __init__(self, spec: BackendSpec, *, bind: str = f"{LOOPBACK}:0", token: str = "") -> None:
        where = endpoint(*split_address(bind))
        if not is_loopback(where) and not token:
            raise ConfigError(
                f"other machines can reach {bind}, and there is no token to keep them out",
                where="--bind",
                next_step="give a token (--token-file), or bind to 127.0.0.1",
            )
        if token and not MIN_TOKEN_CHARACTERS <= len(token) <= MAX_SECRET_CHARACTERS:
            what = (
                f"a token of {len(token)} characters {'can be guessed' if len(token) < MIN_TOKEN_CHARACTERS else 'is too long'}"
            )
            next_step = f"use {MIN_TOKEN_CHARACTERS} to {MAX_SECRET_CHARACTERS} characters"
            raise ConfigError(what, where="--token-file", next_step=next_step)
        self._token = token.encode()
        self._turns: Turns[Ask] = Turns()
        self._busy: tuple[bytes, int] | None = None  # client and ticket of the query that is searched for
        self._stopping = False
        self.counts = {"answered": 0, "malformed": 0, "strangers": 0, "too_many": 0}
        self._context = zmq.Context()
        self._router = self._listen(where)
        address = self._router.get(zmq.LAST_ENDPOINT)
        assert isinstance(address, bytes)
        self.address = address.decode().rstrip("\0")
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._searcher = Searcher(spec, self.wake)

    def _listen(self, where: str) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        router.linger, router.maxmsgsize, router.handshake_ivl = _LINGER_MS, MAX_REQUEST_BYTES, 5000
        router.rcvhwm = router.sndhwm = _WAITING_MESSAGES
        router.ipv6 = "[" in where
        set_heartbeat(router)
        try:
            router.bind(where)
        except zmq.ZMQError as error:
            router.close()
            self._context.term()
            raise RunError(
                f"cannot listen on {where}: {error}", where="--bind", next_step="use another address or port 0"
            ) from None
        return router

    @property
    def wake_descriptor(self) -> int:
        """For :func:`signal.set_wakeup_fd`: whatever is written to it makes :meth:`serve` look around."""
        return self._wake_out.fileno()

    def wake(self) -> None:
        """Make :meth:`serve` look around; from any thread."""
        with contextlib.suppress(OSError):  # full: it will look around anyway; closed: it has ended
            self._wake_out.send(b"\0")

    def stop(self) -> None:
        """Make :meth:`serve` return; from any thread or signal handler."""
        self._stopping = True
        self.wake()

    def wait_until_built(self) -> int:
        """Wait for the backend.

        Returns:
            Length of a window, c; 0 where :meth:`stop` came first.

        Raises:
            RetrievalError: the backend could not be built.
        """
        poller = zmq.Poller()
        poller.register(self._wake_in, zmq.POLLIN)
        while not self._searcher.chunk_tokens and not self._stopping:
            if self._searcher.error is not None:
                raise self._searcher.error
            poller.poll()
            self._drain()
        return self._searcher.chunk_tokens

    def serve(self) -> None:
        """Serve until :meth:`stop`.

        Raises:
            RetrievalError: the backend could not be built, or has ended.
        """
        self.wait_until_built()
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake_in, zmq.POLLIN)
        while not self._stopping:
            poller.poll()
            self._drain()
            self._receive()
            self._hand_over()
            if self._searcher.error is not None:
                raise self._searcher.error

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_in.recv(4096):
                pass

    def _receive(self) -> None:
        for _ in range(_BURST):
            try:
                client, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._handle(client, self._read(frames))
            except Malformed as error:
                self.counts["malformed"] += 1
                self._send(client, refusal_of(error, error.ticket))
            except Exception:  # whatever a stranger sends, the others are served on
                _log.exception("a request was dropped")

    def _read(self, frames: list[bytes]) -> Request:
        if len(frames) != 1:
            raise Malformed(f"a message of {len(frames)} parts instead of one")
        return decode_request(frames[0])

    def _handle(self, client: bytes, request: Request) -> None:
        if self._token and not hmac.compare_digest(request.token.encode(), self._token):
            self.counts["strangers"] += 1
            what = "the token is missing or wrong"
            self._send(client, _refusal(request.ticket, what, self.address, "give the token that the server was started with"))
        elif isinstance(request, Ping):
            self._send(client, Pong(ticket=request.ticket))
        elif not isinstance(request, Ask):
            self._send(client, Facts(ticket=request.ticket, chunk_tokens=self._searcher.chunk_tokens, facts=self.facts()))
        elif not self._turns.put(client, request):
            self.counts["too_many"] += 1
            what = "too many queries are waiting"
            self._send(client, _refusal(request.ticket, what, self.address, "wait for answers before asking on"))

    def _hand_over(self) -> None:
        """Answers to clients, then the next query to the thread that searches."""
        response = self._searcher.answered()
        if response is not None and self._busy is not None:
            self._send_bytes(self._busy[0], response)
            self.counts["answered"] += 1
            self._busy = None
        if self._busy is None and (turn := self._turns.take()) is not None:
            self._busy = turn[0], turn[1].ticket
            self._searcher.ask(turn[1])

    def _send(self, client: bytes, message: Message) -> None:
        self._send_bytes(client, encode(message))

    def _send_bytes(self, client: bytes, message: bytes) -> None:
        with contextlib.suppress(zmq.Again):  # a client that went away or does not read: what it is sent is dropped
            self._router.send_multipart([client, message], zmq.NOBLOCK)

    def facts(self) -> dict[str, object]:
        """Facts of this process: pools and cores as the thread sees that searches; what became of requests, how many wait."""
        seen = {name: self._searcher.facts.get(name) for name in ("pools", "cores")}
        return {**process_facts(), **seen, "address": self.address, "served": dict(self.counts), "waiting": len(self._turns)}

    def close(self, grace_s: float = 2.0) -> bool:
        """Tell whoever waits, free the address, end the thread.

        Returns:
            False where the thread still is in its backend after ``grace_s``: only the end of the process ends it.
        """
        if self._router.closed:
            return True
        waiting = [self._busy] if self._busy is not None else []
        while (turn := self._turns.take()) is not None:
            waiting.append((turn[0], turn[1].ticket))
        reason = self._searcher.error or RetrieverGone("the server ends", where=self.address, next_step="start it again")
        for client, ticket in waiting:
            self._send(client, refusal_of(reason, ticket))
        self._router.close()
        self._context.term()
        ended = self._searcher.close(grace_s)
        self._wake_in.close()
        self._wake_out.close()
        return ended


def _refusal(ticket: int, what: str, where: str, next_step: str) -> Refusal:
    return refusal_of(RetrievalError(what, where=where, next_step=next_step), ticket)
