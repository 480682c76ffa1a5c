"""What the scheduler takes away for good is submitted again by whoever looks next: as the table says, exactly once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launchers.request import RunRequest
from launchers.retrying import RetryRule
from launchers.slurm.commands import Slurm
from launchers.slurm.grouping import Wish, prepare
from launchers.slurm.ledger import Submission, submissions
from launchers.slurm.submit import open_ledger, submit
from launchers.slurm.survey import survey
from results.failures import Failure, FailureClass
from results.runfolder import RunFolder
from results.standing import Standing
from results.store import locked
from tests.launchers.conftest import Freeze
from tests.launchers.fake_slurm import FakeSlurm
from tests.launchers.launching import launch
from tests.launchers.submitted import WISH, accounts, begin, failure

ROOT = Path(__file__).parent.parent.parent
RULES = {
    "preempted": RetryRule("resume", 2), "timeout": RetryRule("resume", 2), "node-fail": RetryRule("exclude-node", 3),
    "oom-host": RetryRule("more-memory", 2),
}  # fmt: skip
TABLE = replace(WISH, rules=RULES)
Put = Callable[..., Submission]


@pytest.fixture
def put(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> Put:
    """Submits runs of the table above; each has begun. Keywords: ``wish``, needs of the runs."""

    def make(*names: str, wish: Wish = TABLE, begun: bool = True, **needs: Any) -> Submission:
        submit(prepare([freeze(name, **needs) for name in names], wish), wish)
        submission = submissions(runs)[-1]
        for index, name in enumerate(names if begun else ()):
            begin(submission, name, f"101_{index}" if submission.array else "101")
        return submission

    return make


def names(scheduler: FakeSlurm) -> list[str]:
    """What the jobs in the scheduler are called, oldest first."""
    return [job["name"] for job in scheduler.jobs.values()]


def test_a_job_that_was_preempted_by_cancellation_goes_on(put: Put, scheduler: FakeSlurm, runs: Path) -> None:
    """Its ranks had saved, and its batch step could not know that it would not be requeued."""
    submission = put("a", time_limit_s=5400.0, memory_gib=1.0)
    attempt = RunFolder(runs / "a").attempts()[0]
    attempt.fail(Failure(kind=FailureClass.CANCELLED, reason="the job was cancelled (completing)", next_step="x", step=9))
    scheduler.set("101", state="PREEMPTED", nodes="n1")
    word = survey(runs).words["a"]
    assert (word.standing, word.job_id) == (Standing.QUEUED, "102")
    said = failure(submission, "a")
    assert (said["class"], said["step"]) == ("preempted", 9)
    assert submission.settled
    first, second = (scheduler.jobs[number]["flags"] for number in ("101", "102"))
    assert {name: first[name] for name in ("time", "mem", "ntasks")} == {name: second[name] for name in ("time", "mem", "ntasks")}
    for _ in range(3):
        assert survey(runs).words["a"].job_id == "102"
    assert names(scheduler) == ["a", "a"]
    assert len(RunFolder(runs / "a").attempts()) == 1


@pytest.mark.parametrize(
    ("state", "kind", "flags"),
    [
        ("PREEMPTED", "preempted", {}),
        ("TIMEOUT", "timeout", {}),  # the scheduler killed it at its limit: ranks had not left in time
        ("NODE_FAIL", "node-fail", {"exclude": "n2"}),
        ("BOOT_FAIL", "node-fail", {"exclude": "n2"}),
        ("OUT_OF_MEMORY", "oom-host", {"mem": "2048M"}),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_each_ending_by_the_schedulers_hand_has_the_tables_answer(
    state: str, kind: str, flags: dict[str, str], begun: bool, put: Put, scheduler: FakeSlurm, runs: Path
) -> None:
    submission = put("a", begun=begun, memory_gib=1.0)
    scheduler.set("101", state=state, nodes="n2")
    assert survey(runs).words["a"].job_id == "102"
    assert failure(submission, "a")["class"] == kind
    found = scheduler.jobs["102"]["flags"]
    assert {name: found.get(name) for name in ("exclude", "mem")} == {"exclude": None, "mem": "1536M", **flags}


@pytest.mark.parametrize("state", ["CANCELLED", "FAILED", "COMPLETED", "DEADLINE", "LAUNCH_FAILED"])
def test_other_endings_are_not_made_good_by_a_look(state: str, put: Put, scheduler: FakeSlurm, runs: Path) -> None:
    """Cancelled by somebody; ended by itself, having done what there was to do; or nobody knows why."""
    put("a")
    scheduler.set("101", state=state, nodes="n2")
    assert survey(runs).words == {}
    assert names(scheduler) == ["a"]


def test_a_job_that_came_back_after_all_is_not_submitted_twice(
    put: Put, scheduler: FakeSlurm, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue was asked before an administrator requeued it; the accounting has seen its first life end."""
    submission = put("a")
    scheduler.set("101", state="PENDING", reason="BeginTime", restarts="1")
    row = {"JobID": "101", "State": "PREEMPTED", "Start": "1795473100", "End": "1795473160", "NodeList": "n3"}
    scheduler.account(accounts(row))
    with monkeypatch.context() as patched:
        patched.setattr(Slurm, "queue", lambda self: {})
        survey(runs)
    assert names(scheduler) == ["a"]
    assert failure(submission, "a")["class"] == "preempted"
    assert survey(runs).words["a"].job_id == "101"


