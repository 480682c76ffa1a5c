"""The attempts of a run as rows of its record: what each did, what the scheduler accounts for, which work was done twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from results.failures import FailureClass
from results.runfolder import Attempt


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """One attempt: when, where, with which layout, how it ended, and its job's accounting where a scheduler ran it."""
    row = dict(attempt.read("attempt", {"attempt": attempt.index}))
    launch = attempt.read("launch", {})
    outcome, failure = attempt.read("outcome", {}), attempt.failure()
    row |= {name: launch[name] for name in ("shared_with", "elapsed_s", "exit_codes") if name in launch}
    if "job" in launch:
        row["job"] = {**launch["job"], **row.get("job", {})}
    row["status"] = outcome.get("status") or ("failed" if failure else "running")
    row["ended"] = outcome.get("ended") or launch.get("ended")
    row["failure"] = failure["class"] if failure else None
    if failure and failure["class"] == FailureClass.NODE_FAIL and failure.get("host"):
        row["lost_nodes"] = failure["host"].split(",")
    accounting = attempt.read("accounting")
    if accounting is not None:
        row["accounting"] = accounting
    return row


def lost_work(attempts: Sequence[Attempt]) -> tuple[int, float] | None:
    """Steps that an attempt had done and the next did again, and the seconds they took; None where there was but one attempt.

    An attempt that saved when it had to leave loses none; one that was killed loses what lies behind its last checkpoint.
    """
    trained = [lines for attempt in attempts if (lines := _steps(attempt))]
    if len(attempts) < 2:
        return None
    steps, seconds = 0, 0.0
    for before, after in zip(trained, trained[1:], strict=False):
        again = [line for line in before if line[0] >= after[0][0]]
        steps += len(again)
        seconds += sum(step_s for _, step_s in again)
    return steps, seconds


def _steps(attempt: Attempt) -> list[tuple[int, float]]:
    """Step number and seconds from rank 0's lines; a line cut off in the middle ends them."""
    found = []
    path = attempt.steps_file(0)
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                plain = json.loads(line)
                found.append((int(plain["step"]), float(plain["step_s"])))
            except (ValueError, KeyError, TypeError):
                break
    return found


def accounting_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the scheduler accounts for over all attempts of a run; empty where none ran it.

    Returns:
        ``queue_wait_s`` and ``elapsed_s`` (sums), ``max_rss_gib`` (largest task), ``restarts``, ``jobs``, ``nodes``, ``states``;
        None, with ``unknown`` (why), where the site does not tell.
    """
    with_job = [row for row in rows if row.get("job")]
    if not with_job:
        return {}
    known = [row["accounting"] for row in with_job if row.get("accounting") and not row["accounting"].get("unknown")]
    reasons = {row["accounting"]["unknown"] for row in with_job if row.get("accounting", {}).get("unknown")}
    # Several attempts may lie in one life of a job (tried again inside the allocation): it waited and ran once.
    lives = list({(life.get("job_id"), life.get("started")): life for life in known}.values())
    peaks = [life["max_rss_bytes"] for life in lives if life.get("max_rss_bytes")]
    return {
        "jobs": list(dict.fromkeys(str(row["job"].get("job_id", "")) for row in with_job)),
        "restarts": max((int(row["job"].get("restart") or 0) for row in with_job), default=0),
        "queue_wait_s": _total(lives, "queue_wait_s"),
        "elapsed_s": _total(lives, "elapsed_s"),
        "max_rss_gib": max(peaks) / 2**30 if peaks else None,
        "energy_j": _total(lives, "energy_j"),
        "alloc_tres": lives[-1].get("alloc_tres", {}) if lives else {},
        "states": [life.get("state") for life in lives],
        "nodes": sorted({node for life in lives for node in life.get("node_list", [])}),
        "unknown": "; ".join(sorted(reasons)),
    }


def _total(lives: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [life.get(name) for life in lives]
    return None if not values or None in values else float(sum(value for value in values if value is not None))
