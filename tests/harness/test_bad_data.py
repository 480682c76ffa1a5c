"""Damaged and wrong data in real processes: each ends as ``bad-input``, or with exit 2 before anything starts, and names store
and variable or file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.compose import Composer
from harness.stores import manifest
from models.dlwp.trajectories import DIMS
from models.fingerprint import fingerprint
from models.stores import MANIFEST
from results.runfolder import RunFolder
from results.store import write_json
from tests.support import Workplace

TINY = ("system=dlwp", "scale=tiny", "tracker=none")
SAMPLES = {"train": 8, "val": 4, "test": 6}


def write_store(path: Path, *, samples: dict[str, int] = SAMPLES, variable: str = "u", dims: tuple[str, ...] = DIMS) -> None:
    """A user's own trajectories: smooth noise of the right shape, one chunk a trajectory, written with xarray."""
    import xarray as xr

    for number, (split, count) in enumerate(samples.items()):
        random = np.random.default_rng(number)
        sizes = dict(zip(DIMS, (count, 8, 1, 16, 16), strict=True))
        values = random.standard_normal([sizes[name] for name in dims]).cumsum(1).astype(np.float32)
        chunks = tuple(1 if name == "sample" else sizes[name] for name in dims)
        data = xr.Dataset({variable: (dims, values, {"units": "1/time"})})
        data.to_zarr(
            path, group=split, mode="w" if not number else "a", zarr_format=3, consolidated=False,
            encoding={variable: {"chunks": chunks}},
        )  # fmt: skip


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


#: Name of a store, how it differs from a good one, and what its failure must say besides its name.
BAD: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "without-variable": (lambda path: write_store(path, variable="w"), ("variable 'u' is missing", "w", "(train)")),
    "wrong-dims": (
        lambda path: write_store(path, dims=("time", "sample", "dim", "height", "width")),
        ("variable 'u' has dimensions time, sample, dim, height, width instead of sample, time",),
    ),
    "too-few": (
        lambda path: write_store(path, samples={**SAMPLES, "train": 5}),
        ("variable 'u' has 5 samples, data.train asks for 8",),
    ),
    "truncated": (
        lambda path: (write_store(path), truncate(path / "train" / "u" / "c" / "3" / "0" / "0" / "0" / "0"))[0],
        ("variable 'u' cannot be read, a chunk is damaged", "train, sample 3"),
    ),
    "truncated-test-set": (
        lambda path: (write_store(path), truncate(path / "test" / "u" / "c" / "5" / "0" / "0" / "0" / "0"))[0],
        ("variable 'u' cannot be read, a chunk is damaged", "test, sample 5"),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """One sweep over a good store and all bad ones."""

    place: Workplace
    printed: str
    rows: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    place = Workplace(tmp_path_factory.mktemp("bad"))
    write_store(place.path / "stores" / "good")
    for name, (write, _) in BAD.items():
        write(place.path / "stores" / name)
    paths = ",".join(f"stores/{name}" for name in ("good", *BAD))
    done = place.tenfold("sweep", *TINY, "data.source=path", f"data.path={paths}", expect=1)
    rows = {}
    for row in place.json("table"):
        config = (place.path / "runs" / row["run"] / "config.yaml").read_text()
        (name,) = [name for name in ("good", *BAD) if f"path: stores/{name}\n" in config]
        rows[name] = row
    return Outcome(place, done.stdout + done.stderr, rows)


@pytest.mark.parametrize("name", BAD)
def test_a_users_bad_store_is_bad_input_and_names_itself(name: str, outcome: Outcome) -> None:
    row = outcome.rows[name]
    assert row["status"] == "failed"
    failure = row["failure"]
    assert failure["class"] == "bad-input"
    assert failure["rank"] == 0
    for text in (f"stores/{name}", *BAD[name][1]):
        assert text in failure["reason"], failure["reason"]
    assert "mend it or data.path" in failure["next_step"]
    attempt = RunFolder(outcome.place.path / "runs" / row["run"]).last_attempt()
    assert attempt is not None
    assert attempt.read("launch")["exit_codes"] == [1]
    assert not attempt.completed


def test_bad_stores_do_not_stop_a_good_one(outcome: Outcome) -> None:
    assert len(outcome.rows) == 1 + len(BAD)
    row = outcome.rows["good"]
    assert row["status"] == "completed"
    assert row["data"] == fingerprint(outcome.place.path / "stores" / "good")
    assert row["metrics"]["rmse"] > 0
    assert "tenfold retry" in outcome.printed
    assert outcome.place.json("status", "status=failed") != []


def test_a_path_without_data_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for path, message in (("nowhere", "does not exist"), ("empty", "there is no data")):
        assert main(["run", *TINY, "data.source=path", f"data.path={path}"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert f"where: {path}" in error
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated store of ``scale=tiny``, built in this process."""
    with Composer() as composer:
        point = composer.compose([*TINY]).point
    from models.dlwp.data import NavierStokesStore

    spec = NavierStokesStore(point.data)
    folder = spec.folder(tmp_path_factory.mktemp("generated"))
    spec.create(folder)
    for part in range(spec.parts):
        spec.build_part(folder, part)
    spec.finish(folder)
    write_json(folder / MANIFEST, manifest(spec, folder))
    return folder


def test_a_damaged_generated_store_is_refused_before_anything_starts(generated: Path, workplace: Workplace) -> None:
    """Sizes are compared before every run. (What keeps its size is found by the checksum in each chunk.)"""
    store = workplace.path / "data" / generated.name
    shutil.copytree(generated, store)
    chunk = "test/u/c/4/0/0/0/0"
    truncate(store / chunk)
    done = workplace.tenfold("run", *TINY, expect=2)
    assert f"data file '{chunk}' " in done.stderr
    assert "truncated or overwritten" in done.stderr
    assert f"where: data/{generated.name}" in done.stderr
    assert f"next:  remove the folder and run again to rebuild it: rm -r data/{generated.name}" in done.stderr
    assert "Traceback" not in done.stderr
    assert workplace.runs() == []


def test_bytes_that_changed_in_place_are_found_by_the_chunks_own_checksum(generated: Path, tmp_path: Path) -> None:
    from models.dlwp.trajectories import open_trajectories
    from models.stores import verify
    from results.errors import DataError

    store = tmp_path / generated.name
    shutil.copytree(generated, store)
    chunk = store / "train" / "u" / "c" / "2" / "0" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(bytes(data))
    verify(store, checksums=False)  # sizes are right
    with pytest.raises(DataError, match="train/u/c/2/0/0/0/0' does not match its checksum"):
        verify(store)
    with Composer() as composer:
        section = composer.compose([*TINY]).config.data
    with pytest.raises(DataError, match="variable 'u' cannot be read, a chunk is damaged") as caught:
        open_trajectories(section, store, "train")
    assert "train, sample 2" in caught.value.where
