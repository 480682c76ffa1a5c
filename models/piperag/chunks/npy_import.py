"""A user's own set in the published form: ``.npy`` files per shard, an index spec that lists them, and an index of FAISS's.

The index spec is a JSON list; each entry names the files of a shard, ``chunks``, ``seq2chunk``, ``chunk2seq`` and ``embeddings``,
by paths relative to the spec. Ids of the index run on across shards. The set is mapped where it lies, or imported to a store.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.piperag.chunks.building import build_index, describe_index
from models.piperag.chunks.database import TokenDatabase
from models.piperag.chunks.encoders import WindowEncoder, make_encoder
from models.piperag.chunks.index import DESCRIPTION_FILE, INDEX, INDEX_FILE, IndexRecipe, read_index
from models.piperag.chunks.layout import ARRAYS, SHARDS, Cut, Shard, open_npy_shard, open_shard, shard_name, write_shard
from models.piperag.chunks.mapped import Rows
from models.piperag.chunks.store import describe_database
from models.piperag.chunks.tokenizers import Tokenizer, check_vocabulary, open_tokenizer, save_tokenizer
from models.piperag.types import Tokens
from results.errors import DataError
from results.store import make_folder


def npy_shards(spec: str | Path) -> list[Shard]:
    """The shards that an index spec names, mapped.

    Raises:
        DataError: the spec or a file is missing, damaged or cut off; arrays of a shard disagree; there is no chunk.
    """
    spec = Path(spec)
    try:
        listed = json.loads(spec.read_text())
    except OSError as error:
        raise DataError("the index spec cannot be read", where=str(spec), next_step="check its path") from error
    except ValueError as error:
        raise DataError(f"the index spec is not JSON: {error}", where=str(spec)) from error
    form = "a JSON list of shards, each with the paths " + ", ".join(ARRAYS)
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise DataError("the index spec is not a list of shards", where=str(spec), next_step=f"write {form}")
    shards = []
    for number, entry in enumerate(listed):
        missing = [name for name in ARRAYS if not isinstance(entry.get(name), str)]
        if missing:
            raise DataError(f"shard {number} of the index spec lacks '{missing[0]}'", where=str(spec), next_step=f"write {form}")
        shards.append(open_npy_shard({name: spec.parent / entry[name] for name in ARRAYS}))
    if not sum(shard.num_chunks for shard in shards):
        raise DataError("the database is empty: no shard has a chunk", where=str(spec), next_step="check the index spec")
    return shards


def open_npy(
    spec: str | Path,
    *,
    faiss_index: str | Path,
    encoder: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    mmap: bool = True,
    intra_query: bool = False,
) -> TokenDatabase:
    """Open a set where it lies.

    Args:
        spec: the index spec.
        faiss_index: the index's file.
        encoder: that the embeddings are of: ``{"name": "minilm"}`` for the published form.
        tokenizer: that the ids are of: ``{"name": "file", "path": ".../tokenizer.json"}`` for that of a hub.
        mmap, intra_query: see :func:`models.piperag.chunks.index.read_index`.

    Raises:
        ConfigError: more than 65,535 tokens; an unknown encoder or tokenizer.
        DataError: a file is missing, damaged or cut off; shards, index and encoder disagree.
    """
    opened = open_tokenizer(tokenizer)
    shards = npy_shards(spec)
    index = read_index(Path(faiss_index), mmap=mmap, intra_query=intra_query)
    found = _encoder(encoder, opened)
    return TokenDatabase(shards, index, found, vocabulary=check_vocabulary(opened.vocabulary), where=str(spec))


def import_npy(
    spec: str | Path,
    folder: str | Path,
    *,
    encoder: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    faiss_index: str | Path | None = None,
    index: IndexRecipe | None = None,
) -> Path:
    """Import a set to a store of this project's, shard by shard; what an earlier call imported is kept.

    Args:
        spec: the index spec.
        folder: of the store.
        encoder, tokenizer: as for :func:`open_npy`.
        faiss_index: the set's index, which is copied; without it one is built.
        index: how it is built then.

    Raises:
        ConfigError, DataError: as for :func:`open_npy`, and as for building.
        ResultError: the folder cannot be made.
    """
    folder = Path(folder)
    make_folder(folder / SHARDS, what="the store", next_step="choose another folder")
    opened = open_tokenizer(tokenizer)
    made = _encoder(encoder, opened)
    shards = npy_shards(spec)
    if faiss_index is not None:
        TokenDatabase(shards, read_index(Path(faiss_index), mmap=True), made, vocabulary=opened.vocabulary, where=str(spec))
    save_tokenizer(opened, folder)
    made.save(folder)
    for number, shard in enumerate(shards):
        target = folder / SHARDS / shard_name(number)
        if not target.exists():
            _import_shard(shard, target)
    imported = [open_shard(folder / SHARDS / shard_name(number)) for number in range(len(shards))]
    if faiss_index is None:
        build_index(folder / INDEX, [shard.embeddings for shard in imported], index or IndexRecipe(), seed=0)
    else:
        _copy_index(Path(faiss_index), folder / INDEX, [shard.num_chunks for shard in shards])
    describe_database(folder, imported, opened.vocabulary)
    return folder


def _encoder(recipe: Mapping[str, Any], tokenizer: Tokenizer) -> WindowEncoder:
    def nothing(most: int) -> Tokens:
        raise DataError(
            f"the encoder '{recipe['name']}' would have to be fitted: its vectors are not those of the set",
            next_step="name the encoder that the embeddings were made with: minilm",
        )

    return make_encoder(recipe, tokenizer, nothing, seed=0)


def _import_shard(shard: Shard, target: Path) -> None:
    cut = Cut(_whole(shard.chunks), _whole(shard.seq2chunk), _whole(shard.chunk2seq))
    write_shard(
        target,
        cut,
        shard.embeddings.shape[1],
        lambda start, stop: shard.embeddings.take(np.arange(start, stop)),
        {"imported": True, "chunk_tokens": shard.chunk_tokens},
    )


def _whole(rows: Rows) -> NDArray[Any]:
    pieces = list(rows.pieces())
    return np.concatenate(pieces) if pieces else np.empty(rows.shape, rows.dtype)


def _copy_index(source: Path, folder: Path, chunks: list[int]) -> None:
    """The index's file, and that of its lists where they lie apart."""
    import faiss

    if (folder / DESCRIPTION_FILE).exists():
        return
    folder.mkdir(exist_ok=True)
    files = {INDEX_FILE: source}
    read = read_index(source, mmap=True)
    if isinstance(read.faiss_index, faiss.IndexIVF):
        mapped: Any = faiss.downcast_InvertedLists(read.ivf.invlists)
        if mapped.filename:
            files[Path(mapped.filename).name] = Path(mapped.filename)
    for name, path in files.items():
        partial = folder / f".{name}.tmp"
        shutil.copyfile(path, partial)
        os.replace(partial, folder / name)
    describe_index(folder, "imported", chunks, list(files))
