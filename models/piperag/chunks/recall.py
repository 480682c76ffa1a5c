"""How good retrieval is: recall against an exhaustive search, agreement of stale with fresh, overlap of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from models.piperag.chunks.encoders import Vectors
from models.piperag.chunks.index import NOT_FOUND, Ids, VectorIndex
from models.piperag.chunks.mapped import Rows
from models.piperag.types import PAD, Tokens


def exhaustive(shards: Sequence[Rows], queries: Vectors, k: int) -> Ids:
    """Ids of the k nearest of all embeddings, ``[n, k]``, in float32 and without an index; shards are read piece by piece.

    Args:
        shards: embeddings ``[chunks, dim]``; ids run on across them.
        queries: ``[n, dim]``.
    """
    import faiss

    distances = np.full((len(queries), k), np.inf, np.float32)
    ids = np.full((len(queries), k), NOT_FOUND, np.int64)
    first = 0
    for rows in shards:
        for piece in rows.pieces():
            near, found = faiss.knn(np.ascontiguousarray(queries), np.ascontiguousarray(piece, np.float32), min(k, len(piece)))
            distances, ids = np.hstack([distances, near]), np.hstack([ids, found + first])
            # Stable, so that of equal distances the lower id stays first.
            order = np.argsort(distances, axis=1, kind="stable")[:, :k]
            distances, ids = np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)
            first += len(piece)
    return ids


def recall(found: Ids, exact: Ids) -> float:
    """Share of queries whose exactly nearest chunk, ``exact[:, 0]``, is among ``found[n, k]``."""
    return float((found == exact[:, :1]).any(1).mean())


def recall_by_nprobe(
    index: VectorIndex, queries: Vectors, exact: Ids, k: int, nprobes: Iterable[int] = (1, 2, 4, 8, 16, 32, 64)
) -> dict[int, float]:
    """Recall of the exactly nearest chunk among k, by the number of lists that are scanned."""
    return {nprobe: recall(index.search(queries, k, nprobe)[1], exact) for nprobe in nprobes}


def agreement(stale: Ids, fresh: Ids) -> float:
    """Share of queries whose stale top-1 chunk is the fresh one or the one before it, of ids ``[n]`` each."""
    return float(((stale == fresh) | (stale == fresh - 1)).mean())


def shared_ngrams(texts: Tokens, values: Tokens, n: int = 8) -> float:
    """Share of the n-grams of texts that occur in what was retrieved for them; n-grams with pad do not count.

    Much of what retrieval gains is copied: without this number a perplexity says little (Norlund et al. 2023).

    Args:
        texts: ``[rows, tokens]``.
        values: ``[rows, ...]``, retrieved for each; n-grams do not run on from one neighbour, the last dimension, to the next.
    """
    shared = total = 0
    for text, found in zip(texts, values, strict=True):
        known = {gram for line in found.reshape(-1, found.shape[-1]) for gram in _ngrams(line, n)}
        asked = _ngrams(text, n)
        total += len(asked)
        shared += sum(gram in known for gram in asked)
    return shared / total if total else 0.0


def _ngrams(tokens: Tokens, n: int) -> list[tuple[int, ...]]:
    listed = tokens.tolist()
    grams = (tuple(listed[start : start + n]) for start in range(len(listed) - n + 1))
    return [gram for gram in grams if PAD not in gram]
