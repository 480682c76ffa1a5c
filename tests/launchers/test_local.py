"""The local queue with real processes of a fake worker: limits are kept, endings are recorded, nothing stops the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from launchers import ranks as ranks_module
from launchers import starting as starting_module
from launchers.environment import rank_environment
from launchers.local import Ended, Leaving, LocalQueue
from launchers.presence import announce, present, withdraw
from launchers.ranks import RankProcesses
from launchers.request import RunRequest
from results.runfolder import RunFolder
from results.store import read_json, write_json, write_text

ROOT = Path(__file__).parent.parent.parent
Ask = Callable[..., RunRequest]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Makes a request for a frozen run of the fake worker; keywords that a request has are its needs, others are orders."""
    needs = {"ranks", "cores_per_rank", "memory_gib", "exclusive", "time_limit_s", "leave_grace_s", "environment"}

    def make(name: str, **words: Any) -> RunRequest:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        asked = {key: value for key, value in words.items() if key in needs}
        config = {
            "system": "fake", "variant": name, "size": "1", "scale": "tiny", "seed": 0, "repeat": 0,
            "ranks": asked.get("ranks", 1), "engine": {"name": "torch"}, "site": {"name": "local"},
        }  # fmt: skip
        write_text(folder / "config.yaml", yaml.safe_dump(config))
        write_json(folder / "orders.json", {key: value for key, value in words.items() if key not in needs})
        environment = {"PYTHONPATH": str(ROOT), **asked.pop("environment", {})}
        return RunRequest(folder=folder, module="tests.launchers.fake_worker", environment=environment, **asked)

    return make


def queue(slots: int = 4, **limits: Any) -> LocalQueue:
    return LocalQueue(max_parallel=slots, **{"cores": 16, "tick_s": 0.02, **limits})


def lived(request: RunRequest) -> tuple[float, float]:
    """From the first rank's start to the last rank's end, as the ranks say themselves."""
    spans = [read_json(path) for path in request.folder.glob("lived-*.json")]
    return min(begun for begun, _ in spans), max(ended for _, ended in spans)


def crowd(requests: list[RunRequest], weight: Callable[[RunRequest], float] = lambda _: 1) -> float:
    """The largest weight of requests that were alive at the same time."""
    spans = {request.name: lived(request) for request in requests}
    return max(
        sum(weight(other) for other in requests if spans[other.name][0] <= begun < spans[other.name][1])
        for begun, _ in spans.values()
    )


def failure(request: RunRequest) -> dict[str, Any]:
    record = read_json(request.folder / "record.json")
    assert record["status"] == "failed"
    found: dict[str, Any] = record["failure"]
    return found


def test_twenty_requests_in_two_slots_are_never_three(ask: Ask) -> None:
    requests = [ask(f"run-{number:02d}", last_s=0.1) for number in range(20)]
    seen: list[int] = []
    events: list[tuple[str, str]] = []
    local = queue(2, on_tick=lambda running: seen.append(len(running)), on_event=lambda what, r, _: events.append((what, r.name)))
    assert set(local.run(requests).values()) == {Ended.COMPLETED}
    assert max(seen) == crowd(requests) == 2
    started = [name for what, name in events if what == "started"]
    assert started == [request.name for request in requests]  # first come, first served
    assert sorted(name for what, name in events if what == "ended") == started
    assert all(read_json(request.folder / "record.json")["status"] == "completed" for request in requests)
    assert not list(requests[0].folder.glob(".launch-*"))


def test_memory_is_a_budget(ask: Ask) -> None:
    requests = [ask(f"run-{number}", memory_gib=size, last_s=0.2) for number, size in enumerate((3, 3, 1, 2, 2, 4))]
    assert set(queue(memory_gib=4).run(requests).values()) == {Ended.COMPLETED}
    assert crowd(requests, lambda request: request.memory_gib) == 4
    assert crowd(requests) == 2


def test_what_cannot_fit_is_refused_and_not_started(ask: Ask) -> None:
    requests = [ask("large", memory_gib=5), ask("small", memory_gib=1)]
    assert queue(memory_gib=4).run(requests) == {"large": Ended.REFUSED, "small": Ended.COMPLETED}
    assert RunFolder(requests[0].folder).attempts() == []


