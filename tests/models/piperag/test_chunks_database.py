"""The token database: invariants 5, 6 and 12, and queries answered in this process and in another one."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.piperag.chunks.database import DatabaseBackend, TokenDatabase
from models.piperag.chunks.encoders import HashedEncoder
from models.piperag.chunks.index import FaissIndex
from models.piperag.chunks.layout import cut_documents
from models.piperag.retrieving.merging import merge
from models.piperag.types import Query, Reply, RetrievalError
from results.errors import ConfigError, DataError
from tests.models.piperag.chunks_samples import DIM, WALKS, build, cut_off, memory_database, memory_shard, small_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(small_store(), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def backend(folder: Path) -> DatabaseBackend:
    return DatabaseBackend(str(folder))


def query(**changes: Any) -> Query:
    windows = np.stack([WALKS.walk(number)[5:21] for number in (0, 13, 39)])
    return replace(Query(number=7, windows=windows, k=2, nprobe=4, shift=0), **changes)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_values_are_chunk_and_continuation_within_the_document(data: st.DataObject) -> None:
    """Invariants 5 and 12 against slicing: any lengths, shards, blocks and shift."""
    c = data.draw(st.integers(1, 5), "c")
    shards = data.draw(st.lists(st.lists(st.integers(0, 17), max_size=4), min_size=1, max_size=4), "lengths")
    if not any(shards):
        shards[0] = [3]
    shift = data.draw(st.integers(0, c), "shift")
    counter, documents = 1, []
    for lengths in shards:
        documents.append([np.arange(counter + 20 * n, counter + 20 * n + size) for n, size in enumerate(lengths)])
        counter += 100
    eos = data.draw(st.sampled_from([None, 9]), "eos")
    database = memory_database(documents, c, eos=eos, block=data.draw(st.integers(1, 6), "block"))
    wanted = []
    for shard in documents:
        for document in shard:
            whole = [*document.tolist(), *([] if eos is None else [eos])]
            count = max(-(-len(whole) // c), 1)
            whole += [0] * (3 * c)
            wanted += [whole[c * number :][shift : shift + 2 * c] for number in range(count)]
    assert database.num_chunks == len(wanted)
    ids = np.arange(len(wanted))
    values = database.values(ids, shift)
    assert values.dtype == np.int64
    assert values.tolist() == wanted
    shuffled = np.random.default_rng(0).permutation(np.append(ids, [-1, -2])).reshape(1, -1)
    table = np.array([*wanted, [0] * (2 * c), [0] * (2 * c)])  # row -1 and row -2 are pad
    assert np.array_equal(database.values(shuffled, shift), table[shuffled])


def test_shift_by_a_chunk_is_the_value_of_the_next_one(backend: DatabaseBackend) -> None:
    """Invariant 5."""
    database = backend.database
    shard, local = database.locate(np.arange(database.num_chunks))
    document = [int(database.shards[s].chunk2seq.take(np.array([i]))[0]) for s, i in zip(shard, local, strict=True)]
    for number in range(database.num_chunks - 1):
        moved = database.values(np.array([number]), 16)
        if (shard[number], document[number]) == (shard[number + 1], document[number + 1]):
            assert np.array_equal(moved, database.values(np.array([number + 1]), 0))
        else:
            assert not moved.any()
    for shift in (0, 1, 16):
        assert database.values(np.arange(5), shift).shape == (5, 32)
    for shift in (-1, 17):
        with pytest.raises(RetrievalError, match=f"cannot be shifted by {shift} tokens"):
            database.values(np.arange(5), shift)


def test_ids_at_the_edges_of_shards() -> None:
    """Invariant 12, also with empty shards between others."""
    documents = [[np.full(8, 1)], [], [], [np.full(4, 2), np.full(4, 3)], []]
    database = memory_database(documents, 4)
    shards, local = database.locate(np.arange(4))
    assert shards.tolist() == [0, 0, 3, 3]
    assert local.tolist() == [0, 1, 0, 1]
    assert database.values(np.array([[1, 2], [3, -1]])).tolist() == [
        [[1, 1, 1, 1, 0, 0, 0, 0], [2, 2, 2, 2, 0, 0, 0, 0]],
        [[3, 3, 3, 3, 0, 0, 0, 0], [0] * 8],
    ]
    for wrong in (4, 10**12):
        with pytest.raises(DataError, match=f"chunk {wrong} does not exist, there are 4"):
            database.values(np.array([wrong]))


def test_fewer_hits_than_k_give_pad_and_never_the_last_chunk() -> None:
    """Invariant 12."""
    database = memory_database([[np.arange(1, 5)]], 4)
    _, ids = database.search(database.encode(np.array([[1, 2, 3, 4]])), k=3, nprobe=1)
    assert ids.tolist() == [[0, -1, -1]]
    values = database.values(ids)
    assert values[0, 0].tolist() == [1, 2, 3, 4, 0, 0, 0, 0]
    assert not values[0, 1:].any()


def test_of_its_own_document_stale_and_shifted_is_fresh() -> None:
    """Invariant 6: the text is in the database, aligned, and s = m' = c."""
    c, walks = 16, [WALKS.walk(number)[:96] for number in range(20)]
    database = memory_database([walks[:9], walks[9:]], c)
    for walk in walks:
        windows = walk.reshape(-1, c)
        _, ids = database.search(database.encode(windows), k=1, nprobe=1)
        fresh, stale = database.values(ids[1:]), database.values(ids[:-1], shift=c)
        assert np.array_equal(fresh, stale)
        follows = np.append(walk, np.zeros(c, np.int64))
        assert np.array_equal(fresh[:, 0], np.stack([follows[c * j : c * (j + 2)] for j in range(1, 6)]))
        unshifted = database.values(ids[:-1])
        assert not np.array_equal(fresh, unshifted)


