"""The token database, opened: windows to vectors, vectors to ids of chunks, ids to the tokens that follow there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.piperag.chunks.encoders import Vectors, WindowEncoder, load_encoder
from models.piperag.chunks.index import INDEX, NOT_FOUND, FaissIndex, Ids, open_index
from models.piperag.chunks.inflating import check_fillers, inflate
from models.piperag.chunks.layout import SHARDS, Shard, open_shard, shard_name
from models.piperag.chunks.parts import keep_part, part_range
from models.piperag.chunks.store import DATABASE_FILE
from models.piperag.chunks.tokenizers import load_tokenizer
from models.piperag.types import Query, Reply, RetrievalError, Tokens
from results.errors import DataError
from results.store import read_json

if TYPE_CHECKING:
    from models.piperag.retrieving.merging import ShardReply

#: Chunks whose own embeddings an inflated index is tried on when it is opened, and neighbours of each.
_TRIED, _TRIED_K = 32, 2


class TokenDatabase:
    """Shards of chunks, the index over them, and the encoder of windows.

    Args:
        shards: ids of chunks run on across them.
        index: over the embeddings of all shards.
        encoder: of windows.
        vocabulary: all token ids are below it.
        where: for errors.
        indexed: chunks that the index has; without it all.

    Attributes:
        chunk_tokens: c, tokens of a chunk and of a window.

    Raises:
        DataError: there is no chunk; shards, index and encoder disagree in number or dimension.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        index: FaissIndex,
        encoder: WindowEncoder,
        *,
        vocabulary: int,
        where: str,
        indexed: int | None = None,
    ) -> None:
        self.shards, self.index, self.encoder, self.vocabulary, self._where = list(shards), index, encoder, vocabulary, where
        self._offsets = np.cumsum([0, *(shard.num_chunks for shard in self.shards)])
        indexed = self.num_chunks if indexed is None else indexed
        problem = ""
        if not self.num_chunks:
            problem = "the database is empty: no shard has a chunk"
        elif len(sizes := {shard.chunk_tokens for shard in self.shards}) > 1:
            problem = f"the shards have chunks of {', '.join(map(str, sorted(sizes)))} tokens"
        elif index.ntotal - index.num_fillers != indexed:
            problem = f"the index has {index.ntotal - index.num_fillers} entries, the shards have {indexed} chunks"
        elif len(dims := {index.dim, encoder.dim, *(shard.embeddings.shape[1] for shard in self.shards)}) > 1:
            problem = (
                f"dimensions differ ({', '.join(map(str, sorted(dims)))}): index {index.dim}, encoder {encoder.dim}, "
                f"embeddings {self.shards[0].embeddings.shape[1]}"
            )
        if problem:
            raise DataError(problem, where=where, next_step="build the store again, or give the files that belong together")
        self.chunk_tokens = self.shards[0].chunk_tokens

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        mmap: bool = False,
        intra_query: bool = False,
        inflation: float = 0.0,
        part: int = 0,
        parts: int = 1,
    ) -> TokenDatabase:
        """Open a store that was built.

        Args:
            folder: of the store.
            mmap: map the index's lists instead of reading them.
            intra_query: let one query use several threads.
            inflation: fillers per entry of the index, to set how long a search takes (:mod:`models.piperag.chunks.inflating`).
            part, parts: search one of several parts of the index (:mod:`models.piperag.chunks.parts`); values are those of all.

        Raises:
            DataError: the store is missing, incomplete or damaged, or its parts disagree; fillers are found.
            ConfigError: the index cannot be inflated, or there is no such part.
        """
        folder = Path(folder)
        if not (folder / DATABASE_FILE).is_file():
            raise DataError("there is no complete token database", where=str(folder), next_step="tenfold run builds it")
        said = read_json(folder / DATABASE_FILE)
        shards = [open_shard(folder / SHARDS / shard_name(number)) for number in range(len(said["chunks"]))]
        for shard, chunks in zip(shards, said["chunks"], strict=True):
            if shard.num_chunks != chunks:
                raise DataError(
                    f"a shard has {shard.num_chunks} chunks, '{DATABASE_FILE}' says {chunks}",
                    where=shard.where,
                    next_step=f"remove the folder and run again to rebuild it: rm -r {folder}",
                )
        index = open_index(folder / INDEX, mmap=mmap or parts != 1, intra_query=intra_query)
        indexed = part_range(sum(said["chunks"]), part, parts)
        if parts != 1:
            keep_part(index, indexed)
        encoder = load_encoder(folder, load_tokenizer(folder))
        found = cls(shards, index, encoder, vocabulary=said["vocabulary"], where=str(folder), indexed=len(indexed))
        if inflation:
            inflate(index, inflation)
            tried = np.arange(0, found.num_chunks, -(-found.num_chunks // _TRIED))
            check_fillers(index, found.embeddings(tried), _TRIED_K, index.nlist)
        return found

    @property
    def num_chunks(self) -> int:
        """Chunks of all shards."""
        return int(self._offsets[-1])

    def encode(self, windows: Tokens) -> Vectors:
        """Unit vectors ``[n, dim]`` of windows ``[n, c]``."""
        return self.encoder.encode(windows)

    def search(self, vectors: Vectors, k: int, nprobe: int) -> tuple[Vectors, Ids]:
        """Squared distances and ids of the k nearest chunks, ``[n, k]``; id -1 where fewer were found."""
        return self.index.search(vectors, k, nprobe)

    def locate(self, ids: Ids) -> tuple[Ids, Ids]:
        """Shard, and chunk counted within it, of each id ``[n]``.

        Raises:
            DataError: there is no such chunk.
        """
        if ids.size and not (ids.min() >= 0 and ids.max() < self.num_chunks):
            raise DataError(
                f"chunk {ids.max() if ids.max() >= self.num_chunks else ids.min()} does not exist, there are {self.num_chunks}",
                where=self._where,
                next_step="the index belongs to another set of shards",
            )
        # Where empty shards share an offset, the last of them, the one with chunks, is meant.
        shards = np.searchsorted(self._offsets, ids, side="right") - 1
        return shards, ids - self._offsets[shards]

    def values(self, ids: Ids, shift: int = 0) -> Tokens:
        """The tokens of chunks and of what follows them.

        With V the chunk and the two that follow it, ``3c`` tokens, pad past the end of the document: ``V[shift : shift + 2c]``.
        Shift 0 is the chunk with its continuation; shift c that of the next chunk.

        Args:
            ids: of any shape; below 0 (not found, filler) gives pad.
            shift: 0 to c.

        Returns:
            ``[*ids.shape, 2c]``, int64.

        Raises:
            DataError: there is no such chunk.
            RetrievalError: the shift is out of range.
        """
        c = self.chunk_tokens
        if not 0 <= shift <= c:
            raise RetrievalError(
                f"values cannot be shifted by {shift} tokens", next_step=f"shift by 0 to {c}, the length of a chunk"
            )
        flat = np.asarray(ids, np.int64).ravel()
        found = np.zeros((len(flat), 2 * c), np.int64)
        (places,) = np.nonzero(flat >= 0)
        shards, local = self.locate(flat[places])
        for shard in np.unique(shards):
            here = shards == shard
            runs = self.shards[shard].runs(local[here], 3 if shift else 2)
            found[places[here]] = runs[:, shift : shift + 2 * c]
        return found.reshape(*np.shape(ids), 2 * c)

    def embeddings(self, ids: Ids) -> Vectors:
        """Stored vectors of chunks ``[n]``, ``[n, dim]``.

        Raises:
            DataError: there is no such chunk.
        """
        shards, local = self.locate(ids)
        found = np.empty((len(ids), self.index.dim), np.float32)
        for shard in np.unique(shards):
            found[shards == shard] = self.shards[shard].embeddings.take(local[shards == shard])
        return found


class DatabaseBackend:
    """Answers queries out of a database, in the process that made it; its arguments can be sent to another one.

    Args:
        folder: of the store, or, with ``npy``, the index spec of a user's own set.
        threads: of FAISS, for whichever thread calls :meth:`retrieve`.
        npy: the other arguments of :func:`models.piperag.chunks.npy_import.open_npy`.
        mmap, intra_query, inflation: see :meth:`TokenDatabase.open`; without ``npy`` only.
        shard, shards: search one of so many parts of the index; without ``npy`` only.

    Raises:
        DataError, ConfigError: as :meth:`TokenDatabase.open`.
    """

    def __init__(
        self,
        folder: str,
        *,
        threads: int = 1,
        npy: Mapping[str, Any] | None = None,
        mmap: bool = False,
        intra_query: bool = False,
        inflation: float = 0.0,
        shard: int = 0,
        shards: int = 1,
    ) -> None:
        if npy is None:
            self.database = TokenDatabase.open(
                folder, mmap=mmap, intra_query=intra_query, inflation=inflation, part=shard, parts=shards
            )
        else:
            from models.piperag.chunks.npy_import import open_npy

            self.database = open_npy(folder, **npy)
        self.chunk_tokens = self.database.chunk_tokens
        self._threads = threads

    def retrieve(self, query: Query) -> Reply:
        """Encode the windows, search, read the values; seconds by component.

        Raises:
            RetrievalError: the query is malformed: windows of another length than c, ids out of the vocabulary, k, nprobe or
                shift out of range.
        """
        return self._retrieve(query)[0]

    def retrieve_shard(self, query: Query) -> ShardReply:
        """The same out of a part of the index, with the distances that parts are merged by."""
        from models.piperag.retrieving.merging import ShardReply

        reply, distances = self._retrieve(query)
        return ShardReply(reply=reply, distances=distances)

    def _retrieve(self, query: Query) -> tuple[Reply, Vectors]:
        import faiss

        self._check(query)
        # A setting of the calling thread.
        faiss.omp_set_num_threads(self._threads)
        times = [time.perf_counter_ns()]
        vectors = self.database.encode(query.windows)
        times.append(time.perf_counter_ns())
        distances, ids = self.database.search(vectors, query.k, query.nprobe)
        times.append(time.perf_counter_ns())
        values = self.database.values(ids, query.shift)
        times.append(time.perf_counter_ns())
        spent = [(after - before) / 1e9 for before, after in zip(times, times[1:], strict=False)]
        reply = Reply(
            number=query.number,
            values=values,
            ids=np.maximum(ids, NOT_FOUND),
            nprobe=min(query.nprobe, self.database.index.nlist),
            seconds=dict(zip(("encode", "search", "values"), spent, strict=True)),
        )
        return reply, distances

    def close(self) -> None:
        """Nothing is held but memory and maps, which end with the object."""

    def _check(self, query: Query) -> None:
        windows, c = query.windows, self.chunk_tokens
        problem = ""
        if not isinstance(windows, np.ndarray) or windows.ndim != 2 or windows.dtype.kind not in "iu":
            problem = "windows are not a table of token ids"
        elif windows.shape[1] < c:
            problem = f"windows of {windows.shape[1]} tokens are shorter than the {c} that chunks have"
        elif windows.shape[1] > c:
            problem = f"windows of {windows.shape[1]} tokens are longer than the {c} that chunks have"
        elif windows.size and not (windows.min() >= 0 and windows.max() < self.database.vocabulary):
            problem = f"a token id is not in 0 .. {self.database.vocabulary - 1}"
        elif query.k < 1 or query.nprobe < 1 or not 0 <= query.shift <= c:
            problem = f"k {query.k}, nprobe {query.nprobe} or shift {query.shift} is out of range (shift: 0 to {c})"
        if problem:
            raise RetrievalError(
                f"query {query.number} is refused: {problem}", next_step=f"send the newest {c} tokens, ids below the vocabulary"
            )
