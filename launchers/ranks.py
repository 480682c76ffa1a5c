"""The ranks of one run: started by a :class:`launchers.starting.Starter`, watched, ended together, their ending recorded."""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from launchers.leaving import Stop, grace_s, left_failure, step_s
from launchers.presence import announce, withdraw
from launchers.request import RunRequest
from launchers.starting import LocalStarter, Starter, exit_file, launch_log, node_file, program_log
from results.errors import TenfoldError
from results.failures import NEXT_STEP, Failure, FailureClass, classify_exit
from results.runfolder import Attempt, RunFolder
from results.store import FileLock

#: After one rank failed, the others get this long to write their own files before they are killed.
GRACE_S = 5.0


class RankProcesses:
    """All ranks of one run. The run's lock is held here and inherited by every rank on this machine: if this process is killed
    the ranks still hold it, and when they end the kernel frees it.

    Args:
        lock: held; released when the ranks have ended.
        facts: written into every attempt's ``launch.json`` (which job of the scheduler this is, say).
        left_because: the failure of ranks that have left without having been stopped here, from their ``leave.json``.

    Raises:
        OSError: the ranks cannot be started.
    """

    def __init__(
        self,
        request: RunRequest,
        lock: FileLock,
        starter: Starter | None = None,
        facts: Mapping[str, Any] | None = None,
        left_because: Callable[[dict[str, Any]], Failure] | None = None,
    ) -> None:
        self.request, self.folder = request, RunFolder(request.folder)
        self._left_because = left_because or left_failure
        self.starter: Starter = starter or LocalStarter()
        self._lock, self._facts = lock, dict(facts or {})
        self.started = time.monotonic()
        self.shared_with = 0
        self._attempt: Attempt | None = None
        self._presence = announce()
        self._deadline: float | None = None
        self._kill_at: float | None = None
        self._failed_rank: int | None = None
        self._stopped: Failure | None = None
        self._asked = False
        before = self.folder.last_attempt()
        self._first_attempt = 0 if before is None else before.index + 1
        try:
            self._started = self.starter.start(request, [held.fileno() for held in (self._lock, self._presence) if held])
        except OSError:
            withdraw(self._presence)
            raise
        self.processes = self._started.processes
        if request.time_limit_s:
            self._deadline = self.started + request.time_limit_s

    def attempt(self) -> Attempt | None:
        """The attempt these processes have claimed, once they have."""
        if self._attempt is None:
            found = [attempt for attempt in self.folder.attempts() if attempt.index >= self._first_attempt]
            self._attempt = found[0] if found else None
        return self._attempt

    @property
    def step_s(self) -> float:
        """Seconds between two step boundaries, as last measured; 0 while it is not known."""
        return step_s(self.attempt())

    @property
    def grace_s(self) -> float:
        """How long the ranks may take to leave where nothing else sets an end."""
        return grace_s(self.request, self.attempt())

    def note_company(self, others: int) -> None:
        """So many others run on the machine; written down at once, so that it is known even if this launcher is killed."""
        more = others > self.shared_with
        self.shared_with = max(self.shared_with, others)
        attempt = self.attempt()
        if attempt is not None and (more or not (attempt.path / "launch.json").exists()):
            with contextlib.suppress(TenfoldError):
                attempt.write("launch", {**self._facts, "shared_with": self.shared_with})

    def poll(self) -> bool:
        """Look after the ranks; True once all have ended and the ending is recorded."""
        codes = self._started.codes()
        now = time.monotonic()
        if self._stopped is not None:
            self._ask_by_file(self._stopped)
        if self._failed_rank is None:
            self._notice_failure(codes, now)
        if self._deadline is not None and now > self._deadline and None in codes:
            self.stop(Stop(FailureClass.TIMEOUT, f"the limit of {self.request.time_limit_s:g} s was reached"))
            self._deadline = None
        if self._kill_at is not None and now > self._kill_at:
            self.kill()
        if not self._started.ended:
            return False
        self._finish([code for code in self._started.codes() if code is not None])
        return True

    def _notice_failure(self, codes: list[int | None], now: float) -> None:
        """One rank has failed: the others can neither go on nor save, and get a little time to say what they know."""
        failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            self._failed_rank = self._blame(failed, codes)
            self._kill_at = min(self._kill_at or math.inf, now + GRACE_S)
            if (codes[self._failed_rank] or 0) < 0:
                self._speak_for(self._failed_rank, codes[self._failed_rank] or 0)

    def _blame(self, failed: list[int], codes: list[int | None]) -> int:
        """Of the ranks that ended badly, the one at fault: one killed by a signal did not follow another's failure."""
        attempt = self.attempt()
        recorded = attempt.failure() if attempt else None
        if recorded is not None and recorded.get("rank") is not None:
            return int(recorded["rank"])
        killed = [rank for rank in failed if (codes[rank] or 0) < 0]
        return (killed or failed)[0]

    def stop(self, why: Stop) -> None:
        """Ask the ranks to save and leave, recording why; they are killed if they do not within the patience."""
        self._stopped = Failure(
            kind=why.kind,
            reason=why.reason,
            host=socket.gethostname(),
            next_step=NEXT_STEP[why.kind].format(run=self.folder.name),
        )
        self._ask_by_file(self._stopped)
        self._started.ask_to_leave()
        self._kill_at = time.monotonic() + (self.grace_s if why.patience_s is None else why.patience_s)

    def _ask_by_file(self, why: Failure) -> None:
        """Put the stop file there as soon as there is an attempt to put it into: ranks of a program hear of it no other way."""
        attempt = None if self._asked else self.attempt()
        if attempt is not None:
            self._asked = True
            with contextlib.suppress(TenfoldError):
                attempt.ask_to_leave(why.kind, why.reason)
                attempt.fail(why)

    def kill(self) -> None:
        """End the ranks at once."""
        self._started.kill()

    def _finish(self, codes: list[int]) -> None:
        self._started.close()
        try:
            self._record(codes)
        except (TenfoldError, OSError) as error:  # a full disk, say: other runs must not suffer for it
            with contextlib.suppress(OSError):
                print(f"{self.folder.name}: its end could not be recorded: {error}", file=sys.stderr, flush=True)
        finally:
            self._lock.release()
            withdraw(self._presence)

    def _record(self, codes: list[int]) -> None:
        """Write what only the launcher knows, and the failure that a killed rank could not write itself."""
        from results.merge import write_record

        attempt = self.attempt()
        if attempt is None:  # not even rank 0 got that far
            attempt = self._attempt = self.folder.claim_attempt()
        attempt.write(
            "launch",
            {
                **self._facts,
                "exit_codes": codes,
                "elapsed_s": time.monotonic() - self.started,
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
                "shared_with": self.shared_with,
            },
        )
        if not attempt.completed:
            self._speak_at_the_end(attempt, codes)
        write_record(self.folder)
        self._sweep_up(attempt)

    def _speak_at_the_end(self, attempt: Attempt, codes: list[int]) -> None:
        """Record why a run that has ended did not complete, unless somebody has."""
        left = attempt.read("leave")
        if self._stopped is not None:
            self._stopped.step = None if left is None else left.get("step")
            if not attempt.fail(self._stopped) and (attempt.failure() or {}).get("reason") == self._stopped.reason:
                attempt.write("failure", self._stopped.as_dict())  # the same word, now with the step it stopped after
        elif left is not None:
            asked = attempt.read("stop")
            attempt.fail(self._left_because(left) if asked is None else left_failure({**left, **asked}, self.folder.name))
        elif self._failure_of_lost_ranks(attempt):
            return
        elif any(code != 0 for code in codes):
            rank = self._failed_rank if self._failed_rank is not None else self._blame_at_the_end(codes)
            self._speak_for(rank, codes[rank])
        else:
            attempt.fail(
                Failure(
                    kind=FailureClass.CRASH,
                    reason="all ranks ended with status 0 and left no outcome",
                    next_step=NEXT_STEP[FailureClass.CRASH].format(run=self.folder.name),
                )
            )

    def _failure_of_lost_ranks(self, attempt: Attempt) -> bool:
        """Ranks that went down with their parents: what the others then say (a peer is gone) is not the reason."""
        lost = self._started.lost()
        recorded = attempt.failure()
        if not lost or (recorded is not None and not recorded.get("evidence", {}).get("follows")):
            return False
        files = [node_file(self.folder.path, rank) for rank in lost]
        nodes = sorted({path.read_text() for path in files if path.exists()})
        kind, reason = self.starter.explain(self._program_output()) or (
            FailureClass.NODE_FAIL,
            f"rank {', '.join(map(str, lost))} vanished" + (f" with node {', '.join(nodes)}" if nodes else ""),
        )
        failure = Failure(
            kind=kind,
            reason=reason,
            rank=lost[0],
            step=_last_step(attempt),
            host=",".join(nodes),
            next_step=NEXT_STEP[kind].format(run=self.folder.name),
        )
        if not attempt.fail(failure):
            attempt.write("failure", failure.as_dict())
        return True

    def _blame_at_the_end(self, codes: list[int]) -> int:
        return self._blame([rank for rank, code in enumerate(codes) if code != 0], list(codes))

    def _speak_for(self, rank: int, code: int) -> None:
        """Record the failure of a rank that cannot do so itself; a failure recorded earlier stays."""
        attempt = self.attempt()
        if attempt is None:
            return
        if self._stopped is not None:  # it was asked to end before it had an attempt to say so in
            attempt.fail(self._stopped)
            return
        tail = self._tail(attempt, rank)
        kind, reason = self.starter.explain(self._program_output()) or classify_exit(code, tail)
        attempt.fail(
            Failure(
                kind=kind,
                reason=reason,
                rank=rank,
                step=_last_step(attempt),
                host=socket.gethostname(),
                next_step=NEXT_STEP[kind].format(run=self.folder.name),
                traceback=tail,
            )
        )

    def _program_output(self) -> str:
        path = program_log(self.folder.path)
        return path.read_bytes()[-20_000:].decode(errors="replace") if path.exists() else ""

    def _tail(self, attempt: Attempt, rank: int) -> str:
        for path in (attempt.log(rank), launch_log(self.folder.path, rank), program_log(self.folder.path)):
            if path.exists() and path.stat().st_size:
                return path.read_bytes()[-4000:].decode(errors="replace")
        return ""

    def _sweep_up(self, attempt: Attempt) -> None:
        """Early output of ranks is in their logs by now; what a program had to say is kept beside them."""
        for rank in range(self.request.ranks):
            early = launch_log(self.folder.path, rank)
            if early.exists() and not attempt.log(rank).exists():
                early.replace(attempt.log(rank))
            early.unlink(missing_ok=True)
            exit_file(self.folder.path, rank).unlink(missing_ok=True)
            node_file(self.folder.path, rank).unlink(missing_ok=True)
        said = program_log(self.folder.path)
        if said.exists():
            if said.stat().st_size:
                said.replace(attempt.path / f"log-{self.starter.name}.txt")
            said.unlink(missing_ok=True)


def _last_step(attempt: Attempt) -> int | None:
    progress = attempt.read("progress", {})
    return progress.get("done") if progress.get("phase") == "train" else None