def test_a_query_is_answered(backend: DatabaseBackend) -> None:
    reply = backend.retrieve(query())
    assert reply.number == 7
    assert reply.values.shape == (3, 2, 32)
    assert reply.ids.shape == (3, 2)
    assert set(reply.seconds) == {"encode", "search", "values"}
    assert all(spent > 0 for spent in reply.seconds.values())
    assert reply.retriever_s == sum(reply.seconds.values())
    assert np.array_equal(reply.values, backend.database.values(reply.ids))
    shifted = backend.retrieve(query(shift=5))
    assert np.array_equal(shifted.values, backend.database.values(reply.ids, 5))
    assert backend.retrieve(query(nprobe=1000)).nprobe == 8
    exact = backend.retrieve(query(nprobe=8, k=1))
    assert exact.ids[:, 0].tolist() == backend.retrieve(query(nprobe=1000, k=1)).ids[:, 0].tolist()
    assert backend.retrieve(query(windows=query().windows[:0])).values.shape == (0, 2, 32)
    assert backend.retrieve(query(windows=query().windows.astype(np.uint16))).ids.tolist() == reply.ids.tolist()


def test_what_is_asked_for_is_found(backend: DatabaseBackend) -> None:
    """Windows that are chunks of the database: the walk goes on in the value."""
    walk = WALKS.walk(20)
    reply = backend.retrieve(query(windows=walk[:96].reshape(6, 16), nprobe=8, k=2))
    hits = [
        any(np.array_equal(value[:16], window) for value in values)
        for values, window in zip(reply.values, walk[:96].reshape(6, 16), strict=True)
    ]
    assert sum(hits) >= 5


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"windows": np.ones((1, 15), np.int64)}, "windows of 15 tokens are shorter than the 16"),
        ({"windows": np.ones((1, 0), np.int64)}, "windows of 0 tokens are shorter"),
        ({"windows": np.ones((1, 17), np.int64)}, "windows of 17 tokens are longer"),
        ({"windows": np.ones(16, np.int64)}, "not a table of token ids"),
        ({"windows": np.ones((1, 16))}, "not a table of token ids"),
        ({"windows": [[1] * 16]}, "not a table of token ids"),
        ({"windows": np.full((1, 16), 65)}, r"token id is not in 0 \.\. 64"),
        ({"windows": np.full((1, 16), -1)}, "token id is not in"),
        ({"k": 0}, "k 0"),
        ({"nprobe": 0}, "nprobe 0"),
        ({"shift": 17}, "shift 17"),
        ({"shift": -1}, "shift -1"),
    ],
)
def test_a_malformed_query_is_refused(backend: DatabaseBackend, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RetrievalError, match=f"query 7 is refused: .*{problem}"):
        backend.retrieve(query(**changes))


def answer(folder: str, options: dict[str, Any], asked: Query, send: Any) -> None:
    """Runs in another process."""
    send.send(DatabaseBackend(folder, **options).retrieve(asked))


@pytest.mark.parametrize("options", [{"mmap": True, "threads": 2}])
def test_another_process_opens_it_by_plain_arguments(folder: Path, backend: DatabaseBackend, options: dict[str, Any]) -> None:
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    child = spawn.Process(target=answer, args=(str(folder), options, query(), send))
    child.start()
    send.close()
    reply: Reply = receive.recv()
    child.join()
    assert child.exitcode == 0
    assert np.array_equal(reply.values, backend.retrieve(query()).values)


def test_threads_are_set_in_the_thread_that_searches(folder: Path) -> None:
    faiss.omp_set_num_threads(1)
    DatabaseBackend(str(folder), threads=2).retrieve(query())
    assert faiss.omp_get_max_threads() == 2
    faiss.omp_set_num_threads(1)


