"""Messages: what goes in comes out, whatever else comes in is refused; streams cut anywhere; clients take turns."""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.piperag.retrieving.addresses import endpoint, is_loopback, split_address
from models.piperag.retrieving.backends import MAX_TOKEN
from models.piperag.retrieving.faults import Malformed, QueryRefused
from models.piperag.retrieving.frames import Frames, framed
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
    decode_response,
    distances_of,
    encode,
    error_of,
    query_of,
    refusal_of,
    reply_of,
    respond,
)
from models.piperag.retrieving.turns import Turns
from models.piperag.types import Query, Reply, RetrievalError
from results.errors import ConfigError, DataError
from tests.models.piperag.retrieving_backends import Flat
from tests.models.piperag.retrieving_support import assert_same, query

tokens = st.integers(0, MAX_TOKEN)
sides = st.integers(1, 4)


@settings(max_examples=50, deadline=None)
@given(st.data(), sides, sides, st.integers(0, 2**63 - 1), st.integers(1, 2**31))
def test_a_query_survives_the_way(data: st.DataObject, rows: int, length: int, number: int, nprobe: int) -> None:
    windows = data.draw(arrays.arrays(np.int64, (rows, length), elements=tokens))
    # Strided as a slice of a longer sequence is.
    asked = Query(number=number, windows=np.repeat(windows, 2, axis=1)[:, ::2], k=3, nprobe=nprobe, shift=length)
    found = decode_request(encode(ask_of(asked, 5, "secret")))
    assert isinstance(found, Ask)
    assert (found.ticket, found.token) == (5, "secret")
    back = query_of(found)
    assert (back.number, back.k, back.nprobe, back.shift) == (number, 3, nprobe, length)
    assert back.windows.dtype == np.int64
    assert back.windows.tobytes() == windows.tobytes()


@settings(max_examples=50, deadline=None)
@given(st.data(), sides, sides, sides)
def test_a_reply_survives_the_way(data: st.DataObject, rows: int, k: int, length: int) -> None:
    reply = Reply(
        number=9,
        values=data.draw(arrays.arrays(np.int64, (rows, k, length), elements=tokens)),
        ids=data.draw(arrays.arrays(np.int64, (rows, k), elements=st.integers(-1, 2**63 - 1))),
        nprobe=4,
        seconds=data.draw(st.dictionaries(st.text(max_size=8), st.floats(0, 1e9), max_size=4)),
    )
    distances = data.draw(arrays.arrays(np.float32, (rows, k)))
    found = decode_response(encode(answer_of(reply, 5, distances)))
    assert isinstance(found, Answer)
    assert_same(reply_of(found), reply)
    assert reply_of(found).seconds == reply.seconds
    assert distances_of(found).tobytes() == distances.tobytes()


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda rest: MAGIC + bytes([VERSION]) + rest)))
def test_random_bytes_are_malformed_or_messages(data: bytes) -> None:
    for decode in (decode_request, decode_response):
        try:
            message = decode(data)
        except Malformed:
            continue
        assert message.ticket >= 0


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=6))
def test_a_damaged_query_is_malformed_or_is_held_against_the_guard(place: int, damage: bytes) -> None:
    good = encode(ask_of(query(3), 1))
    bad = good[: place % len(good)] + damage + good[place % len(good) + len(damage) :]
    try:
        message = decode_request(bad)
    except Malformed:
        return
    if isinstance(message, Ask):
        assert isinstance(respond(Flat(), message), Answer | Refusal)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "none of tenfold's"),
        (MAGIC, "none of tenfold's"),
        (pickle.dumps(query()), "none of tenfold's"),
        (MAGIC + bytes([VERSION]) + pickle.dumps(query()), "cannot be read"),
        (
            MAGIC + bytes([VERSION + 1]) + encode(Ping(ticket=1))[4:],
            f"of version {VERSION + 1}; this end speaks version {VERSION}",
        ),
        (encode(Ping(ticket=1)) + b"x", "cannot be read"),
        (encode(Refusal(ticket=1, kind="query", what="")), "cannot be read"),
        (b"x" * (MAX_REQUEST_BYTES + 1), "longer than the"),
        (MAGIC + bytes([VERSION]) + msgspec.msgpack.encode(["ping", -1, ""]), "cannot be read"),
        (MAGIC + bytes([VERSION]) + msgspec.msgpack.encode(["ping", 1, "t" * 257]), "cannot be read"),
        (MAGIC + bytes([VERSION]) + b"\x93\xa4ping\x01\xa2\xff\xfe", "cannot be read"),  # no UTF-8
        (MAGIC + bytes([VERSION]) + b"\x91" * 100_000, "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(data: bytes, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        decode_request(data)


def test_shapes_are_held_against_the_bytes_before_they_are_used() -> None:
    good = ask_of(query(3), 8)
    for changes in ({"rows": 2}, {"tokens": 2**31}, {"windows": b""}):
        with pytest.raises(Malformed, match="windows of .* bytes, where") as caught:
            query_of(msgspec.structs.replace(good, **changes))
        assert caught.value.ticket == 8
        assert isinstance(respond(Flat(), msgspec.structs.replace(good, **changes)), Refusal)
    answer = answer_of(Flat().retrieve(query(3)), 8)
    for changes in ({"k": 3}, {"ids": b""}, {"values": b"1"}):
        with pytest.raises(Malformed, match="bytes, where"):
            reply_of(msgspec.structs.replace(answer, **changes))
    with pytest.raises(Malformed, match="distances of 0 bytes"):
        distances_of(answer)


def test_errors_come_back_as_they_were() -> None:
    for error, kind in (
        (QueryRefused("a", where="b", next_step="c"), QueryRefused),
        (DataError("a", where="b", next_step="c"), RetrievalError),
    ):
        message = decode_response(encode(refusal_of(error, 4)))
        assert isinstance(message, Refusal)
        back = error_of(message)
        assert type(back) is kind
        assert (back.what, back.where, back.next_step) == ("a", "b", "c")
    said = error_of(refusal_of(KeyError("x" * 9000), 0))
    assert said.what.startswith("the backend raised KeyError: 'xxx")
    assert isinstance(decode_response(encode(refusal_of(KeyError("x" * 9000), 0))), Refusal)


def test_facts_are_plain() -> None:
    message = Facts(ticket=1, chunk_tokens=16, facts={"cores": [0, 1], "resident_gib": 0.5, "pools": [{"api": "blas"}]})
    assert decode_response(encode(message)) == message


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_streams_may_be_cut_anywhere(payloads: list[bytes], data: st.DataObject) -> None:
    stream, frames, found = b"".join(map(framed, payloads)), Frames(64), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += frames.feed(stream[:size])
        stream = stream[size:]
    assert found == payloads


def test_a_length_beyond_the_limit_is_not_waited_for() -> None:
    with pytest.raises(Malformed, match="message of 65 bytes"):
        Frames(64).feed(framed(b"x" * 65)[:4])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=40))
