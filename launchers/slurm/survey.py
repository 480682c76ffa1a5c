"""Where submitted runs stand: ledger, scheduler and run folders together. What ended without a word gets its failure here; what
the scheduler took away is submitted again where the retry table says so.

The run folder is the truth for what is over; the scheduler is asked, once for all runs, only about what is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launchers.accounting import Accounting
from launchers.slurm.again import look_after
from launchers.slurm.commands import QueuedJob, Slurm, UnreachableError
from launchers.slurm.ledger import ENDED, Submission, ledger_folder, submissions
from launchers.slurm.ours import is_queued
from launchers.slurm.settle import Facts, settle_task
from launchers.slurm.submit import find_job
from results.errors import LaunchError, TenfoldError
from results.runfolder import RunFolder
from results.standing import Standing, Word
from results.store import is_locked

_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "SIGNALING", "STOPPED"}


@dataclass(slots=True)
class Survey:
    """What is known of submitted runs that are not over.

    Attributes:
        words: the scheduler's word, by run name.
        jobs: submission, index of the task and line of the queue, by run name.
        problems: what could not be found out, for the user.
    """

    words: dict[str, Word] = field(default_factory=dict)
    jobs: dict[str, tuple[Submission, int, QueuedJob | None]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def survey(runs: Path, *, settle: bool = True, holding_lock: bool = False) -> Survey:
    """Ask about everything that was submitted from ``runs`` and is not settled.

    Args:
        settle: record the failure of runs whose job is gone and that left no word of their own, and submit again what the retry
            table says.
        holding_lock: the caller holds the ledger's lock: a submission without a job is nobody's work in progress then.
    """
    found = Survey()
    runs = runs.resolve()
    by_cluster: dict[str | None, list[Submission]] = {}
    for submission in submissions(runs):
        by_cluster.setdefault(submission.profile.slurm_conf, []).append(submission)
    # In this order: listed, the lock, the numbers, the queue. A submission whose number is written down after the queue
    # was asked must not look like one whose job is gone.
    in_progress = not holding_lock and is_locked(ledger_folder(runs) / "lock")
    for conf, members in by_cluster.items():
        slurm = Slurm(conf)
        numbers = {submission.token: submission.job_id() for submission in members}
        try:
            queue = slurm.queue()
        except LaunchError as error:
            _nothing_known(members, error, found)
            continue
        ended = [
            (submission, gone, over)
            for submission in members
            for gone, over in [_look(submission, numbers[submission.token], queue, slurm, found, holding_lock, in_progress)]
            if gone
        ]
        if settle and ended:
            _settle(ended, slurm, found, holding_lock)
    return found


def _settle(ended: Sequence[tuple[Submission, list[int], bool]], slurm: Slurm, found: Survey, holding_lock: bool) -> None:
    """Record how ended tasks ended, and see to what is to go on; the accounting is asked once about all of them."""
    accounts = Accounting(slurm.environment()).rows(submission.job_id() or "" for submission, _, _ in ended)
    facts = Facts(slurm, accounts)
    for submission, gone, over in ended:
        try:
            results = [settle_task(submission, index, submission.tasks[index], facts) for index in gone]
            again = look_after(submission, gone, facts, holding_lock=holding_lock)
            for name, job_id in again.items():
                detail = f"job {job_id} pending: was just submitted again" if job_id else "about to be submitted again"
                found.words[name] = Word(Standing.QUEUED, detail, job_id)
            if over and all(results) and all(again.values()):
                submission.settle(ENDED)
        except TenfoldError as error:
            found.problems.append(f"what ended could not be recorded: {error.what}")
            if isinstance(error, LaunchError):  # whether it goes on is not known either
                _unknown(submission, gone, error, found)


def _nothing_known(members: Iterable[Submission], error: LaunchError, found: Survey) -> None:
    found.problems.append(f"where submitted runs stand is not known: {error.what}")
    for submission in members:
        _unknown(submission, range(len(submission.tasks)), error, found)


def _unknown(submission: Submission, indices: Iterable[int], error: LaunchError, found: Survey) -> None:
    for index in indices:
        for run in submission.tasks[index]:
            folder = RunFolder(submission.runs / run.name)
            if not folder.is_completed():
                found.words[run.name] = Word(Standing.UNKNOWN, error.what, submission.task_id(index) or "")
                found.jobs[run.name] = (submission, index, None)


def _look(
    submission: Submission,
    number: str | None,
    queue: dict[str, QueuedJob],
    slurm: Slurm,
    found: Survey,
    give_up: bool,
    in_progress: bool,
) -> tuple[list[int], bool]:
    """The scheduler's word on a submission's runs; indices of its tasks that have ended, and whether all have.

    Args:
        give_up: a submission without a job is closed; only who holds the ledger's lock can know that nobody works on it.
    """
    if number is None and (in_progress or not _adopt(submission, queue, slurm, found)):
        if in_progress:
            for index, task in enumerate(submission.tasks):
                for run in task:
                    found.words[run.name] = Word(Standing.QUEUED, "being submitted")
                    found.jobs[run.name] = (submission, index, None)
        elif give_up:
            with contextlib.suppress(TenfoldError):
                submission.settle("never reached the scheduler")
        return [], False
    if submission.job_id() is None:  # the controller did not answer
        return [], False
    gone = []
    for index, task in enumerate(submission.tasks):
        job = queue.get(submission.task_id(index) or "")
        if job is None or not is_queued(job, submission):  # a stranger under its number: ours is gone
            gone.append(index)
            continue
        for run in task:
            if not RunFolder(submission.runs / run.name).is_completed():
                found.words[run.name] = word_for(job)
                found.jobs[run.name] = (submission, index, job)
    return gone, len(gone) == len(submission.tasks)


def _adopt(submission: Submission, queue: dict[str, QueuedJob], slurm: Slurm, found: Survey) -> bool:
    """Find a job whose number was never written down, by the token that it carries."""
    job_id = next((job.base_id for job in queue.values() if is_queued(job, submission)), None)
    if job_id is None:
        try:
            job_id = find_job(slurm, submission.token)
        except UnreachableError as error:
            _nothing_known([submission], error, found)
            return True
    if job_id is None:
        return submission.job_id() is not None  # it has reported itself meanwhile
    submission.found(job_id)
    return True


def word_for(job: QueuedJob) -> Word:
    """The scheduler's word from one line of its queue."""
    if job.state in _RUNNING:
        return Word(Standing.RUNNING, f"job {job.job_id} on {job.nodes}", job.job_id)
    return Word(Standing.QUEUED, f"job {job.job_id} {job.state.lower()}: {_reason(job)}", job.job_id)


_REASONS = {
    "BeginTime": "held for a moment after a requeue",
    "Resources": "waits for resources",
    "Priority": "others come first",
    "JobArrayTaskLimit": "as many tasks of its array run as may",
    "Dependency": "waits for another job",
    "DependencyNeverSatisfied": "waits for a job that will never end as asked: tenfold cancel, then tenfold retry",
    "ReqNodeNotAvail": "a node it asks for is down or reserved",
    "PartitionTimeLimit": "asks for more time than its partition grants: it will never start",
    "JobHeldUser": "held by you: scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "None": "was just submitted",
}


def _reason(job: QueuedJob) -> str:
    plain = job.reason.strip("()").split(",")[0]
    return f"{_REASONS[plain]} ({plain})" if plain in _REASONS else plain
