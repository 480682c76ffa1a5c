"""A retrieval server under a real ZeroMQ: strangers' bytes, many clients, tokens; a client of servers that err."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.piperag.retrieving.backends import answer
from models.piperag.retrieving.client import NetworkRetriever
from models.piperag.retrieving.faults import RetrieverGone
from models.piperag.retrieving.hosting import host_environment
from models.piperag.retrieving.messages import (
    MAGIC,
    MAX_REQUEST_BYTES,
    VERSION,
    Answer,
    Ask,
    Facts,
    Ping,
    Refusal,
    answer_of,
    ask_of,
    decode_request,
    encode,
    query_of,
)
from models.piperag.retrieving.serving import Server
from models.piperag.types import RetrievalError
from results.errors import ConfigError
from tests.models.piperag.retrieving_backends import Flat
from tests.models.piperag.retrieving_support import (
    ROOT,
    TOKEN,
    C,
    assert_same,
    assert_serves,
    connected,
    nothing_left_behind,
    query,
    said_to,
    served,
    server,
    spec,
    stranger,
    until,
)

# Strangers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steady() -> Iterator[Server]:
    with served(spec()) as running:
        yield running


def test_it_answers_pings_and_who_it_is(steady: Server) -> None:
    with connected(steady.address) as client:
        assert client.chunk_tokens == C
        assert 0 < client.ping() < 10
        facts = client.facts()
        assert (facts["transport"], facts["address"]) == ("network", steady.address)
        assert facts["served"]["malformed"] >= 0  # type: ignore[index]
        assert facts["pools"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=4), prefixed=st.booleans())
def test_random_messages_are_refused_and_good_clients_served(steady: Server, parts: list[bytes], prefixed: bool) -> None:
    if prefixed:
        parts[0] = MAGIC + bytes([VERSION]) + parts[0]
    with stranger(steady.address) as sock, connected(steady.address) as client:
        said_to(sock, *parts)
        assert_serves(client)
        assert said_to(sock, encode(Ping(ticket=3))).ticket == 3


@settings(max_examples=25, deadline=None)
@given(data=st.binary(min_size=1, max_size=500))
def test_random_bytes_at_the_port_are_survived(steady: Server, data: bytes) -> None:
    host, port = steady.address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(data)
        with connected(steady.address) as client:
            assert_serves(client)
    with connected(steady.address) as client:
        assert_serves(client)


def good(**changes: Any) -> bytes:
    ask = ask_of(query(1), 7)
    return encode(Ask(**{**{name: getattr(ask, name) for name in Ask.__struct_fields__}, **changes}))


@pytest.mark.parametrize(
    ("frames", "said", "ticket"),
    [
        ([b""], "none of tenfold's", 0),
        ([b"", good()], "a message of 2 parts", 0),  # as a REQ socket sends
        ([pickle.dumps(Flat)], "none of tenfold's", 0),
        ([MAGIC + bytes([VERSION]) + pickle.dumps(Flat)], "cannot be read", 0),
        ([MAGIC + bytes([VERSION + 1]) + good()[4:]], "of version", 0),
        ([good(rows=2)], "windows of 32 bytes", 7),
        ([good(tokens=2**31)], "windows of 32 bytes", 7),
        ([good(tokens=8, rows=2)], "shorter than the window", 7),
        ([good(shift=C + 1)], "shift is a whole number", 7),
        ([good(k=2**31)], "neighbours each ask for more than", 7),
        ([good(k=-1)], "cannot be read", 0),
        ([good(windows="text")], "cannot be read", 0),
        ([encode(Refusal(ticket=7, kind="backend", what="no"))], "cannot be read", 0),
    ],
)
def test_what_is_wrong_is_said_to_whoever_sent_it(steady: Server, frames: list[bytes], said: str, ticket: int) -> None:
    with stranger(steady.address) as sock, connected(steady.address) as client:
        refusal = said_to(sock, *frames)
        assert isinstance(refusal, Refusal)
        assert said in refusal.what
        assert refusal.ticket == ticket
        assert_serves(client)
        assert isinstance(said_to(sock, good()), Answer)


def test_what_is_too_large_is_not_even_read(steady: Server) -> None:
    with stranger(steady.address) as sock, connected(steady.address) as client:
        sock.send(good() + bytes(MAX_REQUEST_BYTES))
        assert not sock.poll(200)
        assert_serves(client)


def test_nobody_asks_for_more_than_a_share(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with served(spec("Faulty", faults={"0": "late"}, gate=str(gate))) as running, connected(running.address) as client:
        pending = [client.submit(query(number)) for number in range(80)]
        with connected(running.address) as other:
            assert other.facts()["served"]["too_many"] == 15  # type: ignore[index]  # one is searched for, 64 wait
            gate.touch()
            assert_serves(other, number=300)
        refused = 0
        for number, one in enumerate(pending):
            try:
                assert_same(one.result(), answer(Flat(), query(number)))
            except RetrievalError as error:
                assert "too many queries are waiting" in error.what  # noqa: PT017
                refused += 1
        assert refused == 15


# Several clients -----------------------------------------------------------------------------------------------------


def test_each_of_many_clients_gets_its_own_replies() -> None:
    direct, wrong = Flat(), []

    def generate(first: int) -> None:
        try:
            with connected(running.address) as client:
                for number in range(first, first + 30, 3):
                    pending = [client.submit(query(number + ahead)) for ahead in range(3)]
                    for ahead in (2, 0, 1):
                        assert_same(pending[ahead].result(), answer(direct, query(number + ahead)))
                assert client.counts.answered == 30
        except BaseException as error:
            wrong.append(error)

    with nothing_left_behind(), server(spec("Delayed")) as running:
        threads = [threading.Thread(target=generate, args=(1000 * place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_client_that_asks_much_does_not_keep_others_waiting(tmp_path: Path) -> None:
    """Served by turns: the one query of a second client comes before the many of the first."""
    gate = tmp_path / "gate"
    backend = spec("Faulty", faults={"0": "late", "2": "late2"}, gate=str(gate))
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(served(backend))
        greedy, modest = (stack.enter_context(connected(running.address)) for _ in range(2))
        many = [greedy.submit(query(number)) for number in range(40)]
        greedy.ping()  # by now all are in the server's queue
        one = modest.submit(query(500))
        modest.ping()
        gate.touch()
        assert_same(one.result(), answer(Flat(), query(500)))
        assert not many[2].done()
        (tmp_path / "gate2").touch()
        assert [pending.result().number for pending in many] == list(range(40))


_CLIENT = """
import sys, time
from models.piperag.retrieving.client import NetworkRetriever
from tests.models.piperag.retrieving_support import query
client = NetworkRetriever(sys.argv[1])
pending = [client.submit(query(number)) for number in range(5)]
client.ping()
print("asked", flush=True)
time.sleep(3600)
"""


def test_a_client_that_is_killed_in_mid_request_is_survived(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with served(spec("Faulty", faults={"0": "late"}, gate=str(gate))) as running, connected(running.address) as other:
        victim = subprocess.Popen(
            [sys.executable, "-c", _CLIENT, running.address],
            cwd=ROOT, env=host_environment(os.environ, 1), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "asked\n"
            pending = other.submit(query(7))
            victim.kill()
            victim.wait()
            gate.touch()
            assert_same(pending.result(), answer(Flat(), query(7)))
        until(lambda: running.counts["answered"] == 6)  # what it had asked for was searched, and told nobody
        assert_serves(other)


# Who may ask ---------------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_where_there_is_one() -> None:
    with served(spec(), token=TOKEN) as running:
        with connected(running.address, token=TOKEN) as client:
            assert_serves(client)
        for wrong in ("", TOKEN[:-1], TOKEN + "x", "\N{SNOWMAN}"):
            with pytest.raises(RetrievalError, match="the token is missing or wrong"):
                NetworkRetriever(running.address, token=wrong)
        with stranger(running.address) as sock:
            for request in (Ping(ticket=1), ask_of(query(1), 1)):
                assert "the token is missing" in said_to(sock, encode(request)).what
        assert running.counts["strangers"] == 6


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0"])
def test_other_machines_are_let_in_only_with_a_token(bind: str) -> None:
    with pytest.raises(ConfigError, match="other machines can reach .* no token to keep them out"):
        Server(spec(), bind=bind)
    for token, said in (("guess", "5 characters can be guessed"), (TOKEN * 10, "280 characters is too long")):
        with pytest.raises(ConfigError, match=said):
            Server(spec(), bind=bind, token=token)
    with served(spec(), bind=bind, token=TOKEN) as running:
        port = running.address.rpartition(":")[2]
        with connected(f"127.0.0.1:{port}", token=TOKEN) as client:
            assert_serves(client)


# A server that is not ours -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def played(play: Callable[[zmq.Socket[bytes], bytes, Ask], None]) -> Iterator[str]:
    """A server of which a test plays what it does with queries."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        address = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
        ended = threading.Event()

        def run() -> None:
            while not ended.is_set():
                if router.poll(20):
                    client, frame = router.recv_multipart()
                    request = decode_request(frame)
                    if isinstance(request, Ask):
                        play(router, client, request)
                    else:
                        router.send_multipart([client, encode(Facts(ticket=request.ticket, chunk_tokens=C, facts={}))])

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield address
        finally:
            ended.set()
            thread.join()