@pytest.mark.distributed
def test_cores_are_shared_by_all_ranks(ask: Ask) -> None:
    shapes = ((2, 1), (1, 2), (1, 1), (2, 1), (2, 3), (1, 1))  # the fifth wants more than there are: it runs alone
    requests = [ask(f"run-{n}", ranks=r, cores_per_rank=c, last_s=0.2) for n, (r, c) in enumerate(shapes)]
    assert set(queue(cores=4).run(requests).values()) == {Ended.COMPLETED}
    assert crowd([*requests[:4], requests[5]], lambda request: request.ranks * request.cores_per_rank) in (3, 4)
    begun, ended = lived(requests[4])
    assert all(other is requests[4] or lived(other)[1] <= begun or lived(other)[0] >= ended for other in requests)


def test_an_exclusive_run_is_alone_and_not_overtaken(ask: Ask) -> None:
    before = [ask(f"before-{n}", last_s=0.2) for n in range(2)]
    alone = ask("alone", exclusive=True, last_s=0.1)
    after = [ask(f"after-{n}", last_s=0.1) for n in range(2)]
    assert set(queue().run([*before, alone, *after]).values()) == {Ended.COMPLETED}
    begun, ended = lived(alone)
    assert all(lived(request)[1] <= begun for request in before)
    assert all(lived(request)[0] >= ended for request in after)
    assert crowd(before) == crowd(after) == 2
    shared = {r.name: read_json(r.folder / "record.json")["shared_with"] for r in [*before, alone, *after]}
    assert shared == {"before-0": 1, "before-1": 1, "alone": 0, "after-0": 1, "after-1": 1}


def test_an_exclusive_run_waits_for_the_runs_of_others_too(ask: Ask) -> None:
    """Whatever sweep they belong to; and a run beside them knows that it was not alone."""
    other = announce()
    assert present() == 1
    beside, alone = ask("beside", last_s=0.1), ask("alone", exclusive=True)
    problems: list[str] = []

    def waiting(problem: str) -> None:
        problems.append(problem)
        assert RunFolder(alone.folder).attempts() == []
        withdraw(other)

    assert set(queue(on_problem=waiting).run([beside, alone]).values()) == {Ended.COMPLETED}
    assert len(problems) == 1
    assert "alone wants the machine alone and waits" in problems[0]
    shared = [read_json(request.folder / "record.json")["shared_with"] for request in (beside, alone)]
    assert shared == [1, 0]
    assert present() == 0


def test_sharing_counts_the_most_that_ran_beside(ask: Ask) -> None:
    requests = [ask("long", last_s=0.6), ask("a", last_s=0.1), ask("b", last_s=0.1), ask("c", last_s=0.1)]
    queue(2).run(requests[:2])
    assert read_json(requests[0].folder / "attempt-0" / "launch.json")["shared_with"] == 1
    queue(3).run([ask("again", last_s=0.6), *requests[2:]])
    assert read_json(requests[2].folder / "attempt-0" / "launch.json")["shared_with"] == 2


def test_a_failing_run_does_not_stop_the_others(ask: Ask) -> None:
    requests = [
        ask("exits", exit=3), ask("fine"), ask("says-why", exit=1, fail="diverged"), ask("silent", silent=True),
        ask("killed", kill_rank=0), ask("unclaimed", unclaimed=True, exit=4), ask("fine-too"),
    ]  # fmt: skip
    ended = queue(2).run(requests)
    good = {"fine", "fine-too"}
    assert ended == {r.name: Ended.COMPLETED if r.name in good else Ended.FAILED for r in requests}
    said = {r.name: failure(r) for r in requests if r.name not in good}
    assert {name: record["class"] for name, record in said.items()} == {
        "exits": "crash", "says-why": "diverged", "silent": "crash", "killed": "crash", "unclaimed": "crash",
    }  # fmt: skip
    assert "status 3" in said["exits"]["reason"]
    assert "rank 0 is here" in said["exits"]["traceback"]  # the end of what it printed
    assert said["says-why"]["reason"] == "ordered"
    assert "no outcome" in said["silent"]["reason"]
    assert "SIGKILL" in said["killed"]["reason"]
    assert "status 4" in said["unclaimed"]["reason"]
    assert all(record["next_step"] for record in said.values())
    assert not any(RunFolder(request.folder).is_running() for request in requests)


