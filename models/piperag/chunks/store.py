"""The token database as a store: shards are its parts (tokenised, cut, embedded), the index over them is made at the end.

A Slurm array can build the parts, as they share nothing but tokenizer and encoder, which are made first. What was cut off goes on
with the parts, and the steps of the index, that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from models.piperag.chunks.building import build_index
from models.piperag.chunks.corpora import Corpus, shuffled
from models.piperag.chunks.encoders import Vectors, load_encoder, make_encoder
from models.piperag.chunks.index import INDEX, IndexRecipe
from models.piperag.chunks.layout import SHARDS, Shard, cut_documents, open_shard, shard_name, write_shard
from models.piperag.chunks.tokenizers import Tokenizer, load_tokenizer, make_tokenizer, save_tokenizer
from models.piperag.types import Tokens
from models.stores import StoreSpec
from results.errors import ConfigError, DataError
from results.store import write_json

#: Says what a complete database holds; the last file that is written.
DATABASE_FILE = "database.json"
SOURCES_FILE = "sources.json"


@dataclass(frozen=True, kw_only=True)
class TokenDatabaseStore(StoreSpec):
    """A database over a corpus.

    Attributes:
        corpus: its documents; the SHA-256 of its files is part of the store's identity.
        chunk_tokens: c, tokens of a chunk and of a query window.
        tokenizer: see :func:`models.piperag.chunks.tokenizers.make_tokenizer`.
        encoder: see :func:`models.piperag.chunks.encoders.make_encoder`.
        index: how the index is built.
        shards: parts; each takes a block of documents.
        seed: of all samples and fits.

    Raises:
        ConfigError: fewer documents than shards, or chunks without a token.
    """

    name: ClassVar[str] = "piperag-chunks"  # type: ignore[misc]
    version: ClassVar[int] = 1  # type: ignore[misc]

    corpus: Corpus
    chunk_tokens: int = 64
    tokenizer: Mapping[str, Any]
    encoder: Mapping[str, Any]
    index: IndexRecipe = field(default_factory=IndexRecipe)
    shards: int = 1
    seed: int = 0
    recipe: Mapping[str, Any] = field(init=False)
    parts: int = field(init=False)

    def __post_init__(self) -> None:
        if self.chunk_tokens < 1:
            raise ConfigError(f"a chunk of {self.chunk_tokens} tokens holds nothing")
        if not 1 <= self.shards <= self.corpus.num_documents:
            raise ConfigError(f"{self.corpus.num_documents} documents cannot be laid into {self.shards} shards")
        recipe = {
            "corpus": dict(self.corpus.recipe),
            "chunk_tokens": self.chunk_tokens,
            "tokenizer": dict(self.tokenizer),
            "encoder": dict(self.encoder),
            "index": asdict(self.index),
            "shards": self.shards,
            "seed": self.seed,
        }
        object.__setattr__(self, "recipe", recipe)
        object.__setattr__(self, "parts", self.shards)

    def documents(self, part: int) -> range:
        """The documents of a shard."""
        total = self.corpus.num_documents
        return range(part * total // self.shards, (part + 1) * total // self.shards)

    def create(self, folder: Path) -> None:
        """Make tokenizer and encoder, from a sample of the corpus where they learn.

        Raises:
            ConfigError: one of their recipes is wrong.
            DataError: the corpus changed, is too small, or a package is missing.
        """
        import zarr

        self.corpus.check()
        attributes: dict[str, Any] = {
            "title": "Token chunks, their embeddings and an index over them",
            "recipe": dict(self.recipe),
        }
        zarr.open_group(str(folder), mode="a", zarr_format=3, attributes=attributes)
        (folder / SHARDS).mkdir()
        write_json(folder / SOURCES_FILE, dict(self.corpus.recipe))
        tokenizer = make_tokenizer(self.tokenizer, shuffled(self.corpus, self.seed))
        save_tokenizer(tokenizer, folder)
        make_encoder(self.encoder, tokenizer, lambda most: self._sample(tokenizer, most), seed=self.seed).save(folder)

    def _sample(self, tokenizer: Tokenizer, most: int) -> Tokens:
        """Up to so many chunks of documents drawn at random, ``[n, c]``."""
        found, count = [np.empty((0, self.chunk_tokens), np.uint16)], 0
        for text in shuffled(self.corpus, self.seed):
            found.append(cut_documents([tokenizer.encode(text)], self.chunk_tokens, tokenizer.eos).chunks)
            count += len(found[-1])
            if count >= most:
                break
        return np.concatenate(found)[:most].astype(np.int64)

    def build_part(self, folder: Path, part: int) -> None:
        """Tokenise, cut and embed a block of documents.

        Raises:
            DataError: a document cannot be read, or has an id that does not fit two bytes.
        """
        tokenizer = load_tokenizer(folder)
        encoder = load_encoder(folder, tokenizer)
        numbers = self.documents(part)
        cut = cut_documents(self._tokens(tokenizer, numbers), self.chunk_tokens, tokenizer.eos)
        if cut.chunks.size and cut.chunks.max() >= tokenizer.vocabulary:
            raise DataError(f"token id {cut.chunks.max()} is not below the vocabulary, {tokenizer.vocabulary}")
        attributes = {"first_document": numbers.start, "documents": len(numbers), "chunk_tokens": self.chunk_tokens}

        def embed(start: int, stop: int) -> Vectors:
            return encoder.encode(cut.chunks[start:stop].astype(np.int64))

        write_shard(folder / SHARDS / shard_name(part), cut, encoder.dim, embed, attributes)

    def _tokens(self, tokenizer: Tokenizer, numbers: range) -> Iterator[Tokens]:
        for number in numbers:
            yield tokenizer.encode(self.corpus.document(number))

    def finish(self, folder: Path) -> None:
        """Train the index on a sample, add shard by shard, write it, and say what the database holds.

        Raises:
            ConfigError: the index does not fit the vectors.
            DataError: too few chunks to train it; the corpus changed meanwhile; a shard is damaged.
        """
        self.corpus.check()
        shards = [open_shard(folder / SHARDS / shard_name(part)) for part in range(self.shards)]
        build_index(folder / INDEX, [shard.embeddings for shard in shards], self.index, seed=self.seed)
        describe_database(folder, shards, load_tokenizer(folder).vocabulary)


def describe_database(folder: Path, shards: Sequence[Shard], vocabulary: int) -> None:
    """Write ``database.json``."""
    description = {
        "chunk_tokens": shards[0].chunk_tokens,
        "vocabulary": vocabulary,
        "chunks": [shard.num_chunks for shard in shards],
        "documents": [len(shard.seq2chunk) for shard in shards],
        "dim": shards[0].embeddings.shape[1],
    }
    write_json(folder / DATABASE_FILE, description)