def test_an_inflated_database_answers_the_same(tmp_path: Path) -> None:
    recipe = replace(small_store().index, factory="IVF4,PQ8np", points_per_centroid=5)
    folder = build(small_store(corpus=replace(WALKS, num_documents=200), index=recipe), tmp_path)
    plain, inflated = DatabaseBackend(str(folder)), DatabaseBackend(str(folder), inflation=20)
    assert inflated.database.index.num_fillers == 20 * plain.database.num_chunks
    for nprobe in (1, 4):
        assert np.array_equal(inflated.retrieve(query(nprobe=nprobe)).ids, plain.retrieve(query(nprobe=nprobe)).ids)
    _, few = inflated.database.search(inflated.database.encode(query().windows), 1400, 4)
    assert (few == -2).any()
    reply = inflated.retrieve(query(k=1400))
    assert reply.ids.min() == -1
    assert not reply.values[reply.ids == -1].any()


@pytest.mark.parametrize("on_disk", [False, True])
def test_parts_of_the_index_find_together_what_the_whole_finds(on_disk: bool, tmp_path: Path) -> None:
    folder = str(build(small_store(index=replace(small_store().index, on_disk=on_disk)), tmp_path))
    whole = DatabaseBackend(folder)
    parts = [DatabaseBackend(folder, shard=part, shards=3) for part in range(3)]
    assert [part.database.index.ntotal for part in parts] == [93, 93, 94]
    for nprobe in (1, 4, 8):
        asked = query(nprobe=nprobe, k=4, shift=3)
        replies = [part.retrieve_shard(asked) for part in parts]
        merged, wanted = merge(replies, 4), whole.retrieve_shard(asked)
        assert np.array_equal(merged.values, whole.database.values(merged.ids, 3))
        # By distance: of entries with equal codes either may come first.
        near = np.sort(np.hstack([reply.distances for reply in replies]), axis=1)[:, :4]
        assert np.allclose(near, wanted.distances, atol=1e-6)
        assert (merged.ids == wanted.reply.ids).mean() > 0.8
    for shard, shards in ((3, 3), (-1, 3), (0, 281), (0, 0)):
        with pytest.raises(ConfigError, match=f"no part {shard} of {shards}"):
            DatabaseBackend(folder, shard=shard, shards=shards)
    flat = build(small_store(index=replace(small_store().index, factory="Flat", on_disk=False)), tmp_path)
    with pytest.raises(ConfigError, match="no inverted lists"):
        DatabaseBackend(str(flat), shard=0, shards=2)


def test_index_encoder_and_shards_that_disagree_are_refused() -> None:
    encoder = HashedEncoder(DIM)
    shard = memory_shard(cut_documents([np.arange(1, 30)], 4, None), encoder)
    other = memory_shard(cut_documents([np.arange(1, 30)], 5, None), encoder)
    wide = memory_shard(cut_documents([np.arange(1, 30)], 4, None), HashedEncoder(DIM + 8))
    empty = memory_shard(cut_documents([], 4, None), encoder)

    def index(count: int, dim: int = DIM) -> FaissIndex:
        flat = faiss.IndexFlatL2(dim)
        flat.add(np.zeros((count, dim), np.float32))
        return FaissIndex(flat)

    TokenDatabase([shard], index(8), encoder, vocabulary=65, where="here")
    for shards, wrong, wrong_encoder, problem in (
        ([shard], index(7), encoder, "the index has 7 entries, the shards have 8 chunks"),
        ([shard, shard], index(8), encoder, "the index has 8 entries, the shards have 16 chunks"),
        ([shard], index(8, DIM + 8), encoder, r"dimensions differ \(32, 40\): index 40, encoder 32, embeddings 32"),
        ([shard], index(8), HashedEncoder(DIM + 8), "index 32, encoder 40, embeddings 32"),
        ([wide], index(8), encoder, "index 32, encoder 32, embeddings 40"),
        ([shard, other], index(14), encoder, "chunks of 4, 5 tokens"),
        ([empty], index(0), encoder, "database is empty"),
        ([], index(0), encoder, "database is empty"),
    ):
        with pytest.raises(DataError, match=problem):
            TokenDatabase(shards, wrong, wrong_encoder, vocabulary=65, where="here")


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    folder = build(small_store(), tmp_path)
    description = (folder / "database.json").read_text()
    (folder / "database.json").write_text(description.replace('"chunks": [\n    91,', '"chunks": [\n    90,'))
    with pytest.raises(DataError, match="a shard has 91 chunks, 'database.json' says 90"):
        TokenDatabase.open(folder)
    (folder / "database.json").write_text(description)
    chunk = folder / "shards" / "0001" / "chunks" / "c" / "0" / "0"
    content = chunk.read_bytes()
    cut_off(chunk)
    with pytest.raises(DataError, match="it was cut off") as caught:
        TokenDatabase.open(folder)
    assert caught.value.where == str(chunk)
    chunk.write_bytes(content)
    (folder / "shards" / "0002").rename(folder / "gone")
    with pytest.raises(DataError, match="shard '0002' is missing"):
        TokenDatabase.open(folder)
    (folder / "gone").rename(folder / "shards" / "0002")
    TokenDatabase.open(folder)
    (folder / "database.json").unlink()
    with pytest.raises(DataError, match="no complete token database"):
        TokenDatabase.open(folder)