def test_clients_take_turns(arrivals: list[bytes]) -> None:
    """Everybody's queries in their order; in every round each client that has one is served once."""
    turns: Turns[int] = Turns(per_client=100, clients=3)
    assert all(turns.put(client, number) for number, client in enumerate(arrivals))
    assert len(turns) == len(arrivals)
    served, left = [], Counter(arrivals)
    while (turn := turns.take()) is not None:
        served.append(turn)
    mine = defaultdict(list)
    for client, number in served:
        mine[client].append(number)
    assert all(numbers == sorted(numbers) for numbers in mine.values())
    assert sum(map(len, mine.values())) == len(arrivals)
    rounds = [client for client, _ in served]
    while rounds:  # round by round, every client that still has queries is served once
        waiting = [client for client in left if left[client]]
        assert sorted(rounds[: len(waiting)]) == sorted(waiting)
        left -= Counter(waiting)
        rounds = rounds[len(waiting) :]


def test_nobody_may_fill_the_server() -> None:
    turns: Turns[int] = Turns(per_client=2, clients=2)
    assert [turns.put(b"a", 1), turns.put(b"a", 2), turns.put(b"a", 3)] == [True, True, False]
    assert [turns.put(b"b", 1), turns.put(b"c", 1)] == [True, False]
    assert turns.take() == (b"a", 1)
    assert turns.put(b"a", 3)
    assert [turns.take() for _ in range(4)] == [(b"b", 1), (b"a", 2), (b"a", 3), None]


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0, True),
        ("5555", "127.0.0.1", 5555, True),
        ("tcp://127.3.2.1:5555", "127.3.2.1", 5555, True),
        ("[::1]:5555", "::1", 5555, True),
        ("0.0.0.0:1", "0.0.0.0", 1, False),
        ("[::]:1", "::", 1, False),
        ("10.1.2.3:65535", "10.1.2.3", 65535, False),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool) -> None:
    assert split_address(text) == (host, port)
    assert is_loopback(endpoint(host, port)) is loopback
    assert split_address(endpoint(host, port)) == (host, port)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:-1", "x:y"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        split_address(text)


def test_an_unknown_host_is_said() -> None:
    with pytest.raises(ConfigError, match="is unknown"):
        endpoint("no-such-host.invalid", 1)
