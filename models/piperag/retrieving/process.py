"""A retriever in a process of its own, the default: its cores, its threads, its GIL.

Messages go through a pair of sockets. Nobody in the generator's process waits for them but its caller: submitting never blocks,
``done()`` polls, ``result()`` waits for the stream and for the end of the process at once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from models.piperag.retrieving.backends import BackendSpec
from models.piperag.retrieving.faults import Malformed, RetrieverGone
from models.piperag.retrieving.frames import READ_BYTES, Frames, framed
from models.piperag.retrieving.hosting import host_environment, search_path
from models.piperag.retrieving.messages import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, decode_response
from models.piperag.retrieving.pulling import PulledRetriever, milliseconds
from results.errors import ConfigError, RunError

#: A process that was asked to end by a signal gets this long.
_SIGNAL_S = 2.0


class ProcessRetriever(PulledRetriever):
    """Starts the process, asks it, ends it. It does not outlive this one, however this one ends.

    Args:
        spec: the backend, built in the process.
        cores: that it may use; None: those of this process now.
        threads: of its BLAS and OpenMP libraries.
        timeout_s: how long a result is waited for unless its caller says otherwise.
        start_timeout_s: how long building the backend may take.
        grace_s: how long :meth:`close` waits for a query under way before it ends the process by a signal.

    Raises:
        ConfigError: less than one thread or core, no positive timeout, or a recipe too long to hand over.
        RetrievalError: the backend was not built: ``spec`` is wrong, the cores are not there, it raised, ended, or took too long.
    """

    transport = "process"

    def __init__(
        self,
        spec: BackendSpec,
        *,
        cores: Sequence[int] | None = None,
        threads: int = 1,
        timeout_s: float = 60.0,
        start_timeout_s: float = 600.0,
        grace_s: float = 1.0,
    ) -> None:
        super().__init__(timeout_s)
        if threads < 1 or (cores is not None and not cores):
            raise ConfigError("a retriever needs a thread and a core", where="the retriever", next_step="give at least one")
        self._grace_s, self._closed = grace_s, False
        self._unsent, self._frames = bytearray(), Frames(MAX_RESPONSE_BYTES)
        self._stream, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _start(theirs, cores, threads)
            except BaseException:
                self._stream.close()
                raise
        self._stream.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._stream, select.POLLIN)
        self._sentinel = _sentinel(self._process.pid)
        if self._sentinel is not None:
            self._poll.register(self._sentinel, select.POLLIN)
        try:
            recipe = pickle.dumps((search_path(), pickle.dumps(spec)))
            if len(recipe) > MAX_REQUEST_BYTES:
                raise ConfigError("the recipe of a backend is too long", where=spec.path, next_step="pass paths, not data")
            self._write(framed(recipe))
            self.chunk_tokens = self.ask_facts(start_timeout_s).chunk_tokens
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def where(self) -> str:
        """The process, for errors."""
        return f"retriever process {self._process.pid}"

    def send(self, request: bytes) -> None:
        """Send what the stream takes now; the rest follows as it empties."""
        self._write(framed(request))
        if self.gone is not None:
            raise self.gone

    def _write(self, data: bytes) -> None:
        try:
            sent = 0 if self._unsent else self._stream.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        if sent < len(data):
            self._unsent += data[sent:]
            self._poll.modify(self._stream, select.POLLIN | select.POLLOUT)

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            del self._unsent[: self._stream.send(self._unsent)]
        if not self._unsent:
            self._poll.modify(self._stream, select.POLLIN)

    def pump(self, timeout_s: float) -> None:
        """Read what has arrived; notice at once when the process has ended."""
        if self.gone is not None:
            return
        for descriptor, events in self._poll.poll(milliseconds(timeout_s)):
            try:
                if descriptor == self._sentinel or not self._read():
                    self._lose()
                    return
                if events & select.POLLOUT:
                    self._flush()
            except OSError:
                self._lose()
                return

    def _read(self) -> bool:
        """Hand over what is there; False when the stream has ended."""
        try:
            data = self._stream.recv(READ_BYTES)
        except BlockingIOError:
            return True
        self._take(data)
        return bool(data)

    def _take(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self.deliver(decode_response(frame))
        except Malformed as error:  # nothing that follows can be trusted to begin where a message does
            self._process.kill()
            self.fail_all(error)

    def _lose(self) -> None:
        """The process has ended, or has closed its stream, which only ending processes do. What it had still sent counts."""
        with contextlib.suppress(OSError):
            while data := self._stream.recv(READ_BYTES):
                self._take(data)
        try:
            code = self._process.wait(_SIGNAL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self.lose(
            RetrieverGone(f"the retriever {how}", where=self.where(), next_step="see what it wrote to its log; start another one")
        )

    def facts(self) -> dict[str, object]:
        """Also the process's id where it cannot be asked any more."""
        return {"pid": self.pid, **super().facts()}

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self.lose(RetrieverGone("the retriever is closed", where=self.where(), next_step="start another one"))
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_WR)
        for end, seconds in ((None, self._grace_s), (signal.SIGTERM, _SIGNAL_S), (signal.SIGKILL, None)):
            if end is not None:
                self._process.send_signal(end)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        self._stream.close()
        if self._sentinel is not None:
            os.close(self._sentinel)


def _start(stream: socket.socket, cores: Sequence[int] | None, threads: int) -> subprocess.Popen[bytes]:
    # The kernel ends a child with the thread that started it: asked for only where that is the one that lives longest.
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
    command = [
        sys.executable, "-P", "-m", "models.piperag.retrieving.worker",
        str(stream.fileno()), str(parent), ",".join(map(str, cores or ())),
    ]  # fmt: skip
    try:
        return subprocess.Popen(
            command,
            env=host_environment(os.environ, threads),
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard output may be somebody's data
            pass_fds=[stream.fileno()],
        )
    except OSError as error:
        raise RunError(
            f"the retriever cannot be started: {error}", where=sys.executable, next_step="free memory, processes"
        ) from error


def _sentinel(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has none: then its stream's end tells."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
