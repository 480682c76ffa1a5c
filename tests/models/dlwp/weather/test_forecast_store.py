"""Forecasts written and read back, stores that do not fit, and weights of other models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.dlwp.backbones import build
from models.dlwp.weather import forecast_store
from models.dlwp.weather.config import Data, fields, model_preset
from models.dlwp.weather.forecast_store import ForecastStore
from models.dlwp.weather.forecasting import BLOCK_STEPS
from models.dlwp.weather.grid import Grid, equiangular, gaussian
from models.dlwp.weather.rollout import ForecastModel
from models.dlwp.weather.weights import load_weights
from results.errors import DataError

IDS = ("t850", "u10", "z500")
GRID = equiangular(4)
TIMES = np.array(["2017-01-01", "2017-01-04", "2018-12-29"], "datetime64[ns]")
STEPS = 11
MADE = np.random.default_rng(0).standard_normal((3, STEPS, 3, *GRID.shape)).astype(np.float32)


def write(folder: Path, grid: Grid = GRID, ids: tuple[str, ...] = IDS, order: tuple[int, ...] = (2, 0, 1)) -> Path:
    """The forecasts one after the other, as several ranks might, block by block."""
    forecast_store.create(folder, TIMES, STEPS, ids, grid)
    for date in order:
        blocks = [
            (before, torch.from_numpy(MADE[[date], before : before + BLOCK_STEPS])) for before in range(0, STEPS, BLOCK_STEPS)
        ]
        passed = list(forecast_store.keep(iter(blocks), folder, [date], ids, STEPS))
        assert [before for before, _ in passed] == [0, BLOCK_STEPS]
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("forecasts") / "forecast.zarr")


def test_what_was_written_is_read(store: Path) -> None:
    opened = ForecastStore(store, IDS, GRID)
    assert opened.steps == STEPS
    assert opened.times.tolist() == TIMES.tolist()
    for date, time in enumerate(TIMES):
        found = opened.read(time, 0, STEPS)
        assert found.dtype == np.float32
        assert np.array_equal(found, MADE[date])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2), st.integers(0, STEPS - 1), st.data())
def test_any_part_of_any_channels(store: Path, date: int, before: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, STEPS - before))
    ids = tuple(data.draw(st.permutations(IDS)))[: data.draw(st.integers(1, 3))]
    found = ForecastStore(store, ids, GRID).read(TIMES[date], before, count)
    assert np.array_equal(found, MADE[date, before : before + count][:, [IDS.index(name) for name in ids]])


def test_it_is_laid_out_as_weatherbench_2_lays_out_forecasts(store: Path) -> None:
    """Starts, and leads as times; every forecast in chunks of its own."""
    with xr.open_zarr(str(store), chunks=None, decode_timedelta=True) as data:
        assert set(data.data_vars) == set(IDS)
        assert data["z500"].dims == ("time", "prediction_timedelta", "latitude", "longitude")
        leads = data["prediction_timedelta"].values.astype("timedelta64[h]").astype(int)
        assert leads.tolist() == [6 * (step + 1) for step in range(STEPS)]
        assert np.array_equal(data["time"].values.astype("datetime64[ns]"), TIMES)
        assert data["z500"].attrs["units"] == "m**2 s**-2"
    group = zarr.open_group(str(store), mode="r")
    assert group["z500"].chunks == (1, STEPS, *GRID.shape)
    assert (store / ".zmetadata").exists()


@pytest.mark.parametrize(("steps", "shape", "chunk"), [(11, (4, 8), 11), (1460, (32, 64), 128), (1460, (721, 1440), BLOCK_STEPS)])
def test_chunks_are_whole_blocks_and_neither_many_nor_large(steps: int, shape: tuple[int, int], chunk: int) -> None:
    assert forecast_store.chunk_steps(steps, shape) == chunk


def test_a_long_rollout_is_written_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks a chunk, the last one cut off: what is on disk grows with the rollout and is whole at its end."""
    monkeypatch.setattr(forecast_store, "CHUNK_BYTES", 4 * GRID.shape[0] * GRID.shape[1] * 2 * BLOCK_STEPS)
    steps = 5 * BLOCK_STEPS + 3
    made = np.random.default_rng(1).standard_normal((1, steps, 3, *GRID.shape)).astype(np.float32)
    folder = tmp_path / "rollout.zarr"
    forecast_store.create(folder, TIMES[:1], steps, IDS, GRID)
    blocks = ((before, torch.from_numpy(made[:, before : before + BLOCK_STEPS])) for before in range(0, steps, BLOCK_STEPS))
    chunks = []
    for _ in forecast_store.keep(blocks, folder, [0], IDS, steps):
        chunks.append(len([path for path in (folder / "z500").iterdir() if not path.name.startswith(".")]))
    assert chunks == [0, 1, 1, 2, 2, 3]
    assert np.array_equal(ForecastStore(folder, IDS, GRID).read(TIMES[0], 0, steps), made[0])


