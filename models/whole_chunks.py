"""Opens a zarr folder so that a chunk that was cut off is an error.

Blosc keeps what it cannot compress as it is and, decoding, trusts the length in the chunk's header: of a file that is shorter, it
reads memory that is not the chunk's, without a word. Here a chunk is held against its header first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore, WrapperStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

#: A Blosc header has 16 bytes; the last four are the length of the chunk with its header, little-endian.
_HEADER = 16


class WholeChunks(WrapperStore[LocalStore]):
    """A zarr folder whose chunks are held against their headers when they are read whole."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self._blosc: dict[Path, bool] = {}

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As the folder has it.

        Raises:
            ValueError: the chunk is shorter, or longer, than it says.
        """
        found = await super().get(key, prototype, byte_range)
        name = key.rpartition("/")[2]
        if found is None or byte_range is not None or name.startswith(".z") or name == "zarr.json":
            return found
        if self._by_blosc((self._store.root / key).parent):
            said = int.from_bytes(found[12:_HEADER].to_bytes(), "little") if len(found) >= _HEADER else _HEADER
            if said != len(found):
                raise ValueError(f"chunk {key} has {len(found)} of {said} bytes")
        return found

    def _by_blosc(self, folder: Path) -> bool:
        """Whether the chunks below a folder are Blosc's to the last byte: the nearest metadata above them say so."""
        if folder not in self._blosc:
            for name in (".zarray", "zarr.json"):
                if (folder / name).is_file():
                    self._blosc[folder] = _says_blosc(json.loads((folder / name).read_text()))
                    break
            else:
                self._blosc[folder] = folder != self._store.root and self._by_blosc(folder.parent)
        return self._blosc[folder]


def _says_blosc(metadata: dict[str, Any]) -> bool:
    if metadata.get("zarr_format") == 2:
        return (metadata.get("compressor") or {}).get("id") == "blosc"
    codecs = metadata.get("codecs") or [{}]
    return bool(codecs[-1].get("name") == "blosc")


def whole_chunks(folder: Path) -> WholeChunks:
    """A store for ``xarray.open_zarr`` and ``zarr.open``, read only.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    return WholeChunks(LocalStore(folder, read_only=True))
