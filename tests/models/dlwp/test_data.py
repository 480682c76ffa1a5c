"""The Navier-Stokes store and its reader, and what the reader says of damaged or foreign stores."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from models.dlwp.config import Data
from models.dlwp.data import NavierStokesStore, fingerprint, open_trajectories
from models.dlwp.random_fields import SPLITS, gaussian_fields
from results.errors import DataError

torch.set_num_threads(1)

DATA = Data(resolution=16, frames=6, train=18, val=2, test=3, context=2, teacher_forcing=2, sequence=5, store_seed=7)


def build(store: NavierStokesStore, folder: Path, order: list[int] | None = None) -> Path:
    folder.mkdir()
    store.create(folder)
    for part in order or range(store.parts):
        store.build_part(folder, part)
    store.finish(folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(NavierStokesStore(DATA), tmp_path_factory.mktemp("data") / "store")


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "store"))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_identity_is_that_of_the_recipe() -> None:
    spec = NavierStokesStore(DATA)
    assert NavierStokesStore(replace(DATA, sequence=4, context=1, teacher_forcing=1)).identity == spec.identity
    for change in ({"viscosity": 1e-4}, {"store_seed": 8}, {"train": 19}, {"float64": True}, {"time_step": 0.05}, {"alpha": 2.0}):
        assert NavierStokesStore(replace(DATA, **change)).identity != spec.identity, change
    assert NavierStokesStore(replace(DATA, viscosity=0.001, tau=7)).identity == spec.identity
    assert pickle.loads(pickle.dumps(spec)).identity == spec.identity
    assert spec.parts == 2 + 1 + 1


def test_opens_with_xarray_labelled_and_with_its_recipe(built: Path) -> None:
    for split in SPLITS:
        dataset = xr.open_zarr(str(built), group=split, consolidated=False)
        count = getattr(DATA, split)
        assert dict(dataset.sizes) == {"sample": count, "time": 6, "dim": 1, "height": 16, "width": 16}
        assert dataset.u.dims == ("sample", "time", "dim", "height", "width")
        assert dataset.a.dims == ("sample", "height", "width")
        assert (dataset.u.dtype, dataset.a.dtype) == (np.float32, np.float32)
        assert dataset.t.values.tolist() == [1, 2, 3, 4, 5, 6]
        assert dataset.time.values.tolist() == [1, 2, 3, 4, 5, 6]
        assert all(dataset[name].attrs["units"] for name in dataset.variables)
        assert dataset.attrs["recipe"] == dict(NavierStokesStore(DATA).recipe)
        assert {"equation", "units", "versions"} <= set(dataset.attrs)
        initial = gaussian_fields(16, split, range(count), seed=7)
        assert np.array_equal(dataset.a.values, initial.astype(np.float32))
        assert np.isfinite(dataset.u.values).all()


def test_any_order_and_a_second_time_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    spec = NavierStokesStore(DATA)
    other = build(spec, tmp_path / "other", order=[3, 1, 1, 0, 2, 0])
    assert digests(other) == digests(built)


def test_parts_own_different_files(tmp_path: Path) -> None:
    spec = NavierStokesStore(DATA)
    spec.create(tmp_path)
    owner: dict[str, int] = {}
    for part in range(spec.parts):
        before = digests(tmp_path)
        spec.build_part(tmp_path, part)
        after = digests(tmp_path)
        assert {name: after[name] for name in before} == before
        for name in after.keys() - before.keys():
            assert owner.setdefault(name, part) == part
    assert len(owner) == 2 * (18 + 2 + 3)  # one chunk of u and one of a for every trajectory


def test_a_trajectory_does_not_depend_on_how_many_there_are(built: Path, tmp_path: Path) -> None:
    fewer = build(NavierStokesStore(replace(DATA, train=3, val=1, test=1)), tmp_path / "fewer")
    for split in SPLITS:
        few, many = (xr.open_zarr(str(folder), group=split, consolidated=False).u.values for folder in (fewer, built))
        assert np.array_equal(few, many[: len(few)])


@pytest.mark.parametrize("limit", [0, 2**31])
def test_windows(built: Path, limit: int) -> None:
    trajectories = open_trajectories(DATA, built, "train", memory_limit=limit)
    assert trajectories.in_memory == (limit > 0)
    assert (trajectories.num_samples, trajectories.frames, trajectories.resolution) == (18, 6, 16)
    assert trajectories.num_bytes == 18 * 6 * 16 * 16 * 4
    u = xr.open_zarr(str(built), group="train", consolidated=False).u.values
    for sample, start, length in [(0, 0, 6), (17, 2, 3), (4, 5, 1)]:
        window = trajectories.window(sample, start, length)
        assert window.dtype == np.float32
        assert np.array_equal(window, u[sample, start : start + length])
    for outside in [(18, 0, 1), (-1, 0, 1), (0, 2, 5), (0, -1, 2), (0, 0, 0)]:
        with pytest.raises(IndexError):
            trajectories.window(*outside)


def test_statistics_of_the_training_set(built: Path, store: Path) -> None:
    u = xr.open_zarr(str(built), group="train", consolidated=False).u.values.astype(np.float64)
    attributes = zarr.open_group(str(built / "statistics"), mode="r").attrs.asdict()
    assert attributes["mean"] == pytest.approx(u.mean(), abs=1e-12)
    assert attributes["std"] == pytest.approx(u.std(), rel=1e-9)
    stored = open_trajectories(DATA, built, "test").climatology
    assert stored.shape == (1, 16, 16)
    assert np.allclose(stored, u.mean((0, 1)), atol=1e-7)
    shutil.rmtree(store / "statistics")  # a user's store has none
    assert np.allclose(open_trajectories(DATA, store, "test").climatology, stored, atol=1e-7)


def test_a_users_own_store(tmp_path: Path) -> None:
    """Version 2 of zarr, float64, chunks across samples, more of everything than is asked for."""
    values = np.random.default_rng(0).standard_normal((9, 8, 1, 16, 16))
    for split in SPLITS:
        dataset = xr.Dataset({"u": (("sample", "time", "dim", "height", "width"), values)})
        dataset.to_zarr(
            str(tmp_path), group=split, zarr_format=2, encoding={"u": {"chunks": (4, 8, 1, 16, 16)}}, consolidated=False
        )
    own = replace(DATA, source="path", path=str(tmp_path), train=9)
    trajectories = open_trajectories(own, str(tmp_path), "train")
    assert (trajectories.num_samples, trajectories.frames) == (9, 6)
    assert np.array_equal(trajectories.window(8, 1, 5), values[8, 1:6].astype(np.float32))
    assert np.allclose(trajectories.climatology, values.mean((0, 1)), atol=1e-7)
    assert len(fingerprint(tmp_path)) == 64


def rewrite(change: Callable[[xr.Dataset], xr.Dataset]) -> Callable[[Path], None]:
    """Damage: the training group, changed and written anew."""

    def damage(store: Path) -> None:
        dataset = change(xr.open_zarr(str(store), group="train", consolidated=False).load())
        for variable in dataset.variables.values():
            variable.encoding.clear()
        shutil.rmtree(store / "train")
        dataset.to_zarr(str(store), group="train", consolidated=False, zarr_format=3)

    return damage


def chunk(store: Path, sample: int) -> Path:
    return store / "train" / "u" / "c" / str(sample) / "0" / "0" / "0" / "0"


def truncate(store: Path) -> None:
    data = chunk(store, 5).read_bytes()
    chunk(store, 5).write_bytes(data[: len(data) // 2])


def flip_a_bit(store: Path) -> None:
    data = bytearray(chunk(store, 5).read_bytes())
    data[1000] ^= 4
    chunk(store, 5).write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda store: shutil.rmtree(store), "there is no such data store"),
        (lambda store: shutil.rmtree(store / "train"), "no readable group 'train'"),
        (lambda store: shutil.rmtree(store / "train" / "u"), "variable 'u' is missing; the group has a, dim, height"),
        (lambda store: (store / "train" / "u" / "zarr.json").write_text("{"), "'train'"),
        (rewrite(lambda d: d.transpose("time", "sample", ...)), "variable 'u' has dimensions time, sample, dim"),
        (rewrite(lambda d: d.squeeze("dim", drop=True)), "variable 'u' has dimensions sample, time, height, width"),
        (rewrite(lambda d: d.assign(u=d.u.astype("int32"))), "variable 'u' holds int32"),
        (rewrite(lambda d: d.isel(sample=slice(17))), "variable 'u' has 17 samples, data.train asks for 18"),
        (rewrite(lambda d: d.isel(sample=slice(0))), "variable 'u' is empty"),
        (rewrite(lambda d: d.isel(time=slice(4))), "variable 'u' has 4 frames, data.sequence asks for 5"),
        (rewrite(lambda d: d.isel(width=slice(8))), "variable 'u' has 16 x 8 points, data.resolution is 16"),
        (rewrite(lambda d: d.isel(dim=[0, 0])), "variable 'u' has 2 components"),
    ],
)
def test_what_cannot_be_opened(store: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(store)
    with pytest.raises(DataError) as caught:
        open_trajectories(DATA, store, "train")
    assert says in caught.value.what
    assert str(store) in caught.value.where
    assert caught.value.next_step


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
@pytest.mark.parametrize("limit", [0, 2**31])
def test_a_damaged_chunk_is_named(store: Path, damage: Callable[[Path], None], limit: int) -> None:
    damage(store)
    with pytest.raises(DataError, match="variable 'u' cannot be read, a chunk is damaged") as caught:
        open_trajectories(DATA, store, "train", memory_limit=limit).window(5, 0, 5)
    assert "(train, sample 5)" in caught.value.where


@pytest.mark.parametrize("limit", [0, 2**31])
def test_values_that_are_not_finite_are_named(store: Path, limit: int) -> None:
    chunk(store, 3).unlink()
    trajectories = open_trajectories(DATA, store, "train", memory_limit=limit)
    assert np.isfinite(trajectories.window(2, 0, 5)).all()
    with pytest.raises(DataError, match="not finite in sample 3"):
        trajectories.window(3, 0, 5)
