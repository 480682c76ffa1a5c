"""A user's trajectories in netCDF, named for their splits or as the published generator names them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from models.dlwp.config import Data
from models.dlwp.trajectories import DIMS, open_trajectories
from results.errors import DataError

DATA = Data(source="path", resolution=8, frames=6, train=5, val=2, test=3, context=2, teacher_forcing=2, sequence=5)
PUBLISHED = {"train": "ns_r1e+03_n5_t6_s8.nc", "val": "ns_r1e+03_n2_t6_s8.nc", "test": "ns_r1e+03_n3_t6_s8.nc"}


def field(split: str) -> np.ndarray:
    samples = getattr(DATA, split)
    return np.random.default_rng(samples).standard_normal((samples, 6, 1, 8, 8)).astype(np.float32)


def write(folder: Path, names: dict[str, str]) -> Path:
    folder.mkdir()
    for split, name in names.items():
        xr.Dataset({"u": (DIMS, field(split))}).to_netcdf(folder / name, engine="h5netcdf")
    return folder


@pytest.mark.parametrize("names", [PUBLISHED, {split: f"{split}.nc" for split in PUBLISHED}])
@pytest.mark.parametrize("memory_limit", [0, 2**20])
def test_values_and_climatology(tmp_path: Path, names: dict[str, str], memory_limit: int) -> None:
    folder = write(tmp_path / "data", names)
    for split in PUBLISHED:
        found = open_trajectories(DATA, folder, split, memory_limit=memory_limit)
        assert (found.num_samples, found.frames, found.in_memory) == (getattr(DATA, split), 6, memory_limit > 0)
        np.testing.assert_array_equal(found.window(1, 1, 4), field(split)[1, 1:5])
        np.testing.assert_allclose(found.climatology, field("train").mean((0, 1)), atol=1e-6)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", PUBLISHED)
    with pytest.raises(DataError, match=r"no file has the 4 samples of data.test; there is ns_r1e\+03_n2"):
        open_trajectories(replace(DATA, test=4), folder, "test")
    (folder / "copy_n3_.nc").write_bytes((folder / PUBLISHED["test"]).read_bytes())
    with pytest.raises(DataError, match="2 files have the 3 samples"):
        open_trajectories(DATA, folder, "test")
    cut = folder / PUBLISHED["train"]
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(DataError, match="not a readable netCDF file") as caught:
        open_trajectories(DATA, folder, "train")
    assert PUBLISHED["train"] in str(caught.value.where)
