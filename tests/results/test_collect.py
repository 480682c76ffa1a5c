"""The collected dataset: values, labels, units, atomic writing, speed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from results.collect import collect_dataset, write_dataset
from results.errors import ResultError
from results.metrics import Direction, MetricSpec
from results.rows import collect_rows
from results.runfolder import RunFolder
from results.series import read_run_steps
from tests.results.fixtures import Synthetic, write_run

Rows = list[dict[str, Any]]


def test_values_labels_and_units(rows: Rows, study: Synthetic) -> None:
    specs = {"rmse": MetricSpec("rmse", "1/s", Direction.MIN, "closed-loop RMSE")}
    found = collect_dataset(rows, study.runs, specs=specs)
    assert dict(found.sizes) == {"run": 42, "step": 60}
    for place, row in enumerate(rows):
        one = found.isel(run=place)
        assert (one["variant"], one["size"], one["seed"], one["stage"]) == (
            row["variant"],
            row["size"],
            row["seed"],
            row["stage"],
        )
        expected = row["metrics"].get("rmse", np.nan)
        np.testing.assert_array_equal(one["rmse"], expected)
        loss = read_run_steps(RunFolder(study.runs / row["run"]))["loss"]
        np.testing.assert_array_equal(one["loss"][: len(loss)], loss)
        assert np.isnan(one["loss"][len(loss) :]).all()
    assert found["rmse"].attrs == {"units": "1/s", "direction": "min", "long_name": "closed-loop RMSE"}
    assert found["peak_gib"].attrs["units"] == "GiB"
    assert found["loss"].dims == ("run", "step")


@pytest.mark.filterwarnings("error")  # text columns must not be of a kind that zarr calls unstable
def test_round_trip_through_zarr_and_replacement(rows: Rows, study: Synthetic, tmp_path: Path) -> None:
    path = tmp_path / "table.zarr"
    found = collect_dataset(rows, study.runs)
    write_dataset(found.isel(run=slice(3)), path)
    write_dataset(found, path)
    assert (path / "zarr.json").exists(), "zarr format 3"
    with xr.open_zarr(path, consolidated=False) as back:
        xr.testing.assert_identical(back.load(), found)
    assert os.listdir(tmp_path) == ["table.zarr"]


def test_a_write_that_fails_leaves_the_old_store(
    rows: Rows, study: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.zarr"
    old = write_dataset(collect_dataset(rows[:3], study.runs), path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    with pytest.raises(ResultError, match="No space left"):
        write_dataset(collect_dataset(rows, study.runs), path)
    monkeypatch.undo()
    with xr.open_zarr(old, consolidated=False) as back:
        assert back.sizes["run"] == 3
    assert os.listdir(tmp_path) == ["table.zarr"]
    with pytest.raises(ResultError, match="cannot write"):
        write_dataset(collect_dataset(rows, study.runs), tmp_path / "nowhere" / "table.zarr")


def test_torn_lines_and_later_attempts(tmp_path: Path) -> None:
    run = tmp_path / write_run(tmp_path, 0, "grid", "fno2d", "5k", 0, "torch", 1, steps=6)
    steps = run / "attempt-0" / "steps" / "0.jsonl"
    lines = steps.read_text().splitlines()
    steps.write_text("\n".join(lines[:4]) + '\n{"step": 4, "lo')
    torn = collect_dataset(collect_rows(tmp_path), tmp_path)["loss"]
    assert torn.sizes["step"] == 4
    second = run / "attempt-1" / "steps"
    second.mkdir(parents=True)
    (second / "0.jsonl").write_text('{"step": 3, "loss": 7.0}\n{"step": 4, "loss": null}\n{"step": 5, "loss": 9.0}\n')
    joined = collect_dataset(collect_rows(tmp_path), tmp_path)["loss"].values[0]
    np.testing.assert_array_equal(joined[2:], [torn.values[0, 2], 7.0, np.nan, 9.0])


def test_no_rows_and_no_steps(rows: Rows, study: Synthetic, tmp_path: Path) -> None:
    empty = collect_dataset([], tmp_path)
    assert empty.sizes["run"] == 0
    assert "loss" not in collect_dataset(rows, study.runs, steps=False)


def test_two_thousand_records_with_their_steps(tmp_path: Path) -> None:
    first = tmp_path / write_run(tmp_path, 0, "grid", "fno2d", "5k", 0, "torch", 1, steps=40)
    root = tmp_path / "many"
    for number in range(2000):
        folder = root / f"dlwp-fno2d-small-{number:08x}"
        (folder / "attempt-0" / "steps").mkdir(parents=True)
        for name in ("record.json", "config.yaml", "attempt-0/steps/0.jsonl"):
            shutil.copyfile(first / name, folder / name)
    began = time.perf_counter()
    found = collect_dataset(collect_rows(root), root)
    write_dataset(found, tmp_path / "table.zarr")
    assert time.perf_counter() - began < 5
    assert np.isfinite(found["loss"]).all()
    assert dict(found.sizes) == {"run": 2000, "step": 40}
