"""The thread of a server that searches, so that the one that talks to clients always answers and always hears signals."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from models.piperag.retrieving.backends import BackendSpec
from models.piperag.retrieving.facts import process_facts
from models.piperag.retrieving.messages import Ask, encode, error_of, refusal_of, respond

if TYPE_CHECKING:
    from models.piperag.types import RetrievalError


class Searcher:
    """Builds the backend in a thread and asks it there.

    Args:
        spec: the backend.
        wake: called from the thread whenever there is something new: it was built, a query was answered, the thread has ended.

    Attributes:
        chunk_tokens: length of a window; 0 until the backend is built.
        facts: of the process, as the thread sees it.
        error: why the thread has ended by itself.
    """

    def __init__(self, spec: BackendSpec, wake: Callable[[], None]) -> None:
        self.chunk_tokens = 0
        self.facts: dict[str, object] = {}
        self.error: RetrievalError | None = None
        self._wake = wake
        self._inbox: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # A daemon: a backend that hangs must not keep the server from ending.
        self._thread = threading.Thread(target=self._run, args=(spec,), name="tenfold-searcher", daemon=True)
        self._thread.start()

    def ask(self, ask: Ask) -> None:
        """Hand over a query."""
        self._inbox.put(ask)

    def answered(self) -> bytes | None:
        """The encoded response to the oldest query that was answered, None where there is none."""
        return None if self._outbox.empty() else self._outbox.get()

    def close(self, grace_s: float) -> bool:
        """End the thread; False where it still is in its backend after ``grace_s``."""
        self._inbox.put(None)
        self._thread.join(grace_s)
        return not self._thread.is_alive()

    def _run(self, spec: BackendSpec) -> None:
        try:
            backend = spec.build()
            try:
                self.facts = process_facts()
                self.chunk_tokens = backend.chunk_tokens
                self._wake()
                while (ask := self._inbox.get()) is not None:
                    self._outbox.put(encode(respond(backend, ask)))
                    self._wake()
            finally:
                backend.close()
        except BaseException as error:  # SystemExit too: a server whose backend has left must say so and end
            self.error = error_of(refusal_of(error, 0))
            self._wake()
