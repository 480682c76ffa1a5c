"""Runs behind a bounded queue: never more than ``max_parallel`` at once, never more cores or memory than there are, an exclusive
run alone, one failure never stopping another run. It serves this machine, or one allocation of a scheduler."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from launchers.leaving import Stop
from launchers.presence import present
from launchers.ranks import RankProcesses
from launchers.request import RunRequest
from launchers.starting import LocalStarter, Starter
from results.errors import ResultError
from results.failures import Failure, FailureClass
from results.runfolder import RunFolder

#: Beyond the ranks' own grace, for killing them and for writing down how they ended, when their launcher has to end.
ABANDON_S = 10.0


class Ended(StrEnum):
    """How the queue is done with a request."""

    COMPLETED = "completed"
    FAILED = "failed"
    ALREADY = "already completed"
    ELSEWHERE = "running elsewhere"
    NOT_STARTED = "not started"
    REFUSED = "refused"


class Leaving(StrEnum):
    """What the user chose at Ctrl-C."""

    NO = "no"
    LEAVE = "leave"  # running points finish, no more start
    CANCEL = "cancel"  # running points save and stop


@dataclass
class LocalQueue:
    """A bounded queue of runs.

    Attributes:
        max_parallel: runs at a time.
        cores: to be shared by all ranks; a run that wants more than there are runs alone, oversubscribed.
        memory_gib: to be shared by planned peaks.
        on_event: called with ("started" | "ended", request, how it ended or None).
        on_tick: called a few times a second with the running processes.
        starter: how the ranks of a run are started.
        facts: written into every attempt's ``launch.json``.
        stop_because: why runs are cancelled, and how long they may take; asked once for all that run at that moment.
        left_because: the failure of runs that have left by themselves, from their ``leave.json``.
        wait_for_present: an exclusive run waits for runs of other queues on this machine; false where a scheduler sees to that.
    """

    max_parallel: int = 1
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    memory_gib: float = float("inf")
    on_event: Callable[[str, RunRequest, Ended | None], None] = lambda *_: None
    on_tick: Callable[[list[RankProcesses]], None] = lambda _: None
    on_problem: Callable[[str], None] = lambda _: None
    leaving: Callable[[], Leaving] = lambda: Leaving.NO
    tick_s: float = 0.25
    starter: Starter = field(default_factory=LocalStarter)
    facts: dict[str, Any] = field(default_factory=dict)
    stop_because: Callable[[], Stop] = lambda: Stop(FailureClass.CANCELLED, "cancelled from the terminal")
    left_because: Callable[[dict[str, Any]], Failure] | None = None
    wait_for_present: bool = True
    _waited: set[str] = field(default_factory=set)

    def run(self, requests: Iterable[RunRequest]) -> dict[str, Ended]:
        """Run everything; returns how each request ended, by run name."""
        waiting = list(requests)
        ended: dict[str, Ended] = {}
        running: list[RankProcesses] = []

        def end(request: RunRequest, how: Ended) -> None:
            ended[request.name] = how
            self.on_event("ended", request, how)

        try:
            self._work(waiting, running, end)
        except BaseException:
            _abandon(running)
            raise
        return ended

    def _work(self, waiting: list[RunRequest], running: list[RankProcesses], end: Callable[[RunRequest, Ended], None]) -> None:
        cancelled = False
        while waiting or running:
            choice = self.leaving()
            if choice is not Leaving.NO:
                for request in waiting:
                    end(request, Ended.NOT_STARTED)
                waiting.clear()
            if choice is Leaving.CANCEL and not cancelled:
                cancelled = True
                why = self.stop_because()
                for group in running:
                    group.stop(why)
            for request in self._startable(waiting, running):
                waiting.remove(request)
                outcome = self._start(request, running)
                if outcome is not None:
                    end(request, outcome)
            self._wait(running)
            _note_company(running)
            self.on_tick(running)
            for group in list(running):
                if group.poll():
                    running.remove(group)
                    done = group.attempt()
                    completed = done is not None and done.completed
                    end(group.request, Ended.COMPLETED if completed else Ended.FAILED)

    def _startable(self, waiting: list[RunRequest], running: list[RankProcesses]) -> list[RunRequest]:
        """Requests that may start now, in order, smaller ones filling gaps; exclusive ones wait for an
        empty machine and are not overtaken."""
        chosen: list[RunRequest] = []
        active = [group.request for group in running]
        for request in waiting:
            together = [*active, *chosen]
            if together and (request.exclusive or any(other.exclusive for other in together)):
                break  # keeps the order: an exclusive run is not overtaken for ever
            if request.exclusive and self.wait_for_present and present():
                self._say_waiting(request)
                break
            if len(together) >= self.max_parallel:
                break
            cores = sum(other.ranks * other.cores_per_rank for other in together)
            memory = sum(other.memory_gib for other in together)
            fits = cores + request.ranks * request.cores_per_rank <= self.cores and memory + request.memory_gib <= self.memory_gib
            if fits or not together:
                chosen.append(request)
        return chosen

    def _say_waiting(self, request: RunRequest) -> None:
        if request.name not in self._waited:
            self._waited.add(request.name)
            self.on_problem(f"{request.name} wants the machine alone and waits for the runs of another sweep")

    def _start(self, request: RunRequest, running: list[RankProcesses]) -> Ended | None:
        """Start one request; an outcome if there was nothing to start."""
        folder = RunFolder(request.folder)
        if request.memory_gib > self.memory_gib:
            return Ended.REFUSED
        lock = folder.lock()
        try:
            if not lock.acquire():
                return Ended.ELSEWHERE
        except ResultError as error:
            self.on_problem(f"{request.name} could not be started: {error}")
            return Ended.FAILED
        # Looked up under the lock: between planning and now another sweep may have completed it.
        if folder.is_completed():
            lock.release()
            return Ended.ALREADY
        try:
            group = RankProcesses(request, lock, self.starter, self.facts, self.left_because)
        except (OSError, ResultError) as error:
            with contextlib.suppress(OSError, ResultError):  # the folder itself may be what is in the way
                attempt = folder.claim_attempt()
                reason = f"its processes could not be started: {error}"
                attempt.fail(Failure(kind=FailureClass.CRASH, reason=reason, next_step=f"tenfold retry {folder.name}"))
            lock.release()
            self.on_problem(f"{request.name} could not be started: {error}")
            return Ended.FAILED
        running.append(group)
        _note_company(running)
        self.on_event("started", request, None)
        return None

    def _wait(self, running: list[RankProcesses]) -> None:
        """Sleep until a rank ends or a tick has passed."""
        with selectors.DefaultSelector() as selector:
            handles = []
            for group in running:
                for process in group.processes:
                    if process.poll() is None:
                        handle = os.pidfd_open(process.pid)
                        handles.append(handle)
                        selector.register(handle, selectors.EVENT_READ)
            if handles:
                selector.select(self.tick_s)
            else:  # all have just ended, or an exclusive run waits for its turn
                time.sleep(0.01 if running else self.tick_s)
            for handle in handles:
                os.close(handle)


def _note_company(running: list[RankProcesses]) -> None:
    """Tell every run how many others are on the machine, of this queue or any other."""
    if running:
        others = max(present() - 1, len(running) - 1)
        for group in running:
            group.note_company(others)


def _abandon(running: list[RankProcesses]) -> None:
    """The launcher itself is in trouble: its runs save and stop, so that none lives on unseen."""
    for group in running:
        with contextlib.suppress(Exception):
            group.stop(Stop(FailureClass.CANCELLED, "the launcher ended"))
    deadline = time.monotonic() + ABANDON_S + max((group.grace_s for group in running), default=0.0)
    while running and time.monotonic() < deadline:
        running[:] = [group for group in running if not group.poll()]
        time.sleep(0.05)
    for group in running:
        group.kill()
