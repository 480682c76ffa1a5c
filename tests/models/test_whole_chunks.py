"""Chunks that were cut off: Blosc alone does not notice where it could not compress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr

from models.whole_chunks import whole_chunks
from tests.models.dlwp.weather.samples import truncate

NOISE = np.random.default_rng(0).integers(0, 2**32, (4, 64), np.uint32)  # nothing to compress


def v2(folder: Path, **how: Any) -> Path:
    group = zarr.open_group(str(folder), mode="w", zarr_format=2)
    compressor = numcodecs.Blosc(cname="lz4", shuffle=numcodecs.Blosc.NOSHUFFLE)
    array = group.create_array("x", shape=NOISE.shape, chunks=(2, 64), dtype="u4", compressors=compressor, **how)
    array[...] = NOISE
    return folder


def v3(folder: Path) -> Path:
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    codec = zarr.codecs.BloscCodec(cname="lz4", shuffle="noshuffle")
    array = group.create_array("x", shape=NOISE.shape, chunks=(2, 64), dtype="u4", compressors=codec)
    array[...] = NOISE
    return folder


def slashes(folder: Path) -> Path:
    return v2(folder, chunk_key_encoding={"name": "v2", "separator": "/"})


CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "v2": (v2, "x/1.0"),
    "slashes": (slashes, "x/1/0"),
    "v3": (v3, "x/c/1/0"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_chunk_that_was_cut_off_is_an_error(case: str, tmp_path: Path) -> None:
    write, chunk = CASES[case]
    folder = write(tmp_path / "store.zarr")
    assert np.array_equal(zarr.open_group(whole_chunks(folder), mode="r")["x"][:], NOISE)
    truncate(folder / chunk)
    opened: Any = zarr.open_group(whole_chunks(folder), mode="r")["x"]
    assert np.array_equal(opened[:2], NOISE[:2])
    with pytest.raises(ValueError, match=f"chunk {chunk} has [0-9]+ of 528 bytes"):
        opened[2:]


@pytest.mark.parametrize("size", [0, 7, 15])
def test_a_chunk_without_a_whole_header(size: int, tmp_path: Path) -> None:
    folder = v2(tmp_path / "store.zarr")
    (folder / "x" / "1.0").write_bytes((folder / "x" / "1.0").read_bytes()[:size])
    with pytest.raises(ValueError, match=f"has {size} of 16 bytes"):
        zarr.open_group(whole_chunks(folder), mode="r")["x"][2:]


def test_other_chunks_are_left_to_their_codec(tmp_path: Path) -> None:
    """Values that look like a header, and a chunk that was never written."""
    folder = tmp_path / "store.zarr"
    group = zarr.open_group(str(folder), mode="w", zarr_format=2)
    array = group.create_array("x", shape=(8,), chunks=(4,), dtype="u4", compressors=None, fill_value=9)
    array[:4] = 2
    assert zarr.open_group(whole_chunks(folder), mode="r")["x"][:].tolist() == [2] * 4 + [9] * 4


def test_xarray_opens_it(tmp_path: Path) -> None:
    data = xr.Dataset({"u": (("time", "x"), NOISE)}, coords={"time": np.arange(4)})
    for zarr_format in (2, 3):
        folder = tmp_path / f"store{zarr_format}.zarr"
        data.to_zarr(str(folder), zarr_format=zarr_format)
        with xr.open_zarr(whole_chunks(folder), chunks=None) as found:
            assert found.load().equals(data)
    with pytest.raises(FileNotFoundError):
        whole_chunks(tmp_path / "absent.zarr")
