"""Cuts sequences to train on, or to query with, out of tokenised documents. A sequence is a pure function of seed and number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from models.piperag.types import Tokens
from results.errors import DataError

#: Keeps the draws of starts apart from all others of the same seed.
_STREAM = 3 << 56


class Sequences:
    """Sequences of one length, numbered without end.

    Args:
        documents: token ids of each, ``[tokens]``.
        length: tokens of a sequence; shorter documents are left out.
        seed: of the starts, 0 .. 2^64 - 1.
        last_start: starts lie in 0 .. last_start; without it anywhere that leaves room.
        by_document: sequence i is of document i modulo their number, so that each has its turn; else every start of every
            document is as likely as any other.

    Raises:
        DataError: no document is long enough.
    """

    def __init__(
        self,
        documents: Sequence[Tokens],
        length: int,
        *,
        seed: int,
        last_start: int | None = None,
        by_document: bool = False,
    ) -> None:
        self.length = length
        self._documents = [document for document in documents if len(document) >= length]
        if not self._documents:
            raise DataError(
                f"none of {len(documents)} documents has the {length} tokens of a sequence",
                next_step="shorten the sequences, or choose longer documents",
            )
        limit = np.inf if last_start is None else last_start
        self._starts = np.array([min(len(document) - length, limit) + 1 for document in self._documents], dtype=np.int64)
        self._ends = np.cumsum(self._starts)
        self._seed, self._by_document = seed, by_document

    @property
    def num_documents(self) -> int:
        """Documents that are long enough."""
        return len(self._documents)

    def place(self, number: int) -> tuple[int, int]:
        """Document and start of a sequence."""
        random = np.random.Generator(np.random.Philox(key=np.array([self._seed, _STREAM | number], dtype=np.uint64)))
        if self._by_document:
            document = number % len(self._documents)
            return document, int(random.integers(self._starts[document]))
        position = int(random.integers(self._ends[-1]))
        document = int(np.searchsorted(self._ends, position, side="right"))
        return document, position - int(self._ends[document] - self._starts[document])

    def take(self, numbers: Iterable[int]) -> Tokens:
        """The sequences of these numbers, ``[len(numbers), length]``."""
        found = []
        for number in numbers:
            document, start = self.place(int(number))
            found.append(self._documents[document][start : start + self.length])
        return np.stack(found).astype(np.int64) if found else np.empty((0, self.length), np.int64)
