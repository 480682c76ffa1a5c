"""Stand-in corpus of random walks, on which the best model that does not retrieve is known.

A fixed table gives every token a number of distinct successors; a document is a walk that chooses among them with equal
probability. Whoever knows the table, but not the documents, therefore predicts every token but the first with probability
1 / successors: perplexity 8 for 8 of them, whatever the documents. Whoever retrieves the document can copy, down to perplexity 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from models.piperag.chunks.sequences import Sequences
from models.piperag.types import Tokens
from results.errors import ConfigError

_TABLE_STREAM = 1 << 56
_WALK_STREAM = 2 << 56


@dataclass(frozen=True, kw_only=True)
class Walks:
    """A corpus of walks; each document is a stream of random numbers of its own.

    Attributes:
        seed: of table, documents and sequences, 0 .. 2^63 - 1.
        num_documents: all of them are in the database.
        tokens: of each document.
        vocabulary: tokens, 0 (pad) among them; it is never walked on.
        successors: distinct ones of each token.
        num_training: the first documents give the sequences to train on, the others those to evaluate on.

    Raises:
        ConfigError: more successors than tokens, or a number that is not positive.
    """

    seed: int = 0
    num_documents: int = 400
    tokens: int = 192
    vocabulary: int = 65
    successors: int = 8
    num_training: int = 320

    def __post_init__(self) -> None:
        if not 1 <= self.successors < self.vocabulary:
            raise ConfigError(f"{self.vocabulary} tokens, one of them pad, cannot have {self.successors} distinct successors")
        if self.tokens < 1 or not 0 <= self.num_training <= self.num_documents or self.num_documents < 1:
            raise ConfigError(f"{self.num_training} of {self.num_documents} documents of {self.tokens} tokens make no corpus")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed {self.seed} is not in 0 .. 2^63 - 1")

    @property
    def recipe(self) -> dict[str, Any]:
        """What determines the documents."""
        names = ("seed", "num_documents", "tokens", "vocabulary", "successors")
        return {"name": "walks", **{name: getattr(self, name) for name in names}}

    @property
    def optimum_perplexity(self) -> float:
        """Perplexity of the best model that knows the table and does not retrieve, first tokens apart."""
        return float(self.successors)

    @cached_property
    def table(self) -> Tokens:
        """Successors of each token, ``[vocabulary, successors]``, distinct; row 0, of pad, is all pad."""
        random = self._random(_TABLE_STREAM)
        rows = [random.permutation(self.vocabulary - 1)[: self.successors] + 1 for _ in range(self.vocabulary - 1)]
        return np.vstack([np.zeros(self.successors, np.int64), *rows]).astype(np.int64)

    def walk(self, number: int) -> Tokens:
        """Token ids of a document, ``[tokens]``."""
        random = self._random(_WALK_STREAM | number)
        choices = random.integers(self.successors, size=self.tokens)
        found = np.empty(self.tokens, np.int64)
        found[0] = random.integers(1, self.vocabulary)
        for place in range(1, self.tokens):
            found[place] = self.table[found[place - 1], choices[place]]
        return found

    def document(self, number: int) -> str:
        """A document as text: its token ids."""
        return " ".join(map(str, self.walk(number)))

    def check(self) -> None:
        """There is nothing that could have changed."""

    def sequences(self, split: str, *, length: int = 128, last_start: int = 15) -> Sequences:
        """Sequences of ``train`` or ``eval``; the start is drawn, so that query windows do not line up with the database's
        chunks.

        Raises:
            ConfigError: an unknown split.
            DataError: it has no document of this length.
        """
        numbers = {"train": range(self.num_training), "eval": range(self.num_training, self.num_documents)}.get(split)
        if numbers is None:
            raise ConfigError(f"there is no split '{split}'; known: train, eval")
        documents = [self.walk(number) for number in numbers]
        # Evaluation draws from a seed of its own: else its starts would be those of the first training sequences.
        seed = self.seed if split == "train" else self.seed | 1 << 63
        return Sequences(documents, length, seed=seed, last_start=last_start, by_document=True)

    def _random(self, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, stream], dtype=np.uint64)))
