"""Rows of runs in every state, and the speed of reading them."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from results.errors import ConfigError, ResultError
from results.rows import collect_rows, load_samples, select, value
from results.standing import Standing, Word
from tests.results.fixtures import PERSISTENCE, Synthetic, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One completed run in a root of its own."""
    return tmp_path / write_run(tmp_path, 0, "grid", "fno2d", "5k", 0, "torch", 1, steps=5)


def only(root: Path) -> dict[str, Any]:
    (row,) = collect_rows(root)
    return row


def test_row_has_the_public_shape(run: Path) -> None:
    row = only(run.parent)
    assert set(row) == {
        "run", "system", "variant", "size", "scale", "seed", "repeat", "engine", "ranks", "site", "data", "status", "attempts",
        "shared_with", "timing_valid", "failure", "metrics", "protocol", "recipe",
    }  # fmt: skip
    assert (row["status"], row["variant"], row["size"], row["engine"], row["data"]) == (
        "completed",
        "fno2d",
        "5k",
        "torch",
        "generated",
    )
    assert row["attempts"] == 1
    assert value(row, "persistence_rmse") == PERSISTENCE
    assert value(row, "no_such_metric") is None
    assert json.loads(json.dumps(row)) == row


def test_study_order_stage_and_missing_folder(study: Synthetic) -> None:
    index = {
        **study.index,
        "runs": [*study.index["runs"][::-1], {"run": "dlwp-unet-small-00000000", "stage": "grid", "arm": "late"}],
    }
    found = collect_rows(study.runs, index=index)
    assert [row["run"] for row in found] == [entry["run"] for entry in index["runs"]]
    assert found[0]["stage"] == "engines"
    assert (found[-1]["status"], found[-1]["variant"], found[-1]["attempts"]) == ("pending", "unet", 0)


def test_what_has_no_folder_is_named_by_its_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["system=dlwp", "variant=unet", "size=20k", "seed=3", "scale=small"]
    names = ["dlwp-unet-small-00000000", "dlwp-unet-small-00000001"]
    index = {
        "name": "late",
        "runs": [{"run": names[0], "overrides": overrides, "left_out": "too long"}, {"run": names[1], "overrides": overrides}],
    }
    planned, queued = collect_rows(tmp_path, index=index, words={names[1]: Word(Standing.QUEUED, "job 7")})
    for row in (planned, queued):
        assert (row["variant"], row["size"], row["seed"], row["ranks"]) == ("unet", "20k", 3, None)
    assert (planned["status"], planned["detail"]) == ("planned", "too long")
    assert (queued["status"], queued["detail"]) == ("queued", "job 7")

    (tmp_path / "reports" / "late").mkdir(parents=True)
    (tmp_path / "reports" / "late" / "study.json").write_text(json.dumps(index))
    assert main(["status", "study=late", f"paths.runs={tmp_path}", f"paths.reports={tmp_path / 'reports'}"]) == 0
    assert "pending     20k seed 3 -  " in capsys.readouterr().out


def test_failed_run_names_class_rank_and_next_command(rows: list[dict[str, Any]]) -> None:
    (row,) = select(rows, {"status": "failed"})
    assert row["failure"]["class"] == "oom-host"
    assert row["failure"]["rank"] == 0
    assert row["failure"]["next_step"].startswith("tenfold ")


@pytest.mark.parametrize("text", ["", '{"schema": 1', "[]", '{"schema": 99}', "\x00\xff"])
def test_damaged_record_is_a_row(run: Path, text: str) -> None:
    (run / "record.json").write_text(text)
    row = only(run.parent)
    assert row["status"] == "damaged"
    assert (row["variant"], row["size"], row["seed"], row["engine"], row["site"]) == ("fno2d", "5k", 0, "torch", "local")
    assert row["failure"]["class"] == "bad-input"
    assert "doctor" in row["failure"]["next_step"]
    assert row["metrics"] == {}


def test_damaged_record_and_config_is_still_a_row(run: Path) -> None:
    (run / "record.json").write_text("{")
    (run / "config.yaml").write_text("a: [1\nb: }")
    row = only(run.parent)
    assert (row["status"], row["system"], row["variant"], row["scale"]) == ("damaged", "dlwp", "fno2d", "small")


def test_missing_record_is_read_from_the_attempts(run: Path) -> None:
    before = only(run.parent)
    (run / "record.json").unlink()
    assert only(run.parent) == before
    (run / "attempt-0" / "outcome.json").unlink()
    row = only(run.parent)
    assert (row["status"], row["failure"]["class"]) == ("failed", "node-fail")  # an attempt that left no word


def test_run_held_by_another_process_is_running(run: Path) -> None:
    code = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code, str(run / "run.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == b"held\n"
        assert only(run.parent)["status"] == "completed"  # what is completed stays so
        (run / "record.json").unlink()
        assert only(run.parent)["status"] == "running"
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
    with (run / "run.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_select(rows: list[dict[str, Any]]) -> None:
    found = select(rows, {"variant": "fno2d,tfno2d", "size": "5k", "stage": "grid"})
    assert {(row["variant"], row["size"]) for row in found} == {("fno2d", "5k"), ("tfno2d", "5k")}
    assert len(found) == 4
    assert len(select(rows, {"engine": "zero*"})) == 4
    assert select(rows, {"failure": "oom-*"}) == select(rows, {"status": "failed"})
    assert select(rows, {"seed": "2", "variant": "convlstm"}) == []
    with pytest.raises(ConfigError, match="did you mean 'variant'"):
        select(rows, {"varient": "unet"})


def test_samples(run: Path) -> None:
    row = only(run.parent)
    samples = load_samples(row, run.parent)
    assert samples["rmse_squared"].mean() ** 0.5 == pytest.approx(row["metrics"]["rmse"], rel=1e-12)
    path = run / "samples.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ResultError, match="damaged"):
        load_samples(row, run.parent)
    path.unlink()
    assert load_samples(row, run.parent) == {}


def test_two_thousand_records_in_five_seconds_without_heavy_imports(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for number in range(2000):
        folder = root / f"dlwp-fno2d-small-{number:08x}"
        folder.mkdir()
        for name in ("record.json", "config.yaml"):
            shutil.copyfile(run / name, folder / name)
    code = (
        "import sys, time; from pathlib import Path; from results.rows import collect_rows; t = time.perf_counter();"
        "rows = collect_rows(Path(sys.argv[1])); print(len(rows), time.perf_counter() - t);"
        "heavy = {'numpy', 'torch', 'xarray', 'zarr', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    )
    began = time.perf_counter()
    out = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert int(out[0]) == 2000
    assert float(out[1]) < 5
    assert time.perf_counter() - began < 10
