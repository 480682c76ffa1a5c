"""What a study says of its runs apart from their results: states, times, failures, machines, and how good the plans were."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from results.record import Status
from results.rows import DAMAGED, Row, value
from results.runfolder import Attempt, RunFolder
from results.store import read_json_or


def distinct(rows: Iterable[Row]) -> list[Row]:
    """One row per run, for what counts runs rather than places in the study."""
    return list({row["run"]: row for row in rows}.values())


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Runs by state."""
    found = dict.fromkeys([*map(str, Status), DAMAGED], 0)
    for row in distinct(rows):
        found[row["status"]] = found.get(row["status"], 0) + 1  # a scheduler and a study have words of their own
    return {"runs": sum(found.values()), **found}


def span(rows: Sequence[Row], runs_root: Path) -> dict[str, Any]:
    """When the study ran: from its first attempt's start to its last end, and the seconds that its runs took together."""
    starts, ends, busy = [], [], 0.0
    for row in distinct(rows):
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


def failures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Runs that failed or are damaged, with class, first rank, reason and next command."""
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
        for row in distinct(rows)
        if row["failure"]
    ]


#: What makes two machines or two installations one line of the hardware table.
_ENVIRONMENT = ("host", "cpu", "cores", "memory_gib", "gpus", "kernel", "python", "packages", "commit", "dirty")


def hardware(rows: Sequence[Row], runs_root: Path) -> list[dict[str, Any]]:
    """Distinct environments of the newest attempts, with the number of runs of each and the variables they had in common."""
    found: list[dict[str, Any]] = []
    for row in distinct(rows):
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


#: Below this the modelled part of the memory is lost in the noise of the base (interpreter, libraries), in GiB.
_MODELLED_GIB = 0.25
#: Quantity, metric of the ratio planned / measured, metric of what was measured, and how far a plan may be off.
_PLANNED = (
    ("peak", "plan_peak_ratio", "peak_gib", 0.10),
    ("above_base", "plan_above_base_ratio", "peak_gib", 0.10),
    ("step", "plan_step_ratio", "step_s", 0.30),
    ("step_beside", "plan_step_ratio", "step_s", 0.30),
)


def planner(completed: Sequence[Row], runs_root: Path) -> dict[str, Any]:
    """How far the plan was from what was measured: ratios planned / measured, and the measured values beside them.

    A plan is of a run alone on its machine: ``step`` takes runs that were, ``step_beside`` those that had company and so shared
    caches and memory bandwidth with it. ``above_base`` takes only runs whose part above the plan's base exceeds 256 MiB.

    Returns:
        By quantity ``count, median, min, max, tolerance, within`` (share of runs off by no more than that)``, worst`` (the
        run furthest off, as a factor)``, groups`` (the same by variant and engine)``, points``.
    """
    found: dict[str, Any] = {}
    for name, ratio, measured, tolerance in _PLANNED:
        points = [
            {
                "run": row["run"],
                "variant": row["variant"],
                "size": row["size"],
                "engine": row["engine"],
                "ranks": row["ranks"],
                "ratio": value(row, ratio),
                "measured": value(row, measured),
            }
            for row in distinct(completed)
            if value(row, ratio) is not None and _belongs(name, row, runs_root)
        ]
        if points:
            worst = max(points, key=lambda point: max(point["ratio"], 1 / point["ratio"]))
            found[name] = {**_spread(points, tolerance), "worst": worst, "groups": _groups(points, tolerance), "points": points}
    return found


def _belongs(name: str, row: Row, runs_root: Path) -> bool:
    """Whether a run counts for a quantity."""
    if name == "above_base":
        return _above_base_gib(row, runs_root) > _MODELLED_GIB
    if name.startswith("step"):
        alone = not row["shared_with"] and row["timing_valid"]
        return alone == (name == "step")
    return True


def _groups(points: Sequence[dict[str, Any]], tolerance: float) -> list[dict[str, Any]]:
    """Points by variant, engine and ranks, in order of appearance."""
    keys = list(dict.fromkeys((point["variant"], point["engine"], point["ranks"]) for point in points))
    members = {key: [point for point in points if (point["variant"], point["engine"], point["ranks"]) == key] for key in keys}
    return [{"variant": key[0], "engine": key[1], "ranks": key[2], **_spread(members[key], tolerance)} for key in keys]


def _spread(points: Sequence[dict[str, Any]], tolerance: float) -> dict[str, Any]:
    ratios = [point["ratio"] for point in points]
    return {
        "count": len(ratios),
        "median": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "tolerance": tolerance,
        "within": sum(max(ratio, 1 / ratio) <= 1 + tolerance for ratio in ratios) / len(ratios),
    }


def _above_base_gib(row: Row, runs_root: Path) -> float:
    """Measured peak minus the plan's base."""
    base = read_json_or(RunFolder(runs_root / row["run"]).plan_file, {}).get("base_bytes") or 0
    return (value(row, "peak_gib") or 0.0) - base / 2**30
