"""Makes searches take longer without changing what they find: entries that are scanned, and lose.

The time of a retrieval can thus be set, and the balance between retrieval and generation with it. A filler is a code whose parts
are far-off centroids of the sub-quantisers, so that its distance to any query is large; its id is -2. Codes of chance leak into
the results, and so do shuffled real ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.piperag.chunks.encoders import Vectors
from models.piperag.chunks.index import FILLER, FaissIndex
from results.errors import ConfigError, DataError

#: Centroids that codes are drawn from. With 64 of 256, fillers took a place among the 2 nearest of a third of the queries where
#: neighbours are far (modern against Folio text, LSA, 40 fillers per entry); with 8 of one in 1500, with 4 of none.
_LARGEST = 4


def inflate(index: FaissIndex, factor: float, *, seed: int = 0, largest: int = _LARGEST) -> int:
    """Add ``factor`` times as many fillers to each list as it has entries; returns how many they are.

    Args:
        index: with product quantisation in 8 bits, in memory; it is changed.
        factor: fillers per entry, 0 or more.
        seed: of the codes.
        largest: centroids of each sub-quantiser that codes are drawn from, those of largest norm.

    Raises:
        ConfigError: another kind of index, lists on disk, or a factor below 0.
    """
    import faiss

    ivf = index.ivf
    if not isinstance(ivf, faiss.IndexIVFPQ) or ivf.pq.nbits != 8:
        raise ConfigError("only an index with 8-bit product quantisation can be inflated", next_step="choose IVF...,PQ...np")
    lists: Any = ivf.invlists
    if isinstance(faiss.downcast_InvertedLists(lists), faiss.OnDiskInvertedLists):
        raise ConfigError("an index on disk cannot be inflated", next_step="open it without mmap, build it without on_disk")
    if not factor >= 0 or not 1 <= largest <= ivf.pq.ksub:
        raise ConfigError(f"an index cannot be inflated {factor}-fold with {largest} centroids")
    centroids = faiss.vector_to_array(ivf.pq.centroids).reshape(ivf.pq.M, ivf.pq.ksub, ivf.pq.dsub)
    far = np.argsort(np.linalg.norm(centroids, axis=2), axis=1)[:, -largest:].astype(np.uint8)
    random, added = np.random.Generator(np.random.Philox(seed)), 0
    for number, size in enumerate(index.list_sizes()):
        count = round(factor * int(size))
        if not count:
            continue
        picked = random.integers(largest, size=(count, ivf.pq.M))
        codes = np.ascontiguousarray(np.take_along_axis(far, picked.T, axis=1).T)
        ids = np.full(count, FILLER, np.int64)
        lists.add_entries(number, count, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        index.fillers[number] += count
        added += count
    ivf.ntotal += added
    return added


def check_fillers(index: FaissIndex, queries: Vectors, k: int, nprobe: int) -> None:
    """Refuse an inflated index in which a filler takes the place of a chunk among the k nearest of a query ``[n, dim]``.

    Where the lists that are scanned have fewer than k chunks, fillers behind them stand for "not found".

    Raises:
        DataError: as said; it then finds other chunks than before.
    """
    _, ids = index.search(queries, k, nprobe)
    there = np.minimum(index.codes_scanned(queries, nprobe, fillers=False), k)
    reached = int(((ids >= 0).sum(1) < there).sum())
    if reached:
        raise DataError(
            f"fillers take the place of chunks among the {k} nearest of {reached} of {len(queries)} queries at nprobe {nprobe}",
            next_step="draw them from fewer centroids (largest), or inflate less",
        )
