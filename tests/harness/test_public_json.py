"""The shapes that programs read (``docs/cli.md``, public JSON version 1), on a real sweep. A change here is a new version."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.compose import Composer
from results.metrics import COMMON
from results.record import REQUIRED_WHEN_COMPLETED
from tests.harness.conftest import WORDS, Swept

ROW = {
    "run": str, "system": str, "variant": str, "size": str, "scale": str, "seed": int, "repeat": int, "engine": str, "ranks": int,
    "site": str, "data": str, "status": str, "attempts": int, "shared_with": int, "timing_valid": bool, "protocol": str,
    "recipe": str, "metrics": dict,
}  # fmt: skip
PLAN = {
    "run", "system", "variant", "size", "scale", "seed", "engine", "params", "flops_per_step", "ranks", "zero_stage",
    "published_gpu_memory_mb", "published_epoch_s",
    "bytes_per_rank", "base_bytes", "state_bytes", "activation_bytes", "buffer_bytes", "data_bytes", "step_s", "train_s",
    "node_hours", "fits", "fits_gpu", "stages", "global_batch", "micro_batch", "steps", "peak_flops_per_rank", "notes", "device",
    "host_bytes_per_rank", "fragmentation_bytes", "sent_bytes_per_step", "published_sent_bytes", "step_parts_s", "storage_bytes",
}  # fmt: skip
CLAIM = {"system", "claim", "scale", "statement", "source", "verdict", "effect", "low", "high", "bound", "detail"}
ACCURACY = {"rmse", "persistence_rmse", "climatology_rmse", "skill_ratio"}
Say = Callable[..., Any]


@pytest.fixture
def say(swept: Swept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """What a verb prints with ``--json``, typed in the swept folder; read as a strict reader would."""
    from harness.cli import main

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    def typed(*words: str, expect: int = 0) -> Any:
        assert main([*words, "--json"]) == expect
        return json.loads(capsys.readouterr().out, parse_constant=refuse)

    monkeypatch.chdir(swept.place.path)
    return typed


def is_type(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def check_row(row: dict[str, Any]) -> None:
    """What every row is, whatever its status."""
    for key, kind in ROW.items():
        assert is_type(row[key], kind), key
    assert set(row) - set(ROW) <= {"failure", "stage", "arm"}
    assert row["status"] in ("pending", "running", "completed", "failed", "damaged")
    for name, value in row["metrics"].items():
        assert value is None or is_type(value, int) or (is_type(value, float) and math.isfinite(value)), name


def test_table_is_an_array_of_rows(say: Say, swept: Swept) -> None:
    rows = say("table")
    assert isinstance(rows, list)
    assert [(row["variant"], row["seed"]) for row in sorted(rows, key=lambda row: (row["variant"], row["seed"]))] == [
        ("fno2d", 0), ("fno2d", 1), ("unet", 0), ("unet", 1),
    ]  # fmt: skip
    for row in rows:
        check_row(row)
        assert row["status"] == "completed"
        assert row["failure"] is None
        assert (row["size"], row["data"], row["site"], row["engine"], row["ranks"]) == ("5k", "generated", "local", "torch", 1)
        assert (row["attempts"], row["repeat"], row["timing_valid"]) == (1, 0, True)
        assert set(REQUIRED_WHEN_COMPLETED) | ACCURACY <= set(row["metrics"])
        assert all(row["metrics"][name] > 0 for name in {*REQUIRED_WHEN_COMPLETED, *ACCURACY})
        assert (swept.place.path / "runs" / row["run"] / "record.json").exists()
    assert say("status") == rows
    assert len({row["protocol"] for row in rows}) == 1  # trained alike
    assert len({(row["variant"], row["recipe"]) for row in rows}) == 2  # seeds may be averaged, variants may not


def test_metrics_of_a_row_are_consistent_with_each_other_and_with_the_record(say: Say, swept: Swept) -> None:
    for row in say("table"):
        metrics = row["metrics"]
        assert metrics["step_s_p5"] <= metrics["step_s"] <= metrics["step_s_p95"]
        assert metrics["skill_ratio"] == pytest.approx(metrics["rmse"] / metrics["persistence_rmse"])
        assert metrics["samples_per_s"] == pytest.approx(4 / metrics["step_s"])
        assert 0.5 < metrics["plan_peak_ratio"] < 2
        record = json.loads((swept.place.path / "runs" / row["run"] / "record.json").read_text())
        assert metrics == {name: metric["value"] for name, metric in record["metrics"].items()}
        for name, metric in record["metrics"].items():
            assert metric["value"] is not None or metric["reason"], name
            if name in COMMON:
                assert metric["unit"] == COMMON[name].unit
        units = {name: metric["unit"] for name, metric in record["metrics"].items()}
        assert all(unit == "s" for name, unit in units.items() if name.endswith("_s") and not name.endswith("per_s"))
        assert all(unit == "GiB" for name, unit in units.items() if name.endswith("_gib"))


def test_with_a_study_rows_say_where_they_stand_in_it(say: Say, swept: Swept) -> None:
    rows = say("table", f"study={swept.study}")
    assert len(rows) == 4
    for row in rows:
        assert (row["stage"], row["arm"]) == ("main", f"{row['variant']} 5k")
        assert isinstance(row["stage"], str)
    assert len(say("table", f"study={swept.study}", "variant=unet")) == 2
    assert say("table", "variant=nothing") == []  # an array still


def test_rows_of_runs_that_have_not_completed(swept: Swept, tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pending: no metrics. Failed: the failure's class, rank, reason and next step. Damaged: the same, and no numbers."""
    from results.failures import Failure, FailureClass

    place = swept.copy(tmp_path / "place").place
    monkeypatch.chdir(place.path)
    folders = {folder.name: folder for folder in place.runs()}
    damaged, failed, *_ = folders.values()
    damaged.record_file.write_text("{")
    failed.record_file.unlink()
    failed.claim_attempt().fail(Failure(kind=FailureClass.DIVERGED, reason="nan", rank=0, next_step="tenfold logs"))
    (failed.path / "attempt-0" / "outcome.json").unlink()
    with Composer() as composer:
        pending = composer.compose(["scale=tiny", "seed=9"]).freeze()
    rows = {row["run"]: row for row in say("table")}
    keys = {"class", "rank", "reason", "next_step"}
    assert rows[pending.name]["status"] == "pending"
    assert rows[pending.name]["metrics"] == {}
    assert rows[pending.name]["failure"] is None
    assert rows[pending.name]["size"] == "5k"
    check_row(rows[pending.name])
    assert rows[failed.name]["status"] == "failed"
    assert set(rows[failed.name]["failure"]) == keys
    assert rows[failed.name]["failure"]["class"] == "diverged"
    assert rows[failed.name]["attempts"] == 2
    check_row(rows[failed.name])
    assert rows[damaged.name]["status"] == "damaged"
    check_row(rows[damaged.name])
    assert set(rows[damaged.name]["failure"]) == keys
    assert rows[damaged.name]["metrics"] == {}


