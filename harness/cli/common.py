"""What several verbs share: words, folders, finding runs and studies without composing anything."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.errors import ConfigError, ResultError, near_matches
from results.runfolder import RunFolder, run_folders
from results.store import read_json

#: Keys of a row that words may filter by.
ROW_KEYS = (
    "run",
    "system",
    "variant",
    "size",
    "scale",
    "seed",
    "repeat",
    "engine",
    "ranks",
    "status",
    "site",
    "data",
    "stage",
    "arm",
)


def add_words(parser: argparse.ArgumentParser, text: str) -> None:
    """The positional words of a verb."""
    parser.add_argument("words", nargs="*", metavar="word", help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON for a program to read")


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """``--config-dir``."""
    parser.add_argument("--config-dir", type=Path, help="your own folder of configuration groups (study/, system/, recipe/ ...)")


@dataclass(frozen=True, slots=True)
class Selection:
    """Words of a reading verb: which study, which folders, which rows, which runs by name."""

    study: str | None
    runs: Path
    reports: Path
    query: Mapping[str, str]
    names: tuple[str, ...]

    def index(self) -> dict[str, Any] | None:
        """The study's index, None when no study was named.

        Raises:
            ResultError: the study was never swept here.
        """
        if self.study is None:
            return None
        path = self.reports / self.study / "study.json"
        if not path.exists():
            from harness.study import study_names

            known = sorted({*study_names(), *(p.parent.name for p in self.reports.glob("*/study.json"))})
            raise ResultError(
                f"study '{self.study}' has not been swept here{near_matches(self.study, known)}",
                where=str(path),
                next_step=f"tenfold sweep study={self.study}",
            )
        found: dict[str, Any] = read_json(path)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the selected runs."""
        from harness.schedulers import scheduler_words
        from results.rows import collect_rows, select

        index = self.index()
        names = None if index is None else [entry["run"] for entry in index["runs"]]
        rows = select(collect_rows(self.runs, names, index, scheduler_words(self.runs)), self.query)
        if self.names:
            wanted = {self.find(name).name for name in self.names}
            rows = [row for row in rows if row["run"] in wanted]
        return rows

    def find(self, name: str) -> RunFolder:
        """A run by its name, its folder, or an unambiguous part of its name.

        Raises:
            ConfigError: none or several match.
        """
        known = [folder.name for folder in run_folders(self.runs)]
        plain = Path(name).name
        found = [plain] if plain in known else [run for run in known if plain in run]
        if len(found) != 1:
            what = f"'{name}' is part of {len(found)} runs" if found else f"there is no run '{name}'{near_matches(plain, known)}"
            raise ConfigError(what, where=str(self.runs), next_step="tenfold status")
        return RunFolder(self.runs / found[0])


def select_words(words: Sequence[str]) -> Selection:
    """Read words like ``study=dlwp_scaling variant=fno2d,unet status=failed RUN``.

    Raises:
        ConfigError: a word names a key that rows do not have.
    """
    study, runs, reports = None, Path("runs"), Path("reports")
    query: dict[str, str] = {}
    names = []
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            names.append(word)
        elif key == "study":
            study = value
        elif key == "paths.runs":
            runs = Path(value)
        elif key == "paths.reports":
            reports = Path(value)
        elif key in ROW_KEYS:
            query[key] = value
        else:
            raise ConfigError(
                f"rows cannot be selected by '{key}'{near_matches(key, [*ROW_KEYS, 'study', 'paths.runs', 'paths.reports'])}",
                where=f"command line: {word}",
            )
    return Selection(study, runs, reports, query, tuple(names))


def take_word(words: Sequence[str], key: str) -> tuple[str | None, list[str]]:
    """Split ``key=value`` off the words; the last one wins."""
    value = None
    rest = []
    for word in words:
        if word.startswith(f"{key}="):
            value = word.partition("=")[2]
        else:
            rest.append(word)
    return value, rest
