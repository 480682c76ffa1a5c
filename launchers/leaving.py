"""Ranks that are asked to leave: why, how long they may take, and the failure that is recorded of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launchers.request import RunRequest
from results.failures import NEXT_STEP, Failure, FailureClass
from results.runfolder import Attempt

#: Steps that may pass until all ranks have agreed to leave: the one in progress, the one after which they agree next, and one
#: that takes longer than those before it.
LEAVE_STEPS = 3


@dataclass(frozen=True, slots=True)
class Stop:
    """Why ranks are asked to leave.

    Attributes:
        patience_s: after which they are killed; None: what :func:`grace_s` grants; infinite: somebody else sees to their end.
    """

    kind: FailureClass
    reason: str
    patience_s: float | None = None


def step_s(attempt: Attempt | None) -> float:
    """Seconds between two step boundaries as an attempt's ranks last measured them, of the slowest; 0 while they have not."""
    progress = attempt.read("progress", {}) if attempt else {}
    return float(progress.get("boundary_s") or 0.0)


def grace_s(request: RunRequest, attempt: Attempt | None) -> float:
    """How long ranks may take where nothing else sets an end: the request's grace for the checkpoint, and their own steps."""
    return request.leave_grace_s + LEAVE_STEPS * step_s(attempt)


def left_failure(left: Mapping[str, Any], run: str = "") -> Failure:
    """The failure of ranks that left because somebody put a stop file there, or sent a signal from outside."""
    kind = FailureClass(left.get("class", FailureClass.CANCELLED))
    return Failure(
        kind=kind,
        reason=str(left.get("reason", "asked to leave")),
        step=left.get("step"),
        host=str(left.get("host", "")),
        next_step=NEXT_STEP[kind].format(run=run),
    )
