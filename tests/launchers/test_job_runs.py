"""What a batch step does with its runs: with real processes for ranks, on a scheduler without machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launchers.retrying import RetryRule
from launchers.slurm.grouping import Wish, prepare
from launchers.slurm.ledger import Submission, submissions
from launchers.slurm.submit import submit
from launchers.slurm.survey import survey
from results.failures import Failure, FailureClass
from results.runfolder import RunFolder
from results.standing import Standing
from results.store import read_json, write_json
from tests.launchers.conftest import Freeze
from tests.launchers.fake_slurm import FakeSlurm
from tests.launchers.launching import SITE
from tests.launchers.submitted import WISH, begin
from tests.launchers.test_job import ROOT, batch_step

RULES = {
    "preempted": RetryRule("resume", 2), "timeout": RetryRule("resume", 2), "node-fail": RetryRule("exclude-node", 3),
    "oom-host": RetryRule("more-memory", 2), "oom-device": RetryRule("halve-micro-batch", 3),
}  # fmt: skip
SINGLE = replace(WISH, rules=RULES, site=replace(SITE, python=None))  # ranks are started by the Python of the tests
ONE_JOB = replace(SINGLE, pack=8)  # whose runs follow one another
Start = Callable[..., Submission]


@pytest.fixture
def start(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> Start:
    """Submits runs of the fake worker (orders by name) as one job, which then runs on n1; keywords: ``wish``, further needs."""

    def make(orders: dict[str, dict[str, Any]], *, wish: Wish = ONE_JOB, **needs: Any) -> Submission:
        asked = []
        for name, order in orders.items():
            asked.append(freeze(name, module="tests.launchers.fake_worker", environment={"PYTHONPATH": str(ROOT)}, **needs))
            write_json(asked[-1].folder / "orders.json", order)
        ((_, number),) = submit(prepare(asked, wish), wish)
        scheduler.set(number, state="RUNNING", nodes="n1")
        return submissions(runs)[-1]

    return make


def fail(submission: Submission, name: str, kind: str) -> None:
    """An attempt of the job's earlier life that ended so."""
    begin(submission, name).fail(Failure(kind=FailureClass(kind), reason="before", next_step="tenfold retry"))


def failures(runs: Path, name: str) -> list[str | None]:
    return [(attempt.failure() or {}).get("class") for attempt in RunFolder(runs / name).attempts()]


def calls(scheduler: FakeSlurm, *words: str) -> list[Sequence[str]]:
    return [call["words"] for call in scheduler.calls() if tuple(call["words"][: len(words)]) == words]


def test_runs_of_a_job_end_to_end(start: Start, runs: Path) -> None:
    submission = start({"a": {}, "b": {}})
    assert "ended b: completed" in batch_step(submission, SLURM_JOB_ID="101")
    assert all(RunFolder(runs / name).is_completed() for name in "ab")


# After a requeue -----------------------------------------------------------------------------------------------------


def test_a_requeued_pack_leaves_what_the_table_has_given_up(start: Start, runs: Path) -> None:
    """Crashed: never again. Preempted: goes on. Preempted more often than the table allows: given up. Never begun: begins."""
    submission = start({"crashed": {}, "preempted": {}, "exhausted": {}, "new": {}})
    fail(submission, "crashed", "crash")
    fail(submission, "preempted", "preempted")
    for _ in range(3):
        fail(submission, "exhausted", "preempted")
    said = batch_step(submission, SLURM_JOB_ID="101", SLURM_RESTART_COUNT="1", expect=1)
    assert failures(runs, "crashed") == ["crash"]
    assert failures(runs, "preempted") == ["preempted", None]
    assert failures(runs, "exhausted") == ["preempted"] * 3
    assert failures(runs, "new") == [None]
    assert "crashed: left as it is after crash" in said


