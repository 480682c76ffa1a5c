"""Runs that are submitted again by themselves, as the retry table says: by their job, or, where the scheduler has ended it before
it could do so, by whoever looks next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from launchers.layout import Layout
from launchers.request import RunRequest
from launchers.retrying import Action, Decision, RetryRule, decide
from launchers.slurm.commands import Slurm, UnreachableError
from launchers.slurm.grouping import Wish, prepare
from launchers.slurm.ledger import Submission, TaskRun, taken_over
from launchers.slurm.settle import Facts, give_up, open_failure, taken_away
from launchers.slurm.submit import open_ledger, submit
from results.errors import LaunchError
from results.merge import build_record
from results.runfolder import RunFolder
from results.store import FileLock

#: A run and the layout of its next attempt.
Chosen = tuple[TaskRun, Layout]


def decision_for(submission: Submission, run: TaskRun, *, memory_gib: float) -> Decision:
    """What the submission's retry table says of the run's last attempt.

    Args:
        memory_gib: that the attempt was given.
    """
    folder = RunFolder(submission.runs / run.name)
    rules = {name: RetryRule(**rule) for name, rule in submission.retry.items()}
    return decide(rules, build_record(folder).attempts, Layout.read(folder.path), memory_gib=memory_gib)


def resubmit(submission: Submission, chosen: Sequence[Chosen], *, say: Callable[[str], None] = lambda _: None) -> dict[str, str]:
    """Submit runs of a submission again, each with its next layout; the ledger's lock must be held. Whatever waits for the end of
    the submission's job (a later stage, the next exclusive job) waits for the new ones too, if it has not started.

    Returns:
        The new job's or task's number by run name.

    Raises:
        LaunchError: a run does not fit the site, or sbatch refuses.
    """
    wish = Wish(
        study=submission.study,
        command=submission.command,
        label=submission.label or submission.study,
        site=submission.profile,
        rules={name: RetryRule(**rule) for name, rule in submission.retry.items()},
        # Runs that followed one another on the same nodes do so again.
        paired=submission.one_at_a_time and len(chosen) > 1 and any(len(task) > 1 for task in submission.tasks),
    )
    for run, layout in chosen:
        layout.write(submission.runs / run.name)
    found: dict[str, str] = {}
    done = submit(prepare([_request(submission, run, layout) for run, layout in chosen], wish), wish)
    for one, _ in done:
        for index, task in enumerate(one.submission.tasks):
            found |= {run.name: one.submission.task_id(index) or "" for run in task}
    _hold_back(Slurm(wish.site.slurm_conf), submission.job_id(), [job_id for _, job_id in done], say)
    return found


def _request(submission: Submission, run: TaskRun, layout: Layout) -> RunRequest:
    return RunRequest(
        folder=submission.runs / run.name,
        ranks=layout.ranks or run.ranks,
        cores_per_rank=run.cores_per_rank,
        gpus_per_rank=run.gpus_per_rank,
        nodes=run.nodes,
        memory_gib=layout.memory_gib or run.memory_gib,
        exclusive=run.exclusive,
        time_limit_s=run.time_limit_s,
        leave_grace_s=run.leave_grace_s,
        environment=run.environment,
        module=run.module,
    )


def _hold_back(slurm: Slurm, old: str | None, new: Iterable[str], say: Callable[[str], None]) -> None:
    """Jobs that still wait for the old one wait for the new ones too."""
    try:
        waiting = {job.base_id: job.waits_for for job in slurm.queue().values() if old in job.waits_for}
        for job_id, others in waiting.items():
            after = "afterany:" + ":".join(sorted({*others, *new}, key=int))
            slurm.call("scontrol", "update", f"JobId={job_id}", f"Dependency={after}")
    except LaunchError as error:
        say(f"jobs that follow do not wait for {', '.join(new)}: {error.what}")


def look_after(submission: Submission, indices: Sequence[int], facts: Facts, *, holding_lock: bool) -> dict[str, str]:
    """Submit again what the scheduler has taken away from tasks that are over (preempted by cancellation, killed at the limit or
    for its memory, lost with its node) and the table wants to go on: once, however many look at the same time.

    Args:
        holding_lock: the caller holds the ledger's lock.

    Returns:
        New numbers by run name; an empty number where somebody else is submitting just now: then it is for the next look.

    Raises:
        LaunchError: the controller does not answer.
        ResultError: a run folder or the ledger cannot be written.
    """
    names = [run.name for index in indices for run, _ in _chosen(submission, index, facts)]
    if not names:
        return {}
    lock = None if holding_lock else FileLock(open_ledger(submission.runs))
    if lock is not None and not lock.acquire():
        return dict.fromkeys(names, "")
    try:
        found: dict[str, str] = {}
        single: list[Chosen] = []
        for index in indices:
            chosen = _chosen(submission, index, facts)  # again: another look may have been quicker
            if len(submission.tasks[index]) > 1 and submission.one_at_a_time:
                found |= _try(submission, chosen)
            else:
                single += chosen
        return found | _try(submission, single)
    finally:
        if lock is not None:
            lock.release()


def _chosen(submission: Submission, index: int, facts: Facts) -> list[Chosen]:
    """Runs of a task that is over, which the scheduler took away, the table wants again, and nobody has submitted since."""
    job_id = submission.task_id(index) or ""
    found = []
    for run in submission.tasks[index]:
        folder = RunFolder(submission.runs / run.name)
        failure = open_failure(folder, submission)
        # What is asked of others comes last: of a thousand tasks hundreds may have failed.
        if failure is None or submission.retry.get(failure["class"], {}).get("action", Action.NEVER) == Action.NEVER:
            continue
        layout = Layout.read(folder.path)
        decision = decision_for(submission, run, memory_gib=layout.memory_gib or run.memory_gib)
        if decision.again and not taken_over(submission, run.name) and taken_away(failure, submission, job_id, facts):
            found.append((run, decision.layout))
    return found


def _try(submission: Submission, chosen: Sequence[Chosen]) -> dict[str, str]:
    """Submit; a refusal is written beside the failures, and the runs stay failed.

    Raises:
        LaunchError: the controller does not answer.
    """
    if not chosen:
        return {}
    try:
        return resubmit(submission, chosen)
    except LaunchError as error:
        if isinstance(error, UnreachableError) or isinstance(error.__cause__, UnreachableError):
            raise
        for run, _ in chosen:
            give_up(RunFolder(submission.runs / run.name), f"no new job could be submitted: {error.what}")
        return {}