def test_the_order_of_writing_does_not_matter(store: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.zarr", order=(0, 1, 2))
    files = [path.relative_to(store) for path in sorted(store.rglob("*")) if path.is_file()]
    assert files == [path.relative_to(other) for path in sorted(other.rglob("*")) if path.is_file()]
    assert all((store / name).read_bytes() == (other / name).read_bytes() for name in files)


def turned(store: Path, folder: Path, turn: Callable[[xr.Dataset], xr.Dataset]) -> Path:
    with xr.open_zarr(str(store), chunks=None, decode_timedelta=True) as data:
        made = turn(data.load())
    for variable in made.variables.values():
        variable.encoding.clear()
    made.to_zarr(str(folder), zarr_format=2, consolidated=True)
    return folder


@pytest.mark.parametrize(
    "turn",
    [
        lambda data: data.isel(latitude=slice(None, None, -1)),
        lambda data: data.transpose("longitude", "latitude", "prediction_timedelta", "time"),
        lambda data: data.assign_coords(longitude=(data.longitude + 180) % 360 - 180).sortby("longitude"),
        lambda data: data.isel(time=[2, 0, 1]),
        lambda data: data.astype("float64"),
    ],
)
def test_a_users_forecasts_turned_every_way(store: Path, tmp_path: Path, turn: Callable[[xr.Dataset], xr.Dataset]) -> None:
    opened = ForecastStore(turned(store, tmp_path / "turned.zarr", turn), IDS, GRID)
    for date, time in enumerate(TIMES):
        assert np.array_equal(opened.read(time, 3, 5), MADE[date, 3:8])


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (lambda data: data.isel(latitude=slice(1, None)), "latitudes are not those of the grid of 4 x 8.*3 values"),
        (lambda data: data.assign_coords(latitude=data.latitude + 1), "latitudes are not those .*-66.5 instead of -67.5"),
        (lambda data: data.isel(longitude=slice(4)), "longitudes are not those .*4 values"),
        (lambda data: data.assign_coords(longitude=data.longitude + 2), "longitudes are not those .*2 instead of 0"),
        (lambda data: data.drop_vars("u10"), "it lacks u10"),
        (lambda data: data.drop_vars(["t850", "z500"]), "it lacks t850, z500"),
        (lambda data: data.rename(time="init"), "it lacks time"),
        (lambda data: data.isel(prediction_timedelta=slice(1, None)), "its leads are not 6, 12, 18 hours"),
        (lambda data: data.isel(prediction_timedelta=slice(None, None, 2)), "its leads are not 6, 12, 18 hours"),
    ],
)
def test_stores_that_do_not_fit(store: Path, tmp_path: Path, turn: Callable[[xr.Dataset], xr.Dataset], message: str) -> None:
    other = turned(store, tmp_path / "other.zarr", turn)
    with pytest.raises(DataError, match=message) as caught:
        ForecastStore(other, IDS, GRID)
    assert caught.value.where == str(other)


