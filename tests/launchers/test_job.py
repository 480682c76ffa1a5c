"""The batch step of a job whose place another job has taken: it does nothing, so that nothing runs twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.slurm.ledger import Submission
from results.runfolder import RunFolder
from tests.launchers.fake_slurm import FakeSlurm
from tests.launchers.submitted import Queue

ROOT = Path(__file__).parent.parent.parent
NOTHING = "another job has taken this one's place: nothing is done here"


def batch_step(submission: Submission, *, expect: int = 0, **variables: str) -> str:
    """What the job prints."""
    variables = {"SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": "1", "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launchers.slurm.job", str(submission.folder)],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


def untouched(runs: Path) -> bool:
    return not any(RunFolder(path).attempts() for path in runs.iterdir() if path.name != ".submissions")


@pytest.mark.parametrize("variables", [{"SLURM_JOB_ID": "102"}, {"SLURM_JOB_ID": "205", "SLURM_ARRAY_JOB_ID": "102"}])
def test_a_second_job_of_one_submission(variables: dict[str, str], queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """sbatch did not answer, was asked again, and both were accepted."""
    submission = queue("a")
    assert NOTHING in batch_step(submission, **variables)
    assert submission.job_id() == "101"
    assert untouched(runs)


def test_a_job_that_was_given_up_before_it_was_accepted(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    (submission.folder / "job.json").unlink()
    submission.settle("never reached the scheduler")
    assert NOTHING in batch_step(submission, SLURM_JOB_ID="101")
    assert untouched(runs)


def test_the_job_that_was_meant_says_which_it_is(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """Its number is known to all from then on, even if its launcher never wrote it down; a completed run is left alone."""
    submission = queue("a", "b")
    (submission.folder / "job.json").unlink()
    RunFolder(runs / "b").claim_attempt().write("outcome", {"status": "completed"})
    said = batch_step(submission, SLURM_JOB_ID="205", SLURM_ARRAY_JOB_ID="101", SLURM_ARRAY_TASK_ID="1")
    assert NOTHING not in said
    assert "==> job 101_1 on n1, restart 0: 1 run(s)" in said
    assert "ended b: already completed" in said
    assert submission.job_id() == "101"
    assert len(RunFolder(runs / "b").attempts()) == 1


def test_a_requeued_job_of_an_ended_submission_goes_on(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """An administrator may requeue a job whose end was recorded."""
    submission = queue("a")
    submission.settle("ended")
    RunFolder(runs / "a").claim_attempt().write("outcome", {"status": "completed"})
    assert NOTHING not in batch_step(submission, SLURM_JOB_ID="101", SLURM_RESTART_COUNT="1")
