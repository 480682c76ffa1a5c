"""Where a server listens, and whom that lets in."""

from __future__ import annotations

import ipaddress
import socket

from results.errors import ConfigError

LOOPBACK = "127.0.0.1"


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[IPV6]:PORT``, ``tcp://HOST:PORT`` or ``PORT`` alone (then of the loopback).

    Raises:
        ConfigError: it is none of them.
    """
    host, _, port = text.removeprefix("tcp://").rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or LOOPBACK
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"'{text}' is no address", where="--bind", next_step="write HOST:PORT, 127.0.0.1:0 for a free port")
    return host, int(port)


def endpoint(host: str, port: int) -> str:
    """As ZeroMQ writes it. Names are looked up here: ZeroMQ would take them for network interfaces.

    Raises:
        ConfigError: the name is unknown.
    """
    try:
        number = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise ConfigError(f"host '{host}' is unknown: {error}", where="--bind", next_step="give a numeric address") from None
    return f"tcp://[{number}]:{port}" if ":" in number else f"tcp://{number}:{port}"


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an endpoint."""
    return ipaddress.ip_address(split_address(address)[0].partition("%")[0]).is_loopback
