"""Generated data: a store is described by its recipe, built in parts that share no file, and complete once its manifest is.

A system declares :class:`StoreSpec` objects. The harness builds them (``harness/stores.py``): under a lock, ``create`` once,
``build_part`` in several processes, ``finish``, then checksums into ``manifest.json``. A build that was cut off goes on with
the parts that are missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results.errors import DataError
from results.store import canonical_json, read_json, sha256_file, sha256_text

MANIFEST = "manifest.json"


class StoreSpec(ABC):
    """One generated store.

    Attributes:
        name: readable prefix of the folder.
        version: raised when the same recipe means other bytes.
        recipe: every number that determines the content, plain JSON values.
        parts: how many independent pieces it is built in.
    """

    name: str
    version: int
    recipe: Mapping[str, Any]
    parts: int

    @property
    def identity(self) -> str:
        """SHA-256 over name, version and recipe."""
        return sha256_text(canonical_json({"name": self.name, "version": self.version, "recipe": dict(self.recipe)}))

    def folder(self, root: Path) -> Path:
        """``<root>/<name>-<hash8>``."""
        return root / f"{self.name}-{self.identity[:8]}"

    @abstractmethod
    def create(self, folder: Path) -> None:
        """Lay out metadata and coordinates; called once, before any part."""

    @abstractmethod
    def build_part(self, folder: Path, part: int) -> None:
        """Write part ``part`` (0 .. parts-1). Parts run in different processes and own different files; building a part again
        writes the same bytes."""

    def finish(self, folder: Path) -> None:  # noqa: B027 (most stores need nothing here)
        """Called once, after all parts."""


def open_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a complete store.

    Raises:
        DataError: the store is missing or was never completed.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise DataError(
            "the data store is missing or incomplete",
            where=str(folder),
            next_step="tenfold run builds it: type the command again",
        )
    manifest: dict[str, Any] = read_json(path)
    return manifest


def verify(folder: Path, *, checksums: bool = True) -> None:
    """Hold a store against its manifest.

    Args:
        checksums: False compares sizes only (fast; what every run does), True reads every byte.

    Raises:
        DataError: a file is missing, truncated or changed; the message names it.
    """
    manifest = open_manifest(folder)
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.exists():
            problem = "is missing"
        elif path.stat().st_size != entry["size"]:
            problem = f"has {path.stat().st_size} bytes instead of {entry['size']}: truncated or overwritten"
        elif checksums and sha256_file(path) != entry["sha256"]:
            problem = "does not match its checksum"
        else:
            continue
        raise DataError(
            f"data file '{name}' {problem}",
            where=str(folder),
            next_step=f"remove the folder and run again to rebuild it: rm -r {folder}",
        )
