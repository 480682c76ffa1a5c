"""What a job does about its runs when they have ended, as the retry table says: again inside the allocation, a requeue (only if
the scheduler has not requeued the job itself), or a new job with more memory or without a node."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence

from launchers.layout import Layout
from launchers.local import Ended
from launchers.retrying import Action, Decision, RetryRule
from launchers.slurm.again import Chosen, decision_for, resubmit
from launchers.slurm.commands import Slurm
from launchers.slurm.leaving import UNDISTURBED, is_preempted, is_requeued
from launchers.slurm.ledger import Submission, TaskRun, taken_over
from launchers.slurm.settle import belongs
from launchers.slurm.submit import open_ledger
from results.errors import LaunchError, TenfoldError
from results.failures import FailureClass
from results.runfolder import RunFolder
from results.store import locked

#: How long a job that has ended its work waits for a controller that is away, to be requeued.
PATIENCE_S = 600.0
#: A job goes back into the queue so often for runs that another process holds.
ELSEWHERE_TIMES = 3


class Conclusion:
    """Decisions of one incarnation of one job.

    Args:
        index: of its task.
        raw_id: the number that Slurm's commands know it by.
        restart: how often it was requeued before.
        say: prints a line.
    """

    def __init__(
        self, submission: Submission, index: int, slurm: Slurm, raw_id: str, restart: int, say: Callable[[str], None]
    ) -> None:
        self.submission, self.index, self.slurm = submission, index, slurm
        self.raw_id, self.restart, self._say = raw_id, restart, say

    def goes_on(self, run: TaskRun) -> bool:
        """Whether a requeued job has anything to do for the run: what the table has given up stays as it is, and what has a job
        of its own by now is left to that."""
        if taken_over(self.submission, run.name):
            self._say(f"{run.name}: another job has it by now")
            return False
        last = self._folder(run).last_attempt()
        if last is None or not belongs(last, self.submission.token) or last.failure() is None:
            return True
        decision = self._decision(run)
        if decision.action is Action.HALVE_MICRO_BATCH:
            decision.layout.write(self._folder(run).path)
        again = decision.action in (Action.RESUME, Action.HALVE_MICRO_BATCH, Action.EXCLUDE_NODE)
        if not again:
            self._say(f"{run.name}: left as it is after {self._kind(run)}")
        return again

    def again_here(self, run: TaskRun) -> bool:
        """Whether the run is tried again at once, in this allocation."""
        decision = self._decision(run)
        here = decision.action is Action.HALVE_MICRO_BATCH or (
            decision.action is Action.RESUME and self._kind(run) not in (FailureClass.TIMEOUT, FailureClass.PREEMPTED)
        )
        if here:
            decision.layout.write(self._folder(run).path)
            self._say(
                f"{run.name}: again here, {decision.action}" + (f" ({decision.layout.reason})" if decision.layout.reason else "")
            )
        return here

    def conclude(self, task: Sequence[TaskRun], ended: Mapping[str, Ended]) -> int:
        """Requeue or resubmit what the table says; 0 if nothing is left undone.

        Args:
            ended: how the queue was done with each run; one that is not in it was left as it is.
        """
        missing = [run for run in task if not self._folder(run).is_completed()]
        requeue: list[Chosen] = []
        elsewhere: list[Chosen] = []
        for run in missing:
            decision = self._decision(run)
            if run.name not in ended and decision.action is not Action.MORE_MEMORY:
                continue
            if ended.get(run.name) in (Ended.ELSEWHERE, Ended.NOT_STARTED):
                if self.restart < self._times(ended, run):
                    requeue.append((run, Layout.read(self._folder(run).path)))
                else:
                    self._say(f"{run.name}: {ended[run.name]}; the job was requeued {self.restart} times and leaves it")
            elif decision.action in (Action.RESUME, Action.HALVE_MICRO_BATCH):
                requeue.append((run, decision.layout))
            elif decision.again and not taken_over(self.submission, run.name):
                elsewhere.append((run, decision.layout))
            elif decision.reason:
                self._say(f"{run.name}: not tried again: {decision.reason}")
        for run, layout in elsewhere:
            self._resubmit(run, layout, only=not requeue)
        if requeue:
            self._requeue(requeue)
        return 1 if missing else 0

    def _times(self, ended: Mapping[str, Ended], run: TaskRun) -> float:
        """How often the job may go back into the queue for a run that it has not begun: for want of time as often as the table
        resumes what it has begun, and as long as it completes others."""
        if ended[run.name] is Ended.ELSEWHERE:
            return ELSEWHERE_TIMES
        if Ended.COMPLETED in ended.values():
            return math.inf
        rules = [RetryRule(**self.submission.retry.get(kind, {})) for kind in (FailureClass.TIMEOUT, FailureClass.PREEMPTED)]
        return max([ELSEWHERE_TIMES, *(rule.times for rule in rules if rule.action == Action.RESUME)])

    def _folder(self, run: TaskRun) -> RunFolder:
        return RunFolder(self.submission.runs / run.name)

    def _kind(self, run: TaskRun) -> str | None:
        """The class of the last attempt's failure."""
        last = self._folder(run).last_attempt()
        return ((last.failure() if last else None) or {}).get("class")

    def _decision(self, run: TaskRun) -> Decision:
        return decision_for(self.submission, run, memory_gib=self._memory_gib(run))

    def _memory_gib(self, run: TaskRun) -> float:
        """What the run had: its share of what the job was really given, which is rounded up."""
        given = int(os.environ.get("SLURM_MEM_PER_NODE", "0")) * int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) / 1024
        shared_by = 1 if self.submission.one_at_a_time else len(self.submission.tasks[self.index])
        return max(given / shared_by, run.memory_gib)

    def _requeue(self, chosen: Sequence[Chosen]) -> None:
        """Put the job back into the queue, unless the scheduler has. One that is preempted for good is submitted anew, if there
        is time: otherwise the next look does so (:mod:`again`)."""
        names = ", ".join(run.name for run, _ in chosen)
        try:
            facts = self._facts()
            if facts.get("JobState", "") in UNDISTURBED:
                for run, layout in chosen:
                    layout.write(self._folder(run).path)
                self._say(f"{names}: requeued, goes on from the checkpoint")
                self.slurm.requeue(self.raw_id)
            elif is_preempted(facts) and not is_requeued(facts, self.restart):
                with locked(open_ledger(self.submission.runs), what="the ledger of submissions"):
                    found = resubmit(self.submission, chosen, say=self._say)
                self._say(f"{names}: submitted again as {', '.join(found.values())}: the job was preempted for good")
            else:
                self._say(f"{names}: the scheduler has the job already")
        except TenfoldError as error:
            self._say(f"the job could not be requeued: {error.what}; next: tenfold retry {names.replace(',', '')}")

    def _facts(self) -> dict[str, str]:
        """What the controller says of this job now. One that is away is waited for.

        Raises:
            LaunchError: it does not come back.
        """
        return self.slurm.job(self.raw_id, patience_s=PATIENCE_S)

    def _resubmit(self, run: TaskRun, layout: Layout, *, only: bool) -> None:
        """Submit a run again with another allocation.

        Args:
            only: nothing else of this job goes on: the scheduler must not requeue it too (a lost node is noticed late).
        """
        try:
            if only:
                with contextlib.suppress(LaunchError):
                    self.slurm.call("scontrol", "update", f"JobId={self.raw_id}", "Requeue=0", patience_s=60.0)
            if self._facts().get("JobState", "") not in UNDISTURBED:  # it is ending the job, to requeue it, say
                self._say(f"{run.name}: the scheduler has the job already")
                return
            with locked(open_ledger(self.submission.runs), what="the ledger of submissions"):
                job = resubmit(self.submission, [(run, layout)], say=self._say)[run.name]
        except TenfoldError as error:
            self._say(f"{run.name}: no new job could be submitted: {error.what}; next: tenfold retry {run.name}")
            return
        self._say(f"{run.name}: submitted again as job {job}, {layout.reason}")
