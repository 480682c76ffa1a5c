"""Messages between whoever asks and whoever retrieves: msgpack with typed fields behind a magic word and a version.

Decoding creates nothing but the structures below, checks every type and length, and never trusts a shape before it has been
held against the bytes that are there. Token ids travel as on disk, 16 bits each.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from models.piperag.retrieving.backends import MAX_REPLY_TOKENS, answer
from models.piperag.retrieving.faults import Malformed, QueryRefused
from models.piperag.types import Backend, Query, Reply, RetrievalError
from results.errors import TenfoldError

VERSION = 1
MAGIC = b"TFR"
_PREFIX = MAGIC + bytes([VERSION])
#: Bytes of a request: 4000 windows of 128 tokens.
MAX_REQUEST_BYTES = 1 << 20
#: Bytes of a response: the largest reply with its ids, 8 bytes for every two tokens at the most, and room for the rest.
MAX_RESPONSE_BYTES = 8 * MAX_REPLY_TOKENS
_TEXT_CHARACTERS = 4096

_WIRE_TOKENS, _WIRE_IDS, _WIRE_DISTANCES = np.dtype("<u2"), np.dtype("<i8"), np.dtype("<f4")

Ticket = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Size = Annotated[int, Meta(ge=1, le=2**31)]
Text = Annotated[str, Meta(max_length=_TEXT_CHARACTERS)]
MAX_SECRET_CHARACTERS = 256
Token = Annotated[str, Meta(max_length=MAX_SECRET_CHARACTERS)]
Seconds = Annotated[dict[Annotated[str, Meta(max_length=64)], float], Meta(max_length=64)]


class Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all messages.

    Attributes:
        ticket: of a request, chosen by whoever asks and returned with the answer; 0 answers something unreadable. Numbers of
            queries begin anew with every generation, tickets do not.
    """

    ticket: Ticket


class Ask(Message, frozen=True, tag="ask"):
    """A query; ``windows`` holds ``rows * tokens`` token ids."""

    number: Number
    rows: Size
    tokens: Size
    k: Size
    nprobe: Size
    shift: Number
    windows: bytes
    token: Token = ""


class Ping(Message, frozen=True, tag="ping"):
    """Is anybody there?"""

    token: Token = ""


class AskFacts(Message, frozen=True, tag="facts?"):
    """Who retrieves, and what does a window look like?"""

    token: Token = ""


class Answer(Message, frozen=True, tag="answer"):
    """A reply; ``values`` holds ``rows * k * tokens`` token ids, ``ids`` as many chunk ids as neighbours.

    Attributes:
        distances: one float32 per neighbour from a shard of an index, empty otherwise.
    """

    number: Number
    rows: Size
    k: Size
    tokens: Size
    nprobe: Size
    values: bytes
    ids: bytes
    seconds: Seconds
    distances: bytes = b""


class Refusal(Message, frozen=True, tag="refusal"):
    """Why there is no reply: the query is wrong, the backend failed on it, or the message could not be read."""

    kind: Literal["query", "backend", "message"]
    what: Text
    where: Text = ""
    next_step: Text = ""


class Pong(Message, frozen=True, tag="pong"):
    """Somebody is there."""


class Facts(Message, frozen=True, tag="facts"):
    """Who retrieves: window length and what :func:`~models.piperag.retrieving.facts.process_facts` found."""

    chunk_tokens: Size
    facts: dict[str, Any]


Request = Ask | Ping | AskFacts
Response = Answer | Refusal | Pong | Facts

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_responses: msgspec.msgpack.Decoder[Response] = msgspec.msgpack.Decoder(Response)


def encode(message: Message) -> bytes:
    """The bytes of a message, prefix included."""
    return _PREFIX + _encoder.encode(message)


def decode_request(frame: bytes) -> Request:
    """Read a request.

    Raises:
        Malformed: too long, of another project or version, or of other fields than it should have.
    """
    request: Request = _decode(frame, _requests, MAX_REQUEST_BYTES)
    return request


def decode_response(frame: bytes) -> Response:
    """Read a response.

    Raises:
        Malformed: as for a request.
    """
    response: Response = _decode(frame, _responses, MAX_RESPONSE_BYTES)
    return response


