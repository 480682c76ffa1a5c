"""How chunks lie on disk: names and types of the published ``.npy`` sets, in zarr groups, one per shard.

* ``chunks[chunk, token]``, uint16: token ids; documents are padded to whole chunks.
* ``seq2chunk[document]``, int64: first chunk of each document, counted within the shard.
* ``chunk2seq[chunk]``, int32: document of each chunk, counted within the shard.
* ``embeddings[chunk, channel]``, float16: unit vectors.

Ids of chunks run on across shards. Every array is stored as it is with a CRC32C per zarr chunk, so that it can be mapped.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.piperag.chunks.mapped import Rows, npy_rows, zarr_rows
from models.piperag.chunks.tokenizers import MAX_VOCABULARY
from models.piperag.types import PAD, Tokens
from results.errors import DataError

if TYPE_CHECKING:
    import zarr

SHARDS = "shards"
#: Type and dimensions of each array.
ARRAYS = {
    "chunks": ("uint16", ("chunk", "token")),
    "seq2chunk": ("int64", ("document",)),
    "chunk2seq": ("int32", ("chunk",)),
    "embeddings": ("float16", ("chunk", "channel")),
}
#: Bytes of a zarr chunk at most: what is held in memory while embeddings are made.
_BLOCK_BYTES = 64 * 2**20
_EMBED_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Cut:
    """Documents cut into chunks: ``chunks[n, c]``, ``seq2chunk[documents]``, ``chunk2seq[n]``, in the types of the layout."""

    chunks: NDArray[np.uint16]
    seq2chunk: NDArray[np.int64]
    chunk2seq: NDArray[np.int32]


def cut_documents(documents: Iterable[Tokens], chunk_tokens: int, eos: int | None) -> Cut:
    """Append the end to each document, pad it to whole chunks, and cut it; each takes one chunk or more.

    Raises:
        DataError: a token id does not fit two bytes.
    """
    pieces, firsts, counts, num_chunks = [], [], [], 0
    for tokens in documents:
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < MAX_VOCABULARY):
            raise DataError(f"a token id is not in 0 .. {MAX_VOCABULARY - 1}: ids are kept in two bytes")
        ended = tokens if eos is None else np.append(tokens, eos)
        count = max(math.ceil(len(ended) / chunk_tokens), 1)
        padded = np.full(count * chunk_tokens, PAD, np.uint16)
        padded[: len(ended)] = ended
        pieces.append(padded.reshape(count, chunk_tokens))
        firsts.append(num_chunks)
        counts.append(count)
        num_chunks += count
    return Cut(
        np.concatenate(pieces) if pieces else np.empty((0, chunk_tokens), np.uint16),
        np.array(firsts, np.int64),
        np.repeat(np.arange(len(counts), dtype=np.int32), np.array(counts, np.int64)),
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard, opened for reading."""

    where: str
    chunks: Rows
    seq2chunk: Rows
    chunk2seq: Rows
    embeddings: Rows

    def __post_init__(self) -> None:
        n, documents = len(self.chunks), len(self.seq2chunk)
        problem = ""
        if len(self.chunk2seq) != n:
            problem = f"'chunk2seq' has {len(self.chunk2seq)} entries for {n} chunks"
        elif len(self.embeddings) != n:
            problem = f"'embeddings' has {len(self.embeddings)} rows for {n} chunks"
        elif (documents == 0) != (n == 0):
            problem = f"it has {documents} documents and {n} chunks"
        elif n:
            last = np.array([documents - 1])
            first, start = int(self.seq2chunk.take(np.array([0]))[0]), int(self.seq2chunk.take(last)[0])
            document = int(self.chunk2seq.take(np.array([n - 1]))[0])
            if first != 0 or not start < n or document != documents - 1:
                problem = f"'seq2chunk' and 'chunk2seq' disagree about {documents} documents of {n} chunks"
        if problem:
            raise DataError(f"a shard contradicts itself: {problem}", where=self.where, next_step="build or copy it again")

    @property
    def num_chunks(self) -> int:
        """Chunks of the shard."""
        return len(self.chunks)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk."""
        return self.chunks.shape[1]

    def runs(self, local: NDArray[np.int64], count: int) -> Tokens:
        """Chunks and those that follow, ``[len(local), count * c]``; pad past the end of the document.

        Args:
            local: chunks, counted within the shard.
            count: how many in a row.
        """
        c = self.chunk_tokens
        found = np.zeros((len(local), count * c), np.int64)
        found[:, :c] = self.chunks.take(local)
        documents = self.chunk2seq.take(local)
        for step in range(1, count):
            following = np.minimum(local + step, self.num_chunks - 1)
            same = (following == local + step) & (self.chunk2seq.take(following) == documents)
            found[same, step * c : (step + 1) * c] = self.chunks.take(following[same])
        return found


def shard_name(number: int) -> str:
    """Folder of a shard."""
    return f"{number:04d}"


def open_shard(folder: Path) -> Shard:
    """Open a zarr group.

    Raises:
        DataError: an array is missing, cut off, or contradicts another.
    """
    if not folder.is_dir():
        raise DataError(f"shard '{folder.name}' is missing", where=str(folder), next_step="build or copy the store again")
    arrays = {name: zarr_rows(folder / name, dtype=dtype, dims=len(dims)) for name, (dtype, dims) in ARRAYS.items()}
    return Shard(str(folder), **arrays)


def open_npy_shard(files: Mapping[str, Path]) -> Shard:
    """Open a shard of ``.npy`` files, by array.

    Raises:
        DataError: as :func:`open_shard`.
    """
    arrays = {name: npy_rows(files[name], dtype=dtype, dims=len(dims)) for name, (dtype, dims) in ARRAYS.items()}
    return Shard(str(files["chunks"]), **arrays)


def write_shard(
    folder: Path, cut: Cut, dim: int, embed: Callable[[int, int], NDArray[np.floating[Any]]], attributes: Mapping[str, Any]
) -> None:
    """Write a shard; it is there whole or not at all, and takes the place of what was there.

    Args:
        dim: channels of an embedding.
        embed: gives the unit vectors ``[stop - start, dim]`` of the chunks ``start .. stop - 1``.
    """
    import zarr

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.open_group(str(partial), mode="w", zarr_format=3, attributes=dict(attributes))
    for name in ("chunks", "seq2chunk", "chunk2seq"):
        values = getattr(cut, name)
        array = _create(group, name, values.shape)
        if len(values):
            array[...] = values
    array = _create(group, "embeddings", (len(cut.chunks), dim))
    rows, count = array.chunks[0], len(cut.chunks)
    for first in range(0, count, rows):
        last = min(first + rows, count)
        starts = range(first, last, _EMBED_AT_ONCE)
        vectors = [embed(start, min(start + _EMBED_AT_ONCE, last)) for start in starts]
        array[first:last] = np.concatenate(vectors).astype(np.float16)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _create(group: zarr.Group, name: str, shape: tuple[int, ...]) -> Any:
    from zarr.codecs import Crc32cCodec

    dtype, dims = ARRAYS[name]
    row_bytes = np.dtype(dtype).itemsize * math.prod(shape[1:])
    blocks = max(math.ceil(shape[0] * row_bytes / _BLOCK_BYTES), 1)
    return group.create_array(
        name,
        shape=shape,
        chunks=(max(math.ceil(shape[0] / blocks), 1), *shape[1:]),
        dtype=dtype,
        compressors=Crc32cCodec(),
        fill_value=0,
        dimension_names=dims,
        # A chunk of nothing but zeros is written too: one that is missing is then damage.
        config={"write_empty_chunks": True},
    )
