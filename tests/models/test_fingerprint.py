"""Fingerprints of users' data: what changes them and what does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.fingerprint import SAMPLE_BYTES, fingerprint
from results.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "train" / "u").mkdir(parents=True)
    (root / "train" / "u" / "0").write_bytes(b"abc")
    (root / "train" / "u" / "1").write_bytes(bytes(5 * SAMPLE_BYTES))
    (root / "zarr.json").write_text("{}")
    return root


def test_place_and_times_do_not_count(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    os.utime(copy / "zarr.json", (0, 0))
    assert fingerprint(copy) == before
    assert len(before) == 64


@pytest.mark.parametrize("offset", [0, 5 * SAMPLE_BYTES // 2, 5 * SAMPLE_BYTES - 1])
def test_sampled_bytes_count(folder: Path, offset: int) -> None:
    before = fingerprint(folder)
    with (folder / "train" / "u" / "1").open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"x")
    assert fingerprint(folder) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "zarr.json").rename(root / "zarr2.json"),
        lambda root: (root / "train" / "u" / "0").unlink(),
        lambda root: (root / "new").write_bytes(b""),
        lambda root: os.truncate(root / "train" / "u" / "1", 5 * SAMPLE_BYTES + 1),
        lambda root: (root / "train").rename(root / "test"),
    ],
)
def test_names_and_sizes_count(folder: Path, change: object) -> None:
    before = fingerprint(folder)
    change(folder)  # type: ignore[operator]
    assert fingerprint(folder) != before


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=20), min_size=1, max_size=4))
def test_the_order_of_writing_does_not_count(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    prints = []
    for order in (sorted(files), sorted(files, reverse=True)):
        root = tmp_path_factory.mktemp("files")
        for name in order:
            (root / name).write_bytes(files[name])
        prints.append(fingerprint(root))
    assert prints[0] == prints[1]


def test_a_single_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    path.write_bytes(b"one")
    before = fingerprint(path)
    assert fingerprint(Path(shutil.copy(path, tmp_path / "b.nc"))) == before
    path.write_bytes(b"two")
    assert fingerprint(path) != before


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no data"):
        fingerprint(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        fingerprint(tmp_path / "missing")
