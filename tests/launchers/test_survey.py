"""Where submitted runs stand while their jobs are not over, and while nobody answers: never a false state."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.cli.cancel import cancel_rows
from launchers.request import RunRequest
from launchers.sacct import parse
from launchers.slurm.commands import QueuedJob, Slurm
from launchers.slurm.ledger import submissions
from launchers.slurm.ours import is_accounted
from launchers.slurm.submit import find_job
from launchers.slurm.survey import survey, word_for
from results.failures import Failure, FailureClass
from results.runfolder import RunFolder
from results.standing import Standing
from tests.launchers.conftest import Freeze
from tests.launchers.fake_slurm import FakeSlurm
from tests.launchers.submitted import Queue, accounts, begin, failure, untouched

ROOT = Path(__file__).parent.parent.parent

# Not over ------------------------------------------------------------------------------------------------------------


#: State and reason as squeue has them, and what of it is shown.
IN_QUEUE = [
    ("PENDING", "Resources", Standing.QUEUED, "pending: waits for resources (Resources)"),
    ("PENDING", "(Priority)", Standing.QUEUED, "pending: others come first (Priority)"),
    ("PENDING", "BeginTime", Standing.QUEUED, "pending: held for a moment after a requeue (BeginTime)"),
    ("PENDING", "DependencyNeverSatisfied", Standing.QUEUED, "tenfold cancel, then tenfold retry"),
    ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n3", Standing.QUEUED, "a node it asks for is down or reserved"),
    ("PENDING", "QOSMaxJobsPerUserLimit", Standing.QUEUED, "pending: QOSMaxJobsPerUserLimit"),
    ("RUNNING", "None", Standing.RUNNING, "on n1"),
    ("CONFIGURING", "None", Standing.RUNNING, "on n1"),
    ("COMPLETING", "None", Standing.RUNNING, "on n1"),
    ("SUSPENDED", "None", Standing.RUNNING, "on n1"),
]


def test_jobs_in_the_queue(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    names = [f"run-{number}" for number in range(len(IN_QUEUE))]
    submission = queue(*names)
    for index, (state, reason, _, _) in enumerate(IN_QUEUE):
        scheduler.set("101", str(index), state=state, reason=reason, nodes="n1")
    found = survey(runs)
    assert found.problems == []
    for index, (name, (_, _, standing, detail)) in enumerate(zip(names, IN_QUEUE, strict=True)):
        word = found.words[name]
        assert (word.standing, word.job_id) == (standing, f"101_{index}")
        assert word.detail.startswith(f"job 101_{index} ")
        assert detail in word.detail
        assert found.jobs[name][:2] == (submission, index)
    assert untouched(submission)


def test_a_requeued_job_is_queued_and_not_failed(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """Whether or not its earlier life left a word."""
    submission = queue("a")
    begin(submission, "a")
    scheduler.set("101", state="PENDING", reason="BeginTime", restarts="1")
    assert survey(runs).words["a"].standing is Standing.QUEUED
    attempt = RunFolder(runs / "a").last_attempt()
    assert attempt is not None
    assert attempt.failure() is None
    attempt.fail(Failure(kind=FailureClass.PREEMPTED, reason="requeued", next_step="tenfold retry"))
    assert survey(runs).words["a"].standing is Standing.QUEUED
    assert not submission.settled


def test_words_hold_whatever_letters_a_name_has() -> None:
    job = QueuedJob("7_1", "8", "PENDING", "", "tenfold:x a|b", "näme | with = signs", "", None)
    assert word_for(job).detail == "job 7_1 pending: "


def test_each_task_of_an_array_has_its_own_word(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a", "b", "c")
    scheduler.set("101", "0", state="RUNNING", nodes="n1")
    scheduler.set("101", "1", state="FAILED", nodes="n1")
    found = survey(runs).words
    assert {name: (word.standing, word.job_id) for name, word in found.items()} == {
        "a": (Standing.RUNNING, "101_0"), "c": (Standing.QUEUED, "101_2"),
    }  # fmt: skip
    assert failure(submission, "b")["class"] == "crash"
    assert not submission.settled  # two are not over
    assert not RunFolder(runs / "a").attempts()
    for index in ("0", "2"):
        scheduler.set("101", index, state="CANCELLED")
    assert survey(runs).words == {}
    assert submission.settled
    assert [failure(submission, name)["class"] for name in ("a", "b", "c")] == ["cancelled", "crash", "cancelled"]
    assert len(RunFolder(runs / "b").attempts()) == 1


def test_what_is_settled_is_not_asked_about_again(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    scheduler.set("101", state="FAILED")
    survey(runs)
    assert submission.settled
    before = len(scheduler.calls())
    assert survey(runs).words == {}
    assert len(scheduler.calls()) == before


def test_looking_alone_writes_nothing(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    scheduler.set("101", state="FAILED")
    assert survey(runs, settle=False).words == {}
    assert untouched(submission)


# Under a number of ours ----------------------------------------------------------------------------------------------

STRANGER = {"name": "other", "comment": "tenfold:ffffffffff other", "command": "/elsewhere/.submissions/ffffffffff/sbatch.sh"}


def test_a_strangers_job_is_not_taken_for_ours(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """The cluster was made anew: its numbers began again, and somebody else's job bears ours now."""
    submission = queue("a", "b")
    begin(submission, "a", "101_0")
    for index in "01":
        scheduler.set("101", index, state="RUNNING", nodes="n1")
    scheduler.describe("101", **STRANGER)
    assert survey(runs).words == {}
    assert "nobody knows why" in failure(submission, "a")["reason"]
    assert failure(submission, "b")["class"] == "cancelled"  # what never began leaves no trace
    assert submission.settled


