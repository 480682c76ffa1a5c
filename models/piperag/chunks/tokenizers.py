"""Tokenizers that need no hub: the identity, bytes, byte-level BPE trained on the corpus, or a ``tokenizers`` file of a user's.

Id 0 is pad and, but for the identity, id 1 ends a document. Neither can come out of text: ids of text begin at 2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from models.piperag.types import PAD, Tokens
from results.errors import ConfigError, DataError
from results.store import read_json, write_json

if TYPE_CHECKING:
    import tokenizers

#: Ids are stored as uint16.
MAX_VOCABULARY = 65_535
TOKENIZER_FILE = "tokenizer.json"
_EOS = 1
_FIRST = 2
#: Characters of the corpus that a BPE is trained on at most.
_TRAINING_CHARACTERS = 64 * 2**20


class Tokenizer(Protocol):
    """Text to token ids and back.

    Attributes:
        vocabulary: all ids are below it.
        eos: id that ends a document, if there is one.
    """

    vocabulary: int
    eos: int | None

    def encode(self, text: str) -> Tokens:
        """Token ids, ``[tokens]``, without the one that ends a document."""

    def decode(self, windows: Tokens) -> list[str]:
        """The text of each window ``[n, c]``; pad and end are left out."""

    def plain(self) -> dict[str, Any]:
        """What :func:`open_tokenizer` takes."""


def check_vocabulary(vocabulary: int, where: str = "") -> int:
    """Refuse what does not fit two bytes.

    Raises:
        ConfigError: more than 65,535 tokens, or none beside pad.
    """
    if not 2 <= vocabulary <= MAX_VOCABULARY:
        raise ConfigError(
            f"a vocabulary of {vocabulary} tokens cannot be stored: ids are kept in two bytes",
            where=where,
            next_step=f"choose a vocabulary of 2 to {MAX_VOCABULARY}",
        )
    return vocabulary


class IdentityTokenizer:
    """Text that is token ids in decimal, separated by blanks.

    Raises:
        ConfigError: the vocabulary does not fit two bytes.
    """

    eos: int | None = None

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = check_vocabulary(vocabulary)

    def encode(self, text: str) -> Tokens:
        """Token ids.

        Raises:
            DataError: a word is not an id of the vocabulary.
        """
        try:
            found = np.array(text.split(), dtype=np.int64)
        except ValueError as error:
            raise DataError(f"the text is not token ids: {error}") from error
        if found.size and not (found.min() > PAD and found.max() < self.vocabulary):
            raise DataError(f"a token id is not in 1 .. {self.vocabulary - 1}")
        return found

    def decode(self, windows: Tokens) -> list[str]:
        """Ids in decimal."""
        return [" ".join(map(str, row[row != PAD])) for row in windows]

    def plain(self) -> dict[str, Any]:
        """Kind and vocabulary."""
        return {"name": "identity", "vocabulary": self.vocabulary}


class ByteTokenizer:
    """A token per byte of UTF-8: 256 of them, pad and end."""

    vocabulary: int = 258
    eos: int | None = _EOS

    def encode(self, text: str) -> Tokens:
        """Token ids."""
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + _FIRST

    def decode(self, windows: Tokens) -> list[str]:
        """Text; a character that was cut in two is replaced."""
        return [(row[row >= _FIRST] - _FIRST).astype(np.uint8).tobytes().decode(errors="replace") for row in windows]

    def plain(self) -> dict[str, Any]:
        """Kind."""
        return {"name": "bytes"}


class BpeTokenizer:
    """Byte-level byte-pair encoding.

    Args:
        trained: its ids count from 0 and contain no special token.
    """

    eos: int | None = _EOS

    def __init__(self, trained: tokenizers.Tokenizer) -> None:
        self._trained = trained
        self.vocabulary = check_vocabulary(trained.get_vocab_size() + _FIRST)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> BpeTokenizer:
        """Train on texts; a small corpus may give fewer tokens than are asked for.

        Raises:
            ConfigError: a vocabulary below 258 or above 65,535.
            DataError: the ``tokenizers`` library is not installed.
        """
        library = _library()
        if check_vocabulary(vocabulary) < 256 + _FIRST:
            raise ConfigError(f"a byte-level vocabulary has 258 tokens or more, not {vocabulary}")
        trained = library.Tokenizer(library.models.BPE())
        trained.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trained.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary - _FIRST,
            special_tokens=[],
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        trained.train_from_iterator(_up_to(texts, _TRAINING_CHARACTERS), trainer)
        return cls(trained)

    def encode(self, text: str) -> Tokens:
        """Token ids."""
        return np.array(self._trained.encode(text).ids, dtype=np.int64) + _FIRST

    def decode(self, windows: Tokens) -> list[str]:
        """Text; a character that was cut in two is replaced."""
        return [self._trained.decode((row[row >= _FIRST] - _FIRST).tolist()) for row in windows]

    def plain(self) -> dict[str, Any]:
        """Kind, and what was learnt."""
        return {"name": "bpe", "vocabulary": self.vocabulary, "trained": json.loads(self._trained.to_str())}


class FileTokenizer:
    """A file of the ``tokenizers`` library, such as the ``tokenizer.json`` of T5, its ids as they are.

    Args:
        path: the file.
        eos: id that ends a document.

    Raises:
        ConfigError: more than 65,535 tokens.
        DataError: the file is missing or damaged, or the library is not installed.
    """

    def __init__(self, path: str | Path, eos: int = 1) -> None:
        self._path = Path(path)
        self.eos: int | None = eos
        try:
            self._read = _library().Tokenizer.from_str(self._path.read_text("utf-8"))
        except OSError as error:
            raise DataError("the tokenizer's file cannot be read", where=str(path)) from error
        except Exception as error:  # the library raises bare exceptions
            if isinstance(error, DataError):
                raise
            raise DataError(f"the tokenizer's file is damaged: {error}", where=str(path)) from error
        self.vocabulary = check_vocabulary(self._read.get_vocab_size(), str(path))

    def encode(self, text: str) -> Tokens:
        """Token ids."""
        return np.array(self._read.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def decode(self, windows: Tokens) -> list[str]:
        """Text, without special tokens."""
        return [self._read.decode(row[row != PAD].tolist(), skip_special_tokens=True) for row in windows]

    def plain(self) -> dict[str, Any]:
        """Kind and file."""
        return {"name": "file", "path": str(self._path), "eos": self.eos}


def make_tokenizer(recipe: Mapping[str, Any], texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that a recipe asks for: ``name`` is ``identity``, ``bytes``, ``bpe`` or ``file``.

    Args:
        texts: what a BPE is trained on.

    Raises:
        ConfigError: an unknown name, or a vocabulary out of range.
    """
    if recipe["name"] == "bpe" and "trained" not in recipe:
        return BpeTokenizer.train(texts, int(recipe["vocabulary"]))
    return open_tokenizer(recipe)


def open_tokenizer(plain: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose :meth:`Tokenizer.plain` this is.

    Raises:
        ConfigError: an unknown name, or a vocabulary out of range.
        DataError: a file or library is missing.
    """
    match plain["name"]:
        case "identity":
            return IdentityTokenizer(int(plain["vocabulary"]))
        case "bytes":
            return ByteTokenizer()
        case "bpe":
            return BpeTokenizer(_library().Tokenizer.from_str(json.dumps(plain["trained"])))
        case "file":
            return FileTokenizer(plain["path"], int(plain.get("eos", _EOS)))
    raise ConfigError(f"there is no tokenizer '{plain['name']}'; known: identity, bytes, bpe, file")


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json``."""
    write_json(folder / TOKENIZER_FILE, tokenizer.plain())


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read ``tokenizer.json``.

    Raises:
        ResultError: it is missing or damaged.
    """
    return open_tokenizer(read_json(folder / TOKENIZER_FILE))


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise DataError("the library 'tokenizers' is not installed", next_step="pip install tokenizers") from error
    return tokenizers


def _up_to(texts: Iterable[str], characters: int) -> Iterable[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return
