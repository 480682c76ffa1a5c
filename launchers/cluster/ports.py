"""TCP ports on loopback."""

from __future__ import annotations

import contextlib
import socket
import zlib
from pathlib import Path

from results.errors import LaunchError

#: Below the range from which the kernel takes ports of outgoing connections (32768 up), so that the port of a daemon which is
#: down for a while is not taken by a passing connection.
FIRST, LAST = 11_000, 31_000


def free_ports(count: int, seed: str) -> list[int]:
    """Distinct ports that nobody listens on now.

    Args:
        count: how many.
        seed: two clusters with different seeds (their folders) start searching at different places.

    Raises:
        LaunchError: there are not so many.
    """
    start = FIRST + zlib.crc32(seed.encode()) % (LAST - FIRST)
    found: list[int] = []
    for port in [*range(start, LAST), *range(FIRST, start)]:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a listener still refuses; a closed connection does not
            probe.bind(("0.0.0.0", port))
            found.append(port)
        if len(found) == count:
            return found
    raise LaunchError(f"no {count} free ports between {FIRST} and {LAST}", where="0.0.0.0", next_step="ss -ltn")


def is_listening(port: int) -> bool:
    """Whether somebody listens on a TCP port (IPv4). Read from the kernel's table: a connection of ours would leave an error in
    the daemon's log."""
    with Path("/proc/net/tcp").open() as table:
        for line in table:
            words = line.split()
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                return True
    return False
