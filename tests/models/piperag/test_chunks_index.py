"""The index (invariant 10), however it was built; fillers that only take time; recall."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from models.piperag.chunks.building import build_index, sample_rows, train_index
from models.piperag.chunks.index import FILLER, IndexRecipe, open_index, read_index
from models.piperag.chunks.inflating import check_fillers, inflate
from models.piperag.chunks.mapped import Rows
from models.piperag.chunks.recall import agreement, exhaustive, recall, recall_by_nprobe, shared_ngrams
from results.errors import ConfigError, DataError
from tests.models.piperag.chunks_samples import cut_off, rows

RECIPE = IndexRecipe(factory="IVF16,PQ8np", points_per_centroid=2)
ON_DISK = IndexRecipe(factory="IVF16,PQ8np", points_per_centroid=2, on_disk=True)
FLAT = IndexRecipe(factory="Flat")


def vectors(count: int, seed: int) -> np.ndarray:
    """Unit vectors in groups, as text makes them."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((20, 32))
    found = centres[random.integers(20, size=count)] + 0.6 * random.standard_normal((count, 32))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


SHARDS = [rows(vectors(size, size).astype(np.float16)) for size in (300, 1, 500, 150)]
TOTAL = 951
QUERIES = vectors(50, 1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build_index(folder / "memory", SHARDS, RECIPE, seed=0)
    build_index(folder / "disk", SHARDS, ON_DISK, seed=0)
    build_index(folder / "flat", SHARDS, FLAT, seed=0)
    return folder


def stats() -> Any:
    return faiss.cvar.indexIVF_stats


def test_all_lists_give_the_exhaustive_result_of_the_codes(built: Path) -> None:
    index = open_index(built / "memory")
    distances, ids = index.search(QUERIES, 5, nprobe=16)
    index.ivf.make_direct_map()
    decoded = index.ivf.reconstruct_n(0, TOTAL)
    exact = np.sort(((QUERIES[:, None] - decoded) ** 2).sum(-1), axis=1)[:, :5]
    assert np.allclose(distances, exact, atol=1e-4)
    assert np.allclose(((QUERIES[:, None] - decoded[ids]) ** 2).sum(-1), distances, atol=1e-4)
    more = index.search(QUERIES, 5, nprobe=99)  # no more lists than there are
    assert np.array_equal(more[1], ids)


@pytest.mark.parametrize("nprobe", [1, 3, 16])
def test_nprobe_lists_are_scanned_per_query(built: Path, nprobe: int) -> None:
    index = open_index(built / "memory")
    stats().reset()
    index.search(QUERIES, 2, nprobe)
    assert stats().nlist == nprobe * len(QUERIES)
    assert stats().ndis == index.codes_scanned(QUERIES, nprobe).sum()


def test_nprobe_of_a_call_equals_the_global_setting(built: Path) -> None:
    index = open_index(built / "memory")
    for nprobe in (1, 2, 5):
        index.ivf.nprobe = nprobe
        theirs = index.ivf.search(QUERIES, 3)
        index.ivf.nprobe = 7
        for mine, other in zip(index.search(QUERIES, 3, nprobe), theirs, strict=True):
            assert np.array_equal(mine, other)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("form", ["memory", "disk"])
def test_every_form_of_the_index_finds_the_same(built: Path, form: str, mmap: bool) -> None:
    plain, other = open_index(built / "memory"), open_index(built / form, mmap=mmap)
    assert (other.ntotal, other.dim, other.nlist) == (TOTAL, 32, 16)
    lists = faiss.downcast_InvertedLists(other.ivf.invlists)
    assert isinstance(lists, faiss.OnDiskInvertedLists) == (form == "disk" or mmap)
    for nprobe in (1, 4, 16):
        mine, theirs = other.search(QUERIES, 4, nprobe), plain.search(QUERIES, 4, nprobe)
        assert np.array_equal(mine[0], theirs[0])
        assert np.array_equal(mine[1], theirs[1])


def test_an_index_on_disk_can_be_moved(built: Path, tmp_path: Path) -> None:
    found = open_index(built / "disk").search(QUERIES, 2, 4)[1]
    (built / "disk").rename(tmp_path / "elsewhere")
    assert np.array_equal(open_index(tmp_path / "elsewhere").search(QUERIES, 2, 4)[1], found)
    (tmp_path / "elsewhere").rename(built / "disk")
    assert sorted(path.name for path in (built / "disk").iterdir()) == ["index.faiss", "index.json", "lists.ivfdata"]


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is for what a command answers; FAISS tells there where lists lie."""
    build_index(tmp_path, SHARDS, ON_DISK, seed=0)
    open_index(tmp_path)
    print("answer")
    assert capfd.readouterr() == ("answer\n", "")


def test_written_and_read_it_is_the_same(built: Path, tmp_path: Path) -> None:
    index = open_index(built / "memory")
    faiss.write_index(index.faiss_index, str(tmp_path / "again.faiss"))
    assert np.array_equal(read_index(tmp_path / "again.faiss").search(QUERIES, 3, 4)[1], index.search(QUERIES, 3, 4)[1])


def test_an_exact_index_and_an_exhaustive_search_agree(built: Path) -> None:
    flat = open_index(built / "flat")
    found = flat.search(QUERIES, 3, nprobe=1)[1]
    everything = np.concatenate([piece for shard in SHARDS for piece in shard.pieces()]).astype(np.float32)
    wanted = np.argsort(((QUERIES[:, None] - everything) ** 2).sum(-1), axis=1)[:, :3]
    assert np.array_equal(found, wanted)
    assert np.array_equal(exhaustive(SHARDS, QUERIES, 3), wanted)
    assert (flat.nlist, flat.codes_scanned(QUERIES, 1).tolist()) == (1, [TOTAL] * 50)
    with pytest.raises(ConfigError, match="no inverted lists"):
        _ = flat.ivf


def test_ids_are_minus_1_where_lists_run_out(built: Path) -> None:
    index = open_index(built / "memory")
    ids = index.search(QUERIES[:1], 400, nprobe=1)[1][0]
    scanned = int(index.codes_scanned(QUERIES[:1], 1)[0])
    assert (ids[:scanned] >= 0).all()
    assert (ids[scanned:] == -1).all()
    assert (exhaustive([SHARDS[1]], QUERIES[:1], 3) == [[0, -1, -1]]).all()


def test_recall_grows_with_nprobe(built: Path) -> None:
    exact = exhaustive(SHARDS, QUERIES, 1)
    found = recall_by_nprobe(open_index(built / "memory"), QUERIES, exact, 2, (1, 4, 16))
    assert list(found) == [1, 4, 16]
    assert found[1] <= found[4] + 0.01 <= found[16] + 0.02
    assert recall(np.array([[3, 1], [2, 5]]), np.array([[1], [9]])) == 0.5
    assert recall_by_nprobe(open_index(built / "flat"), QUERIES, exact, 1, (1,)) == {1: 1.0}


def test_agreement_and_overlap() -> None:
    assert agreement(np.array([4, 3, 9]), np.array([4, 4, 4])) == pytest.approx(2 / 3)
    text = np.array([[1, 2, 3, 4, 0]])
    assert shared_ngrams(text, np.array([[[9, 1, 2, 3], [4, 0, 0, 0]]]), n=2) == pytest.approx(2 / 3)  # not 3-4: two neighbours
    assert shared_ngrams(text, np.array([[[0, 0, 0, 0]]]), n=2) == 0
    assert shared_ngrams(np.zeros((1, 5), np.int64), text[None], n=2) == 0


def test_a_build_that_was_cut_off_goes_on(tmp_path: Path, built: Path) -> None:
    class Broken(Rows):
        def pieces(self, most: int = 1 << 16) -> Iterator[np.ndarray]:
            raise KeyboardInterrupt

    folder = tmp_path / "index"
    broken = [*SHARDS[:2], Broken(SHARDS[2]._blocks, SHARDS[2].shape, SHARDS[2].dtype, where=""), SHARDS[3]]
    with pytest.raises(KeyboardInterrupt):
        build_index(folder, broken, ON_DISK, seed=0)
    assert sorted(path.name for path in folder.iterdir()) == ["part-0000.faiss", "part-0001.faiss", "trained.faiss"]
    with pytest.raises(DataError, match="missing or incomplete"):
        open_index(folder)
    again = [Broken(rows._blocks, rows.shape, rows.dtype, where="") for rows in SHARDS[:2]]  # their parts are there
    build_index(folder, [*again, *SHARDS[2:]], ON_DISK, seed=0)
    assert np.array_equal(open_index(folder).search(QUERIES, 3, 4)[1], open_index(built / "disk").search(QUERIES, 3, 4)[1])
    (folder / "trained.faiss").touch()  # cut off while it cleared up
    before = (folder / "index.faiss").stat().st_mtime_ns
    build_index(folder, SHARDS, ON_DISK, seed=0)
    assert (folder / "index.faiss").stat().st_mtime_ns == before
    assert not (folder / "trained.faiss").exists()


def test_what_it_is_trained_on(tmp_path: Path) -> None:
    everything = np.concatenate([piece for shard in SHARDS for piece in shard.pieces()]).astype(np.float32)
    assert np.array_equal(sample_rows(SHARDS, 10_000, 0), everything)
    sample = sample_rows(SHARDS, 100, 0)
    assert sample.shape == (100, 32)
    assert np.array_equal(sample, sample_rows(SHARDS, 100, 0))
    assert not np.array_equal(sample, sample_rows(SHARDS, 100, 1))
    places = [int(np.nonzero((everything == row).all(1))[0][0]) for row in sample]
    assert places == sorted(set(places))


def test_too_few_points_and_other_wrong_recipes_are_refused(tmp_path: Path) -> None:
    sample = vectors(600, 0)
    for factory, problem in (
        ("IVF15,PQ8np", "600 chunks are too few to train 256 centroids of a sub-quantiser: 39 for each are 9984"),
        ("IVF16,Flat", "600 chunks are too few to train 16 inverted lists: 39 for each are 624"),
    ):
        with pytest.raises(DataError, match=problem):
            train_index(sample, IndexRecipe(factory=factory))
    assert train_index(sample, IndexRecipe(factory="IVF15,PQ8x4np", points_per_centroid=37)).nlist == 15
    with pytest.raises(ConfigError, match="'IVF4,PQ5np' cannot be made for 32 dimensions"):
        train_index(sample, IndexRecipe(factory="IVF4,PQ5np"))
    with pytest.raises(ConfigError, match="'IVF4;PQ' cannot be made"):
        train_index(sample, IndexRecipe(factory="IVF4;PQ"))
    with pytest.raises(DataError, match="kind IndexHNSWFlat cannot be searched"):
        train_index(sample, IndexRecipe(factory="HNSW8"))
    with pytest.raises(DataError, match="database is empty"):
        build_index(tmp_path / "empty", [rows(np.empty((0, 32), np.float16))], RECIPE, seed=0)
    with pytest.raises(ConfigError, match="exact index cannot lie on disk"):
        build_index(tmp_path / "flat", SHARDS, IndexRecipe(factory="Flat", on_disk=True), seed=0)


def test_queries_of_another_form_are_refused(built: Path) -> None:
    index = open_index(built / "memory")
    for queries, k, nprobe, problem in (
        (QUERIES[:, :31], 1, 1, "32 dimensions, the queries are"),
        (QUERIES[0], 1, 1, "32 dimensions, the queries are"),
        (QUERIES, 0, 1, "k = 0"),
        (QUERIES, 1, 0, "nprobe = 0"),
    ):
        with pytest.raises(ConfigError, match=problem):
            index.search(queries, k, nprobe)


@pytest.mark.parametrize(("form", "file"), [("memory", "index.faiss"), ("disk", "index.faiss"), ("disk", "lists.ivfdata")])
@pytest.mark.parametrize("keep", [0.3, 0.95])
def test_a_file_that_was_cut_off_is_refused(form: str, file: str, keep: float, tmp_path: Path) -> None:
    build_index(tmp_path, SHARDS, RECIPE if form == "memory" else ON_DISK, seed=0)
    size = (tmp_path / file).stat().st_size
    cut_off(tmp_path / file, keep)
    with pytest.raises(DataError, match=rf"'{file}' of the index has {int(size * keep)} of {size} bytes"):
        open_index(tmp_path)
    for mmap in (False, True):  # nor without the description, as a user's own
        with pytest.raises(DataError, match="cut off"):
            read_index(tmp_path / "index.faiss", mmap=mmap)
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match="has 0 of"):
        open_index(tmp_path)
    with pytest.raises(DataError, match="missing|No such file"):
        read_index(tmp_path / "index.faiss")


def test_an_index_that_is_not_the_one_described_is_refused(tmp_path: Path) -> None:
    build_index(tmp_path, SHARDS, RECIPE, seed=0)
    description = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").write_text(description.replace("951", "952"))
    with pytest.raises(DataError, match="the index has ntotal 951, its description says 952"):
        open_index(tmp_path)


def test_fillers_take_time_and_change_nothing(built: Path) -> None:
    index, plain = open_index(built / "memory"), open_index(built / "memory")
    assert inflate(index, 40.0) == index.num_fillers == 40 * TOTAL
    assert index.ntotal == 41 * TOTAL
    assert np.array_equal(index.list_sizes(), 41 * plain.list_sizes())
    for nprobe in (1, 4, 16):
        assert np.array_equal(index.codes_scanned(QUERIES, nprobe), 41 * plain.codes_scanned(QUERIES, nprobe))
        check_fillers(index, QUERIES, 2, nprobe)
        assert np.array_equal(index.codes_scanned(QUERIES, nprobe, fillers=False), plain.codes_scanned(QUERIES, nprobe))
        for mine, theirs in zip(index.search(QUERIES, 2, nprobe), plain.search(QUERIES, 2, nprobe), strict=True):
            assert np.array_equal(mine, theirs)
    leaking = open_index(built / "memory")
    inflate(leaking, 40.0, largest=256)
    with pytest.raises(DataError, match="fillers take the place"):
        check_fillers(leaking, QUERIES, 2, 16)


def test_fillers_that_are_found_are_an_error(built: Path) -> None:
    index = open_index(built / "memory")
    (lists,) = index.ivf.quantizer.search(QUERIES[:1], 1)[1]
    number, size = int(lists[0]), index.ivf.invlists.list_size(int(lists[0]))
    codes = faiss.rev_swig_ptr(index.ivf.invlists.get_codes(number), size * 8).copy()
    ids = np.full(size, FILLER, np.int64)
    index.ivf.invlists.add_entries(number, size, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    with pytest.raises(DataError, match=r"fillers take the place of chunks among the 2 nearest of \d+ of 50 queries"):
        check_fillers(index, QUERIES, 2, 16)


def test_fillers_behind_the_last_chunk_stand_for_not_found(built: Path) -> None:
    index = open_index(built / "memory")
    index.ivf.reset()
    index.ivf.add_with_ids(QUERIES[:1], np.array([5]))
    inflate(index, 40.0)
    assert index.search(QUERIES[:1], 3, 1)[1].tolist() == [[5, FILLER, FILLER]]
    check_fillers(index, QUERIES[:1], 3, 1)


def test_what_cannot_be_inflated(built: Path) -> None:
    with pytest.raises(ConfigError, match="no inverted lists"):
        inflate(open_index(built / "flat"), 1.0)
    with pytest.raises(ConfigError, match="on disk cannot be inflated"):
        inflate(open_index(built / "disk"), 1.0)
    with pytest.raises(ConfigError, match="on disk cannot be inflated"):
        inflate(open_index(built / "memory", mmap=True), 1.0)
    with pytest.raises(ConfigError, match="8-bit"):
        inflate(train_index(vectors(600, 0), IndexRecipe(factory="IVF4,PQ8x4np", points_per_centroid=9)), 1.0)
    with pytest.raises(ConfigError, match="-1"):
        inflate(open_index(built / "memory"), -1.0)
    assert inflate(open_index(built / "memory"), 0.0) == 0


def test_one_query_may_use_several_threads(built: Path) -> None:
    index, plain = open_index(built / "memory", intra_query=True), open_index(built / "memory")
    assert (index.ivf.parallel_mode, plain.ivf.parallel_mode) == (1, 0)
    assert np.array_equal(index.search(QUERIES, 2, 4)[1], plain.search(QUERIES, 2, 4)[1])
