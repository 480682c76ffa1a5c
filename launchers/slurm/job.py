"""What runs in the batch step of a job: ``python -P -m launchers.slurm.job SUBMISSION_FOLDER``.

It works off the runs of its task as steps of the allocation, looks after their ranks, has them saved before the time limit and
when the scheduler wants the nodes back, and afterwards does what the retry table says: again inside the allocation, a requeue
(only if the scheduler has not requeued the job itself), or a new job with more memory. Why ranks had to leave is decided by the
scheduler's facts, never by which signal came.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from launchers.accounting import sacct_rows
from launchers.environment import LEAVE_AT
from launchers.layout import Layout
from launchers.local import Ended, Leaving, LocalQueue
from launchers.request import RunRequest
from launchers.retrying import Action, RetryRule, decide
from launchers.slurm.commands import Slurm, seconds
from launchers.slurm.ledger import Submission, TaskRun
from launchers.slurm.settle import Facts, mourn
from launchers.slurm.starter import SrunStarter
from results.errors import LaunchError, TenfoldError
from results.failures import NEXT_STEP, Failure, FailureClass
from results.merge import build_record
from results.runfolder import RunFolder
from results.store import dumps, read_json_or

#: Facts about the job, for every rank to write into its attempt.
JOB = "TENFOLD_JOB"
#: Ranks leave so long before the limit at least, and at most.
LEAD_S = (20.0, 300.0)
#: How long a job that has ended its work waits for a controller that is away, to be requeued.
PATIENCE_S = 600.0
#: States in which a job is running and nobody has asked it to end.
UNDISTURBED = ("RUNNING", "CONFIGURING", "SUSPENDED")


def lead_s(left_s: float, step_s: float) -> float:
    """How long before the limit the ranks leave: a dozen steps (they agree every ten), and time for the checkpoint."""
    return min(max(LEAD_S[0], 12 * step_s + 0.05 * left_s), LEAD_S[1], left_s / 2)


class Job:
    """One job: one task of a submission, in one of its incarnations."""

    def __init__(self, folder: Path) -> None:
        self.submission = Submission.read(folder)
        self.site = self.submission.profile
        self.slurm = Slurm(self.site.slurm_conf)
        self.index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        self.raw_id = os.environ["SLURM_JOB_ID"]
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.rules = {name: RetryRule(**rule) for name, rule in self.submission.retry.items()}
        self.leave_at = float("inf")
        self.signal_name = ""
        self._reason: tuple[FailureClass, str] | None = None

    @property
    def job_id(self) -> str:
        """``123`` or ``123_4``."""
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        return f"{array}_{self.index}" if array else self.raw_id

    def run(self) -> int:
        """Everything; the exit status of the job."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._signalled)
        own = os.environ.get("SLURM_ARRAY_JOB_ID") or self.raw_id
        self.submission.found(own)
        task = self.submission.tasks[self.index]
        _say(f"==> job {self.job_id} on {os.environ.get('SLURM_JOB_NODELIST')}, restart {self.restart}: {len(task)} run(s)")
        if self.submission.job_id() != own or (self.submission.settled and not self.restart):
            # Accepted after its launcher had asked a second time, or was killed and given up.
            _say("another job has taken this one's place: nothing is done here")
            return 0
        self._name_job(task)
        if self.restart:
            facts = Facts(self.slurm, sacct_rows([self.job_id], environment=self.slurm.environment()))
            mourn(self.submission, self.index, self.job_id, self.restart, facts)
        self.leave_at = self._time_to_leave(task)
        waiting = list(task)
        while waiting:
            ended = self._queue(waiting).run([self._request(run) for run in waiting])
            waiting = [run for run in waiting if ended[run.name] is Ended.FAILED and self._again_here(run)]
            if self._leaving() is not Leaving.NO:
                break
        return self._conclude(task)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name

    def _name_job(self, task: tuple[TaskRun, ...]) -> None:
        """The queue is an index of runs: each running task carries its run's name."""
        if len(task) == 1 and self.submission.array:
            try:
                self.slurm.call("scontrol", "update", f"JobId={self.raw_id}", f"JobName={task[0].name}", patience_s=0.0)
            except LaunchError as error:
                _say(f"the job keeps its name: {error.what}")

    def _time_to_leave(self, task: tuple[TaskRun, ...]) -> float:
        try:
            text = self.slurm.call("squeue", "--noheader", f"--jobs={self.raw_id}", "--format=%L")
        except LaunchError as error:
            _say(f"the job's time limit is not known: {error.what}")
            return float("inf")
        left = seconds(text.strip())
        if left is None:
            return float("inf")
        steps = [read_json_or(RunFolder(self.submission.runs / run.name).plan_file, {}).get("step_s") or 0.0 for run in task]
        return time.time() + left - lead_s(left, max(steps, default=0.0))

    # Why ranks leave

    def _leaving(self) -> Leaving:
        return Leaving.CANCEL if self.signal_name or time.time() >= self.leave_at else Leaving.NO

    def _why(self) -> tuple[FailureClass, str]:
        """The class and reason of leaving, from the scheduler's facts."""
        if self._reason is None:
            self._reason = self._ask_why()
        return self._reason

    def _ask_why(self) -> tuple[FailureClass, str]:
        if time.time() >= self.leave_at:
            return FailureClass.TIMEOUT, "the job's time limit is near"
        by = f" ({self.signal_name})" if self.signal_name else ""
        try:
            # Little patience: ranks and this process are killed soon.
            facts = self.slurm.job(self.raw_id, patience_s=2.0)
            down = self.slurm.nodes_down(os.environ["SLURM_JOB_NODELIST"], patience_s=2.0)
        except LaunchError as error:
            return FailureClass.PREEMPTED, f"asked to leave{by}; the controller could not be asked why: {error.what}"
        if down:
            return FailureClass.NODE_FAIL, f"the job lost {', '.join(down)}"
        restarts = int(facts.get("Restarts", "0") or 0)
        return reason_for(facts.get("JobState", ""), requeued=restarts > self.restart, by=by)

    def _left(self, left: dict[str, Any]) -> Failure:
        """Ranks have left by themselves: a signal reached one of them, or their own clock ran out."""
        kind, reason = self._why()
        return Failure(
            kind=kind,
            reason=f"{reason}; {left.get('reason', '')}",
            step=left.get("step"),
            host=socket.gethostname(),
            next_step=NEXT_STEP[kind],
        )

    # Running

    def _queue(self, runs: list[TaskRun]) -> LocalQueue:
        packed = len(self.submission.tasks[self.index]) > 1
        cores = int(os.environ.get("SLURM_NTASKS", "1")) * int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        return LocalQueue(
            max_parallel=1 if self.submission.one_at_a_time or not packed else len(runs),
            cores=cores,
            on_event=_event,
            on_problem=_say,
            leaving=self._leaving,
            starter=SrunStarter(
                site=self.site,
                ranks_per_node=-(-int(os.environ.get("SLURM_NTASKS", "1")) // int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))),
                packed=packed and not self.submission.one_at_a_time,
                addresses=self._addresses(),
                variables=self._variables(),
            ),
            facts={"job": self._facts()},
            stop_because=self._why,
            left_because=self._left,
            wait_for_present=self.site.shared_machine,
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "token": self.submission.token,
            "job_id": self.job_id,
            "raw_id": self.raw_id,
            "restart": self.restart,
            "nodes": os.environ.get("SLURM_JOB_NODELIST", ""),
            "partition": os.environ.get("SLURM_JOB_PARTITION", ""),
        }

    def _variables(self) -> dict[str, str]:
        found = {JOB: dumps(self._facts(), indent=None)}
        if self.leave_at != float("inf"):
            found[LEAVE_AT] = f"{self.leave_at:.1f}"
        return found

    def _addresses(self) -> dict[str, str]:
        if self.site.node_address != "scheduler":
            return {}
        return self.slurm.node_addresses(os.environ["SLURM_JOB_NODELIST"])

    def _request(self, run: TaskRun) -> RunRequest:
        folder = self.submission.runs / run.name
        return RunRequest(
            folder=folder,
            ranks=run.ranks,
            cores_per_rank=run.cores_per_rank,
            gpus_per_rank=run.gpus_per_rank,
            memory_gib=run.memory_gib,
            exclusive=run.exclusive,
            environment=run.environment,
            module=run.module,
        )

    # Afterwards

    def _decision(self, run: TaskRun) -> Any:
        folder = RunFolder(self.submission.runs / run.name)
        attempts = build_record(folder).attempts
        return decide(self.rules, attempts, Layout.read(folder.path), memory_gib=self._memory_gib(run))

    def _memory_gib(self, run: TaskRun) -> float:
        """What the run had: its share of what the job was really given, which is rounded up."""
        given = int(os.environ.get("SLURM_MEM_PER_NODE", "0")) * int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) / 1024
        shared_by = 1 if self.submission.one_at_a_time else len(self.submission.tasks[self.index])
        return max(given / shared_by, run.memory_gib)

    def _again_here(self, run: TaskRun) -> bool:
        """Whether the run is tried again at once, in this allocation."""
        decision = self._decision(run)
        last = RunFolder(self.submission.runs / run.name).last_attempt()
        kind = ((last.failure() if last else None) or {}).get("class")
        here = decision.action is Action.HALVE_MICRO_BATCH or (
            decision.action is Action.RESUME and kind not in (FailureClass.TIMEOUT, FailureClass.PREEMPTED)
        )
        if here:
            decision.layout.write(self.submission.runs / run.name)
            _say(
                f"{run.name}: again here, {decision.action}" + (f" ({decision.layout.reason})" if decision.layout.reason else "")
            )
        return here

    def _conclude(self, task: tuple[TaskRun, ...]) -> int:
        """Requeue or resubmit what the table says; 0 if nothing is left undone."""
        folders = {run.name: RunFolder(self.submission.runs / run.name) for run in task}
        missing = [run for run in task if not folders[run.name].is_completed()]
        if not missing:
            return 0
        requeue: list[str] = []
        resubmit: list[tuple[TaskRun, Layout]] = []
        for run in missing:
            last = folders[run.name].last_attempt()
            failure = (last.failure() if last else None) or {}
            decision = self._decision(run)
            if not failure or (
                decision.action is Action.RESUME and failure.get("class") in (FailureClass.TIMEOUT, FailureClass.PREEMPTED)
            ):
                requeue.append(run.name)
            elif decision.action in (Action.MORE_MEMORY, Action.EXCLUDE_NODE):
                resubmit.append((run, decision.layout))
            elif decision.reason:
                _say(f"{run.name}: not tried again: {decision.reason}")
        for run, layout in resubmit:
            self._resubmit(run, layout, only=not requeue)
        if requeue and self._why()[0] is not FailureClass.CANCELLED:
            self._requeue(requeue)
        return 1

    def _requeue(self, names: list[str]) -> None:
        """Put the job back into the queue, unless the scheduler has."""
        try:
            if self._disturbed():
                _say(f"{', '.join(names)}: the scheduler has the job already")
                return
            _say(f"{', '.join(names)}: requeued, goes on from the checkpoint")
            self.slurm.requeue(self.raw_id)
        except LaunchError as error:
            _say(f"the job could not be requeued: {error.what}; next: tenfold retry {' '.join(names)}")

    def _disturbed(self) -> bool:
        """Whether the scheduler is ending the job (to requeue it, say). A controller that is away is waited for.

        Raises:
            LaunchError: it does not come back.
        """
        return self.slurm.job(self.raw_id, patience_s=PATIENCE_S).get("JobState", "") not in UNDISTURBED

    def _resubmit(self, run: TaskRun, layout: Layout, *, only: bool) -> None:
        """Submit a run again with another allocation.

        Args:
            only: nothing else of this job goes on: the scheduler must not requeue it too (a lost node is noticed late).
        """
        from launchers.slurm.submit import resubmit

        layout.write(self.submission.runs / run.name)
        try:
            if only:
                with contextlib.suppress(LaunchError):
                    self.slurm.call("scontrol", "update", f"JobId={self.raw_id}", "Requeue=0", patience_s=60.0)
            if self._disturbed():
                _say(f"{run.name}: the scheduler has the job already")
                return
            job = resubmit(self.submission, self.index, run, layout)
        except TenfoldError as error:
            _say(f"{run.name}: no new job could be submitted: {error.what}; next: tenfold retry {run.name}")
            return
        _say(f"{run.name}: submitted again as job {job}, {layout.reason}")


