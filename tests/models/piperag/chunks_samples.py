"""Small token databases for the tests of the chunk store: made of walks, in memory or on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from models.piperag.chunks.building import build_index
from models.piperag.chunks.database import TokenDatabase
from models.piperag.chunks.encoders import HashedEncoder
from models.piperag.chunks.index import FaissIndex, IndexRecipe
from models.piperag.chunks.layout import ARRAYS, Cut, Shard, cut_documents
from models.piperag.chunks.mapped import Rows
from models.piperag.chunks.store import TokenDatabaseStore
from models.piperag.chunks.synthetic import Walks
from models.piperag.types import Tokens

WALKS = Walks(seed=3, num_documents=40, tokens=100, num_training=32)
DIM = 32
SMALL_IVF = IndexRecipe(factory="IVF8,PQ8x4np", points_per_centroid=8)


def small_store(**changes: Any) -> TokenDatabaseStore:
    """40 documents of 100 tokens: 280 chunks of 16 tokens."""
    options: dict[str, Any] = {
        "corpus": WALKS,
        "chunk_tokens": 16,
        "tokenizer": {"name": "identity", "vocabulary": WALKS.vocabulary},
        "encoder": {"name": "hashed", "dim": DIM},
        "index": SMALL_IVF,
        "shards": 3,
        **changes,
    }
    return TokenDatabaseStore(**options)


def build(spec: TokenDatabaseStore, root: Path) -> Path:
    """Build a store in this process."""
    folder = spec.folder(root)
    folder.mkdir(parents=True)
    spec.create(folder)
    for part in range(spec.parts):
        spec.build_part(folder, part)
    spec.finish(folder)
    return folder


def rows(values: np.ndarray, block: int | None = None) -> Rows:
    """An array as rows, in one block or in blocks of so many rows, the last one padded."""
    if not len(values):
        return Rows([], values.shape, values.dtype, where="memory")
    block = block or len(values)
    blocks = []
    for first in range(0, len(values), block):
        piece = np.zeros((block, *values.shape[1:]), values.dtype)
        piece[: len(values) - first] = values[first : first + block]
        blocks.append(piece)
    return Rows(blocks, values.shape, values.dtype, where="memory")


def memory_shard(cut: Cut, encoder: HashedEncoder, block: int | None = None) -> Shard:
    """A shard in memory."""
    embeddings = encoder.encode(cut.chunks.astype(np.int64)).astype(np.float16)
    return Shard("memory", *(rows(values, block) for values in (cut.chunks, cut.seq2chunk, cut.chunk2seq, embeddings)))


def memory_database(
    documents: Sequence[Sequence[Tokens]], chunk_tokens: int, *, eos: int | None = None, block: int | None = None
) -> TokenDatabase:
    """A database in memory with an exact index; a list of documents per shard."""
    encoder = HashedEncoder(DIM)
    shards = [memory_shard(cut_documents(shard, chunk_tokens, eos), encoder, block) for shard in documents]
    index = faiss.IndexFlatL2(DIM)
    for shard in shards:
        for piece in shard.embeddings.pieces():
            index.add(piece.astype(np.float32))
    return TokenDatabase(shards, FaissIndex(index), encoder, vocabulary=65_535, where="memory")


def write_npy(folder: Path, shards: Sequence[Cut], encoder: HashedEncoder) -> tuple[Path, Path]:
    """A set in the published form: index spec, and index."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, vectors = [], []
    for number, cut in enumerate(shards):
        embeddings = encoder.encode(cut.chunks.astype(np.int64)).astype(np.float16)
        arrays = {"chunks": cut.chunks, "seq2chunk": cut.seq2chunk, "chunk2seq": cut.chunk2seq, "embeddings": embeddings}
        for name, values in arrays.items():
            np.save(folder / f"{number:02d}.{name}.npy", values)
        spec.append({name: f"{number:02d}.{name}.npy" for name in ARRAYS})
        vectors.append(rows(embeddings))
    (folder / "set.index.spec.json").write_text(json.dumps(spec))
    build_index(folder / "built", vectors, SMALL_IVF, seed=0)
    return folder / "set.index.spec.json", folder / "built" / "index.faiss"


def cut_off(path: Path, keep: float = 0.5) -> None:
    """Cut a file off."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
