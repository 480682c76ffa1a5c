"""From rows to what a study says: fits with verdicts, Pareto fronts, the equality gate, failures, hardware, planner error.

The result is plain JSON (``analysis.json``); the report draws it and adds nothing of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from results.analysis_runs import counts, distinct, failures, hardware, planner, span
from results.equality import gate
from results.fits import fit_saturation
from results.metrics import spec_of
from results.pareto import front
from results.record import Status
from results.rows import Row, value
from results.runfolder import RunFolder
from results.scaling import scaling
from results.series import read_run_steps

SCHEMA = 1

#: A point above this share of its reference (persistence) has no skill.
NO_SKILL_ABOVE = 0.95


def analyse(
    index: Mapping[str, Any],
    rows: Sequence[Row],
    runs_root: Path,
    claims: Sequence[Mapping[str, Any]] = (),
    published: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Analyse a study.

    Args:
        index: its index; the section ``analysis`` says what is wanted (``fits, fronts, no_skill, equality, scaling``,
            each optional).
        rows: its rows, with ``stage``.
        runs_root: where the run folders are: loss curves and environments are read there.
        claims: verdicts as :func:`results.claims.judge` gives them.
        published: rows of :func:`results.published.load_published`.

    Returns:
        ``schema, study, counts, data, span, claims, fits, fronts, equality, scaling, failures, hardware, planner, published``.
    """
    wanted = index.get("analysis") or {}
    completed = [row for row in rows if row["status"] == Status.COMPLETED]
    return {
        "schema": SCHEMA,
        "study": index["study"],
        "counts": counts(rows),
        "data": sorted({row["data"] for row in completed if row["data"]}),
        "span": span(rows, runs_root),
        "claims": [dict(claim) for claim in claims],
        "fits": [curve for fit in wanted.get("fits", ()) for curve in _fits(fit, completed, index)],
        "fronts": [_front(entry, completed, index) for entry in wanted.get("fronts", ())],
        "equality": _equality(wanted["equality"], rows, runs_root) if wanted.get("equality") else None,
        "scaling": scaling(rows, wanted["scaling"], runs_root) if wanted.get("scaling") else None,
        "failures": failures(rows),
        "hardware": hardware(rows, runs_root),
        "planner": planner(completed, runs_root),
        "published": [dict(row) for row in published],
    }


def has_skill(row: Row, rule: Mapping[str, Any] | None) -> bool:
    """Whether a run beat its reference: ``rule`` is the index's ``analysis.no_skill`` (``metric, reference, above``)."""
    if not rule:
        return True
    score, reference = value(row, rule["metric"]), value(row, rule["reference"])
    if score is None or reference is None:
        return score is not None
    return score <= float(rule.get("above", NO_SKILL_ABOVE)) * reference


def main_rows(rows: Sequence[Row], index: Mapping[str, Any], stage: str | Sequence[str] | None = None) -> list[Row]:
    """Rows of a stage or several; without one, all that do not belong to the engine comparison (they train for another
    length, so their error is not comparable)."""
    if stage:
        stages = [stage] if isinstance(stage, str) else list(stage)
        return distinct(row for row in rows if row.get("stage") in stages)
    engines = ((index.get("analysis") or {}).get("equality") or {}).get("stage")
    return distinct(row for row in rows if not engines or row.get("stage") != engines)


