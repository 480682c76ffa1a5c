"""Slurm's commands and their answers: what names may hold, which errors pass, and what "I do not know" looks like."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.slurm.commands import Slurm, UnreachableError, parse_fields, parse_queue, seconds
from results.errors import LaunchError
from tests.launchers.fake_slurm import FakeSlurm

DELIMITER = "\x1f"
#: A field of one line of the queue: whatever a terminal can show.
TEXT = st.text(st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Zs")), max_size=20)


@given(reason=TEXT, comment=TEXT, name=TEXT, nodes=TEXT, command=TEXT)
def test_a_line_of_the_queue_comes_back_whole(reason: str, comment: str, name: str, nodes: str, command: str) -> None:
    line = DELIMITER.join(("12_3", "15", "PENDING", reason, comment, name, nodes, "1-00:00:10", command, "(null)"))
    (job,) = parse_queue(line + "\n")
    assert (job.job_id, job.raw_id, job.base_id, job.state, job.time_left_s) == ("12_3", "15", "12", "PENDING", 86_410.0)
    assert (job.reason, job.comment, job.name, job.nodes, job.command) == (reason, comment, name, nodes, command)
    assert job.waits_for == set()


def test_what_a_job_waits_for() -> None:
    said = "afterany:101_*(unfulfilled),afterany:7(unfulfilled)"
    (job,) = parse_queue(DELIMITER.join(("9", "9", "PENDING", "Dependency", "", "n", "", "1:00", "/s.sh", said)))
    assert job.waits_for == {"101", "7"}


def test_what_is_no_line_of_the_queue_is_left_out() -> None:
    assert parse_queue("\nslurm says hello\n") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:07", 7.0), ("59:59", 3599.0), ("1:00:00", 3600.0), ("2-03:04:05", 183_845.0), (" 10:00 ", 600.0), ("UNLIMITED", None),
        ("NOT_SET", None), ("INVALID", None), ("", None), ("1-00", None),
    ],
)  # fmt: skip
def test_durations(text: str, expected: float | None) -> None:
    assert seconds(text) == expected


@given(days=st.integers(0, 400), hours=st.integers(0, 23), minutes=st.integers(0, 59), rest=st.integers(0, 59))
def test_every_duration(days: int, hours: int, minutes: int, rest: int) -> None:
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    assert seconds(f"{days}-{hours:02d}:{minutes:02d}:{rest:02d}") == total


def test_fields_of_scontrol() -> None:
    line = "JobId=12 JobName=a b JobState=RUNNING Reason=None Dependency=(null) ReqB:S:C:T=0:0:*:* Comment=tenfold:0a1b x StdIn="
    assert parse_fields(line) == {
        "JobId": "12", "JobName": "a b", "JobState": "RUNNING", "Reason": "None", "Dependency": "(null)",
        "ReqB:S:C:T": "0:0:*:*", "Comment": "tenfold:0a1b x", "StdIn": "",
    }  # fmt: skip
    assert parse_fields("") == {}


# Calls ---------------------------------------------------------------------------------------------------------------


def test_a_refusal_is_not_silence(scheduler: FakeSlurm) -> None:
    with pytest.raises(LaunchError, match="scontrol refuses: invalid keyword") as caught:
        Slurm().call("scontrol", "frobnicate")
    assert not isinstance(caught.value, UnreachableError)
    assert len(scheduler.calls()) == 1  # and is not asked again


def test_silence_is_waited_for_and_then_said(scheduler: FakeSlurm) -> None:
    scheduler.down("squeue")
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="the controller does not answer: slurm_load_jobs error: Unable to contact"):
        Slurm(patience_s=0.5).queue()
    assert len(scheduler.calls()) >= 2
    assert time.monotonic() - begun < 10


def test_a_job_that_is_forgotten_and_one_that_cannot_be_asked_about(
    scheduler: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Slurm().job("77") == {}
    scheduler.down("scontrol")
    with pytest.raises(UnreachableError):
        Slurm(patience_s=0.1).job("77")

    def refuse(self: Slurm, program: str, *words: str, **keywords: float) -> str:
        raise LaunchError("scontrol refuses: slurm_load_jobs error: Protocol authentication error")

    monkeypatch.setattr(Slurm, "call", refuse)
    with pytest.raises(LaunchError, match="authentication"):  # which says nothing about the job
        Slurm().job("77")


def test_the_clusters_own_limits(scheduler: FakeSlurm) -> None:
    assert Slurm().config()["MaxArraySize"] == "1001"


def test_many_jobs_are_cancelled_in_several_calls(scheduler: FakeSlurm) -> None:
    Slurm().cancel([str(number) for number in range(450)], pending_only=True)
    words = [call["words"] for call in scheduler.calls("scancel")]
    assert [len(call) for call in words] == [201, 201, 51]
    assert all(call[0] == "--state=PENDING" for call in words)
    assert [number for call in words for number in call[1:]] == [str(number) for number in range(450)]
    Slurm().cancel([])
    assert len(scheduler.calls("scancel")) == 3
