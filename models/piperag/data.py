"""Where the token database and the texts of a point come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.piperag.chunks.corpora import Corpus, Shakespeare, TextFolder, WikiLeads
from models.piperag.chunks.database import TokenDatabase
from models.piperag.chunks.index import IndexRecipe
from models.piperag.chunks.sequences import Sequences
from models.piperag.chunks.store import TokenDatabaseStore
from models.piperag.chunks.synthetic import Walks
from models.piperag.types import Tokens
from models.system import Batch, Draw, Point
from results.errors import ConfigError


def corpus_of(point: Point) -> Corpus:
    """The documents of a point's database.

    Raises:
        DataError: the user's files are not there.
    """
    data = point.data
    if data.corpus == "walks":
        return walks_of(point)
    readers: dict[str, Any] = {"text": TextFolder, "folio": Shakespeare, "wiki": WikiLeads}
    found: Corpus = readers[data.corpus](Path(data.path))
    return found


def walks_of(point: Point) -> Walks:
    """The generated documents."""
    data = point.data
    return Walks(
        seed=data.store_seed,
        num_documents=data.documents,
        tokens=data.document_tokens,
        vocabulary=point.model.vocabulary,
        successors=data.successors,
        num_training=data.training_documents,
    )


def store_of(point: Point) -> TokenDatabaseStore:
    """The database that a point retrieves from.

    Raises:
        ConfigError: the corpus needs another vocabulary.
    """
    data, vocabulary = point.data, point.model.vocabulary
    if data.corpus == "walks":
        tokenizer: dict[str, Any] = {"name": "identity", "vocabulary": vocabulary}
    elif vocabulary < 258:
        raise ConfigError(
            f"real text needs 258 tokens or more, the model has {vocabulary}",
            where="model.vocabulary",
            next_step="model.vocabulary=258",
        )
    else:
        tokenizer = {"name": "bytes"} if vocabulary == 258 else {"name": "bpe", "vocabulary": vocabulary}
    encoder: dict[str, Any] = {"name": data.encoder}
    if data.encoder != "minilm":
        encoder["dim"] = data.encoder_channels
    return TokenDatabaseStore(
        corpus=corpus_of(point),
        chunk_tokens=point.model.chunk_tokens,
        tokenizer=tokenizer,
        encoder=encoder,
        index=IndexRecipe(factory=data.index, points_per_centroid=data.points_per_centroid),
        shards=data.shards,
        seed=data.store_seed,
    )


def texts_of(point: Point, split: str) -> Sequences:
    """Texts to train on (``train``) or held out (``eval``).

    Raises:
        ConfigError: only the generated corpus is cut into splits so far.
    """
    if point.data.corpus != "walks":
        raise ConfigError("only generated documents are cut into texts", where="data.corpus", next_step="data.corpus=walks")
    last_start = min(point.model.chunk_tokens - 1, point.data.document_tokens - point.data.sequence_tokens)
    return walks_of(point).sequences(split, length=point.data.sequence_tokens, last_start=last_start)


def neighbours_of(database: TokenDatabase, texts: Tokens, *, k: int, nprobe: int) -> Tokens:
    """Fresh neighbours of every window of texts at an interval of a chunk, ``[batch, n] -> [batch, windows, k, 2c]``."""
    batch, length = texts.shape
    c = database.chunk_tokens
    windows = texts[:, : length // c * c].reshape(-1, c)
    _, ids = database.search(database.encode(windows), k, nprobe)
    return database.values(ids).reshape(batch, -1, k, 2 * c)


class TrainingTexts:
    """Texts with the neighbours of their windows, retrieved as they are drawn. Some are read without neighbours."""

    def __init__(self, point: Point) -> None:
        self._texts = texts_of(point, "train")
        self._database = TokenDatabase.open(store_of(point).folder(point.data_root))
        self._k, self._nprobe, self._without = point.model.neighbours, point.data.training_nprobe, point.data.without_share
        # Every start of every document is a sample: as many as starts and documents.
        self.num_samples = self._texts.num_documents * point.model.chunk_tokens

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """``tokens [batch, n]`` and ``neighbours [batch, windows, k, 2c]``."""
        texts = self._texts.take(draw.sample for draw in draws)
        found = neighbours_of(self._database, texts, k=self._k, nprobe=self._nprobe)
        without = np.array([draw.generator().random() < self._without for draw in draws])
        found[without] = 0
        return {"tokens": torch.from_numpy(texts), "neighbours": torch.from_numpy(found)}
