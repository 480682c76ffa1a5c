"""Maps the rows of an array on disk into memory: of a zarr array, or of a ``.npy`` file.

A retrieval reads a few rows out of billions. Chunks of a zarr array that are stored as they are, followed by a CRC32C, are
mapped, so that such a row costs a page and not a chunk; an array that is compressed is read whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.whole_chunks import whole_chunks
from results.errors import DataError

_CRC_BYTES = 4
_REBUILD = "if it was generated, remove its folder and type the same command again; if it is your own, mend it"


class Rows:
    """Rows of an array that lies in blocks of equal length, the last one perhaps longer than what is left of the array.

    Attributes:
        shape: of the array.
        dtype: of its values.
        where: for errors.
    """

    def __init__(self, blocks: list[NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any], *, where: str) -> None:
        self.shape, self.dtype, self.where = shape, dtype, where
        self._blocks = blocks
        self._block_rows = len(blocks[0]) if blocks else 1

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of rows, ``[len(rows), ...]``; all must exist."""
        if len(self._blocks) == 1:
            return self._blocks[0][rows]
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        blocks, places = np.divmod(rows, self._block_rows)
        for block in np.unique(blocks):
            here = blocks == block
            found[here] = self._blocks[block][places[here]]
        return found

    def pieces(self, most: int = 1 << 16) -> Iterator[NDArray[Any]]:
        """All rows in order, as views of at most so many."""
        for number, block in enumerate(self._blocks):
            rows = min(len(block), len(self) - number * self._block_rows)
            for first in range(0, rows, most):
                yield block[first : min(first + most, rows)]


def zarr_rows(folder: Path, *, dtype: str, dims: int) -> Rows:
    """The rows of a zarr array of format 3.

    Args:
        folder: of the array.
        dtype: that it must have.
        dims: how many dimensions it must have; all but the first lie in one chunk.

    Raises:
        DataError: the array is missing, of another type or form, or a chunk is missing, cut off or damaged.
    """
    where = str(folder)
    try:
        metadata = json.loads((folder / "zarr.json").read_text())
        shape, found = tuple(metadata["shape"]), metadata["data_type"]
        chunk = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = [codec["name"] for codec in metadata["codecs"]]
        keys = metadata["chunk_key_encoding"]
    except FileNotFoundError as error:
        raise DataError(f"array '{folder.name}' is missing", where=where, next_step=_REBUILD) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the metadata of array '{folder.name}' are damaged: {error}", where=where, next_step=_REBUILD) from error
    check_form(folder.name, shape, found, dtype=dtype, dims=dims, where=where)
    kind = np.dtype(dtype)
    if 0 in shape:
        return Rows([], shape, kind, where=where)
    as_it_is = codecs == ["bytes", "crc32c"] and np.little_endian and keys["name"] == "default" and chunk[1:] == shape[1:]
    if not as_it_is:
        return Rows([_read(folder)], shape, kind, where=where)
    separator = keys.get("configuration", {}).get("separator", "/")
    names = [separator.join(["c", str(block), *"0" * (dims - 1)]) for block in range(math.ceil(shape[0] / chunk[0]))]
    return Rows([_mapped(folder / name, chunk, kind) for name in names], shape, kind, where=where)


def npy_rows(path: Path, *, dtype: str, dims: int) -> Rows:
    """The rows of a ``.npy`` file, mapped.

    Raises:
        DataError: the file is missing, cut off, damaged, or of another type or form.
    """
    where = str(path)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"file '{path.name}' is missing", where=where, next_step="check the paths in the index spec") from error
    except (OSError, ValueError, EOFError) as error:
        # An array without elements cannot be mapped.
        values = _empty(path)
        if values is None:
            raise DataError(
                f"file '{path.name}' is damaged or cut off: {error}", where=where, next_step="copy or make the file again"
            ) from error
    check_form(path.name, values.shape, str(values.dtype), dtype=dtype, dims=dims, where=where)
    blocks = [np.asarray(values)] if values.size else []
    return Rows(blocks, values.shape, np.dtype(dtype), where=where)


def check_form(name: str, shape: tuple[int, ...], found: str, *, dtype: str, dims: int, where: str) -> None:
    """Refuse an array of another type or number of dimensions.

    Raises:
        DataError: as said.
    """
    if found != dtype or len(shape) != dims:
        raise DataError(
            f"array '{name}' holds {found} in {len(shape)} dimensions instead of {dtype} in {dims}",
            where=where,
            next_step=_REBUILD,
        )


def _mapped(path: Path, chunk: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    wanted = math.prod(chunk) * dtype.itemsize + _CRC_BYTES
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"chunk '{path.name}' is missing", where=str(path), next_step=_REBUILD) from error
    if size != wanted:
        raise DataError(
            f"a chunk has {size} of {wanted} bytes: it was cut off or overwritten", where=str(path), next_step=_REBUILD
        )
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=chunk))


def _read(folder: Path) -> NDArray[Any]:
    import zarr

    try:
        array: Any = zarr.open_array(whole_chunks(folder), mode="r")
        return np.asarray(array[...])
    except Exception as error:  # every codec has errors of its own
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"array '{folder.name}' cannot be read, a chunk is damaged: {line}", where=str(folder), next_step=_REBUILD
        ) from error


def _empty(path: Path) -> NDArray[Any] | None:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return None if values.size else np.asarray(values)
