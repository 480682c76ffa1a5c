"""Answers of the shards of an index, made into the answer of the whole.

With the same centroids in every shard and each list split among them, every shard scans its part of the same lists, and the
nearest of all lie among the nearest of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.piperag.retrieving.backends import check_query, check_reply
from models.piperag.types import Query, Reply, RetrievalError


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReply:
    """What one shard found.

    Attributes:
        reply: ids are those of the whole index.
        distances: ``[batch, k]`` float32, smaller is nearer; ignored where no neighbour was found.
    """

    reply: Reply
    distances: NDArray[np.float32]


class ShardBackend(Protocol):
    """A backend over part of the entries. Its recipe is given the keywords ``shard`` (0 ..) and ``shards`` besides its own."""

    chunk_tokens: int

    def retrieve_shard(self, query: Query) -> ShardReply:
        """Encode the windows, search this part, read the values."""

    def close(self) -> None:
        """Release files and threads."""


def answer_shard(backend: ShardBackend, query: Query) -> ShardReply:
    """Ask a shard; query and reply are checked.

    Raises:
        RetrievalError: the query or the reply is not what it must be; whatever else the backend raises passes through.
    """
    query = check_query(query, backend.chunk_tokens)
    found = backend.retrieve_shard(query)
    check_reply(found.reply, query, backend.chunk_tokens)
    distances = found.distances
    if distances.dtype != np.float32 or distances.shape != found.reply.ids.shape or np.isnan(distances).any():
        what = f"the shard answered with distances of {distances.dtype} {list(distances.shape)}, or with some that are no numbers"
        raise RetrievalError(what, where=f"query {query.number}", next_step="return [batch, k] float32 distances")
    return found


def merge(found: Sequence[ShardReply], k: int) -> Reply:
    """The ``k`` nearest of all shards: by distance, equal ones by id, those that were not found last.

    Returns:
        Number of the first reply, the most lists that a shard scanned, and the times of the slowest shard: the others ran beside.
    """
    ids = np.concatenate([shard.reply.ids for shard in found], axis=1)
    values = np.concatenate([shard.reply.values for shard in found], axis=1)
    distances = np.concatenate([shard.distances for shard in found], axis=1)
    missing = ids < 0
    order = np.lexsort((ids, np.where(missing, 0, distances), missing), axis=-1)[:, :k]
    slowest = max((shard.reply for shard in found), key=lambda reply: reply.retriever_s)
    return Reply(
        number=found[0].reply.number,
        values=np.take_along_axis(values, order[..., None], axis=1),
        ids=np.take_along_axis(ids, order, axis=1),
        nprobe=max(shard.reply.nprobe for shard in found),
        seconds=dict(slowest.seconds),
    )
