"""The last word on runs whose job is over: whoever left none of their own gets the scheduler's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launchers.slurm.commands import Slurm
from launchers.slurm.ledger import Submission, TaskRun
from results.failures import NEXT_STEP, Failure, FailureClass
from results.merge import write_record
from results.runfolder import Attempt, RunFolder

#: Class and reason of a job that is over, by the scheduler's state.
ENDINGS: dict[str, tuple[FailureClass, str]] = {
    "CANCELLED": (FailureClass.CANCELLED, "its job was cancelled"),
    "TIMEOUT": (FailureClass.TIMEOUT, "its job reached the time limit and was killed"),
    "DEADLINE": (FailureClass.TIMEOUT, "its job missed its deadline"),
    "PREEMPTED": (FailureClass.PREEMPTED, "its job was preempted and not requeued"),
    "NODE_FAIL": (FailureClass.NODE_FAIL, "a node of its job failed"),
    "BOOT_FAIL": (FailureClass.NODE_FAIL, "a node of its job did not boot"),
    "OUT_OF_MEMORY": (FailureClass.OOM_HOST, "its job ran out of memory"),
    "FAILED": (FailureClass.CRASH, "its job failed before any rank could say why"),
    "COMPLETED": (FailureClass.CRASH, "its job ended well and left no outcome"),
    "REQUEUED": (FailureClass.PREEMPTED, "its job was requeued and is no longer in the queue"),
}


def settle_task(submission: Submission, index: int, task: tuple[TaskRun, ...], slurm: Slurm) -> bool:
    """Record how the runs of an ended task ended, where they have not; True once nothing more can be learned.

    Raises:
        UnreachableError: the controller does not answer.
        ResultError: a run folder cannot be written.
    """
    job_id = submission.task_id(index) or ""
    folders = [RunFolder(submission.runs / run.name) for run in task]
    wanting = [folder for folder in folders if not _has_word(folder, submission.token) or _provisional(folder)]
    if not wanting:
        return True
    known = slurm.job(job_id)
    done = True
    for folder in wanting:
        if _has_word(folder, submission.token):
            _refine(folder, known)
        else:
            done = _speak(folder, submission, job_id, known) and done
    return done


def mourn(submission: Submission, index: int, restart: int, slurm: Slurm) -> None:
    """At the start of a requeued job: attempts of the incarnation before that ended without a word get theirs.

    Raises:
        ResultError: a run folder cannot be written.
    """
    for run in submission.tasks[index]:
        folder = RunFolder(submission.runs / run.name)
        last = folder.last_attempt()
        if last is None or not belongs(last, submission.token) or folder.is_completed() or last.failure() is not None:
            continue
        job = (last.read("attempt", {}) or {}).get("job", {})
        down = slurm.nodes_down(str(job["nodes"])) if job.get("nodes") else []
        kind = FailureClass.NODE_FAIL if down or not last.read("leave") else FailureClass.PREEMPTED
        lost = f"lost {', '.join(down)}" if down else "ended without a word, with its node or by force"
        last.fail(
            Failure(
                kind=kind,
                reason=f"job {job.get('job_id', '')}: its incarnation {restart - 1} {lost}; it was requeued",
                step=(last.read("leave") or {}).get("step"),
                host=",".join(down),
                next_step=NEXT_STEP[kind].format(run=folder.name),
            )
        )
        write_record(folder)


def belongs(attempt: Attempt, token: str) -> bool:
    """Whether a job of the submission made this attempt."""
    for name in ("attempt", "launch"):
        job = (attempt.read(name, {}) or {}).get("job")
        if isinstance(job, dict) and job.get("token") == token:
            return True
    return False


def _has_word(folder: RunFolder, token: str) -> bool:
    """Whether the run's end under this submission is on record."""
    if folder.is_completed():
        return True
    last = folder.last_attempt()
    return last is not None and belongs(last, token) and last.failure() is not None


def _provisional(folder: RunFolder) -> bool:
    """Whether the end is on record, but as "cancelled" by a job that was being ended and could not know by whom."""
    last = folder.last_attempt()
    failure = (last.failure() if last else None) or {}
    return (
        not folder.is_completed()
        and failure.get("class") == FailureClass.CANCELLED
        and "job_state" not in failure.get("evidence", {})
    )


def _refine(folder: RunFolder, known: dict[str, Any]) -> None:
    last, state = folder.last_attempt(), _state(known)
    if last is None or state not in ENDINGS:
        return
    failure = Failure.from_dict(last.failure() or {})
    failure.evidence = {**failure.evidence, "job_state": state}
    kind, reason = ENDINGS[state]
    if kind is not failure.kind and kind is not FailureClass.CRASH:
        failure.kind, failure.reason = kind, reason
        failure.next_step = NEXT_STEP[kind].format(run=folder.name)
    last.write("failure", failure.as_dict())
    write_record(folder)


def _state(known: dict[str, Any]) -> str:
    return str(known.get("JobState", "")).split()[0] if known.get("JobState") else ""


def _speak(folder: RunFolder, submission: Submission, job_id: str, known: dict[str, Any]) -> bool:
    lock = folder.lock()
    if not lock.acquire():
        return False  # its launcher is about to write the end
    try:
        if _has_word(folder, submission.token):
            return True
        last = folder.last_attempt()
        if last is None or not belongs(last, submission.token):
            if last is not None and _is_newer(last, submission):
                return True  # somebody has run it since, otherwise
            last = folder.claim_attempt()
            last.write("launch", {"job": {"token": submission.token, "job_id": job_id}, "shared_with": 0})
        last.fail(failure_for(known, job_id, last, folder.name, submission.folder))
    finally:
        lock.release()
    write_record(folder)
    return True


def _is_newer(attempt: Attempt, submission: Submission) -> bool:
    started = str((attempt.read("attempt", {}) or {}).get("started", ""))
    return started > submission.created


def failure_for(known: dict[str, Any], job_id: str, attempt: Attempt, run: str, submission: Path) -> Failure:
    """The failure of an attempt that ended without a word, from the scheduler's facts."""
    state = _state(known)
    kind, reason = ENDINGS.get(
        state, (FailureClass.NODE_FAIL, "its job is gone and nobody knows why: the node or the scheduler was killed")
    )
    left = attempt.read("leave")
    if left is not None:
        reason += f"; {left.get('reason', '')}"
    exit_code = known.get("ExitCode", "")
    return Failure(
        kind=kind,
        reason=f"job {job_id}: {reason}" + (f" (exit {exit_code})" if exit_code and exit_code != "0:0" else ""),
        step=None if left is None else left.get("step"),
        host=str(known.get("BatchHost", "")),
        next_step=NEXT_STEP[kind].format(run=run),
        evidence={"job_state": state, "job_output": str(submission)},
    )
