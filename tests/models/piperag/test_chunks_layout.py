"""Chunks on disk: names and types of the published sets, documents cut whole, rows mapped, damage named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from models.piperag.chunks import layout
from models.piperag.chunks.encoders import HashedEncoder
from models.piperag.chunks.layout import ARRAYS, Cut, Shard, cut_documents, open_shard, write_shard
from models.piperag.chunks.mapped import npy_rows, zarr_rows
from results.errors import DataError
from tests.models.piperag.chunks_samples import cut_off, rows

DOCUMENTS = [np.arange(1, 1 + size) for size in (5, 8, 3, 12, 1)]


def write(folder: Path, cut: Cut, dim: int = 6) -> Path:
    encoder = HashedEncoder(dim)
    write_shard(folder, cut, dim, lambda a, b: encoder.encode(cut.chunks[a:b].astype(np.int64)), {"made": "here"})
    return folder


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write(tmp_path / "0000", cut_documents(DOCUMENTS, 4, 99))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 7), st.sampled_from([None, 500]))
def test_documents_are_cut_whole(lengths: list[int], c: int, eos: int | None) -> None:
    documents = [np.arange(1, 1 + size) for size in lengths]
    cut = cut_documents(documents, c, eos)
    assert [(cut.chunks.dtype.name, cut.seq2chunk.dtype.name, cut.chunk2seq.dtype.name)] == [("uint16", "int64", "int32")]
    assert cut.chunks.shape == (len(cut.chunk2seq), c)
    ends = [*cut.seq2chunk.tolist(), len(cut.chunks)][1:]
    for number, (document, first, end) in enumerate(zip(documents, cut.seq2chunk.tolist(), ends, strict=True)):
        whole = [*document.tolist(), *([] if eos is None else [eos])]
        assert cut.chunks[first:end].ravel().tolist() == whole + [0] * (max(-(-len(whole) // c), 1) * c - len(whole))
        assert (cut.chunk2seq[first:end] == number).all()


def test_ids_that_two_bytes_do_not_hold_are_refused() -> None:
    assert cut_documents([np.array([65_534])], 4, None).chunks[0, 0] == 65_534
    for wrong in (65_535, -1):
        with pytest.raises(DataError, match="token id is not in"):
            cut_documents([np.array([1, wrong])], 4, None)


def test_names_types_and_content_are_those_of_the_published_form(shard: Path) -> None:
    group: Any = zarr.open_group(str(shard), mode="r")
    assert sorted(group.array_keys()) == sorted(ARRAYS)
    for name, (dtype, dims) in ARRAYS.items():
        assert group[name].dtype == dtype
        assert group[name].metadata.dimension_names == dims
    cut = cut_documents(DOCUMENTS, 4, 99)
    assert np.array_equal(group["chunks"][:], cut.chunks)
    assert np.array_equal(group["seq2chunk"][:], [0, 2, 5, 6, 10])
    assert np.array_equal(group["chunk2seq"][:], cut.chunk2seq)
    assert np.allclose(np.linalg.norm(group["embeddings"][:].astype(float), axis=1), 1, atol=2e-3)
    assert group.attrs["made"] == "here"


@pytest.mark.parametrize("block_bytes", [1, 40, 10**6])
def test_mapped_rows_are_those_that_zarr_reads(block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(layout, "_EMBED_AT_ONCE", 2)
    folder = write(tmp_path / "0000", cut_documents(DOCUMENTS, 4, 99))
    opened, group = open_shard(folder), zarr.open_group(str(folder), mode="r")
    picked = np.array([10, 0, 3, 3, 9])
    for name in ARRAYS:
        found, wanted = getattr(opened, name), np.asarray(group[name][:])
        here = picked[picked < len(wanted)]
        assert len(found) == len(wanted)
        assert np.array_equal(found.take(here), wanted[here])
        assert found.take(here).dtype == wanted.dtype
        assert np.array_equal(np.concatenate(list(found.pieces(2))), wanted)


def test_an_array_that_is_compressed_is_read_whole(shard: Path) -> None:
    """Another's writer may compress; a chunk that was cut off is an error there too."""
    group = zarr.open_group(str(shard), mode="r+")
    noise = np.random.default_rng(0).integers(1, 65_000, (11, 4)).astype(np.uint16)
    codec = zarr.codecs.BloscCodec(cname="lz4", shuffle="noshuffle")
    group.create_array("chunks", data=noise, chunks=(4, 4), compressors=codec, overwrite=True)
    assert np.array_equal(open_shard(shard).chunks.take(np.arange(11)), noise)
    cut_off(shard / "chunks" / "c" / "1" / "0")
    with pytest.raises(DataError, match="chunk is damaged: .*bytes"):
        open_shard(shard)


