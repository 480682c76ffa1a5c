"""Stores to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.models.dlwp.weather import samples


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same nine days in both layouts."""
    root, made = tmp_path_factory.mktemp("good"), samples.fields(samples.FEW)
    return {"wb1_netcdf": samples.write_wb1(root / "wb1", made), "wb2_zarr": samples.write_wb2(root / "wb2", made)}


@pytest.fixture
def wb1(good: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of WeatherBench 1."""
    return Path(shutil.copytree(good["wb1_netcdf"], tmp_path / "wb1"))


@pytest.fixture
def wb2(good: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of WeatherBench 2."""
    return Path(shutil.copytree(good["wb2_zarr"], tmp_path / "wb2"))
