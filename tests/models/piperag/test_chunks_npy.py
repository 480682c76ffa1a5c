"""A user's own set in the published form: read where it lies, imported, refused where it is damaged or contradicts itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from models.piperag.chunks.building import build_index
from models.piperag.chunks.database import DatabaseBackend, TokenDatabase
from models.piperag.chunks.encoders import HashedEncoder
from models.piperag.chunks.index import IndexRecipe
from models.piperag.chunks.layout import cut_documents
from models.piperag.chunks.npy_import import import_npy, npy_shards, open_npy
from models.piperag.types import Query
from results.errors import ConfigError, DataError
from tests.models.piperag.chunks_samples import DIM, SMALL_IVF, WALKS, cut_off, rows, write_npy

ENCODER = {"name": "hashed", "dim": DIM}
TOKENIZER = {"name": "identity", "vocabulary": 65}
CUTS = [cut_documents([WALKS.walk(n) for n in numbers], 16, None) for numbers in (range(15), range(15, 40))]


@pytest.fixture
def users(tmp_path: Path) -> tuple[Path, Path]:
    return write_npy(tmp_path / "set", CUTS, HashedEncoder(DIM))


def opened(users: tuple[Path, Path], **changes: Any) -> TokenDatabase:
    spec, index = users
    return open_npy(spec, **{"faiss_index": index, "encoder": ENCODER, "tokenizer": TOKENIZER, **changes})


def search(database: TokenDatabase) -> tuple[np.ndarray, np.ndarray]:
    windows = np.stack([WALKS.walk(number)[4:20] for number in range(12)])
    ids = database.search(database.encode(windows), 2, 3)[1]
    return ids, database.values(ids, 7)


def test_a_set_is_read_where_it_lies(users: tuple[Path, Path]) -> None:
    before = sorted(users[0].parent.rglob("*"))
    database = opened(users)
    assert (database.num_chunks, database.chunk_tokens, len(database.shards)) == (280, 16, 2)
    assert np.array_equal(database.values(np.array([7 * 15]))[0], WALKS.walk(15)[:32])
    assert np.array_equal(database.values(np.array([7 * 14 + 6]), 3)[0], [*WALKS.walk(14)[99:], *[0] * 31])
    assert sorted(users[0].parent.rglob("*")) == before
    for mmap in (False, True):
        assert np.array_equal(search(opened(users, mmap=mmap))[1], search(database)[1])


def test_a_backend_opens_it(users: tuple[Path, Path]) -> None:
    options = {"faiss_index": str(users[1]), "encoder": ENCODER, "tokenizer": TOKENIZER}
    reply = DatabaseBackend(str(users[0]), npy=options).retrieve(Query(number=1, windows=WALKS.walk(3)[None, :16], k=2, nprobe=8))
    assert reply.values.shape == (1, 2, 32)


@pytest.mark.parametrize("index", ["given", "given on disk", "built"])
def test_a_set_is_imported(index: str, users: tuple[Path, Path], tmp_path: Path) -> None:
    spec, given = users
    if index == "given on disk":
        embeddings = [rows(np.load(path)) for path in sorted(spec.parent.glob("*.embeddings.npy"))]
        on_disk = IndexRecipe(factory=SMALL_IVF.factory, points_per_centroid=8, on_disk=True)
        build_index(tmp_path / "on-disk", embeddings, on_disk, seed=0)
        given = tmp_path / "on-disk" / "index.faiss"
    options: dict[str, Any] = {"encoder": ENCODER, "tokenizer": TOKENIZER}
    options |= {"index": SMALL_IVF} if index == "built" else {"faiss_index": given}
    folder = import_npy(spec, tmp_path / "store", **options)
    for mine, theirs in zip(search(TokenDatabase.open(folder)), search(opened(users)), strict=True):
        assert np.array_equal(mine, theirs)
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".faiss", ".ivfdata")}
    (folder / "database.json").unlink()  # cut off just before the end
    import_npy(spec, folder, **options)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    TokenDatabase.open(folder)


@pytest.mark.parametrize("name", ["chunks", "seq2chunk", "chunk2seq", "embeddings"])
def test_a_file_that_is_missing_or_cut_off_is_named(name: str, users: tuple[Path, Path]) -> None:
    path = users[0].parent / f"01.{name}.npy"
    content = path.read_bytes()
    for keep in (0.0, 0.3, 0.9):
        cut_off(path, keep)
        with pytest.raises(DataError, match=f"'{path.name}' is damaged or cut off") as caught:
            opened(users)
        assert caught.value.where == str(path)
        path.write_bytes(content)
    path.unlink()
    with pytest.raises(DataError, match=f"'{path.name}' is missing"):
        opened(users)


def test_arrays_of_another_type_are_refused(users: tuple[Path, Path]) -> None:
    path = users[0].parent / "00.chunks.npy"
    np.save(path, np.load(path).astype(np.int32))
    with pytest.raises(DataError, match="holds int32 in 2 dimensions instead of uint16 in 2"):
        opened(users)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)  # a pickle is never read
    with pytest.raises(DataError, match="damaged"):
        opened(users)


def test_numbers_and_dimensions_that_disagree_are_refused(users: tuple[Path, Path]) -> None:
    spec, index = users
    listed = json.loads(spec.read_text())
    spec.write_text(json.dumps(listed[:1]))
    with pytest.raises(DataError, match="the index has 280 entries, the shards have 105 chunks"):
        opened(users)
    spec.write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"dimensions differ \(32, 40\): index 32, encoder 40"):
        opened(users, encoder={"name": "hashed", "dim": 40})
    wide = faiss.IndexFlatL2(40)
    wide.add(np.zeros((280, 40), np.float32))
    faiss.write_index(wide, str(index.with_name("wide.faiss")))
    with pytest.raises(DataError, match="index 40, encoder 32"):
        opened(users, faiss_index=index.with_name("wide.faiss"))
    path = spec.parent / "00.embeddings.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(DataError, match="'embeddings' has 104 rows for 105 chunks"):
        opened(users)


def test_the_index_spec_is_checked(users: tuple[Path, Path], tmp_path: Path) -> None:
    spec = users[0]
    listed = json.loads(spec.read_text())
    for content, problem in (
        ("{", "not JSON"),
        ("{}", "not a list of shards"),
        ("[1]", "not a list of shards"),
        ("[]", "database is empty"),
        (json.dumps([listed[0], {"chunks": "x"}]), "shard 1 of the index spec lacks 'seq2chunk'"),
    ):
        spec.write_text(content)
        with pytest.raises(DataError, match=problem):
            npy_shards(spec)
    with pytest.raises(DataError, match="index spec cannot be read"):
        npy_shards(tmp_path / "absent.json")


def test_an_empty_database_is_refused(tmp_path: Path) -> None:
    empty = cut_documents([], 16, None)
    folder = tmp_path / "set"
    folder.mkdir()
    arrays = (empty.chunks, empty.seq2chunk, empty.chunk2seq, np.empty((0, DIM), np.float16))
    names = ("chunks", "seq2chunk", "chunk2seq", "embeddings")
    for name, values in zip(names, arrays, strict=True):
        np.save(folder / f"{name}.npy", values)
    (folder / "spec.json").write_text(json.dumps([{name: f"{name}.npy" for name in names}]))
    with pytest.raises(DataError, match="database is empty: no shard has a chunk"):
        npy_shards(folder / "spec.json")


def test_the_vocabulary_and_the_encoder_are_checked(users: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="vocabulary of 70000 tokens cannot be stored"):
        opened(users, tokenizer={"name": "identity", "vocabulary": 70_000})
    with pytest.raises(DataError, match="'lsa' would have to be fitted"):
        opened(users, encoder={"name": "lsa"})
