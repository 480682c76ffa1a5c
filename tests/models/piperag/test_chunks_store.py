"""The store: two processes build its parts, one that was cut off goes on, the same recipe makes the same bytes."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from harness.stores import ensure_store
from models.piperag.chunks.corpora import TextFolder
from models.piperag.chunks.database import TokenDatabase
from models.piperag.chunks.index import IndexRecipe
from models.piperag.chunks.layout import open_shard
from models.piperag.chunks.synthetic import Walks
from models.stores import open_manifest, verify
from results.errors import ConfigError, DataError
from tests.models.piperag.chunks_samples import SMALL_IVF, WALKS, build, cut_off, small_store

SENTENCES = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs", "sphinx of black quartz"]


@dataclass(frozen=True, kw_only=True)
class Deadly(Walks):
    """Walks; the process that reads one of them is killed as long as a file exists."""

    trouble: Path
    at: int = 20

    def document(self, number: int) -> str:
        if number == self.at and self.trouble.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().document(number)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_build_it_and_one_that_was_killed_goes_on(tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.touch()
    corpus = Deadly(seed=3, num_documents=40, tokens=100, num_training=32, trouble=trouble)
    spec = small_store(corpus=corpus, shards=4)
    with pytest.raises(DataError, match="was killed at part"):
        ensure_store(spec, tmp_path / "data", workers=1)
    folder = spec.folder(tmp_path / "data")
    assert sorted(path.name for path in (folder / "shards").iterdir() if path.name[0] != ".") == ["0000", "0001"]
    with pytest.raises(DataError, match="no complete token database"):
        TokenDatabase.open(folder)
    kept = {path: path.stat().st_mtime_ns for path in (folder / "shards" / "0000").rglob("*")}
    trouble.unlink()
    assert ensure_store(spec, tmp_path / "data", workers=2) == folder
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    verify(folder)
    database = TokenDatabase.open(folder)
    assert database.num_chunks == 40 * 7
    assert not [name for name in open_manifest(folder)["files"] if "/." in f"/{name}" or "part-" in name]
    # Built in one process without a break, it is the same to the last byte.
    whole = files(build(replace(spec, corpus=WALKS), tmp_path / "again"))
    found = {name: content for name, content in files(folder).items() if name != "manifest.json"}
    assert found == whole


def test_documents_are_in_their_shards_and_ids_run_on(tmp_path: Path) -> None:
    spec = small_store()
    database = TokenDatabase.open(build(spec, tmp_path))
    assert [list(spec.documents(part))[:1] for part in range(3)] == [[0], [13], [26]]
    assert [shard.num_chunks for shard in database.shards] == [13 * 7, 13 * 7, 14 * 7]
    for number in (0, 12, 13, 39):
        first = np.arange(7 * number, 7 * number + 7)
        tokens = database.values(first)[:, :16].ravel()
        assert np.array_equal(tokens, np.append(WALKS.walk(number), np.zeros(12)))
    stored = database.embeddings(np.array([100]))[0]
    fresh = database.encode(database.values(np.array([100]))[:, :16])[0]
    assert np.allclose(stored, fresh, atol=1e-3)
    assert abs(np.linalg.norm(stored) - 1) < 2e-3


def test_the_identity_is_that_of_the_content(tmp_path: Path) -> None:
    spec = small_store()
    assert spec.identity == small_store().identity
    for changes in (
        {"corpus": replace(WALKS, seed=4)},
        {"chunk_tokens": 8},
        {"encoder": {"name": "hashed", "dim": 16}},
        {"index": replace(SMALL_IVF, on_disk=True)},
        {"shards": 2},
        {"seed": 1},
    ):
        assert small_store(**changes).identity != spec.identity
    assert small_store(corpus=replace(WALKS, num_training=20)).identity == spec.identity  # the same documents


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_index_may_lie_on_disk(on_disk: bool, tmp_path: Path) -> None:
    plain = TokenDatabase.open(build(small_store(), tmp_path / "plain"))
    spec = small_store(index=replace(SMALL_IVF, on_disk=on_disk))
    database = TokenDatabase.open(build(spec, tmp_path / "other"), mmap=True)
    queries = plain.encode(np.stack([WALKS.walk(number)[3:19] for number in range(10)]))
    assert np.array_equal(database.search(queries, 3, 2)[1], plain.search(queries, 3, 2)[1])


@pytest.mark.parametrize("tokenizer", [{"name": "bytes"}, {"name": "bpe", "vocabulary": 300}])
def test_text_with_lsa(tokenizer: dict[str, object], tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(12):
        lines = [f"{SENTENCES[(number + line) % 3]} {number * line}." for line in range(8)]
        (texts / f"{number:02d}.txt").write_text("\n".join(lines))
    spec = small_store(
        corpus=TextFolder(texts),
        tokenizer=tokenizer,
        encoder={"name": "lsa", "dim": 12, "grams": 512},
        index=IndexRecipe(factory="Flat"),
        shards=2,
    )
    folder = build(spec, tmp_path / "data")
    database = TokenDatabase.open(folder)
    assert database.vocabulary == (258 if tokenizer["name"] == "bytes" else 300)
    eos_chunks = [shard.chunks.take(np.arange(shard.num_chunks)) for shard in database.shards]
    assert sum(int((chunks == 1).sum()) for chunks in eos_chunks) == 12  # every document ends
    windows = database.values(np.array([4, 9]))[:, :16]
    assert database.search(database.encode(windows), 1, 1)[1].ravel().tolist() == [4, 9]
    assert str(tmp_path) not in (folder / "database.json").read_text() + (folder / "sources.json").read_text()
    (texts / "00.txt").write_text("changed")
    with pytest.raises(DataError, match="changed while a store was built"):
        spec.finish(folder)


def test_a_shard_that_was_damaged_before_the_end_is_an_error(tmp_path: Path) -> None:
    spec = small_store()
    folder = build(spec, tmp_path)
    for path in (folder / "index").iterdir():
        path.unlink()
    cut_off(folder / "shards" / "0001" / "embeddings" / "c" / "0" / "0")
    with pytest.raises(DataError, match="it was cut off"):
        spec.finish(folder)
    spec.build_part(folder, 1)
    spec.finish(folder)
    assert open_shard(folder / "shards" / "0001").num_chunks == 13 * 7
    TokenDatabase.open(folder)


def test_wrong_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="40 documents cannot be laid into 41 shards"):
        small_store(shards=41)
    with pytest.raises(ConfigError, match="holds nothing"):
        small_store(chunk_tokens=0)
    for changes, kind, problem in (
        ({"tokenizer": {"name": "identity", "vocabulary": 70_000}}, ConfigError, "vocabulary of 70000 tokens cannot be stored"),
        ({"tokenizer": {"name": "identity", "vocabulary": 20}}, DataError, r"token id is not in 1 \.\. 19"),
        ({"index": IndexRecipe(factory="IVF8,PQ8np")}, DataError, "280 chunks are too few to train 8 inverted lists"),
        ({"index": IndexRecipe(factory="IVF4,PQ5np")}, ConfigError, "cannot be made for 32 dimensions"),
    ):
        with pytest.raises(kind, match=problem):
            build(small_store(**changes), tmp_path)
