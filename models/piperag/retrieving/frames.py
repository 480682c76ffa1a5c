"""Messages in a byte stream: each behind its length, four bytes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from models.piperag.retrieving.faults import Malformed

_LENGTH = struct.Struct("<I")
#: Bytes that are read at a time: a reply of 64 windows fits.
READ_BYTES = 1 << 18


def framed(payload: bytes) -> bytes:
    """A message as it travels."""
    return _LENGTH.pack(len(payload)) + payload


class Frames:
    """Cuts a stream into messages.

    Args:
        limit_bytes: longest message that is put together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes.

        Raises:
            Malformed: a message would be longer than the limit; nothing after it can be read.
        """
        self._rest += data
        messages = []
        while len(self._rest) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._rest)
            if length > self._limit_bytes:
                raise Malformed(f"a message of {length} bytes is longer than the {self._limit_bytes} allowed")
            end = _LENGTH.size + length
            if len(self._rest) < end:
                break
            messages.append(bytes(self._rest[_LENGTH.size : end]))
            del self._rest[:end]
        return messages


def incoming(stream: socket.socket, limit_bytes: int) -> Iterator[bytes]:
    """Messages of a blocking socket until its other end closes.

    Raises:
        Malformed: a message is longer than the limit.
    """
    frames = Frames(limit_bytes)
    while data := stream.recv(READ_BYTES):
        yield from frames.feed(data)
