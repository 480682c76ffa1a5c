"""Submitted runs as tests put them there, and what is read of them afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launchers.sacct import DELIMITER, FIELDS
from launchers.slurm.grouping import Wish
from launchers.slurm.ledger import Submission
from results.runfolder import Attempt, RunFolder
from results.store import read_json
from tests.launchers.launching import SITE

WISH = Wish(study="scaling", command="tenfold sweep study=scaling", label="fake-tiny-scaling", site=SITE)
#: Submits runs by these names, several as an array.
Queue = Callable[..., Submission]


def begin(submission: Submission, run: str, job_id: str = "101", **facts: Any) -> Attempt:
    """An attempt as rank 0 of the submission's job claims it."""
    attempt = RunFolder(submission.runs / run).claim_attempt()
    started = facts.pop("started", "2026-11-23T22:00:00+00:00")
    job = {"token": submission.token, "job_id": job_id, **facts}
    attempt.write("attempt", {"attempt": attempt.index, "engine": "torch", "ranks": 1, "started": started, "job": job})
    return attempt


def failure(submission: Submission, run: str) -> dict[str, Any]:
    """The failure of a run's record, which must say the same as its last attempt."""
    folder = RunFolder(submission.runs / run)
    record = read_json(folder.record_file)
    assert record["status"] == "failed"
    last = folder.last_attempt()
    assert last is not None
    assert last.failure() == record["failure"]
    found: dict[str, Any] = record["failure"]
    return found


def untouched(submission: Submission) -> bool:
    """No attempt was claimed and no record written."""
    names = [run.name for task in submission.tasks for run in task]
    folders = [RunFolder(submission.runs / name) for name in names]
    return not any(folder.attempts() or folder.record_file.exists() for folder in folders) and not submission.settled


def accounts(*rows: dict[str, str]) -> str:
    """What sacct prints."""
    return DELIMITER.join(FIELDS) + "\n" + "".join(DELIMITER.join(row.get(name, "") for name in FIELDS) + "\n" for row in rows)