def test_a_run_that_failed_before_it_was_submitted_again_begins(start: Start, runs: Path) -> None:
    """Its failure is another submission's: the user has asked for it since."""
    submission = start({"a": {}})
    RunFolder(runs / "a").claim_attempt().fail(Failure(kind=FailureClass.CRASH, reason="long ago", next_step="x"))
    batch_step(submission, SLURM_JOB_ID="101", SLURM_RESTART_COUNT="1")
    assert failures(runs, "a") == ["crash", None]


def test_half_the_micro_batch_survives_a_requeue(start: Start, runs: Path) -> None:
    """The job was killed between the failure and the next attempt."""
    submission = start({"a": {}})
    begin(submission, "a", micro_batch=4)
    attempt = RunFolder(runs / "a").attempts()[0]
    attempt.write("attempt", {**attempt.read("attempt"), "micro_batch": 4})
    attempt.fail(Failure(kind=FailureClass.OOM_DEVICE, reason="full", next_step="x"))
    batch_step(submission, SLURM_JOB_ID="101", SLURM_RESTART_COUNT="1")
    assert failures(runs, "a") == ["oom-device", None]
    assert read_json(runs / "a" / "layout.json")["micro_batch"] == 2


def test_a_run_with_a_job_of_its_own_is_left_to_that(start: Start, scheduler: FakeSlurm, runs: Path) -> None:
    """One run of a pack got a job with more memory, then the pack was requeued for the others."""
    submission = start({"a": {"fail": "oom-host", "exit": 1}, "b": {"leave": True}}, memory_gib=1.0)
    batch_step(submission, SLURM_JOB_ID="101", expect=1)
    assert [call[1] for call in calls(scheduler, "requeue")] == ["101"]
    assert scheduler.jobs["102"]["name"] == "a"
    for name in "ab":
        write_json(runs / name / "orders.json", {})
    scheduler.set("101", state="RUNNING", nodes="n1")
    said = batch_step(submission, SLURM_JOB_ID="101", SLURM_RESTART_COUNT="1", expect=1)
    assert "a: another job has it by now" in said
    assert failures(runs, "a") == ["oom-host"]
    assert failures(runs, "b") == ["preempted", None]
    assert list(scheduler.jobs) == ["101", "102"]


@pytest.mark.parametrize(("restart", "again"), [("0", True), ("2", True), ("3", False)])
def test_a_run_held_elsewhere_does_not_requeue_its_job_for_ever(
    restart: str, again: bool, start: Start, scheduler: FakeSlurm, runs: Path
) -> None:
    submission = start({"a": {}})
    lock = RunFolder(runs / "a").lock()
    assert lock.acquire()
    said = batch_step(submission, SLURM_JOB_ID="101", SLURM_RESTART_COUNT=restart, expect=1)
    lock.release()
    assert bool(calls(scheduler, "requeue")) is again
    assert ("running elsewhere; the job was requeued 3 times and leaves it" in said) is not again


# Endings -------------------------------------------------------------------------------------------------------------


def test_every_ending_has_a_reason_of_its_own(start: Start, scheduler: FakeSlurm, runs: Path) -> None:
    """One run of a pack leaves for a signal of its own; the next is in progress when the job's limit comes near."""
    submission = start({"a": {"leave": True}, "b": {"heed": True}})
    scheduler.set("101", left="0:08")
    batch_step(submission, SLURM_JOB_ID="101", expect=1)
    said = [RunFolder(runs / name).attempts()[0].failure() or {} for name in "ab"]
    assert [failure["class"] for failure in said] == ["preempted", "timeout"]
    assert "while the job went on" in said[0]["reason"]
    assert said[1]["reason"] == "the job's time limit is near"
    assert (said[1]["step"], len(calls(scheduler, "requeue"))) == (7, 1)


