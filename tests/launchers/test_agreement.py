"""When ranks agree to leave: together, soon enough for whoever asked them, as seldom as their own steps allow."""

from __future__ import annotations

import signal
import time
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.trainer import LEAVE_EVERY_S, LEAVE_EVERY_STEPS, Agreement
from results.runfolder import RunFolder
from results.store import read_json_or
from tests.slurm.support import wait_for
from tests.support import Workplace

MOST = max(LEAVE_EVERY_STEPS)


class Ranks:
    """All ranks of a run in one process, step by step: what each brings to a collective is what all get."""

    def __init__(self, world: int) -> None:
        self.world, self.questions = world, 0
        self._brought: list[NDArray[np.float64]] = []
        self.members = [Agreement(_Member(self)) for _ in range(world)]  # type: ignore[arg-type]

    def step(self, done: int, took_s: list[float], asked: list[bool]) -> list[bool]:
        """What every rank decides after a step. The first round gathers, the second hands out."""
        before = [vars(member).copy() for member in self.members]
        self._brought = []
        for member, took, flag in zip(self.members, took_s, asked, strict=True):
            member(done, took, lambda flag=flag: flag)  # type: ignore[misc]
        assert len(self._brought) in (0, self.world), "some ranks wait in a collective that others never enter"
        self.questions += bool(self._brought)
        everything, answers = np.concatenate(self._brought) if self._brought else None, []
        for member, state, took, flag in zip(self.members, before, took_s, asked, strict=True):
            vars(member).update(state)
            member._group.answer = everything  # type: ignore[attr-defined]
            answers.append(member(done, took, lambda flag=flag: flag))  # type: ignore[misc]
            member._group.answer = None  # type: ignore[attr-defined]
        return answers


class _Member:
    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self.world = ranks, ranks.world
        self.answer: NDArray[np.float64] | None = None

    def all_gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.answer is not None:
            return self.answer
        self._ranks._brought.append(values)
        return values


@given(data=st.data(), world=st.integers(2, 4))
def test_all_ranks_ask_after_the_same_steps_and_leave_after_the_same_step(data: st.DataObject, world: int) -> None:
    """However long each of them takes, and whichever is asked."""
    ranks = Ranks(world)
    since: int | None = None
    for done in range(1, data.draw(st.integers(1, 40)) + 1):
        took = data.draw(st.lists(st.floats(1e-4, 30.0), min_size=world, max_size=world))
        asked = [data.draw(st.booleans()) if since is None else True for _ in range(world)]
        if since is None and any(asked):
            since = done
        answers = ranks.step(done, took, asked)
        assert len(set(answers)) == 1
        assert since is None or done - since < MOST
        if answers[0]:
            assert since is not None
            break


@pytest.mark.parametrize(("took_s", "every"), [(0.001, MOST), (0.3, 5), (0.4, 5), (1.0, 2), (1.5, 1), (600.0, 1)])
def test_they_ask_as_often_as_the_slowest_ranks_steps_want(took_s: float, every: int) -> None:
    """Steps of ten minutes are not waited for ten times; nobody has planned them."""
    ranks = Ranks(3)
    for done in range(1, 1 + 4 * every + 1):
        ranks.step(done, [took_s, took_s / 3, took_s / 2], [False] * 3)
    assert ranks.questions == 5  # after the first step, and after multiples
    assert {member.boundary_s for member in ranks.members} == {took_s}
    assert every == 1 or every * took_s <= LEAVE_EVERY_S


def test_a_rank_that_becomes_slow_is_noticed_at_the_next_question() -> None:
    ranks = Ranks(2)
    steps = [0.01] * 11 + [5.0] * 12
    for done, took in enumerate(steps, 1):
        ranks.step(done, [0.01, took], [False, False])
    assert ranks.questions == 1 + 1 + 1 + 3  # after steps 1, 10, 20, and from there on after each


def test_a_rank_alone_looks_after_every_step() -> None:
    ranks = Ranks(1)
    for done in range(1, 6):
        assert ranks.step(done, [0.001], [done == 5]) == [done == 5]
    assert ranks.questions == 5


@pytest.mark.distributed
def test_two_ranks_with_slow_steps_leave_within_two_of_them(workplace: Workplace) -> None:
    """The plan knows nothing of what makes them slow. One rank is told; both save after the same step."""
    (workplace.path / "pace").write_text("1.0")
    words = ("system=faulty", "scale=tiny", "variant=paced", "engine=zero1", "ranks=2", "train.steps=200", "tracker=none")
    run = workplace.start("run", *words)
    wait_for(lambda: bool(workplace.runs()) and _done(workplace.runs()[0]) >= 2, "it trains", 120, 0.02)
    (folder,) = workplace.runs()
    _worker(folder, 1).send_signal(signal.SIGUSR2)
    told = _done(folder)
    run.communicate(timeout=120)
    (attempt,) = folder.attempts()
    left = attempt.read("leave")
    assert left["step"] - told <= 3
    assert (folder.checkpoints / "latest").exists()
    assert read_json_or(attempt.path / "progress.json", {})["boundary_s"] >= 1.0


def _done(folder: RunFolder) -> int:
    last = folder.last_attempt()
    found: dict[str, Any] = last.read("progress", {}) if last else {}
    return int(found.get("done", 0)) if found.get("phase") == "train" else 0


def _worker(folder: RunFolder, rank: int) -> psutil.Process:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "harness.worker" in words and words[-1].endswith(folder.name) and process.environ().get("RANK") == str(rank):
                return process
    raise AssertionError(f"rank {rank} of {folder.name} is not there")