def reply_to(ask: Ask, **changes: Any) -> bytes:
    good = answer_of(answer(Flat(), query_of(ask)), ask.ticket)
    return encode(Answer(**{**{name: getattr(good, name) for name in Answer.__struct_fields__}, **changes}))


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(5)))
def test_answers_out_of_order_reach_their_own_queries(order: list[int]) -> None:
    kept: list[Ask] = []

    def play(router: zmq.Socket[bytes], client: bytes, ask: Ask) -> None:
        kept.append(ask)
        if len(kept) == len(order):
            for place in order:
                router.send_multipart([client, reply_to(kept[place])])

    with played(play) as address, connected(address) as client:
        pending = [client.submit(query(number)) for number in range(5)]
        for number, one in enumerate(pending):
            assert_same(one.result(), answer(Flat(), query(number)))


def test_answers_that_nobody_asked_for_are_dropped_and_counted() -> None:
    def play(router: zmq.Socket[bytes], client: bytes, ask: Ask) -> None:
        for frame in (reply_to(ask, ticket=999), reply_to(ask), reply_to(ask)):
            router.send_multipart([client, frame])

    with played(play) as address, connected(address) as client:
        assert_serves(client, 1)
        assert_serves(client, 2)
        client.ask_facts()
        assert (client.counts.dropped, client.counts.answered) == (4, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"number": 2}, "answered with the number of query 2"),
        ({"rows": 2}, r"values of \[2, 2, 32\] instead of \[1, 2, 32\]"),
        ({"values": b""}, "values of 0 bytes"),
        ({"ids": b"1"}, "ids of 1 bytes"),
    ],
)
def test_answers_of_another_query_or_shape_are_not_used(changes: dict[str, Any], said: str) -> None:
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(
            played(lambda router, client, ask: router.send_multipart([client, reply_to(ask, **changes)]))
        )
        client = stack.enter_context(connected(address))
        with pytest.raises(RetrievalError, match=said):
            client.submit(query(1)).result()


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([b"garbage"], "none of tenfold's"),
        ([MAGIC + bytes([VERSION + 1])], f"of version {VERSION + 1}"),
        ([b"", b""], "a message of 2 parts"),
    ],
)
def test_what_cannot_be_read_fails_whatever_waits(frames: list[bytes], said: str) -> None:
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(played(lambda router, client, ask: router.send_multipart([client, *frames])))
        client = stack.enter_context(connected(address))
        with pytest.raises(RetrievalError, match=said):
            client.submit(query(1)).result()


def test_nobody_there_and_somebody_else_there_are_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with nothing_left_behind(), pytest.raises(RetrieverGone, match="cannot be reached"):
            NetworkRetriever(f"127.0.0.1:{port}", connect_timeout_s=0.3)
    with nothing_left_behind(), pytest.raises(RetrieverGone, match="cannot be reached"):
        NetworkRetriever(f"127.0.0.1:{port}", connect_timeout_s=0.3)


def test_closing_twice_with_answers_unread() -> None:
    with nothing_left_behind(), served(spec()) as running:
        client = NetworkRetriever(running.address)
        pending = [client.submit(query(number)) for number in range(5)]
        until(lambda: running.counts["answered"] == 5)
        client.close()
        client.close()
        assert all(one.done() for one in pending)
        begun = time.monotonic()
        with pytest.raises(RetrieverGone):
            client.submit(query(9)).result()
        assert time.monotonic() - begun < 5