def test_a_job_that_nobody_remembers_is_not_submitted_again(put: Put, scheduler: FakeSlurm, runs: Path) -> None:
    submission = put("a")
    scheduler.forget("101")
    assert survey(runs).words == {}
    assert failure(submission, "a")["class"] == "node-fail"
    assert names(scheduler) == []


def test_a_budget_that_is_used_up_ends_it(put: Put, scheduler: FakeSlurm, runs: Path) -> None:
    submission = put("a")
    for _ in range(2):
        RunFolder(runs / "a").last_attempt().fail(Failure(kind=FailureClass.PREEMPTED, reason="x", next_step="x"))  # type: ignore[union-attr]
        begin(submission, "a")
    scheduler.set("101", state="PREEMPTED")
    assert survey(runs).words == {}
    assert failure(submission, "a")["class"] == "preempted"
    assert names(scheduler) == ["a"]


def test_runs_of_an_array_go_on_as_an_array(put: Put, scheduler: FakeSlurm, runs: Path) -> None:
    put("a", "b", "c", "d")
    scheduler.set("101", "0", state="RUNNING", nodes="n1")
    for index in "123":
        scheduler.set("101", index, state="PREEMPTED", nodes="n1")
    begin_completed = RunFolder(runs / "d").last_attempt()
    assert begin_completed is not None
    begin_completed.write("outcome", {"status": "completed"})
    found = survey(runs).words
    assert {name: word.job_id for name, word in found.items()} == {"a": "101_0", "b": "102_0", "c": "102_1"}
    assert list(scheduler.jobs["102"]["tasks"]) == ["0", "1"]
    scheduler.set("101", "0", state="PREEMPTED", nodes="n1")
    assert survey(runs).words["a"].job_id == "103"
    assert list(scheduler.jobs) == ["101", "102", "103"]


def test_runs_that_are_compared_stay_in_one_allocation(put: Put, scheduler: FakeSlurm, runs: Path) -> None:
    put("a", "b", "c", wish=replace(TABLE, paired=True))
    RunFolder(runs / "a").attempts()[0].write("outcome", {"status": "completed"})
    scheduler.set("101", state="PREEMPTED", nodes="n1")
    assert {name: word.job_id for name, word in survey(runs).words.items()} == {"b": "102", "c": "102"}
    newest = submissions(runs)[-1]
    assert [[run.name for run in task] for task in newest.tasks] == [["b", "c"]]
    assert newest.one_at_a_time


# Exactly once --------------------------------------------------------------------------------------------------------

