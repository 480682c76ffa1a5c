"""Runs that another run reads: before it, part of its identity, and a clear word where they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.inputs import input_folder, weights
from results.errors import ResultError, RunError
from results.rows import read_row
from results.runfolder import RunFolder
from results.store import read_json
from tests.support import Workplace

READER = ("system=faulty", "scale=tiny", "variant=reader", "tracker=none")
BASE = ("system=faulty", "scale=tiny", "variant=healthy", "tracker=none")


def score(workplace: Workplace, folder: RunFolder) -> float:
    return sum(float(value.abs().sum()) for value in weights(folder).values())


def test_an_input_runs_first_and_once(workplace: Workplace) -> None:
    (row,) = workplace.json("run", *READER)
    assert row["status"] == "completed"
    base, reader = sorted(workplace.runs(), key=lambda folder: "reader" in folder.name)
    assert base.is_completed()
    assert row["metrics"]["score"] == pytest.approx(score(workplace, base))
    assert read_json(reader.path / "run.json")["inputs"] == {"base": base.name}
    assert input_folder(reader, "base").path == base.path
    # What the reader reads is the run that somebody would type, and it is not run again.
    (again,) = workplace.json("run", *BASE)
    assert (again["run"], len(base.attempts())) == (base.name, 1)
    with pytest.raises(RunError, match="no input 'other'"):
        input_folder(reader, "other")


def test_another_input_is_another_run(workplace: Workplace) -> None:
    """Whatever the base is trained with is part of the reader's identity."""
    names = {
        workplace.json("plan", *READER, *words)[-1]["run"] for words in ((), ("train.lr=0.5",), ("seed=1",), ("data.reads=nan",))
    }
    assert len(names) == 4


def test_a_study_makes_what_its_points_read(workplace: Workplace) -> None:
    workplace.tenfold("sweep", *READER, "seed=0,1")
    rows = [read_row(folder) for folder in workplace.runs()]
    assert sorted((row["variant"], row["seed"], row["status"]) for row in rows) == [
        ("healthy", 0, "completed"), ("healthy", 1, "completed"), ("reader", 0, "completed"), ("reader", 1, "completed"),
    ]  # fmt: skip


def test_a_failed_input_fails_its_reader_and_is_named(workplace: Workplace) -> None:
    workplace.tenfold("sweep", *READER, "data.reads=raising", expect=1)
    (reader,) = [folder for folder in workplace.runs() if "reader" in folder.name]
    failure = reader.attempts()[-1].failure()
    assert failure is not None
    assert "the input 'base' is not complete" in failure["reason"]
    assert "raising" in failure["reason"]


def test_weights_of_a_sharded_run(workplace: Workplace) -> None:
    """The same parameters, by name, whatever engine has trained them."""
    whole = workplace.json("run", *BASE, "keep=last")[0]["run"]
    sharded = workplace.json("run", *BASE, "keep=last", "engine=zero2")[0]["run"]
    found = [weights(RunFolder(workplace.path / "runs" / name)) for name in (whole, sharded)]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5)


def test_a_run_without_checkpoint_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="kept no checkpoint"):
        weights(RunFolder(tmp_path))


def test_a_profiled_point_is_planned_by_its_system(workplace: Workplace) -> None:
    base, plan = workplace.json("plan", *READER)
    assert (base["variant"], plan["variant"]) == ("healthy", "reader")
    assert (plan["params"], plan["train_s"], plan["step_parts_s"]) == (7, 2.5, {"read": 2.5})
    assert plan["fits"] is True