def reason_for(state: str, *, requeued: bool, by: str = "") -> tuple[FailureClass, str]:
    """Class and reason of ranks having been asked to leave, from the job's state at that moment.

    Args:
        requeued: the controller counts one restart more than this incarnation of the job is.
    """
    if requeued:
        return FailureClass.PREEMPTED, f"the scheduler has requeued the job: preempted, or by an administrator{by}"
    if state in UNDISTURBED:
        return FailureClass.PREEMPTED, f"asked to leave{by} while the job went on"
    known = {
        "TIMEOUT": (FailureClass.TIMEOUT, "the job's time limit was reached"),
        "NODE_FAIL": (FailureClass.NODE_FAIL, "a node of the job failed"),
        "PREEMPTED": (FailureClass.PREEMPTED, "the job was preempted and will not be requeued"),
    }
    # COMPLETING without a restart: it is being ended for good. By whom, the accounting knows afterwards.
    return known.get(state, (FailureClass.CANCELLED, f"the job was cancelled ({state.lower() or 'no state'}){by}"))


def _event(what: str, request: RunRequest, how: Ended | None) -> None:
    _say(f"{what} {request.name}" + (f": {how}" if how else ""))


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> None:
    """Entry point of the batch step."""
    try:
        status = Job(Path(sys.argv[1])).run()
    except TenfoldError as error:
        _say(str(error))
        status = error.exit_code
    sys.exit(status)


if __name__ == "__main__":
    main()
