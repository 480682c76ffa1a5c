"""Ranks under a real mpiexec (PyPI's mpich): endings are told apart, ranks are asked to leave, nothing lives on."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from launchers import ranks as ranks_module
from launchers import starting as starting_module
from launchers.environment import without_foreign
from launchers.local import Ended, Leaving, LocalQueue
from launchers.mpi import MpiStarter, find_mpiexec
from launchers.rank import RANKS
from launchers.request import RunRequest
from launchers.starting import Started, start_program
from results.errors import LaunchError
from results.failures import FailureClass
from results.runfolder import RunFolder
from results.store import read_json, write_json, write_text
from tests.support import Workplace

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent.parent
Ask = Callable[..., RunRequest]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Makes a request for two ranks of the fake worker; keywords are orders, ``time_limit_s`` is a need."""
    monkeypatch.setattr(ranks_module, "GRACE_S", 1.0)

    def make(**orders: Any) -> RunRequest:
        folder = tmp_path / "runs" / "pair"
        folder.mkdir(parents=True)
        config = {
            "system": "fake", "variant": "pair", "size": "1", "scale": "tiny", "seed": 0, "repeat": 0, "ranks": 2,
            "engine": {"name": "torch"}, "site": {"name": "local"},
        }  # fmt: skip
        write_text(folder / "config.yaml", yaml.safe_dump(config))
        limit = orders.pop("time_limit_s", None)
        write_json(folder / "orders.json", orders)
        environment = {"PYTHONPATH": str(ROOT), "EXTRA": "mine"}
        return RunRequest(
            folder=folder, ranks=2, module="tests.launchers.fake_worker", environment=environment, time_limit_s=limit,
            leave_grace_s=0.6 if limit else 120.0,
        )  # fmt: skip

    return make


def run(request: RunRequest, **keywords: Any) -> Ended:
    return LocalQueue(tick_s=0.02, **{"starter": MpiStarter(), **keywords}).run([request])[request.name]


def failure(request: RunRequest) -> dict[str, Any]:
    record = read_json(request.folder / "record.json")
    assert record["status"] == "failed"
    found: dict[str, Any] = record["failure"]
    return found


def workers(request: RunRequest) -> list[int]:
    """Process ids of the ranks, once all are there."""
    files = [request.folder / f"environment-{rank}.json" for rank in range(request.ranks)]
    until(lambda: all(path.exists() for path in files))
    return [int(read_json(request.folder / f"pid-{rank}.json")) for rank in range(request.ranks)]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_two_ranks_find_each_other_and_complete(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_PROCID", "PMI_RANK", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.setenv(name, "7")  # of an enclosing job
    monkeypatch.setenv("WORLD_SIZE", "8")
    request = ask()
    assert run(request) is Ended.COMPLETED
    found = [read_json(request.folder / f"environment-{rank}.json") for rank in range(2)]
    for rank, environment in enumerate(found):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "EXTRA")
        assert [environment[name] for name in names] == [str(rank), "2", str(rank), "2", "127.0.0.1", "1", "mine"]
        assert without_foreign(environment) == environment  # nothing of mpiexec's either: torch owns the ranks now
    assert found[0]["MASTER_PORT"] == found[1]["MASTER_PORT"]
    attempt = RunFolder(request.folder).attempts()[0]
    assert attempt.read("launch")["exit_codes"] == [0, 0]
    assert [attempt.log(rank).read_text() for rank in range(2)] == ["rank 0 is here\n", "rank 1 is here\n"]
    assert not [path.name for path in request.folder.iterdir() if path.name.startswith((".exit", ".node", ".launch"))]
    assert not RunFolder(request.folder).is_running()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_named(rank: int, ask: Ask) -> None:
    request = ask(kill_rank=rank)
    assert run(request) is Ended.FAILED
    said = failure(request)
    assert (said["class"], said["rank"]) == ("crash", rank)
    assert "killed by SIGKILL" in said["reason"]
    assert f"rank {rank} is here" in said["traceback"]
    assert all(gone(pid) for pid in workers(request))


