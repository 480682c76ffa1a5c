"""The process behind :mod:`models.piperag.retrieving.process`, started as ``python -m`` with descriptor, parent and cores.

Its descriptor is one end of a stream of messages. The first is a pickle from its parent (a backend's recipe and where modules
are found), all later ones are those of :mod:`models.piperag.retrieving.messages`.
"""

from __future__ import annotations

import pickle
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from models.piperag.retrieving.hosting import end_with_parent, end_with_stream, pin
from results.errors import ConfigError

if TYPE_CHECKING:
    from models.piperag.types import Backend


def main(arguments: Sequence[str]) -> None:
    """Serve until the stream ends.

    Args:
        arguments: descriptor; parent's process id, 0 where its thread may end before it; cores, joined by commas, or nothing.
    """
    descriptor, parent, cores = int(arguments[0]), int(arguments[1]), arguments[2]
    if parent:
        end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; when to end is the parent's to say
    problem: BaseException | None = None
    try:
        if cores:
            pin([int(core) for core in cores.split(",")])
    except ConfigError as error:
        problem = error
    with socket.socket(fileno=descriptor) as stream:
        end_with_stream(descriptor)
        _serve(stream, problem)


def _serve(stream: socket.socket, problem: BaseException | None) -> None:
    # Only now: these import numpy, which counts the cores it may use.
    from models.piperag.retrieving.frames import framed, incoming
    from models.piperag.retrieving.messages import MAX_REQUEST_BYTES, encode, refusal_of

    messages = incoming(stream, MAX_REQUEST_BYTES)
    sys.path[:], recipe = pickle.loads(next(messages))
    try:
        if problem is not None:
            raise problem
        backend = pickle.loads(recipe).build()
    except Exception as error:
        stream.sendall(framed(encode(refusal_of(error, 0))))
        return
    try:
        _answer(stream, messages, backend)
    finally:
        backend.close()


def _answer(stream: socket.socket, messages: Iterator[bytes], backend: Backend) -> None:
    from models.piperag.retrieving.facts import process_facts
    from models.piperag.retrieving.frames import framed
    from models.piperag.retrieving.messages import Ask, Facts, Ping, Pong, decode_request, encode, respond

    for message in messages:
        request = decode_request(message)
        if isinstance(request, Ask):
            stream.sendall(framed(encode(respond(backend, request))))
        elif isinstance(request, Ping):
            stream.sendall(framed(encode(Pong(ticket=request.ticket))))
        else:
            facts = Facts(ticket=request.ticket, chunk_tokens=backend.chunk_tokens, facts=process_facts())
            stream.sendall(framed(encode(facts)))


if __name__ == "__main__":
    main(sys.argv[1:])
