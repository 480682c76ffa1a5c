"""Submitting to a scheduler that refuses, is silent, loses answers, and whose callers are killed: nothing twice, no orphan."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from launchers.layout import Layout
from launchers.request import RunRequest
from launchers.slurm.again import resubmit
from launchers.slurm.commands import UnreachableError
from launchers.slurm.grouping import prepare
from launchers.slurm.ledger import Submission, submissions, token_of
from launchers.slurm.submit import find_job, open_ledger, submit
from launchers.slurm.survey import survey
from results.errors import LaunchError, ResultError
from results.runfolder import RunFolder
from results.standing import Standing
from results.store import is_locked, read_json, write_json
from tests.launchers.conftest import Freeze
from tests.launchers.fake_slurm import FakeSlurm
from tests.launchers.launching import SITE, launch
from tests.launchers.submitted import WISH

ROOT = Path(__file__).parent.parent.parent


def start_launcher(requests: Sequence[RunRequest]) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.launchers.launching", str(requests[0].folder.parent)]
    return subprocess.Popen(
        [*words, *(request.name for request in requests)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(launcher: subprocess.Popen[str]) -> int:
    _, error = launcher.communicate(timeout=60)
    assert launcher.returncode <= 0, error
    return launcher.returncode


def no_attempts(*requests: RunRequest) -> bool:
    return not any(RunFolder(request.folder).attempts() for request in requests)


# What is written down -----------------------------------------------------------------------------------------------


def test_every_call_is_in_the_ledger_before_it_is_made(
    freeze: Freeze, scheduler: FakeSlurm, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "leaked")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    asked = [*(freeze(f"a{n}") for n in range(3)), freeze("b", memory_gib=2.0)]
    told: list[str] = []
    done = submit(prepare(asked, WISH), WISH, told=lambda one, job: told.append(job))
    assert [job for _, job in done] == told == ["101", "102"]
    jobs = scheduler.jobs
    assert all(job["ledger_first"] for job in jobs.values())
    assert [list(job["tasks"]) for job in jobs.values()] == [["0", "1", "2"], ["-"]]
    assert [job["name"] for job in jobs.values()] == ["fake-tiny-scaling-a0+2", "b"]
    assert [job["comment"].split(" ", 1)[1] for job in jobs.values()] == ["scaling 3 runs from a0 on", "scaling"]
    assert [call["foreign"] for call in scheduler.calls()] == [[], []]
    by_number = {submission.job_id(): submission for submission in submissions(runs)}
    assert {number: token_of(job["comment"]) for number, job in jobs.items()} == {
        number: submission.token for number, submission in by_number.items()
    }
    assert [by_number["101"].task_id(2), by_number["102"].task_id(0)] == ["101_2", "102"]
    assert scheduler.calls("sbatch")[0]["words"] == ["--parsable", str(by_number["101"].script)]
    words = survey(runs).words
    assert {name: (word.standing, word.job_id) for name, word in words.items()} == {
        "a0": (Standing.QUEUED, "101_0"), "a1": (Standing.QUEUED, "101_1"), "a2": (Standing.QUEUED, "101_2"),
        "b": (Standing.QUEUED, "102"),
    }  # fmt: skip


def test_the_number_that_was_written_first_stays(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    """Launcher, job and whoever finds it in the queue all write it down."""
    submit(prepare([freeze("a")], WISH), WISH)
    (submission,) = submissions(runs)
    submission.found("999")
    assert submission.job_id() == "101"


# Refused -------------------------------------------------------------------------------------------------------------


def test_a_refusal_leaves_what_was_submitted_before_and_names_it(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    asked = [freeze("a"), freeze("b", memory_gib=1.0), freeze("c", memory_gib=2.0), freeze("d", memory_gib=3.0)]
    prepared = prepare(asked, WISH)
    scheduler.behave("accept", "accept", "refuse")
    with pytest.raises(LaunchError, match=r"Invalid partition name specified; submitted before: 101, 102\n") as caught:
        submit(prepared, WISH)
    script = prepared[2].submission.script
    assert caught.value.where == str(script)
    assert caught.value.next_step == f"sbatch --test-only {script}"
    assert script.exists()
    assert list(scheduler.jobs) == ["101", "102"]
    assert [submission.job_id() for submission in submissions(runs)] == ["101", "102"]
    assert read_json(prepared[2].submission.folder / "settled.json")["how"].startswith("refused: sbatch refuses")
    assert not prepared[3].submission.folder.exists()
    assert set(survey(runs).words) == {"a", "b"}
    assert [job for job, _ in launch(asked).jobs] == ["103", "104"]  # c and d, once the partition is there
    assert [job["name"] for job in scheduler.jobs.values()] == ["a", "b", "c", "d"]


# No answer -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["lose-answer", "mumble"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_that_is_lost_submits_nothing_twice(
    how: str, count: int, freeze: Freeze, scheduler: FakeSlurm, runs: Path
) -> None:
    scheduler.behave(how)
    ((_, number),) = submit(prepare([freeze(f"a{n}") for n in range(count)], WISH), WISH)
    assert number == "101"
    assert list(scheduler.jobs) == ["101"]
    assert len(scheduler.calls("sbatch")) == 1
    assert submissions(runs)[0].job_id() == "101"


def test_a_job_that_was_over_before_its_number_was_known_is_found_too(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    """It is no longer in the queue; the controller remembers it for a while."""
    scheduler.behave("lose-answer")
    (one,) = prepare([freeze("a")], WISH)
    one.submission.write(one.script)
    subprocess.run(["sbatch", str(one.submission.script)], capture_output=True)
    scheduler.set("101", state="FAILED")
    ((_, number),) = submit([one], WISH)
    assert number == "102"  # asked for once more: this is a submission of its own
    from launchers.slurm.commands import Slurm

    scheduler.forget("102")
    assert find_job(Slurm(), one.submission.token) == "101"
    assert find_job(Slurm(), "0000000000") is None


def test_lines_around_the_number_do_no_harm(freeze: Freeze, scheduler: FakeSlurm) -> None:
    scheduler.behave("banner")
    ((_, number),) = submit(prepare([freeze("a")], WISH), WISH)
    assert number == "101"
    assert len(scheduler.calls("squeue")) == 0


def test_a_controller_that_is_away_for_a_moment_is_asked_again(freeze: Freeze, scheduler: FakeSlurm) -> None:
    scheduler.behave("no-answer", "no-answer")
    ((_, number),) = submit(prepare([freeze("a")], WISH), WISH)
    assert number == "101"
    assert list(scheduler.jobs) == ["101"]


def test_a_controller_that_stays_away_leaves_the_question_open(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    request = freeze("a")
    scheduler.behave(*["no-answer"] * 4)
    with pytest.raises(LaunchError, match="the controller does not answer") as caught:
        submit(prepare([request], WISH), WISH)
    assert "may have been accepted" in caught.value.next_step
    (submission,) = submissions(runs)  # still open: nobody knows
    assert submission.job_id() is None
    assert survey(runs).words == {}
    assert not submission.settled  # who only looks cannot know that nobody is at work on it
    assert [job for job, _ in launch([request]).jobs] == ["101"]
    assert read_json(submission.folder / "settled.json")["how"] == "never reached the scheduler"
    assert no_attempts(request)


def test_accepted_while_nobody_could_be_asked_is_adopted_later(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    """The worst case: sbatch was accepted, its answer lost, and then nothing answered any more."""
    request = freeze("a")
    scheduler.behave("lose-answer")
    scheduler.down("squeue", "scontrol")
    with pytest.raises(LaunchError, match="Socket timed out"):
        submit(prepare([request], WISH), WISH)
    assert survey(runs).words["a"].standing is Standing.UNKNOWN
    scheduler.down()
    assert launch([request]).jobs == []
    assert survey(runs).words["a"].job_id == "101"
    assert list(scheduler.jobs) == ["101"]


def test_nothing_is_submitted_while_it_is_unknown_what_was(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    asked = [freeze("a"), freeze("b")]
    launch(asked[:1])
    scheduler.down("squeue", "scontrol")
    found = survey(runs)
    assert {name: word.standing for name, word in found.words.items()} == {"a": Standing.UNKNOWN}
    assert found.words["a"].job_id == "101"
    assert len(found.problems) == 1
    assert "where submitted runs stand is not known" in found.problems[0]
    with pytest.raises(LaunchError, match="is not known") as caught:
        launch(asked)
    assert "once the controller answers" in caught.value.next_step
    assert len(scheduler.calls("sbatch")) == 1
    assert no_attempts(*asked)
    scheduler.down()
    assert [job for job, _ in launch(asked).jobs] == ["102"]  # the other one alone
    assert scheduler.jobs["102"]["name"] == "b"


# Killed and racing launchers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_launcher_killed_before_it_wrote_the_number_leaves_no_orphan_and_no_duplicate(
    count: int, freeze: Freeze, scheduler: FakeSlurm, runs: Path
) -> None:
    asked = [freeze(f"a{n}") for n in range(count)]
    scheduler.behave("kill-caller")
    assert ended(start_launcher(asked)) == -signal.SIGKILL
    (submission,) = submissions(runs)
    assert submission.job_id() is None
    assert not is_locked(open_ledger(runs))  # the kernel has let go of it
    first = "101" if count == 1 else "101_0"
    assert survey(runs).words["a0"].job_id == first
    assert submission.job_id() == "101"
    assert launch(asked).jobs == []
    assert list(scheduler.jobs) == ["101"]
    assert no_attempts(*asked)


def test_a_launcher_killed_before_its_job_was_accepted_loses_nothing(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    request = freeze("a")
    scheduler.behave("kill-unheard")
    assert ended(start_launcher([request])) == -signal.SIGKILL
    (dead,) = submissions(runs)
    assert scheduler.jobs == {}
    assert [job for job, _ in launch([request]).jobs] == ["101"]  # what looked submitted never was
    assert read_json(dead.folder / "settled.json")["how"] == "never reached the scheduler"
    assert [submission.job_id() for submission in submissions(runs)] == ["101"]
    assert no_attempts(request)


def test_two_launchers_at_once_submit_everything_once(freeze: Freeze, scheduler: FakeSlurm) -> None:
    asked = [freeze(f"a{n}") for n in range(3)]
    launchers = [start_launcher(asked) for _ in range(2)]
    assert [ended(launcher) for launcher in launchers] == [0, 0]
    assert [list(job["tasks"]) for job in scheduler.jobs.values()] == [["0", "1", "2"]]


# Chains and further jobs ---------------------------------------------------------------------------------------------


def test_exclusive_jobs_on_a_machine_that_nodes_share_follow_one_another(freeze: Freeze, scheduler: FakeSlurm) -> None:
    asked = [freeze(name, memory_gib=size, exclusive=True) for name, size in (("a", 1.0), ("b", 2.0), ("c", 2.0), ("d", 3.0))]
    wish = replace(WISH, site=replace(SITE, shared_machine=True), after=("7",))
    submit(prepare(asked, wish), wish)
    flags = [job["flags"] for job in scheduler.jobs.values()]
    assert [one["dependency"] for one in flags] == ["afterany:7", "afterany:101", "afterany:102"]
    assert [one.get("array") for one in flags] == [None, "0-1%1", None]
    for job in scheduler.jobs:
        scheduler.forget(job)
    submit(prepare(asked, replace(WISH, after=("7",))), replace(WISH, after=("7",)))
    flags = [job["flags"] for job in scheduler.jobs.values()]
    assert [one["dependency"] for one in flags] == ["afterany:7"] * 3  # elsewhere the scheduler keeps others away
    assert [one.get("array") for one in flags] == [None, "0-1%2", None]


def test_one_run_is_submitted_again_with_more_memory_and_without_a_node(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    asked = [freeze("a", ranks=2, memory_gib=1.0), freeze("b", ranks=2, memory_gib=1.0)]
    submit(prepare(asked, WISH), WISH)
    (first,) = submissions(runs)
    layout = Layout(memory_gib=3.0, exclude_nodes=("n4",), reason="more memory")
    assert resubmit(first, [(first.tasks[1][0], layout)]) == {"b": "102"}
    flags = scheduler.jobs["102"]["flags"]
    assert (flags["mem"], flags["exclude"], flags["ntasks"], scheduler.jobs["102"]["name"]) == ("3584M", "n4", "2", "b")
    second = next(submission for submission in submissions(runs) if submission.job_id() == "102")
    assert second.token != first.token
    assert (second.study, second.command, second.retry) == (first.study, first.command, first.retry)
    assert token_of(scheduler.jobs["102"]["comment"]) == second.token


def test_a_ledger_entry_that_is_damaged_is_said_by_name(freeze: Freeze, scheduler: FakeSlurm, runs: Path) -> None:
    submit(prepare([freeze("a")], WISH), WISH)
    (submission,) = submissions(runs)
    plain = read_json(submission.folder / "submission.json")
    del plain["tasks"]
    write_json(submission.folder / "submission.json", plain)
    with pytest.raises(ResultError, match=r"submission\.json is damaged: 'tasks'"):
        Submission.read(submission.folder)


def test_there_is_no_sbatch(freeze: Freeze, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="there is no sbatch here") as caught:
        submit(prepare([freeze("a")], WISH), WISH)
    assert not isinstance(caught.value, UnreachableError)
    assert "tenfold cluster up" in caught.value.next_step