def _fits(wanted: Mapping[str, Any], completed: Sequence[Row], index: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One fit per group (variant): its points, those without skill, and the curve."""
    x, y, by = wanted.get("x", "params"), wanted["y"], wanted.get("group", "variant")
    rule = (index.get("analysis") or {}).get("no_skill")
    rule = rule if rule and rule["metric"] == y else None
    # A stage may add sizes to another's curve, so the rows of the whole study count unless a stage is named.
    rows = [row for row in main_rows(completed, index, wanted.get("stage")) if value(row, x) and (value(row, y) or 0) > 0]
    found = []
    for name in _ordered((row[by] for row in rows), index.get("variants", {})):
        members = [row for row in rows if row[by] == name]
        points = [
            {
                "run": row["run"],
                "size": row["size"],
                "seed": row["seed"],
                "x": value(row, x),
                "y": value(row, y),
                "skill": has_skill(row, rule),
                "reference": value(row, rule["reference"]) if rule else None,
            }
            for row in members
        ]
        good: dict[float, list[float]] = {}
        for point in points:
            if point["skill"]:
                good.setdefault(point["x"], []).append(point["y"])
        fit = fit_saturation(list(good), list(good.values())).as_dict()
        found.append({"x": x, "y": y, "by": by, "group": name, "stage": wanted.get("stage", ""), "points": points, **fit})
    return found


def _ordered(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Names that occur, in the study's order, unknown ones last."""
    present = dict.fromkeys(names)
    first = [name for name in known if name in present]
    return [*first, *(name for name in present if name not in first)]


def _front(wanted: Mapping[str, Any], completed: Sequence[Row], index: Mapping[str, Any]) -> dict[str, Any]:
    """Two metrics, averaged over the seeds and repeats of an experiment, with the Pareto front marked."""
    x, y = wanted["x"], wanted["y"]
    rule = (index.get("analysis") or {}).get("no_skill")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in main_rows(completed, index, wanted.get("stage")):
        if value(row, x) is not None and value(row, y) is not None:
            groups.setdefault((row["variant"], row["size"], row["engine"], row["ranks"]), []).append(row)
    points = [
        {
            "variant": key[0],
            "size": key[1],
            "engine": key[2],
            "ranks": key[3],
            "runs": [row["run"] for row in members],
            "x": statistics.fmean(row["metrics"][x] for row in members),
            "y": statistics.fmean(row["metrics"][y] for row in members),
            "skill": all(has_skill(row, rule) for row in members),
            "front": False,
        }
        for key, members in groups.items()
    ]
    directions = (_direction(x, index), _direction(y, index))
    for chosen in front([point["x"] for point in points], [point["y"] for point in points], directions):
        points[chosen]["front"] = True
    beside = sum(1 for members in groups.values() for row in members if row["shared_with"])
    return {"x": x, "y": y, "directions": list(directions), "points": points, "runs_beside_others": beside}


def _direction(metric: str, index: Mapping[str, Any]) -> str:
    declared = index.get("metrics", {}).get(metric, {}).get("direction") or str(spec_of(metric).direction)
    return "max" if declared == "max" else "min"


def _equality(wanted: Mapping[str, Any], rows: Sequence[Row], runs_root: Path) -> dict[str, Any]:
    """Every engine's loss curve against the reference's; a run that did not complete has no verdict. A study that repeats its
    arms may name the one ``repeat`` that is shown."""
    tolerance = float(wanted.get("tolerance", 1e-4))
    members = [
        row for row in rows if row.get("stage") == wanted["stage"] and row["repeat"] == wanted.get("repeat", row["repeat"])
    ]
    curves = {
        row["run"]: read_run_steps(RunFolder(runs_root / row["run"]))["loss"]
        for row in members
        if row["status"] == Status.COMPLETED
    }
    reference = next((row for row in members if row["engine"] == wanted["reference"] and row["run"] in curves), None)
    arms = []
    for row in members:
        arm: dict[str, Any] = {key: row[key] for key in ("run", "engine", "ranks", "status", "shared_with", "timing_valid")}
        arm.update({name: value(row, name) for name in ("step_s", "step_s_p5", "step_s_p95", "peak_gib", "communicate_share")})
        arm["reference"] = row is reference
        arm["gate"] = None
        if reference is not None and row is not reference and row["run"] in curves:
            arm["gate"] = gate(curves[reference["run"]], curves[row["run"]], tolerance).as_dict()
        arms.append(arm)
    return {
        "stage": wanted["stage"],
        "reference": wanted["reference"],
        "reference_run": reference["run"] if reference else None,
        "tolerance": tolerance,
        "passed": bool(reference) and all(arm["reference"] or (arm["gate"] and arm["gate"]["passed"]) for arm in arms),
        "arms": arms,
    }
