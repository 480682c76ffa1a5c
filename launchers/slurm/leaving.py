"""When the ranks of a job have to leave, why, and how long they may take: from the job's limit and the scheduler's facts, never
from which signal came. Where the scheduler ends the job itself, its own patience holds (KillWait, GraceTime): nobody is killed
here before it strikes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping

from launchers.leaving import LEAVE_STEPS, Stop
from launchers.slurm.commands import Slurm
from results.errors import LaunchError
from results.failures import FailureClass

#: Ranks leave so long before the limit at least, and at most, beside the steps that leaving takes.
LEAD_S = (20.0, 300.0)
#: Ranks that have not left by then are killed: what remains until the limit is for writing down how they ended, and the requeue.
KILL_LEAD_S = 10.0
#: Ranks whose peers went down with a node cannot save: they get so long to notice.
LOST_S = 30.0
#: Ranks and the batch step are killed soon: the controller must answer at once or not at all.
ASK_S = 2.0
#: States in which a job is running and nobody has asked it to end.
UNDISTURBED = ("RUNNING", "CONFIGURING", "SUSPENDED")


def lead_s(left_s: float, step_s: float) -> float:
    """How long before the limit the ranks leave: some steps, until all have agreed, and time for the checkpoint.

    Args:
        left_s: of the job, at its start.
        step_s: from one step boundary to the next.
    """
    return min(min(max(LEAD_S[0], 0.05 * left_s), LEAD_S[1]) + LEAVE_STEPS * step_s, left_s / 2)


class Clock:
    """The time that a job has. Times are seconds of the epoch, infinite where there is no limit.

    Args:
        left_s: until the job's limit; None: it has none, or nobody knows it.
        step_s: as planned; 0 where it is not.
    """

    def __init__(self, left_s: float | None, step_s: float) -> None:
        self.left_s = left_s
        self.end_at = math.inf if left_s is None else time.time() + left_s
        self._planned_s, self._measured_s = step_s, 0.0

    def measured(self, step_s: float) -> None:
        """The ranks' own word on their steps: the longest takes the plan's place."""
        self._measured_s = max(self._measured_s, step_s)

    @property
    def leave_at(self) -> float:
        """When ranks are asked to leave."""
        return self._leave_at(self._measured_s or self._planned_s)

    @property
    def ranks_leave_at(self) -> float:
        """When ranks leave by themselves, whatever becomes of their launcher: a plan that is too long costs them nothing."""
        return self._leave_at(self._measured_s)

    def _leave_at(self, step_s: float) -> float:
        return math.inf if self.left_s is None else self.end_at - lead_s(self.left_s, step_s)

    def patience_s(self) -> float | None:
        """How long ranks may take while nobody but the limit ends the job; None: there is no limit."""
        if self.left_s is None:
            return None
        left_s = max(self.end_at - time.time(), 0.0)
        return left_s - min(KILL_LEAD_S, left_s / 4)


def ask_why(slurm: Slurm, raw_id: str, restart: int, clock: Clock, by: str = "") -> Stop:
    """Why the ranks of this job have to leave now, or have just left.

    Args:
        restart: of this incarnation of the job.
        by: the signal that the batch step got, for a reader; empty: none.
    """
    if time.time() >= clock.leave_at:
        return Stop(FailureClass.TIMEOUT, "the job's time limit is near", clock.patience_s())
    by = f" ({by})" if by else ""
    try:
        facts = slurm.job(raw_id, patience_s=ASK_S)
        down = slurm.nodes_down(os.environ["SLURM_JOB_NODELIST"], patience_s=ASK_S)
    except LaunchError as error:
        reason = f"asked to leave{by}; the controller could not be asked why: {error.what}"
        return Stop(FailureClass.PREEMPTED, reason, clock.patience_s())
    if down:
        return Stop(FailureClass.NODE_FAIL, f"the job lost {', '.join(down)}", LOST_S)
    state, requeued, preempted = facts.get("JobState", ""), is_requeued(facts, restart), is_preempted(facts)
    kind, reason = reason_for(state, requeued=requeued, preempted=preempted, by=by)
    by_itself = state in UNDISTURBED and not requeued and not preempted
    return Stop(kind, reason, clock.patience_s() if by_itself else math.inf)


def is_requeued(facts: Mapping[str, str], restart: int) -> bool:
    """Whether the controller counts one restart more than this incarnation of the job is."""
    return int(facts.get("Restarts", "0") or 0) > restart


def is_preempted(facts: Mapping[str, str]) -> bool:
    """Whether the controller says since when; it forgets that with a requeue."""
    return facts.get("PreemptTime", "None") not in ("None", "N/A", "Unknown", "")


def reason_for(state: str, *, requeued: bool, preempted: bool = False, by: str = "") -> tuple[FailureClass, str]:
    """Class and reason of ranks having been asked to leave, from the job's state at that moment.

    Args:
        requeued, preempted: :func:`is_requeued`, :func:`is_preempted`.
    """
    if requeued:
        return FailureClass.PREEMPTED, f"the scheduler has requeued the job: preempted, or by an administrator{by}"
    if state in UNDISTURBED:
        if preempted:
            return FailureClass.PREEMPTED, f"the scheduler preempts the job once its grace is over{by}"
        return FailureClass.PREEMPTED, f"asked to leave{by} while the job went on"
    if preempted:
        return FailureClass.PREEMPTED, f"the job was preempted and will not be requeued{by}"
    known = {
        "TIMEOUT": (FailureClass.TIMEOUT, "the job's time limit was reached"),
        "NODE_FAIL": (FailureClass.NODE_FAIL, "a node of the job failed"),
        "PREEMPTED": (FailureClass.PREEMPTED, "the job was preempted and will not be requeued"),
    }
    # COMPLETING without a restart: it is being ended for good. By whom, the accounting knows afterwards.
    return known.get(state, (FailureClass.CANCELLED, f"the job was cancelled ({state.lower() or 'no state'}){by}"))
