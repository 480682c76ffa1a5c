"""The last word on runs whose job is over: whoever left none of their own gets the scheduler's."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from launchers.accounting import Accounts, match_attempt
from launchers.sacct import JobAccount
from launchers.slurm.commands import Slurm
from launchers.slurm.ledger import Submission, TaskRun
from launchers.slurm.ours import is_accounted, is_shown
from results.failures import NEXT_STEP, Failure, FailureClass
from results.merge import write_record
from results.runfolder import Attempt, RunFolder

#: The accounting may lag behind the queue; after that long it is taken not to know.
ACCOUNTING_LATE_S = 120.0
#: States of a job that is not over after all: it was requeued, or accepted, after the queue was asked.
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "COMPLETING", "REQUEUE_HOLD")
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


#: Those of them in which the scheduler has ended a job for good, whatever its batch step had begun to do about it.
#: Key of a failure's evidence: why nobody tries again by themselves.
GIVEN_UP = "given_up"
TAKEN_AWAY = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "TIMEOUT", "OUT_OF_MEMORY")


@dataclass(slots=True)
class Facts:
    """What is known of jobs that are over: the accounting first, then what the controller still remembers. What they know of a
    stranger under the same number is left aside."""

    slurm: Slurm
    accounts: Accounts = field(default_factory=Accounts)

    def _mine(self, job_id: str, submission: Submission) -> list[JobAccount]:
        return [life for life in self.accounts.jobs if life.job_id == job_id and is_accounted(life, submission)]

    def lives(self, job_id: str, submission: Submission) -> list[JobAccount]:
        """The lives of one job or task of a submission, oldest first."""
        return [life for life in self._mine(job_id, submission) if life.started is not None]

    def ending(self, job_id: str, submission: Submission) -> tuple[str, str]:
        """State and host of the last life; empty where nobody knows.

        Raises:
            UnreachableError: the controller does not answer.
        """
        mine = self._mine(job_id, submission)
        last = mine[-1] if mine and mine[-1].ended is not None else None
        if last is None or last.state == "REQUEUED":  # which promises a further life
            known = self.slurm.job(job_id)
            known = known if is_shown(known, submission) else {}
            state = known.get("JobState", "").split()
            if state or last is None:
                return (state[0] if state else ""), known.get("BatchHost", "")
        return last.state, ",".join(last.node_list)


def settle_task(submission: Submission, index: int, task: tuple[TaskRun, ...], facts: Facts) -> bool:
    """Record how the runs of an ended task ended, and what they cost; True once nothing more can be learned.

    Raises:
        UnreachableError: the controller does not answer.
        ResultError: a run folder cannot be written.
    """
    job_id = submission.task_id(index) or ""
    done = True
    ending: tuple[str, str] | None = None
    for run in task:
        folder = RunFolder(submission.runs / run.name)
        said = _has_word(folder, submission.token)
        if not said or _provisional(folder):
            ending = ending or facts.ending(job_id, submission)
            if ending[0] in ALIVE:
                return False
            done = (_refine(folder, ending[0]) if said else _speak(folder, submission, job_id, ending)) and done
        done = _join_accounting(folder, submission, job_id, facts) and done
    return done


def _join_accounting(folder: RunFolder, submission: Submission, job_id: str, facts: Facts) -> bool:
    """Write the accounting of each attempt beside it; False while the accounting has not seen the end."""
    changed, done = False, True
    for attempt in folder.attempts():
        if not belongs(attempt, submission.token) or attempt.read("accounting") is not None:
            continue
        found: dict[str, Any]
        if facts.accounts.unknown:
            found = {"unknown": facts.accounts.unknown}
        else:
            started = (attempt.read("attempt", {}) or {}).get("started")
            when = datetime.fromisoformat(started) if started else None
            lives = facts.lives(job_id, submission)
            life = match_attempt(lives, job_id, when) if when else (lives[-1] if lives else None)
            if life is not None and life.ended is not None:
                found = life.as_dict()
            elif time.time() - attempt.path.stat().st_mtime < ACCOUNTING_LATE_S:
                done = False
                continue
            else:
                found = {"unknown": "unknown: the accounting does not know this attempt's job"}
        attempt.write("accounting", found)
        changed = True
    if changed:
        write_record(folder)
    return done


def mourn(submission: Submission, index: int, job_id: str, restart: int, facts: Facts) -> None:
    """At the start of a requeued job: attempts of its lives before that ended without a word get theirs.

    Raises:
        LaunchError: the controller does not answer.
        ResultError: a run folder cannot be written.
    """
    for run in submission.tasks[index]:
        folder = RunFolder(submission.runs / run.name)
        last = folder.last_attempt()
        if last is None or not belongs(last, submission.token) or folder.is_completed() or last.failure() is not None:
            continue
        before = [life for life in facts.lives(job_id, submission) if life.ended is not None]
        state = before[-1].state if before else ""
        kind, reason = ENDINGS.get(state, (FailureClass.NODE_FAIL, "it ended without a word, with its node or by force"))
        if state == "REQUEUED" and last.read("leave") is None:
            reason = "it was requeued before its ranks could save"
        last.fail(
            Failure(
                kind=kind,
                reason=f"job {job_id}, before its restart {restart}: {reason.removesuffix(' and is no longer in the queue')}",
                step=(last.read("leave") or {}).get("step"),
                host=",".join(before[-1].node_list) if before else "",
                next_step=NEXT_STEP[kind].format(run=folder.name),
                evidence={"job_state": state},
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


def open_failure(folder: RunFolder, submission: Submission) -> dict[str, Any] | None:
    """The failure of a run whose last attempt is this submission's, unless it was given up; None where there is none."""
    last = folder.last_attempt()
    failure = last.failure() if last else None
    if last is None or failure is None or folder.is_completed() or not belongs(last, submission.token):
        return None
    return None if GIVEN_UP in failure.get("evidence", {}) else failure


