"""What a rank printed, attempt by attempt; for a failed run the failure record first.

examples:
  tenfold logs dlwp-unet-small-1a2b3c4d
  tenfold logs 1a2b3c4d --rank 1 --lines 50
  tenfold logs 1a2b3c4d -f
"""

from __future__ import annotations

import argparse
import sys
import time

from harness.cli.common import select_words
from results.errors import ResultError
from results.runfolder import Attempt, RunFolder


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("run", help="name of a run, its folder, or an unambiguous part of its name")
    parser.add_argument("words", nargs="*", help="paths.runs=FOLDER")
    parser.add_argument("--rank", type=int, help="default: the first rank that failed, else 0")
    parser.add_argument("--attempt", type=int, help="default: the last")
    parser.add_argument("--lines", type=int, default=200, help="from the end (default 200)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as long as the run does")


def run(arguments: argparse.Namespace) -> int:
    """Print the log."""
    folder = select_words(arguments.words).find(arguments.run)
    attempts = folder.attempts()
    if not attempts and _job_output(folder):
        return 0
    if not attempts:
        raise ResultError("the run has not been started", where=str(folder.path), next_step=f"tenfold run --from {folder.path}")
    wanted = attempts[-1].index if arguments.attempt is None else arguments.attempt
    attempt = next((one for one in attempts if one.index == wanted), None)
    if attempt is None:
        raise ResultError(
            f"there is no attempt {wanted}; attempts: {', '.join(str(one.index) for one in attempts)}", where=str(folder.path)
        )
    failure = attempt.failure()
    rank = arguments.rank
    if rank is None:
        rank = failure["rank"] if failure and failure.get("rank") is not None else 0
    if failure:
        step = "" if failure.get("step") is None else f", step {failure['step']}"
        print(f"attempt {attempt.index} failed: {failure['class']}, rank {failure.get('rank')}{step}: {failure['reason']}")
        print(f"next: {failure['next_step']}\n")
    path = attempt.log(rank)
    if not path.exists():
        raise ResultError(f"rank {rank} has left no log in attempt {attempt.index}", where=str(path))
    print(f"==> {path} <==")
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    sys.stdout.write("".join(lines[-arguments.lines :]))
    if arguments.follow:
        _follow(folder, attempt, rank)
    return 0


def _job_output(folder: RunFolder) -> bool:
    """What the batch step of a run's newest job printed, where no rank has started; False where there is none."""
    ledger = folder.path.parent / ".submissions"
    if not ledger.is_dir():
        return False
    from launchers.slurm.ledger import submissions

    for submission in reversed(submissions(folder.path.parent, open_only=False)):
        for index, task in enumerate(submission.tasks):
            if folder.name not in {run.name for run in task}:
                continue
            path = submission.folder / f"job-{submission.task_id(index)}.txt"
            print(f"no rank has started; job {submission.task_id(index)} says:\n==> {path} <==")
            print(path.read_text(errors="replace") if path.exists() else "nothing yet: it waits in the queue")
            return True
    return False


def _follow(folder: RunFolder, attempt: Attempt, rank: int) -> None:
    with attempt.log(rank).open(errors="replace") as stream:
        stream.seek(0, 2)
        while True:
            running = folder.is_running()
            text = stream.read()
            if text:
                sys.stdout.write(text)
                sys.stdout.flush()
            elif not running:
                return
            else:
                time.sleep(0.5)
