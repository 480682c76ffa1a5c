"""The index over chunk embeddings: FAISS inverted lists with product quantisation on CPU, or all vectors, exactly.

An index is written to a folder with ``index.json`` beside it, which says what it must be: a file of another size, or an index of
another number or dimension, is refused when it is opened. Building is in :mod:`models.piperag.chunks.building`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.piperag.chunks.chatter import no_chatter
from models.piperag.chunks.encoders import Vectors
from results.errors import ConfigError, DataError
from results.store import read_json

INDEX = "index"
INDEX_FILE = "index.faiss"
LISTS_FILE = "lists.ivfdata"
DESCRIPTION_FILE = "index.json"
#: Id of entries that only take time (:mod:`models.piperag.chunks.inflating`).
FILLER = -2
#: Id where there were fewer than k entries in the lists that were scanned.
NOT_FOUND = -1

Ids = NDArray[np.int64]


class VectorIndex(Protocol):
    """What searches; on a CPU here, and a GPU's could stand in for it."""

    @property
    def dim(self) -> int:
        """Channels of a vector."""

    @property
    def ntotal(self) -> int:
        """Entries, fillers among them."""

    @property
    def num_fillers(self) -> int:
        """Entries that are no chunk."""

    @property
    def nlist(self) -> int:
        """Inverted lists; 1 for an exact index."""

    def search(self, queries: Vectors, k: int, nprobe: int) -> tuple[Vectors, Ids]:
        """Squared distances and ids, ``[n, k]``, nearest first."""

    def codes_scanned(self, queries: Vectors, nprobe: int, *, fillers: bool = True) -> Ids:
        """Entries of the lists that a search scans, ``[n]``, with fillers or without: its cost whatever the hardware."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRecipe:
    """How an index is built.

    Attributes:
        factory: FAISS's description, ``Flat``, ``IVF64,Flat`` or ``IVF64,PQ16np``. Without ``np`` the same index trains up to 30
            times longer, for codes that nothing here uses.
        train_chunks: what it is trained on at most, drawn from all chunks.
        points_per_centroid: fewer per centroid, of the lists or of a sub-quantiser, are refused.
        on_disk: lists are merged on disk, shard after shard, for an index that is larger than memory.
    """

    factory: str = "IVF64,PQ16np"
    train_chunks: int = 1_000_000
    points_per_centroid: int = 39
    on_disk: bool = False


class FaissIndex:
    """An index of FAISS's on CPU.

    Concurrent searches are safe, changes are not. How many threads a search may use is a setting of the thread that calls it
    (``faiss.omp_set_num_threads``); a single query takes one, unless ``intra_query`` is set.

    Args:
        index: an ``IndexIVF`` or ``IndexFlat``.
        intra_query: spread the lists of a query over threads, instead of queries.

    Raises:
        DataError: another kind of index.
    """

    def __init__(self, index: Any, *, intra_query: bool = False) -> None:
        import faiss

        self.faiss_index = index
        self.dim = int(index.d)
        self._ivf = index if isinstance(index, faiss.IndexIVF) else None
        if self._ivf is None and not isinstance(index, faiss.IndexFlat):
            raise DataError(
                f"an index of kind {type(index).__name__} cannot be searched here",
                next_step="use inverted lists (IVF...) or Flat, without a transformation before",
            )
        self.nlist = 1 if self._ivf is None else int(self._ivf.nlist)
        if self._ivf is not None and intra_query:
            self._ivf.parallel_mode = 1
        #: Entries of each list that are no chunk, ``[nlist]``.
        self.fillers = np.zeros(self.nlist, np.int64)
        self._sizes = np.empty(0, np.int64)

    @property
    def ntotal(self) -> int:
        """Entries, fillers among them."""
        return int(self.faiss_index.ntotal)

    @property
    def num_fillers(self) -> int:
        """Entries that are no chunk."""
        return int(self.fillers.sum())

    @property
    def ivf(self) -> Any:
        """The inverted lists.

        Raises:
            ConfigError: the index is exact.
        """
        if self._ivf is None:
            raise ConfigError("an exact index has no inverted lists", next_step="choose an IVF index")
        return self._ivf

    def search(self, queries: Vectors, k: int, nprobe: int) -> tuple[Vectors, Ids]:
        """Squared distances and ids, ``[n, k]``, nearest first; id -1 where the lists had fewer.

        Args:
            queries: ``[n, dim]``.
            k: neighbours, 1 or more.
            nprobe: lists to scan, 1 or more; no more than there are.

        Raises:
            ConfigError: k, nprobe or the dimension is wrong.
        """
        queries = self._checked(queries, nprobe)
        if k < 1:
            raise ConfigError(f"k = {k} asks for no neighbour")
        if self._ivf is None:
            found: tuple[Vectors, Ids] = self.faiss_index.search(queries, k)
            return found
        import faiss

        settings = faiss.SearchParametersIVF()
        settings.nprobe = min(nprobe, self.nlist)
        found = self._ivf.search(queries, k, params=settings)
        return found

    def codes_scanned(self, queries: Vectors, nprobe: int, *, fillers: bool = True) -> Ids:
        """Entries of the lists that a search scans, ``[n]``, with fillers or without.

        Raises:
            ConfigError: nprobe or the dimension is wrong.
        """
        queries = self._checked(queries, nprobe)
        if self._ivf is None:
            return np.full(len(queries), self.ntotal, np.int64)
        _, lists = self._ivf.quantizer.search(queries, min(nprobe, self.nlist))
        sizes = self.list_sizes() if fillers else self.list_sizes() - self.fillers
        scanned: Ids = sizes[lists].sum(1)
        return scanned

    def list_sizes(self) -> Ids:
        """Entries of each list, ``[nlist]``."""
        lists = self.ivf.invlists
        if self._sizes.sum() != self.ntotal:
            self._sizes = np.array([lists.list_size(number) for number in range(self.nlist)], np.int64)
        return self._sizes

    def _checked(self, queries: Vectors, nprobe: int) -> Vectors:
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ConfigError(f"the index has {self.dim} dimensions, the queries are {list(queries.shape)}")
        if nprobe < 1:
            raise ConfigError(f"nprobe = {nprobe} scans no list")
        return np.ascontiguousarray(queries, np.float32)


def read_index(path: Path, *, mmap: bool = False, intra_query: bool = False, apart: bool = False) -> FaissIndex:
    """Read an index.

    Args:
        path: of the file.
        mmap: map the inverted lists instead of reading them; first touches are page faults.
        intra_query: see :class:`FaissIndex`.
        apart: the lists were merged on disk and lie in a file beside it, whatever path the index says; without it, beside it
            where they are not at that path. Such lists are always mapped.

    Raises:
        DataError: the file is missing, damaged or cut off, or the index is of another kind.
    """
    if not path.is_file():
        raise DataError("the index is missing", where=str(path), next_step="build or copy it again")
    try:
        index = _read(path, mmap, apart)
    except RuntimeError as error:
        raise DataError(
            f"the index is damaged or cut off: {reason(error)}", where=str(path), next_step="build it again"
        ) from error
    found = FaissIndex(index, intra_query=intra_query)
    lists = _on_disk(index)
    if lists is not None:
        _check_lists(lists, path)
        # Else a search starts up to 32 threads of its own to read ahead.
        lists.prefetch_nthread = 0
    return found


def _read(path: Path, mmap: bool, apart: bool) -> Any:
    import faiss

    if not apart:
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_READ_ONLY | (faiss.IO_FLAG_MMAP if mmap else 0))
            if not (mmap and getattr(_on_disk(index), "filename", None)):
                return index
            # Asked to map lists that lie apart, FAISS returns an index whose search is killed.
            return faiss.read_index(str(path), faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            if "could not open" not in str(error):
                raise
    with no_chatter():
        return faiss.read_index(str(path), faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_ONDISK_SAME_DIR)


def _on_disk(index: Any) -> Any:
    """The lists that are mapped, if they are."""
    import faiss

    if not isinstance(index, faiss.IndexIVF):
        return None
    invlists: Any = index.invlists
    lists = faiss.downcast_InvertedLists(invlists)
    return lists if isinstance(lists, faiss.OnDiskInvertedLists) else None


def _check_lists(lists: Any, path: Path) -> None:
    """A file of lists that is shorter than it should be is mapped all the same, and a search that reaches its end is killed."""
    file = Path(lists.filename or path)  # no name: mapped out of the index's own file
    size = file.stat().st_size
    if size < lists.totsize:
        raise DataError(
            f"the index's lists have {size} of {lists.totsize} bytes: the file was cut off",
            where=str(file),
            next_step=f"build or copy the index again; it belongs to {path.name}",
        )


def open_index(folder: Path, *, mmap: bool = False, intra_query: bool = False) -> FaissIndex:
    """Open the index of a store, and hold it against its description.

    Args:
        folder: that has ``index.json``.
        mmap, intra_query: see :func:`read_index`.

    Raises:
        DataError: a file is missing or of another size, or the index is not what its description says.
    """
    if not (folder / DESCRIPTION_FILE).is_file():
        raise DataError("the index is missing or incomplete", where=str(folder), next_step="type the same command again")
    description = read_json(folder / DESCRIPTION_FILE)
    for name, size in description["files"].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found != size:
            raise DataError(
                f"file '{name}' of the index has {found} of {size} bytes: it was cut off, overwritten or removed",
                where=str(path),
                next_step="remove the store's folder and type the same command again",
            )
    index = read_index(folder / INDEX_FILE, mmap=mmap, intra_query=intra_query, apart=len(description["files"]) > 1)
    for name, here in (("ntotal", index.ntotal), ("dim", index.dim), ("nlist", index.nlist)):
        if here != description[name]:
            raise DataError(
                f"the index has {name} {here}, its description says {description[name]}",
                where=str(folder),
                next_step="remove the store's folder and type the same command again",
            )
    return index


def reason(error: Exception) -> str:
    """What FAISS says, without the place in its source."""
    text = str(error).strip().splitlines()
    return (text[-1] if text else type(error).__name__).rpartition("Error: ")[2]