def test_another_kind_of_grid_of_the_same_size(store: Path) -> None:
    with pytest.raises(DataError, match="not those of the grid of 4 x 8 Gaussian"):
        ForecastStore(store, IDS, gaussian(4))


def test_what_is_missing_or_damaged_is_named(store: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no forecast from 2017-01-08T00") as caught:
        ForecastStore(store, IDS, GRID).read(np.datetime64("2017-01-08", "ns"), 0, 1)
    assert (caught.value.where, caught.value.next_step) == (str(store), "check data.rate")
    with pytest.raises(DataError, match="there is no readable forecast store"):
        ForecastStore(tmp_path / "nowhere.zarr", IDS, GRID)
    damaged = write(tmp_path / "damaged.zarr")
    chunk = damaged / "z500" / "1.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:3])
    opened = ForecastStore(damaged, IDS, GRID)
    assert np.array_equal(opened.read(TIMES[0], 0, 8), MADE[0, :8])
    with pytest.raises(DataError, match="a chunk cannot be read"):
        opened.read(TIMES[1], 0, 8)


DATA = Data(latitudes=16, nside=4)


def model_of(variant: str, seed: int = 0) -> ForecastModel:
    torch.manual_seed(seed)
    return ForecastModel(build(model_preset(variant, "5k", "tiny"), fields(DATA, variant)), context=1)


def numbers(model: ForecastModel) -> list[NDArray[np.float32]]:
    return [parameter.detach().numpy() for parameter in model.parameters()]


@pytest.mark.parametrize("variant", ["sfno", "convlstm", "graphcast"])
@pytest.mark.parametrize("backbone_only", [False, True])
def test_weights_of_the_whole_model_or_of_its_backbone(tmp_path: Path, variant: str, backbone_only: bool) -> None:
    trained = model_of(variant)
    torch.save((trained.backbone if backbone_only else trained).state_dict(), tmp_path / "weights.pt")
    loaded = load_weights(model_of(variant, seed=1), tmp_path / "weights.pt")
    assert isinstance(loaded, ForecastModel)
    assert all(map(np.array_equal, numbers(loaded), numbers(trained)))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda: model_of("unet").state_dict(), "parameter 'backbone.blocks.0.contract.bias' is missing"),
        (
            lambda: {name: t for name, t in model_of("sfno").state_dict().items() if not name.endswith("decoder.weight")},
            "parameter 'backbone.decoder.weight' is missing",
        ),
        (
            lambda: model_of("sfno").state_dict() | {"backbone.decoder.bias": torch.zeros(8)},
            "parameter 'backbone.decoder.bias' belongs to another model",
        ),
        (
            lambda: model_of("sfno").state_dict() | {"backbone.encoder.weight": torch.zeros(10, 22)},
            r"parameter 'backbone.encoder.weight' has shape \(10, 22\) instead of \(10, 13\)",
        ),
        (lambda: {"model": model_of("sfno").state_dict(), "step": 3}, "parameter 'backbone.blocks.0.contract.bias' is missing"),
        (lambda: [1, 2], "the file holds no state dictionary"),
    ],
)
def test_weights_of_another_model_name_the_first_difference(tmp_path: Path, saved: Callable[[], object], message: str) -> None:
    torch.save(saved(), tmp_path / "weights.pt")
    model = model_of("sfno")
    before = [values.copy() for values in numbers(model)]
    with pytest.raises(DataError, match=message) as caught:
        load_weights(model, tmp_path / "weights.pt")
    assert caught.value.where == str(tmp_path / "weights.pt")
    assert all(map(np.array_equal, numbers(model), before))


@pytest.mark.parametrize("content", [None, b"", b"no weights at all"])
def test_files_that_hold_no_weights(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="the weights cannot be read") as caught:
        load_weights(model_of("unet"), path)
    assert caught.value.next_step == "check data.rate"
