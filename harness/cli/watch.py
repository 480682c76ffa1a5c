"""Watch a study, or everything, until nothing is queued or running; then judge, draw and write the study's report.
It works from files and the scheduler alone: start it in any shell, stop it at any time (runs go on).

examples:
  tenfold watch study=dlwp_scaling
  tenfold watch                        everything under runs/, without a report
  tenfold watch study=dlwp_scaling --every 60
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.cli.common import add_words, select_words
from results.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_RUN_FAILED

#: Statuses of runs that are still to be waited for.
OPEN = ("queued", "running", "unknown")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME, key=value,... that rows must have")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="between two looks (default: what the site asks for)")


def run(arguments: argparse.Namespace) -> int:
    """Watch."""
    chosen = select_words(arguments.words)
    chosen.index()  # says at once if the study is not known here
    return watch(chosen, every_s=arguments.every)


def watch_study(name: str, runs: Path, reports: Path) -> int:
    """Watch one study."""
    return watch(select_words([f"study={name}", f"paths.runs={runs}", f"paths.reports={reports}"]))


def watch(chosen: Any, *, every_s: float | None = None) -> int:
    """Look until nothing is open; the exit status."""
    pause = every_s or poll_s(chosen.runs)
    screen = _Screen()
    try:
        with screen:
            while True:
                rows = chosen.rows()
                screen.show(rows, chosen.runs)
                if not any(row["status"] in OPEN for row in rows):
                    break
                time.sleep(pause)
    except KeyboardInterrupt:
        return _interrupted(chosen)
    counts = Counter(row["status"] for row in rows)
    print(f"{len(rows)} runs: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    if chosen.study is not None:
        _finish(chosen)
    if counts.get("failed"):
        print("some runs did not complete: tenfold status status=failed, then: tenfold retry")
    return EXIT_RUN_FAILED if counts.get("failed") or counts.get("damaged") else EXIT_OK


def poll_s(runs: Path) -> float:
    """How often the sites of what was submitted want to be asked; half a second where only local runs are watched."""
    if not (runs / ".submissions").is_dir():
        return 0.5
    from launchers.slurm.ledger import submissions

    return max((one.profile.poll_s for one in submissions(runs)), default=0.5)


def _finish(chosen: Any) -> None:
    from harness.finishing import finish_index

    index = chosen.index()
    outputs = finish_index(index, chosen.runs, chosen.reports / chosen.study)
    print(f"report: {outputs['report']}")


def _interrupted(chosen: Any) -> int:
    """Leave (the default), cancel what has not started, or cancel all."""
    answer = ""
    if sys.stdin.isatty():
        try:
            answer = input("\nCtrl-C: [l]eave (runs go on), cancel [p]ending, or cancel [a]ll? ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            answer = ""
    if answer[:1] in ("p", "a"):
        from harness.cli.cancel import cancel_rows

        print(cancel_rows(chosen.rows(), chosen.runs, pending_only=answer[0] == "p"))
    else:
        print("left; runs go on: tenfold watch" + (f" study={chosen.study}" if chosen.study else ""))
    return EXIT_INTERRUPTED


class _Screen:
    """A table that updates in a terminal; elsewhere one line whenever something has changed."""

    def __init__(self) -> None:
        self._live: Any = None
        self._said = ""

    def __enter__(self) -> _Screen:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(refresh_per_second=2, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)

    def show(self, rows: Sequence[dict[str, Any]], runs: Path) -> None:
        counts = Counter(row["status"] for row in rows)
        line = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        if self._live is None:
            if line != self._said:
                print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
                self._said = line
            return
        from rich.table import Table

        table = Table(title=f"{len(rows)} runs: {line}", title_justify="left", box=None)
        for heading in ("run", "status", "attempts", "progress"):
            table.add_column(heading, justify="right" if heading == "attempts" else "left")
        shown = [row for row in rows if row["status"] in OPEN] or list(rows)
        for row in sorted(shown, key=lambda row: (row["status"] != "running", row["run"]))[:30]:
            table.add_row(row["run"], row["status"], str(row["attempts"]), progress(row, runs))
        if len(shown) > 30:
            table.add_row(f"... and {len(shown) - 30} more", "", "", "")
        self._live.update(table)


def progress(row: dict[str, Any], runs: Path) -> str:
    """How far a running run is, or what the scheduler says of a waiting one."""
    from results.runfolder import RunFolder

    if row["status"] == "running":
        last = RunFolder(runs / row["run"]).last_attempt()
        found = last.read("progress", {}) if last else {}
        if found:
            loss = f", loss {found['loss']:.3g}" if found.get("loss") is not None else ""
            return f"{found['phase']} {found['done']}/{found['total']}{loss}"
        return str(row.get("detail", "starting"))
    return str(row.get("detail", ""))
