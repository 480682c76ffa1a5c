"""How far plans were off, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from results.analysis_runs import planner
from results.report_view import planner_table


def row(run: str, *, peak: float | None = 1.0, step: float | None = 1.0, shared: int = 0, **changes: Any) -> dict[str, Any]:
    metrics = {"plan_peak_ratio": peak, "peak_gib": 1.0, "plan_step_ratio": step, "step_s": 0.1, "plan_above_base_ratio": 0.9}
    return {
        "run": run,
        "variant": "unet",
        "size": "5k",
        "engine": "torch",
        "ranks": 1,
        "shared_with": shared,
        "timing_valid": True,
        "metrics": metrics,
        **changes,
    }


def test_the_worst_run_is_named_whether_planned_too_high_or_too_low(tmp_path: Path) -> None:
    """0.8 is further off than 1.2: a quarter against a fifth."""
    found = planner([row("a", peak=1.2), row("b", peak=0.8), row("c", peak=1.05), row("d", peak=None)], tmp_path)["peak"]
    assert (found["count"], found["median"], found["min"], found["max"]) == (3, 1.05, 0.8, 1.2)
    assert found["worst"]["run"] == "b"
    assert found["within"] == pytest.approx(1 / 3)
    assert found["tolerance"] == 0.1


def test_runs_with_company_are_kept_apart(tmp_path: Path) -> None:
    rows = [row("a", step=1.1), row("b", step=0.6, shared=1), row("c", step=0.5, timing_valid=False)]
    found = planner(rows, tmp_path)
    assert [point["run"] for point in found["step"]["points"]] == ["a"]
    assert [point["run"] for point in found["step_beside"]["points"]] == ["b", "c"]
    assert found["peak"]["count"] == 3  # company takes no memory


def test_errors_are_grouped_by_variant_engine_and_ranks(tmp_path: Path) -> None:
    rows = [row("a"), row("b", peak=0.9, size="20k"), row("c", peak=2.0, engine="zero1", ranks=2)]
    groups = planner(rows, tmp_path)["peak"]["groups"]
    assert [(group["variant"], group["engine"], group["ranks"], group["count"]) for group in groups] == [
        ("unet", "torch", 1, 2),
        ("unet", "zero1", 2, 1),
    ]
    assert (groups[0]["median"], groups[0]["within"]) == (0.95, 0.5)  # 1 / 0.9 is more than a tenth off


def test_memory_above_the_base_counts_where_there_is_some(tmp_path: Path) -> None:
    for name, base in (("a", 0.5), ("b", 0.9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text(json.dumps({"base_bytes": base * 2**30}))
    assert [point["run"] for point in planner([row("a"), row("b")], tmp_path)["above_base"]["points"]] == ["a"]


def test_the_reports_table_names_the_worst(tmp_path: Path) -> None:
    lines = planner_table(planner([row("a", peak=1.2), row("b", step=0.25, shared=2)], tmp_path))
    peak, _, alone, beside = lines
    assert (peak["title"], peak["worst_run"], peak["worst"]) == ("peak memory", "a", "unet 5k torch on 1")
    assert peak["within"] == "50% within 10%"
    assert (alone["count"], beside["worst_run"]) == ("1", "b")
    assert [group["title"] for group in peak["groups"]] == ["unet torch on 1"]