@pytest.mark.parametrize("further", [{}, {"comment": "", "command": "/home/me/other.sh"}])
def test_a_strangers_job_is_not_cancelled(further: dict[str, str], queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    queue("a")
    scheduler.set("101", state="RUNNING", nodes="n1")
    scheduler.describe("101", **{**STRANGER, **further})
    rows = [{"run": "a", "status": "running"}]
    assert cancel_rows(rows, runs).startswith("0 jobs cancelled")
    assert scheduler.calls("scancel") == []
    assert scheduler.jobs["101"]["tasks"]["-"]["state"] == "RUNNING"


def test_a_strangers_end_is_not_ours(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """Neither the controller's word on it nor the accounting's."""
    submission = queue("a")
    attempt = begin(submission, "a")
    scheduler.set("101", state="TIMEOUT", nodes="n9")
    scheduler.describe("101", **STRANGER)
    life = {"JobID": "101", "State": "TIMEOUT", "Start": "1795473100", "End": "1795473160", "NodeList": "n9", "JobName": "other"}
    scheduler.account(accounts({**life, "Comment": STRANGER["comment"]}, life))
    survey(runs)
    assert failure(submission, "a")["class"] == "node-fail"
    assert attempt.read("accounting", {}).get("state") is None


@pytest.mark.parametrize(
    ("facts", "mine"),
    [
        ({"comment": "the site's own words"}, True),  # its script still lies in our ledger
        ({"command": "/somewhere/else.sh"}, True),  # its comment still bears our token
        ({"comment": "", "command": ""}, False),
    ],
)
def test_a_job_of_ours_is_known_by_comment_or_script(
    facts: dict[str, str], mine: bool, queue: Queue, scheduler: FakeSlurm, runs: Path
) -> None:
    submission = queue("a")
    scheduler.describe("101", **facts)
    assert ("a" in survey(runs).words) is mine
    assert (find_job(Slurm(), submission.token) == "101") is mine


@pytest.mark.parametrize(
    ("row", "mine"),
    [
        ({}, True),
        ({"JobName": "a"}, True),
        ({"JobName": "other"}, False),
        ({"JobName": "other", "Comment": "tenfold:{token} scaling"}, True),
        ({"JobName": "a", "Comment": "tenfold:ffffffffff scaling"}, False),
        ({"JobName": "a", "Submit": "4000000000"}, True),
        ({"JobName": "a", "Submit": "1000000000"}, False),  # of a cluster that was there before
    ],
)
def test_rows_of_the_accounting_that_are_ours(row: dict[str, str], mine: bool, queue: Queue, scheduler: FakeSlurm) -> None:
    """By the comment where the site keeps it, else by the job's name and when it was submitted."""
    submission = queue("a")
    row = {key: text.format(token=submission.token) for key, text in row.items()}
    (life,) = parse(accounts({"JobID": "101", "State": "FAILED", **row}))
    assert is_accounted(life, submission) is mine


# Nothing is known, nothing is said -----------------------------------------------------------------------------------


def test_without_an_answer_nothing_is_claimed(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a", "b")
    begin(submission, "b", "101_1").write("outcome", {"status": "completed", "metrics": {}})
    scheduler.down("squeue", "scontrol", "sacct")
    found = survey(runs)
    assert {name: (word.standing, word.job_id) for name, word in found.words.items()} == {"a": (Standing.UNKNOWN, "101_0")}
    assert len(found.problems) == 1
    assert not RunFolder(runs / "a").attempts()
    assert not submission.settled


def test_without_an_answer_about_an_ended_job_its_end_stays_open(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """The queue answered, and then the controller went away."""
    submission = queue("a")
    scheduler.set("101", state="NODE_FAIL")
    scheduler.down("scontrol")
    found = survey(runs)
    assert "what ended could not be recorded: the controller does not answer" in found.problems[0]
    assert found.words["a"].standing is Standing.UNKNOWN
    assert untouched(submission)
    scheduler.down()
    survey(runs)
    assert failure(submission, "a")["class"] == "node-fail"


@pytest.mark.parametrize("accounted", [False, True])
def test_jobs_that_came_back_after_the_queue_was_asked_are_not_over(
    accounted: bool, queue: Queue, scheduler: FakeSlurm, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the accounting has seen their earlier life end."""
    states = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED")
    submission = queue(*states)
    attempts = [begin(submission, state, f"101_{index}") for index, state in enumerate(states)]
    life = {"State": "REQUEUED", "Start": "1795473100", "End": "1795473160"}
    for index, state in enumerate(states):
        scheduler.set("101", str(index), state=state)
    if accounted:
        scheduler.account(accounts(*({"JobID": f"101_{index}", **life} for index in range(len(states)))))
    monkeypatch.setattr(Slurm, "queue", lambda self: {})
    survey(runs)
    assert [attempt.failure() for attempt in attempts] == [None] * len(states)
    assert not submission.settled


def test_a_submission_in_progress_is_nobodys_loss(freeze: Freeze, scheduler: FakeSlurm, runs: Path, tmp_path: Path) -> None:
    """While the ledger's lock is held, an entry without a number is somebody's work; then it is a job."""
    asked = [freeze("a"), freeze("b")]
    scheduler.behave("wait")
    with launcher(asked) as process:
        until((scheduler.folder / "waiting").exists)
        (submission,) = submissions(runs)
        found = survey(runs)
        said = {name: (word.standing, word.detail) for name, word in found.words.items()}
        assert said == dict.fromkeys(("a", "b"), (Standing.QUEUED, "being submitted"))
        assert untouched(submission)
        (scheduler.folder / "go").touch()
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    assert {name: word.job_id for name, word in survey(runs).words.items()} == {"a": "101_0", "b": "101_1"}


def launcher(requests: Sequence[RunRequest]) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.launchers.launching", str(requests[0].folder.parent)]
    return subprocess.Popen([*words, *(one.name for one in requests)], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
