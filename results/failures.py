"""Why a run did not complete: one of nine classes, the first rank that failed, the reason and the next command."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from results.errors import ConfigError, DataError, DivergedError, TenfoldError


class FailureClass(StrEnum):
    """The classes of failure; retry policies and ``tenfold retry --only`` are written in these words."""

    OOM_DEVICE = "oom-device"
    OOM_HOST = "oom-host"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    NODE_FAIL = "node-fail"
    CRASH = "crash"
    DIVERGED = "diverged"
    BAD_INPUT = "bad-input"
    CANCELLED = "cancelled"


@dataclass(slots=True, kw_only=True)
class Failure:
    """One failure, as ``attempt-N/failure.json`` holds it."""

    kind: FailureClass
    reason: str
    rank: int | None = None  # the first rank that failed; None: not a rank's fault
    step: int | None = None
    host: str = ""
    next_step: str = ""
    traceback: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain form, with ``class`` spelled as the public interface has it."""
        plain = asdict(self)
        plain["class"] = str(plain.pop("kind"))
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Failure:
        """Inverse of :meth:`as_dict`; unknown keys are ignored."""
        known = {name: plain[name] for name in cls.__slots__ if name in plain and name != "kind"}
        return cls(kind=FailureClass(plain.get("class", "crash")), **known)


#: Texts by which the libraries below report that host memory ran out.
_HOST_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "std::bad_alloc", "unable to mmap")


def classify_exception(error: BaseException) -> FailureClass:
    """Name the class of an exception that ended a rank, following its chain of causes."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen).lower()
        if type(seen).__name__ in {"OutOfMemoryError", "AcceleratorError"} and "out of memory" in text:
            return FailureClass.OOM_DEVICE
        if isinstance(seen, MemoryError) or any(mark in text for mark in _HOST_MEMORY):
            return FailureClass.OOM_HOST
        if isinstance(seen, DivergedError):
            return FailureClass.DIVERGED
        if isinstance(seen, ConfigError | DataError):
            return FailureClass.BAD_INPUT
        if isinstance(seen, KeyboardInterrupt):
            return FailureClass.CANCELLED
        if isinstance(seen, TimeoutError):
            return FailureClass.TIMEOUT
        seen = seen.__cause__ or seen.__context__
    return FailureClass.CRASH


def classify_exit(returncode: int, output_tail: str = "") -> tuple[FailureClass, str]:
    """Class and reason of a rank that ended without a word of its own, from its exit status and last output.

    Args:
        returncode: as :mod:`subprocess` gives it: negative for a signal.
        output_tail: the end of the rank's log.
    """
    tail = output_tail.lower()
    if any(mark in tail for mark in (*_HOST_MEMORY, "memoryerror")):
        return FailureClass.OOM_HOST, "host memory ran out (see the end of the rank's log)"
    if returncode < 0:
        number = -returncode
        name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
        hint = "; the kernel's out-of-memory killer does this too: dmesg tells" if number == signal.SIGKILL else ""
        return FailureClass.CRASH, f"killed by {name}{hint}"
    return FailureClass.CRASH, f"exited with status {returncode} and left no failure record"


#: What to type next, by class; ``{run}`` is the run's name.
NEXT_STEP: dict[FailureClass, str] = {
    FailureClass.OOM_DEVICE: "halve the micro-batch: tenfold run --from {run} train.micro_batch=...",
    FailureClass.OOM_HOST: "give it more memory or run fewer at once, then: tenfold retry --only oom-host",
    FailureClass.TIMEOUT: "it resumes from its checkpoint: tenfold retry --only timeout",
    FailureClass.PREEMPTED: "it resumes from its checkpoint: tenfold retry --only preempted",
    FailureClass.NODE_FAIL: "tenfold retry --only node-fail",
    FailureClass.CRASH: "tenfold logs {run}, then: tenfold retry {run}",
    FailureClass.DIVERGED: "lower train.lr or set train.clip; the evidence is kept: tenfold logs {run}",
    FailureClass.BAD_INPUT: "mend the input named above, then: tenfold retry {run}",
    FailureClass.CANCELLED: "tenfold retry --only cancelled",
}


def failure_from_exception(error: BaseException, *, rank: int, step: int | None, host: str, run: str, trace: str) -> Failure:
    """Build the failure record of a rank that ended by an exception."""
    kind = classify_exception(error)
    next_step = NEXT_STEP[kind].format(run=run)
    if isinstance(error, TenfoldError) and error.next_step:
        next_step = error.next_step
    reason = str(error).strip() or type(error).__name__
    if not isinstance(error, TenfoldError):
        reason = f"{type(error).__name__}: {reason}"
    return Failure(kind=kind, reason=reason, rank=rank, step=step, host=host, next_step=next_step, traceback=trace)
