"""The last word on runs whose job is over: the scheduler's class and reason, the accounting's row, and never two words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.slurm import settle as settle_module
from launchers.slurm.commands import Slurm
from launchers.slurm.settle import Facts, mourn
from launchers.slurm.survey import survey
from results.failures import Failure, FailureClass
from results.merge import build_record
from results.runfolder import RunFolder
from results.store import read_json
from tests.launchers.fake_slurm import FakeSlurm
from tests.launchers.submitted import Queue, accounts, begin, failure

ROOT = Path(__file__).parent.parent.parent

# Over, without a word ------------------------------------------------------------------------------------------------


#: State of a job that is over, class and reason of its runs' failure.
OVER = [
    ("CANCELLED", "cancelled", "its job was cancelled"),
    ("FAILED", "crash", "its job failed before any rank could say why"),
    ("OUT_OF_MEMORY", "oom-host", "its job ran out of memory"),
    ("NODE_FAIL", "node-fail", "a node of its job failed"),
    ("BOOT_FAIL", "node-fail", "a node of its job did not boot"),
    ("TIMEOUT", "timeout", "its job reached the time limit and was killed"),
    ("DEADLINE", "timeout", "its job missed its deadline"),
    ("PREEMPTED", "preempted", "its job was preempted and not requeued"),
    ("COMPLETED", "crash", "its job ended well and left no outcome"),
    ("LAUNCH_FAILED", "node-fail", "its job is gone and nobody knows why: the node or the scheduler was killed"),
]


@pytest.mark.parametrize("started", [False, True])
def test_the_schedulers_state_names_class_and_reason(started: bool, queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """Both for jobs that never got as far as a rank (cancelled while pending, say) and for those whose ranks were cut off."""
    names = [f"run-{number}" for number in range(len(OVER))]
    submission = queue(*names)
    for index, (state, _, _) in enumerate(OVER):
        scheduler.set("101", str(index), state=state, nodes="n2")
        if started:
            begin(submission, names[index], f"101_{index}")
    assert survey(runs).words == {}
    for index, (state, kind, reason) in enumerate(OVER):
        said = failure(submission, names[index])
        assert (said["class"], said["reason"], said["host"]) == (kind, f"job 101_{index}: {reason}", "n2")
        assert "tenfold" in said["next_step"]
        assert said["evidence"] == {"job_state": state, "job_output": str(submission.folder)}
        assert [attempt.index for attempt in RunFolder(runs / names[index]).attempts()] == [0]
        assert not RunFolder(runs / names[index]).is_running()
    assert submission.settled


def test_a_job_that_nobody_remembers(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    begin(submission, "a")
    scheduler.forget("101")
    survey(runs)
    assert failure(submission, "a")["class"] == "node-fail"
    assert "nobody knows why" in failure(submission, "a")["reason"]


def test_ranks_that_had_left_before_their_job_was_killed_say_where(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    begin(submission, "a").write("leave", {"step": 17, "reason": "asked to leave (SIGTERM) after step 17"})
    scheduler.set("101", state="PREEMPTED")
    survey(runs)
    said = failure(submission, "a")
    assert (said["class"], said["step"]) == ("preempted", 17)
    assert said["reason"].endswith("; asked to leave (SIGTERM) after step 17")


def test_a_word_that_is_there_stays(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """Completed runs, and ranks that said themselves why they failed, whatever became of their job."""
    submission = queue("a", "b", "c")
    begin(submission, "a", "101_0").write("outcome", {"status": "completed", "metrics": {}})
    begin(submission, "b", "101_1").fail(Failure(kind=FailureClass.DIVERGED, reason="NaN at step 3", next_step="lower train.lr"))
    for index in "012":
        scheduler.set("101", index, state="FAILED")
    survey(runs)
    assert RunFolder(runs / "a").is_completed()
    assert read_json(runs / "a" / "record.json")["status"] == "completed"
    assert (failure(submission, "b")["class"], failure(submission, "b")["reason"]) == ("diverged", "NaN at step 3")
    assert failure(submission, "c")["class"] == "crash"


def test_a_run_that_somebody_else_has_run_since_is_left_alone(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    attempt = RunFolder(runs / "a").claim_attempt()
    attempt.write("attempt", {"attempt": 0, "started": "2999-01-01T00:00:00+00:00"})
    scheduler.set("101", state="CANCELLED")
    survey(runs)
    assert attempt.failure() is None
    assert len(RunFolder(runs / "a").attempts()) == 1
    assert submission.settled


def test_an_older_attempt_of_another_job_does_not_answer_for_this_one(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    before = RunFolder(runs / "a").claim_attempt()
    before.write("attempt", {"attempt": 0, "started": "2001-01-01T00:00:00+00:00", "job": {"token": "0000000000"}})
    before.fail(Failure(kind=FailureClass.CRASH, reason="long ago", next_step="tenfold retry"))
    scheduler.set("101", state="TIMEOUT")
    survey(runs)
    assert failure(submission, "a")["class"] == "timeout"
    assert [attempt.index for attempt in RunFolder(runs / "a").attempts()] == [0, 1]
    assert (before.failure() or {})["reason"] == "long ago"


def test_a_run_that_is_held_is_about_to_get_its_word(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    attempt = begin(submission, "a")
    scheduler.set("101", state="FAILED")
    lock = RunFolder(runs / "a").lock()
    assert lock.acquire()
    survey(runs)
    assert attempt.failure() is None
    assert not submission.settled
    lock.release()
    survey(runs)
    assert failure(submission, "a")["class"] == "crash"


@pytest.mark.parametrize(
    ("state", "kind"), [("TIMEOUT", "timeout"), ("PREEMPTED", "preempted"), ("CANCELLED", "cancelled"), ("FAILED", "cancelled")]
)
def test_a_job_that_could_not_know_why_it_was_ended_is_told(
    state: str, kind: str, queue: Queue, scheduler: FakeSlurm, runs: Path
) -> None:
    """While it is being ended a job sees COMPLETING and says "cancelled"; the scheduler's state afterwards decides."""
    submission = queue("a")
    attempt = begin(submission, "a")
    attempt.fail(Failure(kind=FailureClass.CANCELLED, reason="the job was cancelled (completing)", next_step="x", step=9))
    scheduler.set("101", state=state)
    survey(runs)
    said = failure(submission, "a")
    assert (said["class"], said["step"], said["evidence"]) == (kind, 9, {"job_state": state})
    survey(runs)
    assert len(RunFolder(runs / "a").attempts()) == 1