def test_a_checkpoint_may_take_until_shortly_before_the_limit(start: Start, scheduler: FakeSlurm, runs: Path) -> None:
    """Asked at four of eight seconds, done at six: not killed for having taken longer than any fixed grace."""
    submission = start({"a": {"heed": True, "deaf": True, "save_s": 2.0}}, leave_grace_s=0.1)
    scheduler.set("101", left="0:08")
    batch_step(submission, SLURM_JOB_ID="101", expect=1)
    (attempt,) = RunFolder(runs / "a").attempts()
    assert attempt.read("launch")["exit_codes"] == [0]
    assert (attempt.failure() or {})["step"] == 7


def test_steps_that_are_longer_than_planned_are_left_earlier(start: Start, scheduler: FakeSlurm, runs: Path) -> None:
    """An hour is left: three minutes of it are for leaving, and three steps of five minutes each, as the attempt before says."""
    submission = start({"a": {}})
    scheduler.set("101", left="1:00:00")
    write_json(runs / "a" / "plan.json", {"step_s": 0.001})
    begin(submission, "a").write("progress", {"phase": "train", "boundary_s": 300.0})
    batch_step(submission, SLURM_JOB_ID="101")
    leave_at = float(read_json(runs / "a" / "environment-0.json")["TENFOLD_LEAVE_AT"])
    assert leave_at - time.time() == pytest.approx(3600 - 180 - 3 * 300, abs=60)


# A further job -------------------------------------------------------------------------------------------------------


def test_a_further_job_has_the_same_limit_and_grace(start: Start, scheduler: FakeSlurm, runs: Path) -> None:
    submission = start(
        {"a": {"fail": "oom-host", "exit": 1}}, wish=SINGLE, memory_gib=1.0, time_limit_s=5400.0,
        leave_grace_s=77.0,
    )  # fmt: skip
    said = batch_step(submission, SLURM_JOB_ID="101", expect=1)
    assert "a: submitted again as job 102, more memory after oom-host" in said
    first, second = (scheduler.jobs[number]["flags"] for number in ("101", "102"))
    assert first["time"] == second["time"] == "90"
    assert (first["mem"], second["mem"]) == ("1536M", "2048M")
    (run,) = next(one for one in submissions(runs) if one.job_id() == "102").tasks[0]
    assert (run.time_limit_s, run.leave_grace_s) == (5400.0, 77.0)


def test_what_waits_for_a_job_waits_for_the_further_one_too(
    start: Start, freeze: Freeze, scheduler: FakeSlurm, runs: Path
) -> None:
    """A later stage must not begin while a run of the stage before is tried again."""
    submission = start({"a": {"fail": "oom-host", "exit": 1}}, memory_gib=1.0)
    later = replace(WISH, after=("101",))
    submit(prepare([freeze("later", exclusive=True)], later), later)
    batch_step(submission, SLURM_JOB_ID="101", expect=1)
    assert scheduler.jobs["103"]["name"] == "a"
    assert scheduler.jobs["102"]["dependency"] == "afterany:101:103"
    scheduler.set("101", state="FAILED")
    survey(runs)
    assert list(scheduler.jobs) == ["101", "102", "103"]  # the job has done what there was to do


def test_a_job_preempted_for_good_is_submitted_again_by_itself(start: Start, scheduler: FakeSlurm, runs: Path) -> None:
    """PreemptMode=CANCEL: the controller will not requeue it. Whoever looks afterwards finds nothing left to do."""
    submission = start({"a": {"leave": True}}, time_limit_s=600.0)
    scheduler.set("101", state="COMPLETING", preempted="2026-11-26T07:25:24")
    said = batch_step(submission, SLURM_JOB_ID="101", expect=1)
    assert "submitted again as 102: the job was preempted for good" in said
    assert failures(runs, "a") == ["preempted"]
    scheduler.set("101", state="PREEMPTED")
    for _ in range(2):
        assert survey(runs).words["a"].standing is Standing.QUEUED
    assert list(scheduler.jobs) == ["101", "102"]
    assert scheduler.jobs["102"]["flags"]["time"] == "10"
    assert not calls(scheduler, "requeue")
