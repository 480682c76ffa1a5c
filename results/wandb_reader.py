"""Reads a local ``.wandb`` file without a server: what a projection really holds.

The file is a 7-byte header (``:W&B``, 0xBEE1 little-endian, version 0) and then a LevelDB log: blocks of 32 KiB with records of
crc32 (4 bytes), length (2), type (1: whole; 2, 3, 4: first, middle, last part) and payload, a protobuf ``Record``. A killed
writer leaves a torn tail: reading stops there and says so.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.errors import ResultError

_MAGIC = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_BLOCK = 32 * 1024
_HEAD = 7


@dataclass(slots=True)
class WandbFile:
    """Content of one local W&B run.

    Attributes:
        history: one dictionary per logged step, in order; ``_step`` among its keys.
        complete: whether the run's end was written.
    """

    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    complete: bool = False

    def column(self, name: str) -> list[Any]:
        """Values of one history key, where logged."""
        return [row[name] for row in self.history if name in row]


def _records(data: bytes) -> Iterator[bytes]:
    position = len(_MAGIC)
    parts: list[bytes] = []
    while True:
        left = _BLOCK - position % _BLOCK
        if left < _HEAD:
            position += left
        if position + _HEAD > len(data):
            return
        _, length, kind = struct.unpack_from("<IHB", data, position)
        start = position + _HEAD
        if kind == 0 or start + length > len(data):
            return
        payload = data[start : start + length]
        position = start + length
        if kind in (1, 2):
            parts = []
        parts.append(payload)
        if kind in (1, 4):
            yield b"".join(parts)


def _items(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        key = item.key or "/".join(item.nested_key)
        found[key] = json.loads(item.value_json)
    return found


def read_wandb(path: Path) -> WandbFile:
    """Read a ``run-ID.wandb`` file.

    Raises:
        ResultError: missing, or not such a file. A torn tail is not an error: ``complete`` is then False.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResultError(f"the W&B file cannot be read: {error.strerror}", where=str(path)) from error
    if not data.startswith(_MAGIC):
        raise ResultError("not a W&B run file (wrong header)", where=str(path))
    found = WandbFile()
    for payload in _records(data):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        try:
            record.ParseFromString(payload)
        except DecodeError:
            break
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.run = {
                "id": run.run_id, "project": run.project, "group": run.run_group, "job_type": run.job_type,
                "name": run.display_name, "tags": list(run.tags), "notes": run.notes,
            }  # fmt: skip
            found.config |= _items(run.config.update)
        elif kind == "config":
            found.config |= _items(record.config.update)
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "files":
            found.files += [item.path for item in record.files.files]
        elif kind == "exit":
            found.complete = True
    return found
