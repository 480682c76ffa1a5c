"""A part of an index, for one of several processes that search side by side and merge what they find.

Every part has all centroids and, of each list, the entries with its range of ids. All parts therefore scan the same lists, and
the k nearest of the whole are among the k nearest of each.
"""

from __future__ import annotations

from typing import Any

from models.piperag.chunks.index import FaissIndex
from results.errors import ConfigError


def part_range(total: int, part: int, parts: int) -> range:
    """Ids of a part, 0 .. parts - 1.

    Raises:
        ConfigError: there is no such part, or it would have no chunk.
    """
    if not 0 <= part < parts <= total:
        raise ConfigError(f"there is no part {part} of {parts} of an index over {total} chunks")
    return range(part * total // parts, (part + 1) * total // parts)


def keep_part(index: FaissIndex, ids: range) -> None:
    """Keep the entries with these ids, in memory. Of an index that is mapped, no more than they are ever held there.

    Args:
        index: it is changed.
        ids: successive ones.

    Raises:
        ConfigError: the index is exact.
    """
    import faiss

    ivf = index.ivf
    kept: Any = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    count = ivf.invlists.copy_subset_to(kept, kept.SUBSET_TYPE_ID_RANGE, ids.start, ids.stop)
    ivf.replace_invlists(kept, True)
    kept.this.disown()
    ivf.ntotal = count