@pytest.mark.parametrize("name", ARRAYS)
def test_damage_is_named(name: str, shard: Path) -> None:
    (chunk,) = [path for path in (shard / name / "c").rglob("*") if path.is_file()]
    content = chunk.read_bytes()
    for keep in (0.0, 0.7):
        cut_off(chunk, keep)
        with pytest.raises(DataError, match=rf"a chunk has {int(len(content) * keep)} of {len(content)} bytes") as caught:
            open_shard(shard)
        assert caught.value.where == str(chunk)
        chunk.write_bytes(content)
    chunk.unlink()
    with pytest.raises(DataError, match="is missing"):
        open_shard(shard)
    (shard / name / "zarr.json").write_text("{")
    with pytest.raises(DataError, match=f"metadata of array '{name}' are damaged"):
        open_shard(shard)
    (shard / name / "zarr.json").unlink()
    with pytest.raises(DataError, match=f"array '{name}' is missing"):
        open_shard(shard)
    with pytest.raises(DataError, match="shard '0001' is missing"):
        open_shard(shard.with_name("0001"))


def test_another_type_or_form_is_refused(shard: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds uint16 in 2 dimensions instead of int64 in 1"):
        zarr_rows(shard / "chunks", dtype="int64", dims=1)
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    with pytest.raises(DataError, match="holds float32 in 1 dimensions instead of float16 in 2"):
        npy_rows(tmp_path / "x.npy", dtype="float16", dims=2)


def test_a_shard_that_contradicts_itself_is_refused() -> None:
    cut = cut_documents(DOCUMENTS, 4, 99)
    parts = {
        "chunks": cut.chunks,
        "seq2chunk": cut.seq2chunk,
        "chunk2seq": cut.chunk2seq,
        "embeddings": np.zeros((len(cut.chunks), 6), np.float16),
    }
    Shard("memory", **{name: rows(values) for name, values in parts.items()})
    for changed, problem in (
        ({"chunk2seq": cut.chunk2seq[:-1]}, "'chunk2seq' has 10 entries for 11 chunks"),
        ({"embeddings": parts["embeddings"][:5]}, "'embeddings' has 5 rows for 11 chunks"),
        ({"seq2chunk": cut.seq2chunk[:0]}, "0 documents and 11 chunks"),
        ({"seq2chunk": cut.seq2chunk + 1}, "disagree about 5 documents"),
        ({"seq2chunk": np.append(cut.seq2chunk[:-1], 11)}, "disagree about 5 documents"),
        ({"chunk2seq": cut.chunk2seq + 1}, "disagree about 5 documents"),
    ):
        with pytest.raises(DataError, match=problem):
            Shard("memory", **{name: rows(values) for name, values in {**parts, **changed}.items()})


def test_a_shard_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder, cut = tmp_path / "0000", cut_documents(DOCUMENTS, 4, 99)

    def fails(start: int, stop: int) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(folder, cut, 6, fails, {})
    assert not folder.exists()
    write(folder, cut)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(KeyboardInterrupt):
        write_shard(folder, cut, 6, fails, {})
    write(folder, cut)  # the same bytes again
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["0000"]
    assert json.loads((folder / "zarr.json").read_text())["attributes"] == {"made": "here"}


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    opened = open_shard(write(tmp_path / "0000", cut_documents([], 4, None)))
    assert (opened.num_chunks, opened.chunk_tokens, opened.embeddings.shape) == (0, 4, (0, 6))
    assert list(opened.embeddings.pieces()) == []
