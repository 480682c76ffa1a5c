"""Cancel runs: what waits in a queue leaves it, what runs saves a checkpoint and stops. Nothing is lost: tenfold retry goes on.

examples:
  tenfold cancel study=dlwp_scaling
  tenfold cancel study=dlwp_scaling --pending     only what has not started
  tenfold cancel dlwp-unet-small-1a2b3c4d
  tenfold cancel --all
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.cli.common import add_words, select_words
from results.errors import EXIT_OK, ConfigError
from results.failures import FailureClass
from results.runfolder import RunFolder

REASON = "cancelled by the user"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME, key=value,... that rows must have, or names of runs")
    parser.add_argument("--pending", action="store_true", help="only what has not started")
    parser.add_argument("--all", action="store_true", help="everything under runs/ (words are not needed then)")


def run(arguments: argparse.Namespace) -> int:
    """Cancel."""
    chosen = select_words(arguments.words)
    if not (arguments.all or chosen.study or chosen.query or chosen.names):
        raise ConfigError("which runs?", where="command line", next_step="tenfold cancel study=NAME, or --all")
    print(cancel_rows(chosen.rows(), chosen.runs, pending_only=arguments.pending))
    return EXIT_OK


def cancel_rows(rows: Sequence[dict[str, Any]], runs: Path, *, pending_only: bool = False) -> str:
    """Cancel the runs of these rows; one sentence of what was done.

    A job is cancelled when all its unfinished runs are meant; a run whose job others share is asked to leave by its stop file.
    """
    from harness.schedulers import survey_of

    wanted = {row["run"] for row in rows if row["status"] in ("queued", "running", "unknown")}
    found = survey_of(runs)
    jobs: dict[tuple[str | None, str], set[str]] = {}
    if found is not None:
        for name, (submission, _, job) in found.jobs.items():
            if job is not None:
                jobs.setdefault((submission.profile.slurm_conf, job.job_id), set()).add(name)
                if pending_only and job.state != "PENDING":
                    wanted.discard(name)
    cancelled: dict[str | None, list[str]] = {}
    asked = 0
    for (conf, job_id), members in jobs.items():
        if members <= wanted:
            cancelled.setdefault(conf, []).append(job_id)
        else:
            asked += sum(_ask(RunFolder(runs / name)) for name in members & wanted)
    from launchers.slurm.commands import Slurm

    for conf, job_ids in cancelled.items():
        Slurm(conf).cancel(job_ids, pending_only=pending_only)
    on_schedulers = {name for members in jobs.values() for name in members}
    if not pending_only:
        asked += sum(_ask(RunFolder(runs / name)) for name in wanted - on_schedulers)
    num_jobs = sum(len(job_ids) for job_ids in cancelled.values())
    return f"{num_jobs} jobs cancelled, {asked} running runs asked to save and leave"


def _ask(folder: RunFolder) -> bool:
    """Ask a run that somebody is running to leave."""
    last = folder.last_attempt()
    if last is None or not folder.is_running():
        return False
    last.ask_to_leave(FailureClass.CANCELLED, REASON)
    return True
