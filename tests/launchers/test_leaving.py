"""How long ranks that are asked to leave may take, and why they had to: from what is known, never a fixed time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.leaving import LEAVE_STEPS, Stop, grace_s
from launchers.local import Ended, Leaving, LocalQueue
from launchers.request import RunRequest
from launchers.slurm.commands import Slurm
from launchers.slurm.leaving import KILL_LEAD_S, LEAD_S, Clock, ask_why, lead_s, reason_for
from results.failures import FailureClass
from results.runfolder import RunFolder
from results.store import read_json, write_json
from tests.launchers.conftest import Freeze
from tests.launchers.fake_slurm import FakeSlurm
from tests.launchers.submitted import Queue

ROOT = Path(__file__).parent.parent.parent
CANCELLED = FailureClass.CANCELLED

# On this machine -----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(freeze: Freeze) -> Callable[..., tuple[RunRequest, LocalQueue]]:
    """A run of the fake worker, and a queue that asks it to leave as soon as its ranks are there; keywords are orders."""

    def make(*, stop: Stop | None = None, ranks: int = 1, leave_grace_s: float = 120.0, **orders: Any) -> Any:
        environment = {"PYTHONPATH": str(ROOT)}
        request = freeze(
            "a", ranks=ranks, leave_grace_s=leave_grace_s, module="tests.launchers.fake_worker", environment=environment
        )
        write_json(request.folder / "orders.json", {"deaf": True, **orders})
        here = request.folder / f"environment-{ranks - 1}.json"
        further = {} if stop is None else {"stop_because": lambda: stop}
        return request, LocalQueue(
            cores=8, tick_s=0.02, leaving=lambda: Leaving.CANCEL if here.exists() else Leaving.NO, **further
        )

    return make


@pytest.mark.parametrize(
    ("grace", "orders", "saved"),
    [
        (30.0, {"save_s": 1.0}, True),
        (0.1, {"save_s": 1.0}, False),  # not within the launcher's grace
        (0.1, {"save_s": 1.0, "boundary_s": 5.0}, True),  # but its steps are long, as it has told
    ],
)
def test_ranks_get_the_launchers_grace_and_the_time_of_their_steps(grace: float, orders: Any, saved: bool, asked: Any) -> None:
    request, queue = asked(leave_grace_s=grace, heed=True, **orders)
    assert queue.run([request]) == {"a": Ended.FAILED}
    attempt = RunFolder(request.folder).attempts()[0]
    assert (attempt.read("leave") is not None) is saved
    assert attempt.read("launch")["exit_codes"] == [0 if saved else -9]
    assert attempt.failure()["class"] == "cancelled"


@pytest.mark.parametrize(("patience_s", "saved"), [(math.inf, True), (30.0, True), (0.0, False)])
def test_what_is_known_of_the_end_comes_before_the_grace(patience_s: float, saved: bool, asked: Any) -> None:
    """Infinite: the scheduler sees to the end."""
    grace = 0.0 if saved else 120.0
    request, queue = asked(stop=Stop(CANCELLED, "why", patience_s), leave_grace_s=grace, heed=True, save_s=0.5)
    queue.run([request])
    assert (RunFolder(request.folder).attempts()[0].read("leave") is not None) is saved


@pytest.mark.distributed
def test_patience_ends_with_the_first_rank_that_fails(asked: Any) -> None:
    """The others can no longer save together: they are not waited for."""
    request, queue = asked(ranks=2, stop=Stop(CANCELLED, "why", math.inf), heed=True, quit_rank=1, save_s=10_000.0)
    begun = time.monotonic()
    queue.run([request])
    assert time.monotonic() - begun < 60
    launch = RunFolder(request.folder).attempts()[0].read("launch")
    assert launch["exit_codes"] == [-9, 3]
    assert read_json(request.folder / "record.json")["failure"]["class"] == "cancelled"


def test_the_grace_grows_with_measured_steps(freeze: Freeze) -> None:
    request = freeze("a", leave_grace_s=10.0)
    attempt = RunFolder(request.folder).claim_attempt()
    assert grace_s(request, None) == grace_s(request, attempt) == 10.0
    attempt.write("progress", {"phase": "train", "boundary_s": 40.0})
    assert grace_s(request, attempt) == 10.0 + LEAVE_STEPS * 40.0


# In a job ------------------------------------------------------------------------------------------------------------


@given(left=st.floats(1.0, 1e6), step=st.floats(0.0, 1e4))
def test_ranks_leave_early_enough_for_their_steps_and_a_checkpoint(left: float, step: float) -> None:
    lead = lead_s(left, step)
    assert 0 < lead <= left / 2
    if lead < left / 2:
        assert LEAD_S[0] <= lead - LEAVE_STEPS * step <= LEAD_S[1] + 1e-6


@pytest.mark.parametrize(
    ("left_s", "step_s", "expected"),
    [(60.0, 0.1, 20.3), (3600.0, 1.0, 183.0), (86_400.0, 0.5, 301.5), (86_400.0, 200.0, 900.0), (10.0, 1.0, 5.0)],
)
def test_leads_of_known_jobs(left_s: float, step_s: float, expected: float) -> None:
    assert lead_s(left_s, step_s) == pytest.approx(expected)


def test_ranks_may_use_the_whole_lead_for_their_checkpoint() -> None:
    """Of a day's job they leave five minutes before the end, and are killed ten seconds before it."""
    clock = Clock(86_400.0, 0.0)
    assert clock.leave_at == pytest.approx(time.time() + 86_400 - 300, abs=1)
    clock.end_at = time.time() + 300  # it is that late
    assert clock.patience_s() == pytest.approx(300 - KILL_LEAD_S, abs=1)
    assert Clock(None, 5.0).patience_s() is None
    assert Clock(None, 5.0).leave_at == math.inf


