"""What srun or mpiexec starts as every rank: who it is, what it hands on, what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.rank import ADDRESSES, CACHES_ROOT, RANKS, first_host, master_address, slurm_variables, tasks_per_node
from launchers.sacct_text import expand_nodes
from launchers.starting import exit_file, launch_log, node_file
from results.store import read_json, write_json

ROOT = Path(__file__).parent.parent.parent

# Slurm's compact lists -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "counts"), [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,2(x2),3", [1, 2, 2, 3])])
def test_tasks_per_node(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_every_list_of_tasks_per_node(counts: list[int]) -> None:
    """As Slurm writes it: runs of equal numbers with their length."""
    runs = [(value, len(list(same))) for value, same in groupby(counts)]
    assert tasks_per_node(",".join(f"{value}(x{times})" if times > 1 else str(value) for value, times in runs)) == counts


@pytest.mark.parametrize("text", ["", "2x3", "2(3)", "a", "1,,2"])
def test_what_is_no_list_of_tasks(text: str) -> None:
    with pytest.raises(ValueError, match="not a list of tasks per node"):
        tasks_per_node(text)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"), ("n1,n2", "n1"), ("n[03-05,7],m1", "n03"), ("n[7,9-12]", "n7"), ("gpu-a[1-2]-ib", "gpu-a1-ib"),
        ("m1,n[1-2]", "m1"), ("rack[1-2]n[7,9],x", "rack1n7"), ("host.domain", "host.domain"),
    ],
)  # fmt: skip
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@given(
    prefix=st.from_regex(r"[a-z][a-z-]{0,4}", fullmatch=True),
    numbers=st.lists(st.integers(0, 120), min_size=1, max_size=5, unique=True).map(sorted),
    width=st.integers(1, 4),
    suffix=st.sampled_from(["", "-ib"]),
    rest=st.sampled_from(["", ",other", ",m[1-2]"]),
)
def test_the_first_host_of_every_list(prefix: str, numbers: list[int], width: int, suffix: str, rest: str) -> None:
    nodes = f"{prefix}[{','.join(f'{number:0{width}d}' for number in numbers)}]{suffix}{rest}"
    assert first_host(nodes) == f"{prefix}{numbers[0]:0{width}d}{suffix}" == expand_nodes(nodes)[0]


@pytest.mark.parametrize("nodes", ["", ",n1", "[1-2"])
def test_what_is_no_list_of_nodes(nodes: str) -> None:
    with pytest.raises(ValueError, match="not a list of nodes"):
        first_host(nodes)


# Rendezvous ----------------------------------------------------------------------------------------------------------

STEP = {
    "SLURM_PROCID": "4", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "3,2,1", "SLURM_STEP_NODELIST": "n[2-4]", "MASTER_PORT": "23456",
}  # fmt: skip


def test_a_tasks_place_becomes_torchs_variables() -> None:
    assert slurm_variables(STEP) == {
        "RANK": "4", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n2", "MASTER_PORT": "23456",
    }  # fmt: skip


def test_rank_0_is_reached_as_the_site_says() -> None:
    assert master_address({**STEP, ADDRESSES: '{"n2": "127.0.1.2"}'}) == "127.0.1.2"
    assert master_address({**STEP, ADDRESSES: '{"n9": "127.0.1.9"}'}) == "n2"


@pytest.mark.parametrize("name", sorted(STEP))
def test_a_process_that_srun_has_not_started_is_no_rank(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        slurm_variables({key: value for key, value in STEP.items() if key != name})


# Real processes ------------------------------------------------------------------------------------------------------


class Ranks:
    """Starts tasks as srun would: one process each, with the variables of a step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, rank: int = 0, world: int = 1, *, expected: int | None = None, **variables: str) -> subprocess.Popen[str]:
        step = {
            "SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": str(world), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0",
            "SLURM_STEP_TASKS_PER_NODE": str(world), "SLURM_STEP_NODELIST": "n1", "MASTER_PORT": "23456",
            RANKS: str(world if expected is None else expected), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        words = [sys.executable, "-P", "-m", "launchers.rank", "slurm", "tests.launchers.fake_worker", str(self.folder)]
        process = subprocess.Popen(
            words, env={**os.environ, **step, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def order(self, **orders: Any) -> None:
        write_json(self.folder / "orders.json", orders)

    def worker(self, rank: int = 0) -> int:
        """Process id of a worker, once it is there."""
        until((self.folder / f"environment-{rank}.json").exists)
        return int(read_json(self.folder / f"pid-{rank}.json"))


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    folder = tmp_path / "run"
    folder.mkdir()
    found = Ranks(folder)
    yield found
    for process in found.processes:
        process.kill()
        process.communicate(timeout=30)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_ranks_of_a_step(ranks: Ranks, tmp_path: Path) -> None:
    """Each has its variables and caches, its output where the launcher looks, and leaves its status."""
    caches = {CACHES_ROOT: str(tmp_path / "caches")}
    started = [ranks.start(rank, 2, SLURMD_NODENAME=f"n{rank + 1}", **caches) for rank in range(2)]
    for process in started:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    for rank in range(2):
        environment = read_json(ranks.folder / f"environment-{rank}.json")
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        assert [environment[name] for name in names] == [str(rank), "2", str(rank), "2", "n1", "23456"]
        assert environment["TORCH_EXTENSIONS_DIR"].startswith(str(tmp_path / "caches"))
        assert launch_log(ranks.folder, rank).read_text() == f"rank {rank} is here\n"
        assert exit_file(ranks.folder, rank).read_text() == "0"
        assert node_file(ranks.folder, rank).read_text() == f"n{rank + 1}"


@pytest.mark.parametrize("status", [1, 3, 130])
def test_a_workers_status_is_left_and_not_passed_on(status: int, ranks: Ranks) -> None:
    """What it means for the other ranks is for the launcher to decide: srun is told that all is well."""
    ranks.order(exit=status)
    process = ranks.start()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert exit_file(ranks.folder, 0).read_text() == str(status)
    assert node_file(ranks.folder, 0).read_text() == os.environ.get("SLURMD_NODENAME", socket.gethostname())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_signals_are_handed_on(name: str, ranks: Ranks) -> None:
    """The scheduler signals what it has started; the worker is one further down."""
    number = signal.Signals[name]
    ranks.order(wait=True)
    process = ranks.start()
    ranks.worker()
    until(lambda: "is here" in launch_log(ranks.folder, 0).read_text())  # an interpreter that is still starting may lose it
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0
    # Python turns SIGINT into an exception, which it ends by as if by the signal.
    assert exit_file(ranks.folder, 0).read_text() == str(-number)


def test_a_worker_does_not_outlive_its_parent(ranks: Ranks) -> None:
    ranks.order(wait=True, deaf=True)
    process = ranks.start()
    worker = psutil.Process(ranks.worker())
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert not exit_file(ranks.folder, 0).exists()  # which tells the launcher that the two went down together
    assert node_file(ranks.folder, 0).exists()


def test_a_world_of_another_size_ends_at_once(ranks: Ranks) -> None:
    """Two tasks that each believe to be alone would be two trainings without an error."""
    process = ranks.start(0, 1, expected=2)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error == "rank 0: the world has 1 ranks and the launcher started 2\n"
    assert not any((ranks.folder / f"environment-{rank}.json").exists() for rank in range(2))
    assert not exit_file(ranks.folder, 0).exists()
    assert not node_file(ranks.folder, 0).exists()


def test_too_few_cores_are_said(ranks: Ranks) -> None:
    process = ranks.start(OMP_NUM_THREADS="4096")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.search(r"rank 0: bound to fewer cores than its 4096 threads", error)
