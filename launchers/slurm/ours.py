"""Whether a job that bears a number of ours is ours: where a cluster's numbering began again, a stranger may bear it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from launchers.sacct import JobAccount
from launchers.slurm.commands import QueuedJob
from launchers.slurm.ledger import Submission, token_of

#: Clocks of the submitting machine and of the controller differ.
SLACK = timedelta(minutes=5)


def is_queued(job: QueuedJob, submission: Submission) -> bool:
    """Of a line of the queue."""
    return token_of(job.comment, job.command) == submission.token


def is_shown(fields: Mapping[str, str], submission: Submission) -> bool:
    """Of what ``scontrol show job`` tells."""
    return token_of(fields.get("Comment", ""), fields.get("Command", ""), fields.get("StdOut", "")) == submission.token


def is_accounted(life: JobAccount, submission: Submission) -> bool:
    """Of a row of the accounting: by its comment where the site keeps comments, else by its name and when it was submitted."""
    token = token_of(life.comment)
    if token is not None:
        return token == submission.token
    names = {submission.job_name, *(run.name for task in submission.tasks for run in task)}
    named = not life.name or not submission.job_name or life.name in names
    since = datetime.fromisoformat(submission.created) - SLACK
    return named and (life.submitted is None or life.submitted >= since)