def _decode(frame: bytes, decoder: msgspec.msgpack.Decoder[Any], limit: int) -> Any:
    if len(frame) > limit:
        raise Malformed(f"a message of {len(frame)} bytes is longer than the {limit} allowed")
    if frame[: len(MAGIC)] != MAGIC or len(frame) <= len(MAGIC):
        raise Malformed("a message that is none of tenfold's")
    if frame[len(MAGIC)] != VERSION:
        raise Malformed(f"a message of version {frame[len(MAGIC)]}; this end speaks version {VERSION}")
    try:
        return decoder.decode(memoryview(frame)[len(_PREFIX) :])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(f"a message that cannot be read: {str(error)[:200]}") from None


def ask_of(query: Query, ticket: int, token: str = "") -> Ask:
    """The message of a query that :func:`~models.piperag.retrieving.backends.check_query` has passed."""
    rows, tokens = query.windows.shape
    return Ask(
        ticket=ticket, number=query.number, rows=rows, tokens=tokens, k=query.k, nprobe=query.nprobe,
        shift=query.shift, windows=query.windows.astype(_WIRE_TOKENS).tobytes(), token=token,
    )  # fmt: skip


def query_of(ask: Ask) -> Query:
    """The query of a message.

    Raises:
        Malformed: its bytes are not ``rows * tokens`` token ids.
    """
    windows = _array(ask, "windows", ask.windows, _WIRE_TOKENS, (ask.rows, ask.tokens))
    return Query(number=ask.number, windows=windows.astype(np.int64), k=ask.k, nprobe=ask.nprobe, shift=ask.shift)


def answer_of(reply: Reply, ticket: int, distances: np.ndarray[Any, Any] | None = None) -> Answer:
    """The message of a reply that :func:`~models.piperag.retrieving.backends.check_reply` has passed."""
    rows, k, tokens = reply.values.shape
    return Answer(
        ticket=ticket, number=int(reply.number), rows=rows, k=k, tokens=tokens, nprobe=int(reply.nprobe),
        values=reply.values.astype(_WIRE_TOKENS).tobytes(), ids=reply.ids.astype(_WIRE_IDS).tobytes(),
        seconds={name: float(seconds) for name, seconds in reply.seconds.items()},
        distances=b"" if distances is None else distances.astype(_WIRE_DISTANCES).tobytes(),
    )  # fmt: skip


def reply_of(message: Answer) -> Reply:
    """The reply of a message.

    Raises:
        Malformed: its bytes are not of the shape that it states.
    """
    shape = message.rows, message.k
    values = _array(message, "values", message.values, _WIRE_TOKENS, (*shape, message.tokens))
    ids = _array(message, "ids", message.ids, _WIRE_IDS, shape)
    return Reply(
        number=message.number, values=values.astype(np.int64), ids=ids.astype(np.int64), nprobe=message.nprobe,
        seconds=message.seconds,
    )  # fmt: skip


def distances_of(message: Answer) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The distances of a shard's answer, ``[rows, k]``.

    Raises:
        Malformed: there are none, or not as many as neighbours.
    """
    return _array(message, "distances", message.distances, _WIRE_DISTANCES, (message.rows, message.k)).astype(np.float32)


def _array(message: Message, name: str, data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size != len(data):
        raise Malformed(f"{name} of {len(data)} bytes, where {list(shape)} take {size}", ticket=message.ticket)
    return np.frombuffer(data, dtype).reshape(shape)


def refusal_of(error: BaseException, ticket: int, where: str = "the retriever's backend") -> Refusal:
    """What is said of an error to whoever asked."""
    if not isinstance(error, TenfoldError):
        error = RetrievalError(f"the backend raised {type(error).__name__}: {error}", where=where, next_step="see its log")
    kind: Literal["query", "backend", "message"] = (
        "query" if isinstance(error, QueryRefused) else "message" if isinstance(error, Malformed) else "backend"
    )
    texts = {name: getattr(error, name)[:_TEXT_CHARACTERS] for name in ("what", "where", "next_step")}
    return Refusal(ticket=ticket, kind=kind, **texts)


def error_of(refusal: Refusal) -> RetrievalError:
    """The error that a refusal speaks of."""
    kind = QueryRefused if refusal.kind == "query" else RetrievalError
    return kind(refusal.what, where=refusal.where, next_step=refusal.next_step)


def respond(backend: Backend, ask: Ask) -> Answer | Refusal:
    """Answer a query by message; whatever is wrong with it becomes a refusal."""
    try:
        return answer_of(answer(backend, query_of(ask)), ask.ticket)
    except Exception as error:  # a backend's error is its asker's to hear, not its host's end
        return refusal_of(error, ask.ticket)
