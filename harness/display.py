"""Live progress of runs: a table that updates in a terminal, plain lines otherwise; and what Ctrl-C means."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from launchers.local import Ended, Leaving
from launchers.ranks import RankProcesses
from launchers.request import RunRequest
from results.runfolder import RunFolder

_PLAIN_EVERY_S, _PLANNING_EVERY_S = 30.0, 5.0


class Display:
    """Shows a queue at work. Use as a context manager: it owns Ctrl-C while it is open.

    First Ctrl-C: in a terminal it asks *leave* (running points finish, no more start) or *cancel* (running points save and stop);
    elsewhere it leaves. Second Ctrl-C: cancel.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._live: Any = None
        self._choice = Leaving.NO
        self._asked = threading.Event()
        self._previous: Any = None
        self._total = self._done = self._failed = 0
        self._started = time.monotonic()
        self._said = 0.0
        self._stage = ""

    def __enter__(self) -> Display:
        if threading.current_thread() is threading.main_thread():
            self._previous = (signal.signal(signal.SIGINT, self._interrupt), signal.signal(signal.SIGTERM, self._interrupt))
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous[0])
            signal.signal(signal.SIGTERM, self._previous[1])

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._choice is Leaving.NO and number == signal.SIGINT:
            if self._terminal and sys.stdin.isatty():
                self._asked.set()
                return
            self._choice = Leaving.LEAVE
            self.say("leaving: running points finish, no more start; the same command goes on later (Ctrl-C again cancels them)")
        else:
            self._choice = Leaving.CANCEL
            self.say("cancelling: running points save a checkpoint and stop")

    def choice(self) -> Leaving:
        """What the user has chosen so far; asks if Ctrl-C was pressed."""
        if self._asked.is_set() and self._choice is Leaving.NO:
            self._asked.clear()
            if self._live is not None:
                self._live.stop()
            try:
                answer = (
                    input("\nCtrl-C: [l]eave (running points finish, no more start), [c]ancel, or Enter to go on? ")
                    .strip()
                    .lower()
                )
            except (EOFError, KeyboardInterrupt):
                answer = "c"
            if answer.startswith("c"):
                self._choice = Leaving.CANCEL
            elif answer.startswith("l"):
                self._choice = Leaving.LEAVE
            if self._live is not None:
                self._live.start()
        return self._choice

    def pause(self, seconds: float) -> None:
        """Wait, at most so long, for Ctrl-C or the clock."""
        self._asked.wait(seconds)

    def say(self, text: str) -> None:
        """One line to the human stream."""
        if self._quiet:
            return
        with contextlib.suppress(OSError):  # the reader of a pipe has gone: runs go on all the same
            if self._live is not None:
                self._live.console.print(text, highlight=False)
            else:
                print(text, file=sys.stderr, flush=True)

    def planning(self, done: int, total: int) -> None:
        """Progress of planning, once it takes long."""
        if done < total and time.monotonic() - max(self._said, self._started) > _PLANNING_EVERY_S:
            self._said = time.monotonic()
            self.say(f"planned {done} of {total} runs")

    def building(self, store: str, done: int, total: int) -> None:
        """Progress of a data store."""
        if done in (0, total) or time.monotonic() - self._said > (_PLAIN_EVERY_S if not self._terminal else 3):
            self._said = time.monotonic()
            self.say(f"data {store}: {done} of {total} parts")

    def stage(self, name: str, requests: Sequence[RunRequest]) -> None:
        """A stage begins."""
        self._stage = name
        self._total, self._done, self._failed = len(requests), 0, 0
        alone = ", one at a time" if any(request.exclusive for request in requests) else ""
        self.say(f"stage {name}: {len(requests)} runs{alone}")

    def event(self, what: str, request: RunRequest, how: Ended | None) -> None:
        """A run started or ended."""
        if what == "started":
            if not self._terminal:
                self.say(f"  start {request.name}")
            return
        self._done += 1
        folder = RunFolder(request.folder)
        if how is Ended.FAILED:
            self._failed += 1
            last = folder.last_attempt()
            failure = (last.failure() if last else None) or {}
            rank = f", rank {failure['rank']}" if failure.get("rank") is not None else ""
            reason = str(failure.get("reason", "could not be started")).splitlines()[0]
            self.say(
                f"  FAILED {request.name} [{failure.get('class', '?')}{rank}] {reason}\n"
                f"         next: {failure.get('next_step', '')}"
            )
        elif how is Ended.COMPLETED:
            self.say(
                f"  done  {request.name}  ({self._done}/{self._total}, {(time.monotonic() - self._started) / 60:.1f} min so far)"
            )
        elif how is not None:
            self.say(f"  {how}: {request.name}")

    def tick(self, running: list[RankProcesses]) -> None:
        """Refresh."""
        rows = [(group, _progress(group)) for group in running]
        if self._live is not None:
            self._live.update(self._table(rows))
        elif time.monotonic() - self._said > _PLAIN_EVERY_S and rows:
            self._said = time.monotonic()
            self.say("  ... " + "; ".join(f"{group.folder.name} {_words(progress)}" for group, progress in rows))

    def _table(self, rows: list[tuple[RankProcesses, dict[str, Any]]]) -> Any:
        from rich.table import Table

        table = Table(
            title=f"stage {self._stage}: {self._done} of {self._total} done, {self._failed} failed",
            title_justify="left",
            box=None,
        )
        for heading in ("run", "ranks", "phase", "progress", "loss", "step", "elapsed"):
            table.add_column(heading, justify="left" if heading in ("run", "phase") else "right")
        for group, progress in rows:
            loss, step = progress.get("loss"), progress.get("step_s")
            table.add_row(
                group.folder.name,
                str(group.request.ranks),
                str(progress.get("phase", "starting")),
                f"{progress['done']}/{progress['total']}" if "done" in progress else "",
                f"{loss:.3g}" if loss is not None else "",
                f"{step * 1e3:.0f} ms" if step is not None else "",
                f"{time.monotonic() - group.started:.0f} s",
            )
        return table


def _progress(group: RankProcesses) -> dict[str, Any]:
    attempt = group.attempt()
    found: dict[str, Any] = attempt.read("progress", {}) if attempt else {}
    return found


def _words(progress: dict[str, Any]) -> str:
    return f"{progress['phase']} {progress['done']}/{progress['total']}" if "done" in progress else "starting"