def test_claims_is_an_array_of_verdicts(say: Say) -> None:
    claims = say("claims")
    assert isinstance(claims, list)
    assert claims
    for claim in claims:
        assert set(claim) == CLAIM
        assert claim["system"] == "dlwp"
        assert claim["verdict"] in ("holds", "fails", "cannot_tell")
        for key in ("effect", "low", "high", "bound"):
            assert claim[key] is None or is_type(claim[key], float) or is_type(claim[key], int)
        for key in ("claim", "scale", "statement", "source", "detail"):
            assert isinstance(claim[key], str)
            assert claim[key]
    assert {(claim["verdict"], claim["effect"]) for claim in claims} == {("cannot_tell", None)}  # claims are not about tiny runs


def check_plan(plan: dict[str, Any]) -> None:
    assert set(plan) == PLAN
    for key in ("params", "flops_per_step", "ranks", "bytes_per_rank", "activation_bytes", "global_batch", "steps"):
        assert is_type(plan[key], int), key
        assert plan[key] > 0, key
    assert plan["fits"] is None or isinstance(plan["fits"], bool)
    for key in ("step_s", "train_s", "node_hours"):
        assert plan[key] is None or plan[key] > 0
    assert all(isinstance(fits, bool) for fits in plan["fits_gpu"].values())
    assert set(plan["stages"]) == {"torch", "zero0", "zero1", "zero2", "zero3"}


def test_the_plan_of_one_experiment_is_an_object(say: Say) -> None:
    plain = say("plan", "scale=tiny")
    check_plan(plain)
    assert (plain["ranks"], plain["zero_stage"], plain["engine"], plain["params"]) == (1, None, "torch", 6165)
    sharded = say("plan", "scale=tiny", "engine=zero3", "ranks=2")
    check_plan(sharded)
    assert (sharded["ranks"], sharded["zero_stage"]) == (2, 3)
    assert sharded["flops_per_step"] == plain["flops_per_step"]


def test_without_a_machines_profile_a_plan_is_null_where_it_depends_on_one(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    plan = say("plan", "scale=tiny", "device=cpu")
    check_plan(plan)
    assert [plan[key] for key in ("step_s", "node_hours", "fits", "base_bytes")] == [None] * 4


def test_the_plan_of_a_study_is_an_array(say: Say, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    points = "[[variant=fno2d, 'seed=0,1'], [variant=fno2d, engine=zero1, ranks=2]]"
    (tmp_path / "study" / "pair.yaml").write_text(f"common: [scale=tiny]\nstages: [{{name: a, points: {points}}}]\n")
    plans = say("plan", "study=pair", "--config-dir", str(tmp_path))
    assert isinstance(plans, list)
    assert [(plan["seed"], plan["zero_stage"]) for plan in plans] == [(0, None), (1, None), (0, 1)]
    for plan in plans:
        check_plan(plan)
    assert plans[0]["run"] != plans[1]["run"]
    assert {**plans[0], "run": "", "seed": 0} == {**plans[1], "run": "", "seed": 0}


def test_what_the_other_verbs_print(say: Say, swept: Swept) -> None:
    words = ("scale=tiny", "variant=unet", "seed=1", "tracker=none")
    (row,) = say("run", *words)  # completed before: shown
    check_row(row)
    assert (row["variant"], row["seed"], row["attempts"]) == ("unet", 1, 1)
    steps = say("sweep", *WORDS, "tracker=none", "--dry-run")
    assert [step["action"] for step in steps] == ["keep"] * 4
    assert set(steps[0]) == {"run", "stage", "arm", "action", "overrides"}
    assert {step["run"] for step in steps} == {folder.name for folder in swept.place.runs()}
    (dlwp,) = [system for system in say("systems") if system["system"] == "dlwp"]
    assert {variant["variant"] for variant in dlwp["variants"]} >= {"fno2d", "unet"}
