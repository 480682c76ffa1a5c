"""What tests of transports share: queries, what equal replies are, servers, and whether anything is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zmq

from models.piperag.retrieving.backends import BackendSpec, answer
from models.piperag.retrieving.client import NetworkRetriever
from models.piperag.retrieving.hosting import host_environment
from models.piperag.retrieving.in_process import ThreadRetriever
from models.piperag.retrieving.messages import decode_response
from models.piperag.retrieving.process import ProcessRetriever
from models.piperag.retrieving.serving import Server
from models.piperag.types import Query, Reply
from tests.models.piperag.retrieving_backends import VOCABULARY, Flat

BACKENDS = "tests.models.piperag.retrieving_backends"
C = 16
ROOT = Path(__file__).parents[3]
TOKEN = "correct horse battery staple"
TRANSPORTS = ("thread", "process", "network")
AnyRetriever = ThreadRetriever | ProcessRetriever | NetworkRetriever


def spec(name: str = "Flat", **keywords: Any) -> BackendSpec:
    return BackendSpec(f"{BACKENDS}.{name}", keywords)


def query(number: int = 0, *, batch: int = 1, k: int = 2, nprobe: int = 1, shift: int = 0, tokens: int = C) -> Query:
    """A query whose windows depend on its number: replies to different ones differ."""
    windows = np.random.default_rng(number).integers(1, VOCABULARY, (batch, tokens))
    return Query(number=number, windows=windows, k=k, nprobe=nprobe, shift=shift)


def assert_same(found: Reply, expected: Reply) -> None:
    """Bit for bit, all but times."""
    assert (found.number, found.nprobe) == (expected.number, expected.nprobe)
    for mine, theirs in ((found.values, expected.values), (found.ids, expected.ids)):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert mine.tobytes() == theirs.tobytes()
    assert found.seconds.keys() == expected.seconds.keys()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class ServerProcess:
    """``python -m models.piperag.retrieving.network`` with a backend of the tests."""

    def __init__(self, backend: BackendSpec, *words: str) -> None:
        settings = [word for key, value in backend.keywords.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        command = [sys.executable, "-m", "models.piperag.retrieving.network", "--backend", backend.path, *settings, *words]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=host_environment(os.environ, 1), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise AssertionError(f"the server ended with {self.process.returncode}: {errors}")
        self.ready: dict[str, Any] = json.loads(line)
        self.address: str = self.ready["address"]

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; exit status and what was written to standard error."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def server(backend: BackendSpec, *words: str) -> Iterator[ServerProcess]:
    running = ServerProcess(backend, *words)
    try:
        yield running
    finally:
        running.kill()


@contextlib.contextmanager
def served(backend: BackendSpec, **options: Any) -> Iterator[Server]:
    """A server in a thread."""
    running = Server(backend, **options)
    thread = threading.Thread(target=running.serve)
    thread.start()
    try:
        yield running
    finally:
        running.stop()
        thread.join()
        assert running.close()


@contextlib.contextmanager
def connected(address: str, **options: Any) -> Iterator[NetworkRetriever]:
    client = NetworkRetriever(address, **options)
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def stranger(address: str, kind: int = zmq.DEALER) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as sock:
        sock.linger = 0
        sock.connect(address)
        yield sock


def said_to(sock: zmq.Socket[bytes], *frames: bytes) -> Any:
    """What the server answers."""
    sock.send_multipart(frames)
    assert sock.poll(10_000)
    return decode_response(sock.recv())


def assert_serves(client: NetworkRetriever, number: int = 1) -> None:
    assert_same(client.submit(query(number)).result(timeout_s=20), answer(Flat(), query(number)))


@contextlib.contextmanager
def opened(transport: str, backend: BackendSpec, **options: Any) -> Iterator[AnyRetriever]:
    """A retriever of a transport, closed at the end; with a server of its own where it needs one."""
    with contextlib.ExitStack() as stack:
        retriever: AnyRetriever
        if transport == "network":
            retriever = NetworkRetriever(stack.enter_context(server(backend)).address, **options)
        else:
            retriever = (ThreadRetriever if transport == "thread" else ProcessRetriever)(backend, **options)
        stack.callback(retriever.close)
        yield retriever


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """No further process, thread or descriptor afterwards than before."""

    def there() -> tuple[set[int], set[str], int]:
        me = psutil.Process()
        children = {child.pid for child in me.children(recursive=True)}
        return children, {thread.name for thread in threading.enumerate()}, me.num_threads() * 1000 + me.num_fds()

    before = there()
    yield
    with contextlib.suppress(AssertionError):
        until(lambda: there() == before, seconds=5)
    assert there() == before