def test_a_completed_run_is_not_run_again_and_a_failed_one_gets_a_further_attempt(ask: Ask) -> None:
    fine, fails = ask("fine"), ask("fails", exit=1)
    queue().run([fine, fails])
    write_json(fails.folder / "orders.json", {})
    assert queue().run([fine, fails]) == {"fine": Ended.ALREADY, "fails": Ended.COMPLETED}
    assert len(RunFolder(fine.folder).attempts()) == 1
    assert [attempt.completed for attempt in RunFolder(fails.folder).attempts()] == [False, True]
    assert read_json(fails.folder / "record.json")["status"] == "completed"


def test_a_run_that_another_process_holds_is_left_to_it(ask: Ask) -> None:
    held, free = ask("held"), ask("free")
    code = (
        "import sys\nfrom pathlib import Path\nfrom results.runfolder import RunFolder\n"
        "lock = RunFolder(Path(sys.argv[1])).lock()\nassert lock.acquire()\nprint('held', flush=True)\nsys.stdin.readline()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(held.folder)], cwd=ROOT, text=True, **pipes) as other:
        other.stdout.readline()
        assert queue().run([held, free]) == {"held": Ended.ELSEWHERE, "free": Ended.COMPLETED}
        other.communicate("go\n", timeout=30)
    assert RunFolder(held.folder).attempts() == []
    assert queue().run([held]) == {"held": Ended.COMPLETED}


def test_leaving_lets_running_ones_finish_and_starts_no_more(ask: Ask) -> None:
    requests = [ask(f"run-{number}", last_s=0.2) for number in range(4)]
    choice = [Leaving.NO]

    def started(what: str, request: RunRequest, how: Ended | None) -> None:
        choice[0] = Leaving.LEAVE

    ended = queue(2, on_event=started, leaving=lambda: choice[0]).run(requests)
    assert list(ended.values()).count(Ended.COMPLETED) == 2
    assert list(ended.values()).count(Ended.NOT_STARTED) == 2
    assert [len(RunFolder(request.folder).attempts()) for request in requests] == [1, 1, 0, 0]
    assert set(queue().run(requests).values()) == {Ended.ALREADY, Ended.COMPLETED}


@pytest.mark.parametrize("unclaimed", [False, True])
def test_cancelling_is_recorded_as_such_however_early(unclaimed: bool, ask: Ask) -> None:
    """Also for a rank that was ended before it had claimed its attempt: a sweep goes on with such a run by itself."""
    requests = [ask("running", wait=True, unclaimed=unclaimed), ask("waiting")]
    here = requests[0].folder / "environment-0.json"
    leaving = lambda: Leaving.CANCEL if here.exists() else Leaving.NO  # noqa: E731
    ended = queue(1, leaving=leaving).run(requests)
    assert ended == {"running": Ended.FAILED, "waiting": Ended.NOT_STARTED}
    assert failure(requests[0])["class"] == "cancelled"
    assert "cancelled from the terminal" in failure(requests[0])["reason"]


@pytest.mark.parametrize("deaf", [False, True])
def test_a_time_limit_ends_a_run_also_one_that_does_not_listen(deaf: bool, ask: Ask) -> None:
    endless = ask("endless", wait=True, deaf=deaf, time_limit_s=1.5, leave_grace_s=0.3)
    begun = time.monotonic()
    assert queue().run([endless, ask("fine")]) == {"endless": Ended.FAILED, "fine": Ended.COMPLETED}
    assert time.monotonic() - begun < 10
    assert failure(endless)["class"] == "timeout"
    assert "1.5 s" in failure(endless)["reason"]
    code = read_json(endless.folder / "attempt-0" / "launch.json")["exit_codes"]
    assert code == [-signal.SIGKILL if deaf else -signal.SIGTERM]


@pytest.mark.distributed
def test_a_killed_rank_is_blamed_and_ends_its_peers(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "GRACE_S", 0.2)
    request = ask("pair", ranks=3, kill_rank=2)
    assert queue().run([request]) == {"pair": Ended.FAILED}
    assert failure(request)["class"] == "crash"
    assert failure(request)["rank"] == 2
    assert "SIGKILL" in failure(request)["reason"]
    assert not RunFolder(request.folder).is_running()


@pytest.mark.distributed
def test_every_rank_gets_all_variables_and_none_of_an_enclosing_job(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = {"SLURM_PROCID": "7", "SLURM_NTASKS": "8", "PMI_RANK": "7", "OMPI_COMM_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in {**outer, "RANK": "7", "WORLD_SIZE": "8", "OMP_NUM_THREADS": "64", "KEPT": "yes"}.items():
        monkeypatch.setenv(name, value)
    request = ask("pair", ranks=2, cores_per_rank=3, environment={"EXTRA": "mine"})
    assert queue().run([request]) == {"pair": Ended.COMPLETED}
    found = [read_json(request.folder / f"environment-{rank}.json") for rank in range(2)]
    for rank, environment in enumerate(found):
        five = {name: environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
        assert five == {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
        assert environment["LOCAL_WORLD_SIZE"] == "2"
        assert {environment[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"3"}
        assert (environment["KEPT"], environment["EXTRA"]) == ("yes", "mine")
        assert not set(outer) & set(environment)
    assert found[0]["MASTER_PORT"] == found[1]["MASTER_PORT"]
    assert 1024 <= int(found[0]["MASTER_PORT"]) < 65536


def test_a_request_may_overrule_any_variable(ask: Ask) -> None:
    request = ask("one", environment={"GLOO_SOCKET_IFNAME": "eth9"})
    assert rank_environment(request, 0, 5)["GLOO_SOCKET_IFNAME"] == "eth9"
    assert rank_environment(replace(request, environment={}), 0, 5)["MASTER_PORT"] == "5"


def test_a_run_outlives_its_killed_launcher_and_stays_held(ask: Ask) -> None:
    request = ask("orphan", wait=True)
    code = (
        "import sys\nfrom pathlib import Path\nfrom launchers.local import LocalQueue\nfrom launchers.request import RunRequest\n"
        "LocalQueue().run([RunRequest(folder=Path(sys.argv[1]), module='tests.launchers.fake_worker')])"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code, str(request.folder)], cwd=ROOT)
    until((request.folder / "environment-0.json").exists)
    launcher.kill()
    launcher.wait()
    folder = RunFolder(request.folder)
    assert folder.is_running()
    assert queue().run([request]) == {"orphan": Ended.ELSEWHERE}
    for pid in holders(folder.lock_file):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not folder.is_running())
    write_json(request.folder / "orders.json", {})
    assert queue().run([request]) == {"orphan": Ended.COMPLETED}


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.02)


def holders(path: Path) -> list[int]:
    """Processes other than this one that have the file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.resolve() == path.resolve() for link in (process / "fd").iterdir()) and int(process.name) != os.getpid():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_ranks_that_cannot_be_started_leave_no_process_and_no_lock(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    request = ask("one", ranks=2)
    real, started = subprocess.Popen, []

    def second_fails(*arguments: Any, **keywords: Any) -> Any:
        if started:
            raise OSError(11, "Resource temporarily unavailable")
        started.append(real(*arguments, **keywords))
        return started[0]

    monkeypatch.setattr(starting_module.subprocess, "Popen", second_fails)
    lock = RunFolder(request.folder).lock()
    assert lock.acquire()
    with pytest.raises(OSError, match="temporarily"):
        RankProcesses(request, lock)
    assert started[0].poll() == -signal.SIGKILL
    lock.release()
    problems: list[str] = []
    assert queue(on_problem=problems.append).run([request]) == {"one": Ended.FAILED}
    assert problems == ["one could not be started: [Errno 11] Resource temporarily unavailable"]
    assert not RunFolder(request.folder).is_running()
    assert present() == 0