LOOK = (
    "import sys, time\nfrom pathlib import Path\nfrom launchers.slurm.survey import survey\n"
    "go = Path(sys.argv[2])\nprint('ready', flush=True)\n"
    "while not go.exists():\n    time.sleep(0.001)\nsurvey(Path(sys.argv[1]))"
)


def test_many_looks_at_once_submit_once(put: Put, scheduler: FakeSlurm, runs: Path, tmp_path: Path) -> None:
    put("a", "b")
    for index in "01":
        scheduler.set("101", index, state="PREEMPTED", nodes="n1")
    words = [sys.executable, "-c", LOOK, str(runs), str(tmp_path / "go")]
    looks = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) for _ in range(4)]
    for look in looks:
        assert look.stdout is not None
        assert look.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    assert [look.wait(timeout=60) for look in looks] == [0] * 4
    for look in looks:
        assert look.stdout is not None
        look.stdout.close()
    assert {name: word.job_id for name, word in survey(runs).words.items()} == {"a": "102_0", "b": "102_1"}
    assert list(scheduler.jobs) == ["101", "102"]


def test_a_look_while_somebody_submits_leaves_it_to_the_next(put: Put, scheduler: FakeSlurm, runs: Path) -> None:
    submission = put("a")
    scheduler.set("101", state="PREEMPTED")
    with locked(open_ledger(runs)):
        word = survey(runs).words["a"]
        assert (word.standing, word.detail) == (Standing.QUEUED, "about to be submitted again")
        assert not submission.settled
        assert names(scheduler) == ["a"]
    assert survey(runs).words["a"].job_id == "102"
    assert submission.settled


def test_a_sweep_looks_too_and_submits_nothing_besides(put: Put, freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    """It holds the ledger's lock already."""
    put("a")
    scheduler.set("101", state="PREEMPTED")
    assert launch([RunRequest(folder=runs / "a"), freeze("b")]).num_runs == 1
    assert names(scheduler) == ["a", "a", "b"]


@pytest.mark.parametrize(("how", "jobs"), [("kill-caller", ["a", "a"]), ("kill-unheard", ["a"])])
def test_a_look_that_is_killed_in_between_is_made_good(
    how: str, jobs: list[str], put: Put, scheduler: FakeSlurm, runs: Path, tmp_path: Path
) -> None:
    """After sbatch and before the number was written down, or before sbatch was accepted."""
    put("a")
    scheduler.set("101", state="PREEMPTED")
    scheduler.behave(how)
    (tmp_path / "go").touch()
    done = subprocess.run([sys.executable, "-c", LOOK, str(runs), str(tmp_path / "go")], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert names(scheduler) == jobs
    assert launch([RunRequest(folder=runs / "a")]).jobs == []  # who holds the lock knows that nobody is at work on it
    assert survey(runs).words["a"].job_id == "102"
    assert names(scheduler) == ["a", "a"]


def test_a_refusal_is_written_down_and_not_asked_for_again(put: Put, scheduler: FakeSlurm, runs: Path) -> None:
    submission = put("a", "b")
    scheduler.set("101", "0", state="PREEMPTED")
    scheduler.behave("refuse", "refuse")
    assert "a" not in survey(runs).words
    said = failure(submission, "a")
    assert said["class"] == "preempted"
    assert "no new job could be submitted: sbatch refuses: " in said["reason"]
    calls = len(scheduler.calls("sbatch"))
    survey(runs)
    assert len(scheduler.calls("sbatch")) == calls
    scheduler.behave()
    assert [job for job, _ in launch([RunRequest(folder=runs / "a")]).jobs] == ["102"]  # by hand it is another matter


def test_a_controller_that_is_away_is_asked_at_the_next_look(put: Put, scheduler: FakeSlurm, runs: Path) -> None:
    submission = put("a")
    scheduler.set("101", state="PREEMPTED")
    scheduler.behave(*["no-answer"] * 5)
    found = survey(runs)
    assert "what ended could not be recorded" in found.problems[0]
    assert not submission.settled
    scheduler.behave()
    assert launch([RunRequest(folder=runs / "a")]).jobs == []
    assert survey(runs).words["a"].job_id == "102"
