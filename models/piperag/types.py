"""What the parts of a retrieval-augmented generator hand to one another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from results.errors import RunError

Tokens = NDArray[np.int64]

#: Fills what lies beyond the end of a document, and neighbours that were not found.
PAD = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One retrieval.

    Attributes:
        number: counts the retrievals of a generation; a reply carries it back, so that tokens never reach another window.
        windows: ``[batch, c]`` token ids, the newest ones that are known when it is asked.
        k: neighbours per window.
        nprobe: inverted lists to scan.
        shift: how many of the value's first tokens are dropped, 0 to c: the age of the window when its answer is used.
    """

    number: int
    windows: Tokens
    k: int
    nprobe: int
    shift: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a retrieval found.

    Attributes:
        number: that of the query.
        values: ``[batch, k, 2c]`` token ids; a neighbour that was not found is all pad.
        ids: ``[batch, k]`` chunk ids, -1 where none was found.
        nprobe: lists that were scanned per query, after clamping to what the index has.
        seconds: by component, in the retriever: ``encode``, ``search`` (coarse and list scan), ``values``.
    """

    number: int
    values: Tokens
    ids: NDArray[np.int64]
    nprobe: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def retriever_s(self) -> float:
        """Time in the retriever, without transport."""
        return sum(self.seconds.values())


class Backend(Protocol):
    """What really retrieves, in whichever process a retriever keeps it."""

    chunk_tokens: int

    def retrieve(self, query: Query) -> Reply:
        """Encode the windows, search, read the values."""

    def close(self) -> None:
        """Release files and threads."""


class Pending(Protocol):
    """A retrieval under way."""

    def done(self) -> bool:
        """Whether :meth:`result` would not wait."""

    def result(self, timeout_s: float | None = None) -> Reply:
        """Wait for the reply.

        Raises:
            RetrievalError: the retriever died, refused the query, answered another one, or did not answer in time.
        """


class Retriever(Protocol):
    """Answers queries while its caller does something else."""

    def submit(self, query: Query) -> Pending:
        """Start a retrieval."""

    def close(self) -> None:
        """End it and whatever it started; safe to call twice."""

    def facts(self) -> dict[str, object]:
        """Transport, pid, host, cores it may use, threads, resident memory: recorded beside what was measured."""


class RetrievalError(RunError):
    """A retriever died, hung, refused a query, or answered another one than it was asked."""