def test_a_rank_that_fails_is_named(ask: Ask) -> None:
    request = ask(exit=3, exit_rank=1)
    assert run(request) is Ended.FAILED
    said = failure(request)
    assert (said["class"], said["rank"]) == ("crash", 1)
    assert said["reason"] == "exited with status 3 and left no failure record"
    assert all(gone(pid) for pid in workers(request))


def test_cancelling_asks_the_ranks_by_their_stop_file(ask: Ask) -> None:
    request = ask(heed=True)
    last = request.folder / "environment-1.json"
    assert run(request, leaving=lambda: Leaving.CANCEL if last.exists() else Leaving.NO) is Ended.FAILED
    said = failure(request)
    assert (said["class"], said["reason"], said["step"]) == ("cancelled", "cancelled from the terminal", 7)
    assert RunFolder(request.folder).attempts()[0].read("launch")["exit_codes"] == [0, 0]


def test_ranks_hear_of_it_also_where_they_had_not_begun_yet(ask: Ask) -> None:
    """Importing takes seconds; the launcher was asked to end before there was an attempt to put the stop file into."""
    request = ask(heed=True)
    started = request.folder / ".launch.txt"
    assert run(request, leaving=lambda: Leaving.CANCEL if started.exists() else Leaving.NO) is Ended.FAILED
    assert (failure(request)["class"], failure(request)["step"]) == ("cancelled", 7)
    assert len(RunFolder(request.folder).attempts()) == 1


def test_whoever_writes_the_stop_file_says_why(ask: Ask) -> None:
    request = ask(heed=True)
    asked: list[bool] = []

    def tick(running: Sequence[Any]) -> None:
        attempt = RunFolder(request.folder).last_attempt()
        if attempt is not None and not asked:
            asked.append(True)
            attempt.ask_to_leave(FailureClass.PREEMPTED, "the machine is wanted back")

    assert run(request, on_tick=tick) is Ended.FAILED
    said = failure(request)
    assert (said["class"], said["reason"], said["step"]) == ("preempted", "the machine is wanted back", 7)


def test_a_time_limit_ends_all_ranks_also_those_that_do_not_listen(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    request = ask(wait=True, deaf=True, time_limit_s=2.0)
    monkeypatch.setattr(starting_module, "PROGRAM_GRACE_S", 0.5)
    begun = time.monotonic()
    assert run(request) is Ended.FAILED
    assert time.monotonic() - begun < 30
    said = failure(request)
    assert (said["class"], said["reason"]) == ("timeout", "the limit of 2 s was reached")
    until(lambda: all(gone(pid) for pid in workers(request)))


def test_ranks_end_with_an_mpiexec_that_is_killed(ask: Ask) -> None:
    request = ask(wait=True)

    def tick(running: Sequence[Any]) -> None:
        there = all((request.folder / f"environment-{rank}.json").exists() for rank in range(2))
        if running and there and running[0].processes[0].poll() is None:
            os.kill(running[0].processes[0].pid, signal.SIGKILL)

    assert run(request, on_tick=tick) is Ended.FAILED
    said = failure(request)
    assert said["class"] in ("node-fail", "crash")
    assert said["next_step"].startswith("tenfold")
    until(lambda: all(gone(pid) for pid in workers(request)))


class Singletons:
    """An mpiexec that does not belong to the ranks' MPI library: each process is alone in a world of its own."""

    name = "mpi"

    def start(self, request: RunRequest, keep_open: Sequence[int]) -> Started:
        one = f"{sys.executable} -P -m launchers.rank mpi {request.module} {request.folder}"
        environment = {**without_foreign(os.environ), RANKS: str(request.ranks), **request.environment}
        return start_program(["sh", "-c", f"{one} & {one}; status=$?; wait; exit $status"], environment, request, keep_open)

    def explain(self, text: str) -> None:
        return None


def test_two_worlds_of_one_rank_are_not_two_trainings(ask: Ask) -> None:
    request = ask()
    assert run(request, starter=Singletons()) is Ended.FAILED
    said = failure(request)
    assert (said["class"], said["reason"]) == ("crash", "exited with status 2 and left no failure record")
    assert "the world has 1 ranks and the launcher started 2" in said["traceback"]
    assert not (request.folder / "environment-0.json").exists()


def test_a_missing_mpiexec_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(find_mpiexec()).name == "mpiexec"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LaunchError, match="there is no mpiexec") as caught:
        find_mpiexec()
    assert (caught.value.where, "mpi4py mpich" in caught.value.next_step) == ("launcher=mpi", True)


