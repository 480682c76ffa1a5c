"""What runs in the batch step of a job: ``python -P -m launchers.slurm.job SUBMISSION_FOLDER``.

It works off the runs of its task as steps of the allocation, looks after their ranks, has them saved before the time limit and
when the scheduler wants the nodes back (:mod:`leaving`), and afterwards does what the retry table says (:mod:`concluding`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from launchers.accounting import sacct_rows
from launchers.environment import LEAVE_AT
from launchers.leaving import Stop, step_s
from launchers.local import Ended, Leaving, LocalQueue
from launchers.ranks import RankProcesses
from launchers.request import RunRequest
from launchers.slurm.commands import Slurm, seconds
from launchers.slurm.concluding import Conclusion
from launchers.slurm.leaving import Clock, ask_why
from launchers.slurm.ledger import Submission, TaskRun
from launchers.slurm.settle import Facts, mourn
from launchers.slurm.starter import SrunStarter
from results.errors import LaunchError, TenfoldError
from results.failures import NEXT_STEP, Failure
from results.runfolder import RunFolder
from results.store import dumps, read_json_or

#: Facts about the job, for every rank to write into its attempt.
JOB = "TENFOLD_JOB"
#: The ranks' own word on their steps is looked up this often.
MEASURE_EVERY_S = 5.0


class Job:
    """One job: one task of a submission, in one of its incarnations."""

    def __init__(self, folder: Path) -> None:
        self.submission = Submission.read(folder)
        self.site = self.submission.profile
        self.slurm = Slurm(self.site.slurm_conf)
        self.index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        self.raw_id = os.environ["SLURM_JOB_ID"]
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.conclusion = Conclusion(self.submission, self.index, self.slurm, self.raw_id, self.restart, _say)
        self.clock = Clock(None, 0.0)
        self.signal_name = ""
        self._measure_at = 0.0

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
        waiting = list(task)
        if self.restart:
            facts = Facts(self.slurm, sacct_rows([self.job_id], environment=self.slurm.environment()))
            mourn(self.submission, self.index, self.job_id, self.restart, facts)
            waiting = [run for run in task if self.conclusion.goes_on(run)]
        self.clock = self._clock(task)
        ended: dict[str, Ended] = {}
        while waiting:
            ended |= self._queue(waiting).run([self._request(run) for run in waiting])
            if self._leaving() is not Leaving.NO:
                break
            waiting = [run for run in waiting if ended[run.name] is Ended.FAILED and self.conclusion.again_here(run)]
        return self.conclusion.conclude(task, ended)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name

    def _name_job(self, task: tuple[TaskRun, ...]) -> None:
        """The queue is an index of runs: each running task carries its run's name."""
        if len(task) == 1 and self.submission.array:
            try:
                self.slurm.call("scontrol", "update", f"JobId={self.raw_id}", f"JobName={task[0].name}", patience_s=0.0)
            except LaunchError as error:
                _say(f"the job keeps its name: {error.what}")

    # When and why ranks leave

    def _clock(self, task: Sequence[TaskRun]) -> Clock:
        """The job's time, and how long steps take: as planned, or as an earlier attempt has measured."""
        left = None
        try:
            left = seconds(self.slurm.call("squeue", "--noheader", f"--jobs={self.raw_id}", "--format=%L").strip())
        except LaunchError as error:
            _say(f"the job's time limit is not known: {error.what}")
        folders = [RunFolder(self.submission.runs / run.name) for run in task]
        clock = Clock(left, max((read_json_or(folder.plan_file, {}).get("step_s") or 0.0 for folder in folders), default=0.0))
        clock.measured(max((step_s(folder.last_attempt()) for folder in folders), default=0.0))
        return clock

    def _measure(self, running: Sequence[RankProcesses]) -> None:
        """Steps that take longer than was planned move the time to leave forward."""
        if time.monotonic() >= self._measure_at:
            self._measure_at = time.monotonic() + MEASURE_EVERY_S
            self.clock.measured(max((group.step_s for group in running), default=0.0))

    def _leaving(self) -> Leaving:
        return Leaving.CANCEL if self.signal_name or time.time() >= self.clock.leave_at else Leaving.NO

    def _why(self) -> Stop:
        """Asked anew for every ending: one run of a pack may leave for a signal of its own, the next for want of time."""
        return ask_why(self.slurm, self.raw_id, self.restart, self.clock, by=self.signal_name)

    def _left(self, left: dict[str, Any]) -> Failure:
        """Ranks have left by themselves: a signal reached one of them, or their own clock ran out."""
        why = self._why()
        return Failure(
            kind=why.kind,
            reason=f"{why.reason}; {left.get('reason', '')}",
            step=left.get("step"),
            host=socket.gethostname(),
            next_step=NEXT_STEP[why.kind],
        )

    # Running

    def _queue(self, runs: list[TaskRun]) -> LocalQueue:
        packed = len(self.submission.tasks[self.index]) > 1
        cores = int(os.environ.get("SLURM_NTASKS", "1")) * int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        return LocalQueue(
            max_parallel=1 if self.submission.one_at_a_time or not packed else len(runs),
            cores=cores,
            on_event=_event,
            on_tick=self._measure,
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
        if self.clock.left_s is not None:
            found[LEAVE_AT] = f"{self.clock.ranks_leave_at:.1f}"
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
            nodes=run.nodes,
            memory_gib=run.memory_gib,
            exclusive=run.exclusive,
            leave_grace_s=run.leave_grace_s,
            environment=run.environment,
            module=run.module,
        )


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
