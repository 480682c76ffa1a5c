"""The analysis of the synthetic study, whose answers are known by construction."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from results.analysis import analyse, has_skill, main_rows
from results.fits import fit_power_law
from results.rows import collect_rows, select
from results.store import dumps
from tests.results.fixtures import ENGINES, PARAMS, VARIANTS, Synthetic, write_run

Rows = list[dict[str, Any]]


def test_counts_span_and_data(analysis: dict[str, Any]) -> None:
    assert analysis["counts"] == {"runs": 42, "pending": 0, "running": 0, "completed": 41, "failed": 1, "damaged": 0}
    assert analysis["data"] == ["generated"]
    assert analysis["span"]["wall_s"] == 41 * 60 + 48
    assert analysis["span"]["runs_s"] == 42 * 48


def test_it_is_plain_json(analysis: dict[str, Any]) -> None:
    assert json.loads(dumps(analysis)) == analysis


def test_one_fit_per_variant_in_the_studys_order(analysis: dict[str, Any]) -> None:
    assert [fit["group"] for fit in analysis["fits"]] == list(VARIANTS)
    fits = {fit["group"]: fit for fit in analysis["fits"]}
    assert (fits["fno2d"]["sizes"], fits["fno2d"]["seeds"], len(fits["fno2d"]["points"])) == (5, 2, 11)
    assert fits["tfno2d"]["verdict"] == "undecided"
    assert len(fits["convlstm"]["points"]) == 5, "the failed run is no point"


def test_points_without_skill_stay_out_of_the_fit(analysis: dict[str, Any]) -> None:
    (fit,) = [fit for fit in analysis["fits"] if fit["group"] == "unet"]
    hollow = [point for point in fit["points"] if not point["skill"]]
    assert {point["size"] for point in hollow} >= {"5k"}
    assert all(point["y"] > 0.95 * point["reference"] for point in hollow)
    assert fit["sizes"] == len({point["x"] for point in fit["points"] if point["skill"]}) < 3


def test_fit_is_that_of_the_geometric_means(analysis: dict[str, Any]) -> None:
    (fit,) = [fit for fit in analysis["fits"] if fit["group"] == "fno2d"]
    means = [statistics.geometric_mean([point["y"] for point in fit["points"] if point["size"] == size]) for size in PARAMS]
    plain = fit_power_law(list(PARAMS.values()), means)
    assert fit["plain"]["alpha"] == pytest.approx(plain.alpha)
    assert fit["intervals"]["alpha"][0] <= fit["robust"]["alpha"] <= fit["intervals"]["alpha"][1]


def test_front_leaves_the_engine_arm_out(analysis: dict[str, Any], rows: Rows) -> None:
    memory, step = analysis["fronts"]
    assert (memory["x"], step["x"]) == ("peak_gib", "step_s")
    assert {point["engine"] for point in memory["points"]} == {"torch"}
    assert sum(len(point["runs"]) for point in memory["points"]) == 36
    assert memory["runs_beside_others"] == 36
    best = min(memory["points"], key=lambda point: point["y"])
    assert best["front"]
    for point in memory["points"]:
        beaten = any(other["x"] <= point["x"] and other["y"] <= point["y"] and other is not point for other in memory["points"])
        assert point["front"] is not beaten


def test_engines_equal_the_reference(analysis: dict[str, Any]) -> None:
    found = analysis["equality"]
    assert found["passed"]
    assert [(arm["engine"], arm["ranks"]) for arm in found["arms"]] == list(ENGINES)
    assert [arm["reference"] for arm in found["arms"]] == [True, False, False, False, False]
    for arm in found["arms"][1:]:
        assert 0 < arm["gate"]["largest_relative_difference"] < 1e-6


def test_an_engine_that_drifts_or_fails_does_not_pass(study: Synthetic, rows: Rows) -> None:
    strict = {**study.index, "analysis": {"equality": {"stage": "engines", "reference": "torch", "tolerance": 1e-9}}}
    assert not analyse(strict, rows, study.runs)["equality"]["passed"]
    broken = [{**row, "status": "failed"} if row["engine"] == "zero3" else row for row in rows]
    found = analyse({**study.index, "analysis": {"equality": study.index["analysis"]["equality"]}}, broken, study.runs)[
        "equality"
    ]
    assert not found["passed"]
    assert found["arms"][-1]["gate"] is None
    alone = [row for row in rows if row["engine"] != "torch"]
    found = analyse({**study.index, "analysis": {"equality": study.index["analysis"]["equality"]}}, alone, study.runs)["equality"]
    assert (found["passed"], found["reference_run"]) == (False, None)


def test_failures_planner_and_hardware(analysis: dict[str, Any], rows: Rows) -> None:
    (failure,) = analysis["failures"]
    assert (failure["variant"], failure["class"], failure["rank"]) == ("convlstm", "oom-host", 0)
    ratios = [row["metrics"]["plan_peak_ratio"] for row in rows if row["status"] == "completed"]
    peak = analysis["planner"]["peak"]
    assert (peak["median"], peak["max"], peak["count"]) == (statistics.median(ratios), max(ratios), 41)
    assert "above_base" not in analysis["planner"], "no run has 256 MiB above the base"
    (machine,) = analysis["hardware"]
    assert machine["runs"] == 42
    assert machine["variables"] == {"OMP_NUM_THREADS": "1"}


def test_skill_rule() -> None:
    rule = {"metric": "rmse", "reference": "persistence_rmse", "above": 0.95}

    def row(rmse: float | None, reference: float | None) -> dict[str, Any]:
        return {"metrics": {"rmse": rmse, "persistence_rmse": reference}}

    assert has_skill(row(0.19, 0.2), rule)
    assert not has_skill(row(0.1901, 0.2), rule)
    assert has_skill(row(5.0, None), rule)
    assert not has_skill(row(None, 0.2), rule)
    assert has_skill(row(5.0, 0.2), None)


def test_stages(rows: Rows, study: Synthetic) -> None:
    assert {row["stage"] for row in main_rows(rows, study.index)} == {"grid"}
    assert len(main_rows(rows, study.index, ["grid", "engines"])) == 42
    assert main_rows([*rows, *rows], study.index, "engines") == main_rows(rows, study.index, "engines")


def test_nothing_done_yet(study: Synthetic, tmp_path: Any) -> None:
    rows = collect_rows(tmp_path, index=study.index)
    found = analyse(study.index, rows, tmp_path)
    assert found["counts"]["pending"] == 42
    assert found["fits"] == []
    assert found["planner"] == {}
    assert not found["equality"]["passed"]
    assert found["span"]["started"] is None


def test_index_without_analysis(tmp_path: Any) -> None:
    run = write_run(tmp_path, 0, "grid", "fno2d", "5k", 0, "torch", 1)
    index = {"study": "one", "runs": [{"run": run}], "primary_metric": "rmse"}
    found = analyse(index, select(collect_rows(tmp_path, index=index), {}), tmp_path)
    assert (found["fits"], found["fronts"], found["equality"]) == ([], [], None)
