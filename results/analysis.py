"""From rows to what a study says: fits with verdicts, Pareto fronts, the equality gate, failures, hardware, planner error.

The result is plain JSON (``analysis.json``); the report draws it and adds nothing of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from results.equality import gate
from results.fits import fit_saturation
from results.metrics import spec_of
from results.pareto import front
from results.record import Status
from results.rows import DAMAGED, Row, value
from results.runfolder import Attempt, RunFolder
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
        index: its index; the section ``analysis`` says what is wanted (``fits, fronts, no_skill, equality``, each optional).
        rows: its rows, with ``stage``.
        runs_root: where the run folders are: loss curves and environments are read there.
        claims: verdicts as :func:`results.claims.judge` gives them.
        published: rows of :func:`results.published.load_published`.

    Returns:
        ``schema, study, counts, data, span, claims, fits, fronts, equality, failures, hardware, planner, published``.
    """
    wanted = index.get("analysis") or {}
    completed = [row for row in rows if row["status"] == Status.COMPLETED]
    return {
        "schema": SCHEMA,
        "study": index["study"],
        "counts": _counts(rows),
        "data": sorted({row["data"] for row in completed if row["data"]}),
        "span": _span(rows, runs_root),
        "claims": [dict(claim) for claim in claims],
        "fits": [curve for fit in wanted.get("fits", ()) for curve in _fits(fit, completed, index)],
        "fronts": [_front(entry, completed, index) for entry in wanted.get("fronts", ())],
        "equality": _equality(wanted["equality"], rows, runs_root) if wanted.get("equality") else None,
        "failures": _failures(rows),
        "hardware": _hardware(rows, runs_root),
        "planner": _planner(completed),
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


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """One row per run, for what counts runs rather than places in the study."""
    return list({row["run"]: row for row in rows}.values())


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    found = dict.fromkeys([*map(str, Status), DAMAGED], 0)
    for row in _distinct(rows):
        found[row["status"]] += 1
    return {"runs": sum(found.values()), **found}


def _span(rows: Sequence[Row], runs_root: Path) -> dict[str, Any]:
    """When the study ran: from its first attempt's start to its last end, and the seconds that its runs took together."""
    starts, ends, busy = [], [], 0.0
    for row in _distinct(rows):
        for attempt in RunFolder(runs_root / row["run"]).attempts():
            begin, end = _time(attempt.read("attempt", {}), "started"), _ended(attempt)
            starts += [begin] if begin else []
            ends += [end] if end else []
            if begin and end:
                busy += (end - begin).total_seconds()
    if not starts:
        return {"started": None, "ended": None, "wall_s": None, "runs_s": None}
    first, last = min(starts), max(ends, default=None)
    return {
        "started": first.isoformat(),
        "ended": last.isoformat() if last else None,
        "wall_s": (last - first).total_seconds() if last else None,
        "runs_s": busy,
    }


def _ended(attempt: Attempt) -> datetime | None:
    """When rank 0 said that it had finished, else when the launcher saw the last rank go."""
    return _time(attempt.read("outcome", {}), "ended") or _time(attempt.read("launch", {}), "ended")


def _time(plain: Any, key: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(plain[key])
    except (KeyError, TypeError, ValueError):
        return None
    return found if found.tzinfo else None  # a time without a zone cannot be compared with others


def main_rows(rows: Sequence[Row], index: Mapping[str, Any], stage: str | Sequence[str] | None = None) -> list[Row]:
    """Rows of a stage or several; without one, all that do not belong to the engine comparison (they train for another
    length, so their error is not comparable)."""
    if stage:
        stages = [stage] if isinstance(stage, str) else list(stage)
        return _distinct(row for row in rows if row.get("stage") in stages)
    engines = ((index.get("analysis") or {}).get("equality") or {}).get("stage")
    return _distinct(row for row in rows if not engines or row.get("stage") != engines)


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
    """Every engine's loss curve against the reference's; a run that did not complete has no verdict."""
    tolerance = float(wanted.get("tolerance", 1e-4))
    members = [row for row in rows if row.get("stage") == wanted["stage"]]
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


def _failures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            "run": row["run"],
            "variant": row["variant"],
            "size": row["size"],
            "seed": row["seed"],
            "status": row["status"],
            "attempts": row["attempts"],
            **row["failure"],
        }
        for row in _distinct(rows)
        if row["failure"]
    ]


#: What makes two machines or two installations one line of the hardware table.
_ENVIRONMENT = ("host", "cpu", "cores", "memory_gib", "gpus", "kernel", "python", "packages", "commit", "dirty")


def _hardware(rows: Sequence[Row], runs_root: Path) -> list[dict[str, Any]]:
    """Distinct environments of the newest attempts, with the number of runs of each and the variables they had in common."""
    found: list[dict[str, Any]] = []
    for row in _distinct(rows):
        attempt = RunFolder(runs_root / row["run"]).last_attempt()
        plain = attempt.read("env", None) if attempt else None
        if not isinstance(plain, dict):
            continue
        environment = {key: plain[key] for key in _ENVIRONMENT if key in plain}
        same = next((entry for entry in found if entry["environment"] == environment), None)
        variables = plain.get("variables") or {}
        if same:
            same["runs"] += 1
            same["variables"] = {name: text for name, text in same["variables"].items() if variables.get(name) == text}
        else:
            found.append({"runs": 1, "environment": environment, "variables": dict(variables)})
    return found


def _planner(completed: Sequence[Row]) -> dict[str, Any]:
    """How far the plan was from what was measured: ratios planned / measured, and the measured values beside them."""
    found: dict[str, Any] = {}
    for name, ratio, measured in (
        ("peak", "plan_peak_ratio", "peak_gib"),
        ("above_base", "plan_above_base_ratio", None),
        ("step", "plan_step_ratio", "step_s"),
    ):
        points = [
            {
                "run": row["run"],
                "variant": row["variant"],
                "size": row["size"],
                "engine": row["engine"],
                "ratio": value(row, ratio),
                "measured": value(row, measured) if measured else None,
            }
            for row in _distinct(completed)
            if value(row, ratio)
        ]
        if not points:
            continue
        ratios = [point["ratio"] for point in points]
        within = sum(abs(number - 1) <= 0.15 for number in ratios) / len(ratios)
        found[name] = {
            "count": len(ratios),
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "within_15_percent": within,
            "points": points,
        }
    return found
