"""The checker finds each kind of damage, by name, and is silent on a sound run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr

from results.check import check_run, check_runs
from results.runfolder import RunFolder
from tests.results.fixtures import write_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A sound, completed run."""
    return RunFolder(tmp_path / write_run(tmp_path, 0, "grid", "fno2d", "5k", 0, "torch", 1, steps=5, series=True))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


def test_sound_runs_have_no_problem(folder: RunFolder) -> None:
    write_run(folder.path.parent, 1, "grid", "convlstm", "50k", 1, "torch", 1, steps=6)  # a failed one
    found = check_runs(folder.path.parent)
    assert len(found) == 2
    assert all(problems == [] for problems in found.values())


RECORD: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r.update(schema=7), "schema version 7"),
    (lambda r: r.update(identity=""), "carries no identity"),
    (lambda r: r.update(identity="f" * 64), "is not that of the folder's name"),
    (lambda r: r.update(run="other"), "belongs to run 'other'"),
    (lambda r: r["metrics"]["step_s"].update(value=-1.0), "'step_s' is negative"),
    (lambda r: r["metrics"]["step_s_p5"].update(value=9.0), "out of order"),
    (lambda r: r["metrics"].pop("peak_gib"), "'peak_gib' is missing"),
    (lambda r: r["attempts"].append({"attempt": 1}), "has 2 attempts, the folder 1"),
    (lambda r: r.update(seed=9), "says seed 9, config.yaml says 0"),
    (
        lambda r: r.update(status="failed", failure={"class": "crash", "reason": "x", "next_step": "y"}),
        "says failed, the attempts say completed",
    ),
]


@pytest.mark.parametrize(("change", "text"), RECORD, ids=[text for _, text in RECORD])
def test_wrong_records(folder: RunFolder, change: Callable[[dict[str, Any]], Any], text: str) -> None:
    edit(folder.record_file, change)
    assert [problem for problem in check_run(folder) if text in problem]


def test_torn_and_missing_files(folder: RunFolder) -> None:
    attempt = folder.path / "attempt-0"
    (attempt / "env.json").write_text('{"host": ')
    (folder.path / ".record.json.abc.tmp").write_text("{")
    text = (attempt / "steps" / "0.jsonl").read_text().splitlines()
    (attempt / "steps" / "0.jsonl").write_text("\n".join([*text[:-1], text[-1][:9]]))
    (folder.path / "record.json").unlink()
    assert check_run(folder) == [
        "attempt-0/env.json is damaged",
        "left over from a killed writer: .record.json.abc.tmp",
        "attempt-0: steps/0.jsonl:5 is damaged",
        "an attempt completed, but record.json is missing",
    ]
    (folder.path / "record.json").write_text("{")
    assert any("record.json is damaged" in problem for problem in check_run(folder))


def test_a_torn_last_line_of_a_killed_rank_is_no_problem(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / write_run(tmp_path, 1, "grid", "convlstm", "50k", 1, "torch", 1, steps=6))
    steps = folder.path / "attempt-0" / "steps" / "0.jsonl"
    steps.write_text(steps.read_text() + '{"step": 3, "lo')
    assert check_run(folder) == []
    steps.write_text(steps.read_text() + '\n{"step": 4, "loss": 1.0}\n')
    assert check_run(folder) == ["attempt-0: steps/0.jsonl:4 is damaged"]


@pytest.mark.parametrize(
    ("line", "text"),
    [('{"step": 2, "loss": 1.0}', "step 2 comes after step 4"), ('{"step": 5, "step_s": -0.1}', "step_s is negative")],
)
def test_wrong_steps(folder: RunFolder, line: str, text: str) -> None:
    with (folder.path / "attempt-0" / "steps" / "0.jsonl").open("a") as stream:
        stream.write(line + "\n")
    assert check_run(folder) == [f"attempt-0: steps/0.jsonl:6: {text}"] or [p for p in check_run(folder) if text in p]


def test_phases_beyond_the_total(folder: RunFolder) -> None:
    edit(folder.path / "attempt-0" / "ranks" / "0.json", lambda plain: plain["phases_s"].update(load=-1.0, evaluate=1e3))
    found = check_run(folder)
    assert "attempt-0: ranks/0.json: phase 'load' is negative" in found
    assert [problem for problem in found if "s of a total of" in problem]


def test_series(folder: RunFolder, tmp_path: Path) -> None:
    group = zarr.open_group(str(folder.series), mode="r+")["attempt-0"]
    group.create_array("loss", shape=(3, 5), dtype="float64", overwrite=True)  # type: ignore[union-attr]
    found = check_run(folder)
    assert "series.zarr/attempt-0: arrays have different shapes" in found
    assert any("has shape (3, 5) for 1 ranks" in problem for problem in found)
    bare = RunFolder(tmp_path / write_run(tmp_path, 2, "grid", "unet", "5k", 0, "torch", 1, steps=5))
    assert check_run(bare) == ["series.zarr is missing"]
    bare.series.mkdir()
    assert any("series.zarr cannot be opened" in problem for problem in check_run(bare))


def test_configuration(folder: RunFolder) -> None:
    folder.config_file.write_text("system: dlwp\n")
    assert "config.yaml lacks 'variant'" in check_run(folder)
    folder.config_file.unlink()
    assert check_runs(folder.path.parent) == {folder.name: ["config.yaml is missing"]}
    assert check_runs(folder.path / "nowhere") == {}
