"""Builds an index: trained on a sample, filled shard by shard, written. A build that was cut off goes on where it stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.piperag.chunks.chatter import no_chatter
from models.piperag.chunks.encoders import Vectors
from models.piperag.chunks.index import (
    DESCRIPTION_FILE,
    INDEX_FILE,
    LISTS_FILE,
    FaissIndex,
    IndexRecipe,
    read_index,
    reason,
)
from models.piperag.chunks.mapped import Rows
from results.errors import ConfigError, DataError
from results.store import write_json

_TRAINED = "trained.faiss"
_MERGING = ".merging"


def sample_rows(shards: Sequence[Rows], most: int, seed: int) -> Vectors:
    """Rows drawn without replacement from all shards, in order, ``[min(most, all), dim]``."""
    total = sum(len(rows) for rows in shards)
    if total <= most:
        picked = np.arange(total)
    else:
        picked = np.sort(np.random.Generator(np.random.Philox(seed)).choice(total, most, replace=False))
    found, first = [], 0
    for rows in shards:
        here = picked[(picked >= first) & (picked < first + len(rows))] - first
        if here.size:
            found.append(rows.take(here).astype(np.float32))
        first += len(rows)
    return np.concatenate(found) if found else np.empty((0, 1), np.float32)


def train_index(sample: Vectors, recipe: IndexRecipe) -> FaissIndex:
    """An empty index, trained on vectors ``[n, dim]``.

    Raises:
        ConfigError: the factory string is wrong, or does not fit the dimension.
        DataError: too few vectors per centroid.
    """
    import faiss

    try:
        index = faiss.index_factory(sample.shape[1], recipe.factory, faiss.METRIC_L2)
    except RuntimeError as error:
        raise ConfigError(
            f"the index '{recipe.factory}' cannot be made for {sample.shape[1]} dimensions: {reason(error)}",
            next_step="choose a number of sub-quantisers that divides them, such as IVF64,PQ16np for 128 or 256",
        ) from error
    found = FaissIndex(index)
    if isinstance(index, faiss.IndexIVF):
        _check_points(index, len(sample), recipe)
        # FAISS warns by a limit of its own, on standard error; the one that holds here was checked.
        index.cp.min_points_per_centroid = 1
        if isinstance(index, faiss.IndexIVFPQ):
            index.pq.cp.min_points_per_centroid = 1
        index.train(np.ascontiguousarray(sample))
    return found


def _check_points(index: Any, points: int, recipe: IndexRecipe) -> None:
    centroids = {"inverted lists": int(index.nlist)}
    if hasattr(index, "pq"):
        centroids["centroids of a sub-quantiser"] = int(index.pq.ksub)
    for what, count in centroids.items():
        # FAISS itself takes no fewer than one point per centroid.
        wanted = count * max(recipe.points_per_centroid, 1)
        if points < wanted:
            raise DataError(
                f"{points} chunks are too few to train {count} {what}: {recipe.points_per_centroid} for each are {wanted}",
                where=recipe.factory,
                next_step="choose fewer lists (IVF16), fewer bits (PQ16x4np), or lower points_per_centroid",
            )


def build_index(folder: Path, shards: Sequence[Rows], recipe: IndexRecipe, *, seed: int) -> None:
    """Build the index over the embeddings of all shards; ids run on across them.

    Args:
        folder: of the index; what an earlier call left there is used.
        shards: embeddings ``[n, dim]``, float16.
        seed: of the sample that it is trained on.

    Raises:
        ConfigError, DataError: as :func:`train_index`; the database is empty; the disk does not take it.
    """
    if (folder / DESCRIPTION_FILE).exists():
        _clear(folder)
        return
    if not sum(len(rows) for rows in shards):
        raise DataError("the database is empty: no shard has a chunk", where=str(folder), next_step="check the corpus")
    folder.mkdir(exist_ok=True)
    trained = folder / _TRAINED
    if not trained.exists():
        _write(train_index(sample_rows(shards, recipe.train_chunks, seed), recipe).faiss_index, trained)
    if recipe.on_disk:
        _merge_on_disk(folder, trained, shards)
        files = [INDEX_FILE, LISTS_FILE]
    else:
        index = _read_trained(trained)
        first = 0
        for rows in shards:
            first = _add(index, rows, first)
        _write(index, folder / INDEX_FILE)
        files = [INDEX_FILE]
    describe_index(folder, recipe.factory, [len(rows) for rows in shards], files)
    _clear(folder)


def _clear(folder: Path) -> None:
    """Remove what only the building needs."""
    for path in (folder / _TRAINED, *folder.glob("part-*.faiss"), *folder.glob(".*.tmp")):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / _MERGING, ignore_errors=True)


def _merge_on_disk(folder: Path, trained: Path, shards: Sequence[Rows]) -> None:
    """An index per shard, then all of their lists in one file that is never in memory as a whole."""
    import faiss
    from faiss.contrib.ondisk import merge_ondisk

    parts, first = [], 0
    for number, rows in enumerate(shards):
        part = folder / f"part-{number:04d}.faiss"
        if not part.exists():
            index = _read_trained(trained)
            if not hasattr(index, "invlists"):
                raise ConfigError("an exact index cannot lie on disk", next_step="choose an IVF index, or on_disk=false")
            _add(index, rows, first)
            _write(index, part)
        parts.append(str(part))
        first += len(rows)
    merging = folder / _MERGING
    shutil.rmtree(merging, ignore_errors=True)
    merging.mkdir()
    merged = _read_trained(trained)
    try:
        with no_chatter():
            merge_ondisk(merged, parts, str(merging / LISTS_FILE))
    except RuntimeError as error:
        raise DataError(f"the lists cannot be merged on disk: {reason(error)}", where=str(merging)) from error
    # Beside the index, wherever that will be.
    lists: Any = faiss.downcast_InvertedLists(merged.invlists)
    lists.filename = LISTS_FILE
    _write(merged, merging / INDEX_FILE)
    del merged, lists
    _to_disk(merging / LISTS_FILE)
    for name in (LISTS_FILE, INDEX_FILE):
        os.replace(merging / name, folder / name)
    shutil.rmtree(merging)


def _read_trained(path: Path) -> Any:
    import faiss

    return faiss.read_index(str(path))


def _add(index: Any, rows: Rows, first: int) -> int:
    """Add a shard whose first id is ``first``; returns that of the next."""
    for piece in rows.pieces():
        vectors = np.ascontiguousarray(piece, np.float32)
        if hasattr(index, "invlists"):
            index.add_with_ids(vectors, np.arange(first, first + len(piece), dtype=np.int64))
        else:
            index.add(vectors)
        first += len(piece)
    return first


def _write(index: Any, path: Path) -> None:
    import faiss

    partial = path.with_name(f".{path.name}.tmp")
    try:
        faiss.write_index(index, str(partial))
    except RuntimeError as error:
        partial.unlink(missing_ok=True)
        raise DataError(
            f"the index cannot be written: {reason(error)}", where=str(path), next_step="free space, then type the command again"
        ) from error
    _to_disk(partial)
    os.replace(partial, path)


def _to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def describe_index(folder: Path, factory: str, chunks: Sequence[int], files: Sequence[str]) -> None:
    """Hold an index that was written against the number of chunks, and write ``index.json``.

    Args:
        factory: FAISS's description, for the reader.
        chunks: of each shard.
        files: of the index.

    Raises:
        DataError: the index has another number of entries.
    """
    read = read_index(folder / INDEX_FILE, mmap=True, apart=len(files) > 1)
    if read.ntotal != sum(chunks):
        raise DataError(
            f"the index has {read.ntotal} entries for {sum(chunks)} chunks",
            where=str(folder),
            next_step=f"rm -r {folder}, then type the same command again",
        )
    write_json(
        folder / DESCRIPTION_FILE,
        {
            "factory": factory,
            "ntotal": read.ntotal,
            "dim": read.dim,
            "nlist": read.nlist,
            "shards": list(chunks),
            "files": {name: (folder / name).stat().st_size for name in files},
        },
    )
