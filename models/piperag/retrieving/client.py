"""A retriever behind the network: a ZeroMQ DEALER that talks to :mod:`models.piperag.retrieving.serving`."""

from __future__ import annotations

import struct
import time

import zmq

from models.piperag.retrieving.addresses import endpoint, split_address
from models.piperag.retrieving.faults import Malformed, RetrieverGone
from models.piperag.retrieving.messages import MAX_RESPONSE_BYTES, decode_response
from models.piperag.retrieving.pulling import PulledRetriever, milliseconds
from models.piperag.retrieving.serving import set_heartbeat

_EVENT = struct.Struct("=hi")


class NetworkRetriever(PulledRetriever):
    """Connects to a server. When the connection breaks, whatever was asked fails at once; later queries use a new one, if the
    server is back by then.

    Args:
        address: of the server, ``HOST:PORT``.
        token: that the server was started with.
        timeout_s: how long a result is waited for unless its caller says otherwise.
        connect_timeout_s: how long the server may take to be there.

    Raises:
        ConfigError: the address is none.
        RetrievalError: nobody answers there, or not to this token.
    """

    transport = "network"

    def __init__(self, address: str, *, token: str = "", timeout_s: float = 60.0, connect_timeout_s: float = 10.0) -> None:
        super().__init__(timeout_s, token)
        self.address, self._closed = endpoint(*split_address(address)), False
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.linger, self._dealer.maxmsgsize, self._dealer.ipv6 = 0, MAX_RESPONSE_BYTES, "[" in self.address
        set_heartbeat(self._dealer)
        self._events = self._dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        self._poller.register(self._dealer, zmq.POLLIN)
        self._poller.register(self._events, zmq.POLLIN)
        self.gone = self._unreachable("cannot be reached")
        try:
            self._dealer.connect(self.address)
            self._connect(connect_timeout_s)
            self.chunk_tokens = self.ask_facts(connect_timeout_s).chunk_tokens
        except BaseException:
            self.close()
            raise

    def _connect(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.gone is not None:
            rest_s = deadline - time.monotonic()
            if rest_s <= 0:
                raise self.gone
            self._events.poll(milliseconds(rest_s))
            self._watch()

    def _unreachable(self, what: str) -> RetrieverGone:
        return RetrieverGone(
            f"the retrieval server {what}",
            where=self.where(),
            next_step="look at its log, or start it",
        )

    def where(self) -> str:
        """The server, for errors."""
        return f"retrieval server at {self.address}"

    def send(self, request: bytes) -> None:
        """Hand over to ZeroMQ, which sends by itself."""
        try:
            self._dealer.send(request, zmq.NOBLOCK)
        except zmq.Again:
            raise self._unreachable("does not take queries") from None

    def pump(self, timeout_s: float) -> None:
        """Read what has arrived; notice at once when the connection is gone."""
        if self._closed:
            return
        if timeout_s > 0 and not (_readable(self._dealer) or _readable(self._events)):
            self._poller.poll(milliseconds(timeout_s))
        # Before the answers: what had arrived before the connection was gone is there by now, and counts.
        lost = self._watch()
        self._read()
        if lost:
            self.fail_all(lost)

    def _read(self) -> None:
        while _readable(self._dealer):
            try:
                frames = self._dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if len(frames) != 1:
                    raise Malformed(f"a message of {len(frames)} parts instead of one")
                self.deliver(decode_response(frames[0]))
            except Malformed as error:
                self.fail_all(error)

    def _watch(self) -> RetrieverGone | None:
        """Follow the connection; why it is or was gone."""
        lost = None
        while _readable(self._events):
            event, _ = _EVENT.unpack(self._events.recv_multipart()[0])
            if event == zmq.EVENT_DISCONNECTED:
                lost = self.gone = self._unreachable("has closed the connection, or has ended")
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.gone = None
        return lost

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        if self._closed:
            return
        self.pump(0.0)
        self._closed = True
        self.lose(RetrieverGone("the connection is closed", where=self.where(), next_step="connect again"))
        self._dealer.disable_monitor()
        self._events.close()
        self._dealer.close()
        self._context.term()


def _readable(sock: zmq.Socket[bytes]) -> bool:
    return bool(int(sock.get(zmq.EVENTS)) & zmq.POLLIN)