def test_measured_steps_take_the_place_of_planned_ones() -> None:
    clock = Clock(86_400.0, 1.0)
    planned = clock.end_at - clock.leave_at
    clock.measured(60.0)
    clock.measured(20.0)  # the longest counts
    assert clock.end_at - clock.leave_at == pytest.approx(planned + LEAVE_STEPS * 59.0)


def why(scheduler: FakeSlurm, monkeypatch: pytest.MonkeyPatch, *, left_s: float | None = 3600.0, restart: int = 0) -> Stop:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    return ask_why(Slurm(), "101", restart, Clock(left_s, 0.0))


@pytest.mark.parametrize(
    ("facts", "kind", "reason", "waits"),
    [
        ({"state": "RUNNING"}, "preempted", "asked to leave while the job went on", 3590.0),
        ({"state": "RUNNING", "preempted": "2026-11-26T07:25:24"}, "preempted", "once its grace is over", math.inf),
        ({"state": "COMPLETING", "restarts": "1"}, "preempted", "has requeued the job", math.inf),
        ({"state": "COMPLETING", "preempted": "2026-11-26T07:25:24"}, "preempted", "will not be requeued", math.inf),
        ({"state": "COMPLETING"}, "cancelled", "the job was cancelled (completing)", math.inf),
    ],
)
def test_the_controllers_facts_say_why_and_how_long(
    facts: dict[str, str], kind: str, reason: str, waits: float, queue: Queue, scheduler: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where the scheduler ends the job, KillWait and GraceTime hold: it kills, nobody else does so before."""
    queue("a")
    scheduler.set("101", nodes="n1", **facts)
    found = why(scheduler, monkeypatch)
    assert found.kind == kind
    assert reason in found.reason
    assert found.patience_s == pytest.approx(waits, abs=5)


def test_without_a_limit_and_without_an_end_the_launchers_grace_holds(
    queue: Queue, scheduler: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue("a")
    scheduler.set("101", state="RUNNING", nodes="n1")
    assert why(scheduler, monkeypatch, left_s=None).patience_s is None
    scheduler.down("scontrol")
    assert why(scheduler, monkeypatch, left_s=None).patience_s is None


def test_reasons_by_state() -> None:
    assert reason_for("NODE_FAIL", requeued=False)[0] is FailureClass.NODE_FAIL
    assert reason_for("PREEMPTED", requeued=False)[0] is FailureClass.PREEMPTED
    assert reason_for("TIMEOUT", requeued=False)[0] is FailureClass.TIMEOUT
    assert reason_for("", requeued=False)[1] == "the job was cancelled (no state)"