def test_two_that_settle_at_once_write_one_word(queue: Queue, scheduler: FakeSlurm, runs: Path, tmp_path: Path) -> None:
    names = [f"run-{number}" for number in range(12)]
    submission = queue(*names)
    for index in range(len(names)):
        scheduler.set("101", str(index), state="NODE_FAIL", nodes="n1")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom launchers.slurm.survey import survey\n"
        "go = Path(sys.argv[2])\nprint('ready', flush=True)\n"
        "while not go.exists():\n    time.sleep(0.001)\nsurvey(Path(sys.argv[1]))"
    )
    words = [sys.executable, "-c", code, str(runs), str(tmp_path / "go")]
    settlers = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) for _ in range(3)]
    for settler in settlers:
        assert settler.stdout is not None
        assert settler.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    assert [settler.wait(timeout=60) for settler in settlers] == [0, 0, 0]
    for settler in settlers:
        assert settler.stdout is not None
        settler.stdout.close()
    survey(runs)  # whoever met a lock left the rest to the next look
    for name in names:
        assert [attempt.index for attempt in RunFolder(runs / name).attempts()] == [0]
        assert failure(submission, name)["class"] == "node-fail"
    assert submission.settled


# Accounting ----------------------------------------------------------------------------------------------------------


def test_the_accounting_knows_better_than_the_controller(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    """Nodes of the last life, its state without "by", and the row beside the attempt."""
    submission = queue("a", "b")
    began = 1795473100
    attempt = begin(submission, "a", "101_0", started="2026-11-23T22:31:45+00:00")
    life = {"Submit": str(began), "Eligible": str(began), "Start": str(began + 4), "End": str(began + 64), "ElapsedRaw": "60"}
    life |= {"Comment": f"tenfold:{submission.token} scaling"}
    scheduler.account(
        accounts(
            {"JobID": "101_0", "JobIDRaw": "102", "State": "CANCELLED by 1000", "NodeList": "n[1-2]", "NNodes": "2", **life},
            {"JobID": "101_0.batch", "State": "CANCELLED", "MaxRSS": "1048576", **life},
        )
    )
    for job in list(scheduler.jobs):
        scheduler.set(job, "0", state="FAILED", nodes="n9")
    survey(runs)
    said = failure(submission, "a")
    assert (said["class"], said["host"], said["evidence"]["job_state"]) == ("cancelled", "n1,n2", "CANCELLED")
    row = attempt.read("accounting")
    assert (row["queue_wait_s"], row["elapsed_s"], row["node_list"]) == (4.0, 60.0, ["n1", "n2"])
    assert build_record(RunFolder(runs / "a")).attempts[0]["accounting"]["state"] == "CANCELLED"
    assert not submission.settled  # b waits still


def test_an_accounting_that_lags_is_asked_again_for_a_while(
    queue: Queue, scheduler: FakeSlurm, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = queue("a")
    attempt = begin(submission, "a")
    scheduler.account(accounts({"JobID": "101", "State": "RUNNING", "Start": "1795473100"}))
    scheduler.set("101", state="TIMEOUT")
    survey(runs)
    assert failure(submission, "a")["class"] == "timeout"  # the controller knows already
    assert attempt.read("accounting") is None
    assert not submission.settled
    monkeypatch.setattr(settle_module, "ACCOUNTING_LATE_S", 0.0)
    survey(runs)
    assert attempt.read("accounting") == {"unknown": "unknown: the accounting does not know this attempt's job"}
    assert submission.settled


def test_a_requeued_job_that_nobody_knows_any_more(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    begin(submission, "a")
    scheduler.forget("101")
    row = {"JobID": "101", "State": "REQUEUED", "Start": "1795473100", "End": "1795473160", "NodeList": "n3"}
    scheduler.account(accounts(row))
    survey(runs)
    said = failure(submission, "a")
    assert (said["class"], said["host"]) == ("preempted", "n3")
    assert said["reason"] == "job 101: its job was requeued and is no longer in the queue"


def test_a_cluster_without_accounting_is_said_to_be_one(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("a")
    attempt = begin(submission, "a")
    scheduler.set("101", state="TIMEOUT")
    survey(runs)
    assert attempt.read("accounting") == {"unknown": "unknown: this cluster keeps no accounting (AccountingStorageType)"}
    assert submission.settled


# The next life of a requeued job -------------------------------------------------------------------------------------


def facts(scheduler: FakeSlurm, *rows: dict[str, str]) -> Facts:
    from launchers.accounting import sacct_rows

    scheduler.account(accounts(*rows))
    return Facts(Slurm(), sacct_rows(["101"]))


@pytest.mark.parametrize(
    ("state", "kind", "reason"),
    [
        ("REQUEUED", "preempted", "job 101, before its restart 1: it was requeued before its ranks could save"),
        ("PREEMPTED", "preempted", "job 101, before its restart 1: its job was preempted and not requeued"),
        ("NODE_FAIL", "node-fail", "job 101, before its restart 1: a node of its job failed"),
        (None, "node-fail", "job 101, before its restart 1: it ended without a word, with its node or by force"),
    ],
)
def test_an_earlier_life_without_a_word_is_mourned(
    state: str | None, kind: str, reason: str, queue: Queue, scheduler: FakeSlurm, runs: Path
) -> None:
    submission = queue("a")
    attempt = begin(submission, "a")
    row = {"JobID": "101", "State": state or "", "Start": "1795473100", "End": "1795473160", "NodeList": "n3"}
    known = facts(scheduler, *([row] if state else []))
    mourn(submission, 0, "101", 1, known)
    said = failure(submission, "a")
    assert (said["class"], said["reason"], said["host"]) == (kind, reason, "n3" if state else "")
    attempt.path.joinpath("failure.json").chmod(0o444)
    mourn(submission, 0, "101", 2, known)  # once is enough
    assert failure(submission, "a") == said


def test_who_is_not_mourned(queue: Queue, scheduler: FakeSlurm, runs: Path) -> None:
    submission = queue("completed", "said", "none", "foreign")
    begin(submission, "completed", "101_0").write("outcome", {"status": "completed"})
    begin(submission, "said", "101_1").fail(Failure(kind=FailureClass.TIMEOUT, reason="in time", next_step="x"))
    foreign = RunFolder(runs / "foreign").claim_attempt()
    foreign.write("attempt", {"attempt": 0, "started": "2026-11-23T22:00:00+00:00"})
    for index in range(4):
        mourn(submission, index, f"101_{index}", 1, facts(scheduler))
    assert not any(RunFolder(runs / name).record_file.exists() for name in ("completed", "said", "none", "foreign"))
    assert foreign.failure() is None
    assert not RunFolder(runs / "none").attempts()