def taken_away(failure: dict[str, Any], submission: Submission, job_id: str, facts: Facts) -> bool:
    """Whether the scheduler has ended the job of a failed run for good: nobody of the job could do then what the table says.

    Raises:
        LaunchError: the controller does not answer.
    """
    state = failure.get("evidence", {}).get("job_state") or facts.ending(job_id, submission)[0]
    if state not in TAKEN_AWAY:
        return False
    known = facts.slurm.job(job_id)  # the accounting shows the end of a life as the end of the job
    return not (is_shown(known, submission) and known.get("JobState", "") in ALIVE)


def give_up(folder: RunFolder, why: str) -> None:
    """The failed run will not be submitted again by itself, though the retry table wants it.

    Raises:
        ResultError: the run folder cannot be written.
    """
    last = folder.last_attempt()
    failure = Failure.from_dict((last.failure() if last else None) or {"reason": ""})
    if last is not None:
        failure.reason += f"; {why}"
        failure.evidence = {**failure.evidence, GIVEN_UP: why}
        last.write("failure", failure.as_dict())
        write_record(folder)


def _provisional(folder: RunFolder) -> bool:
    """Whether the end is on record, but as "cancelled" by a job that was being ended and could not know by whom."""
    last = folder.last_attempt()
    failure = (last.failure() if last else None) or {}
    return (
        not folder.is_completed()
        and failure.get("class") == FailureClass.CANCELLED
        and "job_state" not in failure.get("evidence", {})
    )


def _refine(folder: RunFolder, state: str) -> bool:
    last = folder.last_attempt()
    if last is None or state not in ENDINGS:
        return last is None
    failure = Failure.from_dict(last.failure() or {})
    failure.evidence = {**failure.evidence, "job_state": state}
    kind, reason = ENDINGS[state]
    if kind is not failure.kind and kind is not FailureClass.CRASH:
        failure.kind, failure.reason = kind, reason
        failure.next_step = NEXT_STEP[kind].format(run=folder.name)
    last.write("failure", failure.as_dict())
    write_record(folder)
    return True


def _speak(folder: RunFolder, submission: Submission, job_id: str, ending: tuple[str, str]) -> bool:
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
            if not ending[0]:  # a task that never started leaves no trace once it is taken out of the queue
                ending = ("CANCELLED", "")
        last.fail(failure_for(ending, job_id, last, folder.name, submission.folder))
    finally:
        lock.release()
    write_record(folder)
    return True


def _is_newer(attempt: Attempt, submission: Submission) -> bool:
    started = str((attempt.read("attempt", {}) or {}).get("started", ""))
    return started > submission.created


def failure_for(ending: tuple[str, str], job_id: str, attempt: Attempt, run: str, submission: Path) -> Failure:
    """The failure of an attempt that ended without a word, from the scheduler's state and hosts."""
    state, host = ending
    kind, reason = ENDINGS.get(
        state, (FailureClass.NODE_FAIL, "its job is gone and nobody knows why: the node or the scheduler was killed")
    )
    left = attempt.read("leave")
    if left is not None:
        reason += f"; {left.get('reason', '')}"
    return Failure(
        kind=kind,
        reason=f"job {job_id}: {reason}",
        step=None if left is None else left.get("step"),
        host=host,
        next_step=NEXT_STEP[kind].format(run=run),
        evidence={"job_state": state, "job_output": str(submission)},
    )
