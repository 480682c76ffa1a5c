"""Paired comparison: what is paired, what is left out and said, and the verdict's words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from results.compare import compare, is_timing, sentence
from results.metrics import Direction, MetricSpec

RMSE = {"rmse": MetricSpec("rmse", "1", Direction.MIN, "RMSE"), "gain": MetricSpec("gain", "1", Direction.MAX, "gain")}


def row(number: int, engine: str = "torch", *, repeat: int = 0, **changes: Any) -> dict[str, Any]:
    metrics = changes.pop("metrics", {})
    return {
        "run": f"{engine}-{number}-{repeat}", "system": "s", "variant": "v", "size": "5k", "scale": "small", "seed": number,
        "repeat": repeat, "engine": engine, "ranks": 1, "site": "local", "data": "generated", "status": "completed",
        "shared_with": 0, "timing_valid": True, "failure": None, "metrics": metrics, **changes,
    }  # fmt: skip


def arm(engine: str, metric: str, values: list[float], **changes: Any) -> list[dict[str, Any]]:
    return [row(number, engine, metrics={metric: value}, **changes) for number, value in enumerate(values)]


def test_engines_are_paired_by_all_else() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    a = arm("zero1", "step_s", [1.1 * x * (1 + 0.001 * i) for i, x in enumerate(drift)], ranks=2)
    found = compare(a, list(reversed(arm("torch", "step_s", drift))), "step_s")
    assert found["differs"] == {"engine": ["zero1", "torch"], "ranks": [2, 1]}
    assert [(pair["seed"], pair["b"]) for pair in found["pairs"]] == list(enumerate(drift))
    assert found["count"] == 5
    assert found["low"] < found["ratio"] < found["high"]
    assert found["ratio"] == pytest.approx(1.1 * math.exp(sum(math.log(1 + 0.001 * i) for i in range(5)) / 5))
    assert found["verdict"] == "slower"
    assert sentence(found).startswith("step_s: engine zero1 against torch, ranks 2 against 1: slower, ratio 1.102 [")


def test_timings_beside_others_are_left_out_and_said() -> None:
    a = [*arm("torch", "step_s", [1.0, 1.0]), row(2, metrics={"step_s": 9.0}, shared_with=1)]
    b = [*arm("torch", "step_s", [1.0, 1.0, 1.0]), row(3, timing_valid=False, metrics={"step_s": 1.0})]
    found = compare(a, b, "step_s")
    assert found["count"] == 2
    assert {item["reason"] for item in found["dropped"]} == {
        "timed beside 1 other run", "its layout changed on the way", "no partner in a",
    }  # fmt: skip
    assert "3 rows left out" in sentence(found)
    accuracy = compare(arm("torch", "rmse", [0.1], shared_with=1), arm("torch", "rmse", [0.2], shared_with=1), "rmse", specs=RMSE)
    assert (accuracy["count"], accuracy["dropped"]) == (1, [])


def test_failed_and_unknown_rows_are_left_out() -> None:
    a = [row(0, status="failed"), row(1), row(2, metrics={"rmse": 0.1})]
    found = compare(a, arm("torch", "rmse", [0.1, 0.1, 0.1]), "rmse")
    assert found["count"] == 1
    reasons = [item["reason"] for item in found["dropped"]]
    assert reasons == ["status failed", "rmse is unknown", "no partner in a", "no partner in a"]
    assert found["verdict"] == "cannot tell"
    assert found["low"] is None
    assert "one pair" in found["reason"]


@pytest.mark.parametrize(
    ("metric", "factor", "verdict"),
    [
        ("rmse", 0.5, "better"), ("rmse", 2.0, "worse"), ("gain", 0.5, "worse"), ("gain", 2.0, "better"),
        ("params", 0.5, "lower"), ("params", 2.0, "higher"), ("step_s", 0.5, "faster"), ("samples_per_s", 2.0, "faster"),
        ("samples_per_s", 0.5, "slower"), ("rmse", 1.0, "cannot tell"),
    ],
)  # fmt: skip
def test_words(metric: str, factor: float, verdict: str) -> None:
    base = [1.0, 1.01, 0.99, 1.02]
    noise = [1.001, 0.999, 1.0005, 0.9995]
    a = arm("x", metric, [factor * number * n for number, n in zip(base, noise, strict=True)])
    assert compare(a, arm("y", metric, base), metric, specs=RMSE)["verdict"] == verdict


def test_numbers_that_may_be_negative_are_compared_by_difference() -> None:
    found = compare(arm("x", "gain", [0.5, 0.52, 0.51]), arm("y", "gain", [-0.1, -0.11, -0.08]), "gain", specs=RMSE)
    assert found["ratio"] is None
    assert found["difference"]["effect"] == pytest.approx((0.6 + 0.63 + 0.59) / 3)
    assert found["verdict"] == "better"
    assert "difference 0.6067" in sentence(found)


def test_repeats_are_pairs_of_their_own_and_nothing_is_paired_twice() -> None:
    a = [row(0, repeat=i, metrics={"step_s": 1.0 + i}) for i in range(3)]
    found = compare(a, a, "step_s")
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [(1, 1), (2, 2), (3, 3)]
    assert (found["ratio"], found["verdict"]) == (1.0, "cannot tell")


def test_nothing_to_compare() -> None:
    found = compare([], arm("torch", "rmse", [0.1]), "rmse")
    assert (found["count"], found["verdict"], found["ratio"]) == (0, "cannot tell", None)
    assert "over 0 pairs" in sentence(found)


def test_which_metrics_are_timings() -> None:
    assert all(is_timing(name) for name in ("step_s", "samples_per_s", "mfu", "train_s", "energy_j", "step_skew"))
    assert not any(is_timing(name) for name in ("peak_gib", "params", "rmse", "plan_peak_ratio"))
