"""The schema of a record: what it refuses, and that whatever a run leaves behind makes a record it accepts."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.errors import ResultError
from results.failures import FailureClass
from results.merge import build_record
from results.record import REQUIRED_WHEN_COMPLETED, Metric, Record, Status, problems
from results.store import dumps
from tests.results.attempts import GIB, add_attempt, rank, run_folder

SECONDS = st.floats(1e-6, 1e4)
RANKS = st.builds(
    rank, peak=st.floats(0.01, 100), step_s=st.none() | SECONDS, params=st.none() | st.integers(1, 10**12),
    energy_j=st.none() | SECONDS, device_peak=st.none() | st.floats(0.01, 100), known=st.booleans(),
    train=SECONDS, communicate=SECONDS, data_wait=SECONDS,
)  # fmt: skip
ATTEMPTS = st.fixed_dictionaries(
    {
        "ends": st.sampled_from(["", "completed", *FailureClass]),
        "ranks": st.lists(RANKS, min_size=1, max_size=3),
        "shared_with": st.integers(0, 3),
        "metrics": st.dictionaries(st.sampled_from(["rmse", "score"]), st.floats(), min_size=1),
    }
)
PLANS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "bytes_per_rank": st.none() | st.integers(1, 100 * GIB),
        "base_bytes": st.none() | st.integers(0, 10 * GIB),
        "flops_per_step": st.none() | st.integers(1, 10**9),
        "peak_flops_per_rank": st.none() | st.just(1e18),
        "step_s": st.none() | SECONDS,
        "global_batch": st.integers(0, 8),
    },
)


def valid() -> dict[str, Any]:
    """The smallest completed record."""
    metrics = {name: {"value": 1.0, "unit": "1", "direction": "min"} for name in (*REQUIRED_WHEN_COMPLETED, "rmse")}
    return {
        "schema": 1, "run": "r", "identity": "i", "status": "completed", "system": "s", "variant": "v", "size": "5k",
        "scale": "tiny", "seed": 0, "repeat": 0, "engine": "torch", "ranks": 1, "site": "local", "data": "generated",
        "system_version": 1, "metrics": metrics, "attempts": [],
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(ATTEMPTS, max_size=3), PLANS)
def test_whatever_a_run_leaves_makes_a_valid_record(attempts: list[dict[str, Any]], plan: dict[str, Any] | None) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = run_folder(Path(root), plan=plan)
        for attempt in attempts:
            add_attempt(folder, **attempt)
        record = build_record(folder)
        plain = json.loads(dumps(record.as_dict()))
    assert problems(plain) == []
    ends = [attempt["ends"] for attempt in attempts]
    expected = (
        Status.COMPLETED if "completed" in ends
        else Status.PENDING if not ends
        else Status.FAILED  # also the one that was cut off without a word: nobody holds the run
    )  # fmt: skip
    assert record.status == expected
    assert json.loads(dumps(Record.from_dict(plain).as_dict())) == plain


@pytest.mark.parametrize("key", sorted(set(valid())))
def test_a_missing_key_is_named(key: str) -> None:
    plain = valid()
    del plain[key]
    assert problems(plain) == [f"key '{key}' is missing"]


def test_all_missing_keys_are_named_at_once() -> None:
    assert len(problems({})) == len(valid())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": "0"}, "key 'seed' is str"),
        ({"seed": True}, "key 'seed' is bool"),
        ({"size": 5000}, "key 'size' is int"),
        ({"metrics": []}, "key 'metrics' is list"),
        ({"schema": 2}, "schema version 2 is not 1"),
        ({"status": "done"}, "status 'done' is none of pending, running, completed, failed"),
        ({"failure": {"class": "crash"}}, "completed, but it carries a failure"),
        ({"status": "failed"}, "failed, but it lacks a failure with class, reason and next_step"),
        (
            {"status": "failed", "failure": {"class": "bad-luck", "reason": "", "next_step": ""}},
            "failure class 'bad-luck' is unknown",
        ),
        ({"metrics": {}}, "completed, but metric 'step_s' is missing"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], expected: str) -> None:
    assert problems(valid()) == []
    assert problems({**valid(), **changes})[0] == expected


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({"value": 1.0, "unit": "s"}, "lacks value, unit or direction"),
        (3.0, "lacks value, unit or direction"),
        ({"value": "1", "unit": "s", "direction": "min"}, "is str, not a number"),
        ({"value": True, "unit": "s", "direction": "min"}, "is bool, not a number"),
        ({"value": None, "unit": "s", "direction": "min"}, "is unknown and gives no reason"),
        ({"value": None, "unit": "s", "direction": "min", "reason": ""}, "is unknown and gives no reason"),
    ],
)
def test_a_wrong_metric_is_named(metric: Any, expected: str) -> None:
    plain = valid()
    plain["metrics"]["rmse"] = metric
    assert problems(plain) == [f"metric 'rmse' {expected}"]


def test_more_than_the_peak_of_the_device_is_an_error() -> None:
    plain = valid()
    plain["metrics"]["mfu"] = {"value": 1.01, "unit": "1", "direction": "max"}
    assert "mfu is above 1" in problems(plain)[0]


@pytest.mark.parametrize("plain", [None, [], "text", 3])
def test_what_is_no_object_is_no_record(plain: Any) -> None:
    assert len(problems(plain)) == 1


def test_reading_refuses_what_is_wrong_and_ignores_what_is_new() -> None:
    plain = copy.deepcopy(valid())
    record = Record.from_dict({**plain, "added_later": 1})
    assert record.status is Status.COMPLETED
    assert record.metrics["rmse"] == Metric(value=1.0, unit="1", direction="min")
    assert (record.value("rmse"), record.value("nothing")) == (1.0, None)
    with pytest.raises(ResultError, match="not a valid record: key 'run'") as caught:
        Record.from_dict({**plain, "run": 1}, where="runs/x/record.json")
    assert caught.value.where == "runs/x/record.json"