# Two nodes -----------------------------------------------------------------------------------------------------------

#: As on a cluster with its own mpiexec, one proxy of hydra for each; instead of by ssh they are started here.
TWO_NODES = ("-hosts", "a,b", "-ppn", "{}", "-launcher", "fork")


def over_two_nodes(per_node: int) -> tuple[str, ...]:
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        pytest.skip(f"ranks of several nodes meet at rank 0's host name, and '{socket.gethostname()}' resolves to nothing here")
    return tuple(word.format(per_node) for word in TWO_NODES)


def test_ranks_of_two_nodes_know_their_places(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    request = replace(ask(), ranks=4)
    assert run(request, starter=MpiStarter(over_two_nodes(2))) is Ended.COMPLETED
    found = [read_json(request.folder / f"environment-{rank}.json") for rank in range(4)]
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    host = socket.gethostname()  # rank 0's: the loopback would lead ranks of the other node astray
    assert [[one[name] for name in names] for one in found] == [[str(rank), "4", str(rank % 2), "2", host] for rank in range(4)]
    assert len({one["MASTER_PORT"] for one in found}) == 1
    assert all("GLOO_SOCKET_IFNAME" not in one for one in found)  # which interface leads to the other node is the site's to say


def test_a_rank_that_is_killed_on_the_other_node_is_named(ask: Ask) -> None:
    request = replace(ask(kill_rank=3), ranks=4)
    assert run(request, starter=MpiStarter(over_two_nodes(2))) is Ended.FAILED
    assert (failure(request)["class"], failure(request)["rank"]) == ("crash", 3)
    assert all(gone(pid) for pid in workers(request))


def test_training_over_two_nodes_ends_as_on_one(workplace: Workplace) -> None:
    words = ("system=faulty", "scale=tiny", "engine=zero1", "ranks=2", "tracker=none", "launcher=mpi")
    arguments = ",".join(f"'{word}'" for word in over_two_nodes(1))
    workplace.tenfold("sweep", *words, "repeat=0", f"launcher.arguments=[{arguments}]")
    workplace.tenfold("sweep", *words, "repeat=1")
    two, one = sorted((read_json(folder.record_file) for folder in workplace.runs()), key=lambda record: record["repeat"])
    assert (two["status"], one["status"]) == ("completed", "completed")
    assert two["metrics"]["score"] == one["metrics"]["score"]


def test_a_run_under_mpiexec_from_words_to_record(workplace: Workplace) -> None:
    words = ("scale=tiny", "variant=fno2d", "size=2k", "engine=zero1", "ranks=2", "tracker=none", "train.steps=12")
    workplace.tenfold("run", *words, "launcher=mpi")
    (folder,) = workplace.runs()
    record = read_json(folder.record_file)
    assert record["status"] == "completed"
    (attempt,) = record["attempts"]
    assert (attempt["launcher"], attempt["ranks"], attempt["exit_codes"]) == ("mpi", 2, [0, 0])
    assert [read_json(path)["steps_done"] for path in folder.attempts()[0].rank_files()] == [12, 12]
