"""Project records into W&B runs (offline, in each run's folder), and upload them from a machine that has a login.
A run that was never uploaded is projected anew; one that was is continued by step. Training never waits for this.

examples:
  tenfold sync study=dlwp_scaling               write or refresh the offline runs
  tenfold sync study=dlwp_scaling --upload      and upload them, in order, one at a time
  tenfold sync --follow                         go on while runs are running
"""

from __future__ import annotations

import argparse
import sys
import time

from harness.cli.common import add_words, select_words
from results.errors import EXIT_OK, EXIT_RUN_FAILED, TenfoldError
from results.runfolder import RunFolder


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_words(parser, "study=NAME, key=value that rows must have, or names of runs")
    parser.add_argument("--upload", action="store_true", help="upload what is not on the server yet; needs `wandb login`")
    parser.add_argument("--follow", action="store_true", help="repeat while any of the runs is running")
    parser.add_argument(
        "--every", type=float, default=30.0, metavar="S", help="with --follow: seconds between rounds (default 30)"
    )
    parser.add_argument("--project", default="tenfold", help="W&B project (default tenfold)")


def _round(arguments: argparse.Namespace) -> tuple[int, int, bool]:
    """Project and upload once: runs written, uploads failed, whether anything is still running."""
    from harness.projecting import project
    from results.wandb_projection import upload

    chosen = select_words(arguments.words)
    folders = [RunFolder(chosen.runs / name) for name in dict.fromkeys(row["run"] for row in chosen.rows())]
    written = project(
        folders, group=chosen.study, mode="offline", say=lambda text: print(text, file=sys.stderr), project_name=arguments.project
    )
    failed = 0
    if arguments.upload:
        for folder in folders:
            try:
                upload(folder)
            except TenfoldError as error:
                failed += 1
                print(f"{folder.name}: {error}", file=sys.stderr)
    return written, failed, any(folder.is_running() for folder in folders)


def run(arguments: argparse.Namespace) -> int:
    """Sync."""
    while True:
        written, failed, running = _round(arguments)
        print(f"{written} runs written" + (f", {failed} uploads failed" if failed else ", uploaded" if arguments.upload else ""))
        if not (arguments.follow and running):
            return EXIT_RUN_FAILED if failed else EXIT_OK
        time.sleep(arguments.every)
